"""What all sections of the corpus benchmark share: settings, the planted corpora and the shards they are written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import _planted
from benchmarks._planted import Planted

SHARDS = 8  # of each language


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark.

    Attributes:
        text: folder of real documents (Parquet or JSON lines with `text` and `lang`).
        project: a built project: its tokenizer encodes the whole chain's text.
        work: scratch folder, thrown away.
        size: bytes of the planted corpus of each language.
        chain: bytes of both languages together that go through the whole chain.
        scale: the same for the section that measures memory alone.
        rounds: interleaved rounds, of which the best counts.
        say: where progress goes.
    """

    text: Path
    project: Path
    work: Path
    size: int
    chain: int
    rounds: int
    say: Callable[[str], None]
    scale: int = 2**31

    @cached_property
    def planted(self) -> dict[str, Planted]:
        """The corpus of each language."""
        return {lang: self._plant(lang, self.size) for lang in _planted.LANGUAGES}

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """The shards of each language's corpus, in order."""
        found = {}
        for lang, corpus in self.planted.items():
            folder = self.work / "planted" / lang
            _planted.write(corpus, folder, SHARDS)
            found[lang] = sorted((folder / "documents").glob("*.parquet"))
        return found

    def sample(self, lang: str, size: int) -> tuple[list[str], int]:
        """The first texts of about `size` bytes of the planted corpus, and their bytes."""
        texts = self.planted[lang].first(size)
        return texts, sum(len(text.encode()) for text in texts)

    def documents(self, lang: str, size: int) -> tuple[list[str], int]:
        """The first real documents of about `size` bytes, as they come from their sources, and their bytes."""
        taken, total = [], 0
        for text in _planted.read_texts(self.text, lang):
            if total >= size:
                break
            taken.append(text)
            total += len(text.encode())
        return taken, total

    def _plant(self, lang: str, size: int) -> Planted:
        corpus = _planted.plant(lang, _planted.read_texts(self.text, lang), size)
        size, documents = corpus.bytes / 1e6, len(corpus.texts)
        self.say(f"planted {size:.1f} MB of {lang}: {documents:,} documents, {len(corpus.pairs):,} of them copies")
        return corpus
