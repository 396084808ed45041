"""Where the parts of a sample come from: the document's text as fetched and as trained on, and its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.tokenizer import SPECIAL
from stages._documents import document_files
from stages.report.corpus import FOLDERS, texts_of
from stages.report.explorer.documents import Documents
from stages.report.facts import Facts
from stages.report.pieces import pieces as spelled

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

Run = list[Any]  # [0 both, 1 only as fetched, 2 only as trained on, 3 both, but not in the sample; text]
Part = tuple[int, int, int]  # doc_index, first token inside the document, tokens
LETTERS = {"text": "t", "byte": "b", "line": "l", "special": "s"}
_MOST = 1500  # characters of a document shown
_AROUND = 60  # of these, before and behind the part that is in the sample
_QUOTED = 6  # characters of a prompt's line that are looked for in the document


class Origins:
    """The documents behind some samples."""

    def __init__(self, facts: Facts, tokenizer: Tokenizer, documents: Documents, wanted: Iterable[int]) -> None:
        """Read the texts of the documents `wanted`, by doc_index.

        Raises:
            StageError: a table is absent or damaged.
        """
        self._tokenizer, self._documents = tokenizer, documents
        table = facts.documents(["doc_id", "length"])
        self._offset = facts.table("data/encode/train.documents.parquet", ["offset"])["offset"]
        self._length = table["length"]
        self._name = {index: table["doc_id"][index].as_py() for index in wanted}
        names = [name for index, name in self._name.items() if index < len(self._offset)]
        self._digests = _digests(facts, names)
        self._fetched, self._trained = (texts_of(facts, FOLDERS[stage], names) for stage in ("corpus", "train"))
        self._tokens = _Tokens(facts)

    def taken(self, part: Part) -> dict[str, Any]:
        """A part of a document that stands in a row as it is."""
        index, offset, length = part
        entry, name = self._entry(part), self._name[index]
        ids = self._tokens.read(self._offset[index].as_py(), min(entry["of"], offset + length))
        before = len(self._tokenizer.decode(ids[:offset]))
        inside = len(self._tokenizer.decode([token for token in ids[offset:] if token != SPECIAL.eod]))
        entry["text"] = compared(self._fetched[name][1], self._trained[name][1], before, before + inside)
        entry["pieces"] = [[piece.shown, LETTERS[piece.kind]] for piece in spelled(self._tokenizer, ids[offset:])]
        return entry

    def worded(self, part: Part, prompt: str) -> dict[str, Any]:
        """A document or labelled row that a template made a prompt of: the passage that the prompt quotes, if it quotes one."""
        entry, name = self._entry(part) | {"worded": True}, self._name[part[0]]
        if name in self._trained:
            passage = quoted(self._trained[name][1], prompt)
            entry["text"] = compared(self._fetched[name][1], self._trained[name][1], *passage) if passage else []
        return entry

    def _entry(self, part: Part) -> dict[str, Any]:
        index, offset, length = part
        source, lang, licence = self._documents.origins[self._documents.trained[index]]
        entry = {"id": self._name[index], "source": source, "lang": lang, "licence": licence}
        return entry | {
            "offset": offset,
            "tokens": length,
            "of": self._length[index].as_py(),
            "raw": self._digests.get(entry["id"]),
        }


def quoted(text: str, prompt: str) -> tuple[int, int] | None:
    """Where in a text the lines of a prompt stand: the longest that is found, with those before and behind that go on."""
    lines = [line.strip() for line in prompt.split("\n")]
    longest = sorted((line for line in lines if len(line) >= _QUOTED and line in text), key=len)
    if not longest:
        return None
    start = text.index(longest[-1])
    end, place = start + len(longest[-1]), lines.index(longest[-1])
    for line in lines[place + 1 :]:
        gap = len(text[end:]) - len(text[end:].lstrip())
        if not line or not text.startswith(line, end + gap):
            break
        end += gap + len(line)
    for line in reversed(lines[:place]):
        head = text[:start].rstrip()
        if not line or not head.endswith(line):
            break
        start = len(head) - len(line)
    return start, end


def _digests(facts: Facts, doc_ids: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the records that the documents were read from."""
    wanted = pa.array(sorted(doc_ids), pa.string())
    found: dict[str, str] = {}
    for file in document_files(facts.io.input("data/corpus")):
        table = pq.read_table(file, columns=["doc_id", "raw_sha256"])
        rows = table.filter(pc.is_in(table["doc_id"], wanted)).to_pylist()
        found |= {row["doc_id"]: row["raw_sha256"] for row in rows}
    return found


class _Tokens:
    """The token shards of the training documents as one array."""

    def __init__(self, facts: Facts) -> None:
        files = sorted(facts.io.input("data/encode").glob("train-*.arrow"))
        readers = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
        self._batches = [reader.get_batch(index) for reader in readers for index in range(reader.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def read(self, start: int, length: int) -> list[int]:
        """`length` tokens from `start` on."""
        found: list[int] = []
        while len(found) < length:
            at = start + len(found)
            number = int(np.searchsorted(self._ends, at, side="right"))
            inside = at - int(self._ends[number]) + self._batches[number].num_rows
            part = self._batches[number]["token"].slice(inside, length - len(found))
            found += part.to_pylist()
        return found


def compared(raw: str, text: str, start: int, end: int) -> list[Run]:
    """What became of a page on its way to the training set, around the characters `start` to `end` of the text.

    Lines are compared first, then the characters of those that changed.
    """
    first, last = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    low, high = max(first, start - _AROUND), min(len(text) if last < 0 else last, end + _AROUND, start + _MOST)
    runs, at = [], 0
    for kind, there, here in _changes(raw.splitlines(keepends=True), text.splitlines(keepends=True)):
        after = at + len(here)
        inside = at <= high and (after > low or (after == at and at >= low))
        for run in _runs(kind, there, here) if inside else ():
            if run[0] == 1:
                runs += [[1, run[1][:_MOST]]] if low <= at <= high else []
                continue
            for code, a, b in ((3, low, start), (0, start, end), (3, end, high)):
                words = run[1][max(0, max(low, a) - at) : max(0, min(high, b) - at)]
                runs += [[code if run[0] == 0 else 2, words]] if words else []
            at += len(run[1])
        at = after
    return runs


def _changes(raw: list[str], text: list[str]) -> list[tuple[str, str, str]]:
    codes = SequenceMatcher(None, raw, text, autojunk=False).get_opcodes()
    return [(kind, "".join(raw[a:b]), "".join(text[c:d])) for kind, a, b, c, d in codes]


def _runs(kind: str, there: str, here: str) -> list[Run]:
    if kind == "equal":
        return [[0, here]]
    if kind == "replace" and len(there) * len(here) < 4_000_000:
        found: list[Run] = []
        for part, a, b, c, d in SequenceMatcher(None, there, here, autojunk=False).get_opcodes():
            found += (
                [[0, here[c:d]]]
                if part == "equal"
                else [[code, words] for code, words in ((1, there[a:b]), (2, here[c:d])) if words]
            )
        return found
    return [[code, words] for code, words in ((1, there), (2, here)) if words]
