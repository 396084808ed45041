"""SentencePiece's trainer in a process of its own, which holds nothing else: it takes all the memory that there is.

Settings are the first argument, as JSON; the training sample comes by standard input, a line for each sentence; the model goes
to standard output. What SentencePiece complains of goes there instead where it refuses, with the status `REFUSED`.
"""

from __future__ import annotations

import io
import json
import sys

REFUSED = 3


def main() -> int:
    """Train."""
    import sentencepiece

    model = io.BytesIO()
    sentences = (line[:-1] for line in sys.stdin.buffer)
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=model, **json.loads(sys.argv[1]))
    except RuntimeError as error:
        sys.stdout.buffer.write(str(error).encode())
        return REFUSED
    sys.stdout.buffer.write(model.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
