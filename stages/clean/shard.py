"""Cleans one shard: what a worker does with its documents, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stages import _documents
from stages.clean import boilerplate, language, privacy, rules
from stages.clean.characters import SCRIPTS
from stages.clean.normalise import is_normalised, normalise, repair
from stages.clean.params import Params, mask_name
from stages.clean.samples import CHANGED, DROPPED, KEPT, NEAR, SCHEMA, Samples
from stages.clean.screen import ADDRESSES, FORM, MOJIBAKE, NUMBERS, UNTIDY, screen
from stages.clean.statistics import Statistics, measure, utf8

DROPS = pa.schema([(name, pa.string()) for name in ("doc_id", "source", "lang", "reason", "detail")])
CHARACTERS = (*SCRIPTS, "simplified", "traditional")  # of which Han characters are told apart by the last two
BATCH = 256  # documents
_ALL = UNTIDY | MOJIBAKE | NUMBERS | ADDRESSES | FORM
_GROUP_ROWS, _GROUP_BYTES = 4096, 1 << 25


@dataclass(frozen=True)
class CountTask:
    """Count the lines of one shard; see `boilerplate`."""

    shard: str
    counts: str
    params: Params


@dataclass(frozen=True)
class RangeTask:
    """Add up one range of line hashes over all shards."""

    counts: tuple[str, ...]
    first: int
    last: int
    min_documents: int
    recurring: str


@dataclass(frozen=True)
class CleanTask:
    """Clean one shard; `recurring` are the files of the boilerplate lines, in order of their ranges."""

    shard: str
    recurring: tuple[str, ...]
    documents: str
    drops: str
    samples: str
    params: Params


def count_lines(task: CountTask) -> int:
    """Write the line counts of a shard and return their number."""
    limits = task.params.boilerplate
    assert limits is not None
    batches = (
        boilerplate.lines(batch["text"], batch["source"].to_pylist(), limits.min_bytes)
        for batch in _documents.read_batches(task.shard, ["source", "text"], BATCH)
    )
    hashes, documents = boilerplate.tally(batches)
    boilerplate.write_counts(task.counts, hashes, documents)
    return len(hashes)


def find_recurring(task: RangeTask) -> int:
    """Write the lines of a range that recur and return their number."""
    hashes, documents = boilerplate.recurring(task.counts, task.first, task.last, task.min_documents)
    boilerplate.write_counts(task.recurring, hashes, documents)
    return len(hashes)


def clean_shard(task: CleanTask) -> dict[str, Any]:
    """Write the kept documents, the drops and the samples of a shard, and return what was counted."""
    cleaner = Cleaner(task.params, *boilerplate.read_counts(task.recurring))
    batches = (cleaner.clean(batch) for batch in _documents.read_batches(task.shard, _documents.SCHEMA.names, BATCH))
    _documents.write_batches(task.documents, _documents.SCHEMA, _grouped(batches))
    _documents.write_table(task.drops, DROPS, cleaner.drops)
    _documents.write_table(task.samples, SCHEMA, cleaner.samples.table())
    return {name: {key: dict(counter) for key, counter in counts.items()} for name, counts in cleaner.counts.items()}


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches in groups of the size of a row group; one empty batch where there are none."""
    waiting: list[pa.RecordBatch] = []
    rows = size = written = 0
    for batch in batches:
        waiting.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.concat_batches(waiting)
            waiting, written = [], written + rows
            rows = size = 0
    if rows or not written:
        yield pa.concat_batches(waiting) if waiting else pa.RecordBatch.from_pylist([], schema=_documents.SCHEMA)


@dataclass
class _Batch:
    """The documents of a batch on their way: one entry of each list for each document."""

    doc_ids: list[str]
    sources: list[str]
    texts: list[str]
    langs: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # empty where the document is kept
    details: list[str] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)  # rows whose text is no more what it was

    def change(self, row: int, text: str) -> None:
        """Give a document another text."""
        self.texts[row] = text
        self.changed.add(row)


def _replaced(array: pa.LargeStringArray, texts: dict[int, str]) -> pa.LargeStringArray:
    """The column with other texts in some rows; what is between them is not read again."""
    parts, end = [], 0
    for row in sorted(texts):
        parts += [array[end:row], pa.array([texts[row]], pa.large_string())]
        end = row + 1
    return pa.concat_arrays([*parts, array[end:]]) if parts else array


@dataclass(frozen=True)
class _Judged:
    """What a rule said of the documents of one language: `rows` of the batch, int64 [documents]."""

    rule: rules.Rule
    lang: str
    rows: npt.NDArray[np.int64]
    judgement: rules.Judgement


@dataclass
class Cleaner:
    """Judges the documents of a shard, and keeps its drops, samples and counts.

    Attributes:
        recurring, documents: sorted hashes of the lines to remove, and the number of documents that hold each.
        counts: by what is counted, then by rule or kind, then by language.
    """

    params: Params
    recurring: boilerplate.Hashes
    documents: npt.NDArray[np.uint32]
    drops: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    samples: Samples = field(init=False)

    def __post_init__(self) -> None:
        self.samples = Samples(self.params.samples)

    def clean(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The documents of a batch that are kept, with their new text and language."""
        documents = _Batch(batch["doc_id"].to_pylist(), batch["source"].to_pylist(), batch["text"].to_pylist())
        suspect = screen(*utf8(batch["text"]), self.params.max_blank_lines, self.params.unicode_form)
        removed = self._remove_boilerplate(documents, batch["text"])
        suspect[list(removed)] = _ALL
        repaired = self._normalise(documents, suspect)
        statistics = measure(self._measured(batch["text"], documents))
        judged = self._judge(documents, statistics)
        for row, lines in repaired.items():
            self._note_repair(documents, row, batch["text"][row].as_py(), lines)
        for row, taken in removed.items():
            self._note_boilerplate(documents, row, taken)
        for row in np.flatnonzero(suspect & (NUMBERS | ADDRESSES)).tolist():
            if not documents.reasons[row] and (masked := self._mask(documents, row)) != documents.texts[row]:
                documents.change(row, masked)
        self._sample(documents, judged)
        self._drop(documents)
        return self._kept(batch, documents, statistics)

    def _remove_boilerplate(self, batch: _Batch, array: pa.LargeStringArray) -> dict[int, list[tuple[str, str, int]]]:
        """Take recurring lines out of the texts; of each row that had any: (name of the line, line, documents that hold it)."""
        limits = self.params.boilerplate
        if limits is None or not len(self.recurring):
            return {}
        lines = boilerplate.lines(array, batch.sources, limits.min_bytes)
        place = np.minimum(np.searchsorted(self.recurring, lines.hashes), len(self.recurring) - 1)
        recurs = self.recurring[place] == lines.hashes
        removed = {}
        for row in np.unique(lines.documents[recurs]).tolist():
            own = lines.documents == row
            text, taken = boilerplate.remove(batch.texts[row], recurs[own].tolist(), limits.min_bytes)
            batch.change(row, text)
            names = [f"{batch.sources[row]}#{value:016x}" for value in lines.hashes[own & recurs].tolist()]
            removed[row] = list(zip(names, taken, self.documents[place[own & recurs]].tolist(), strict=True))
        return removed

    def _normalise(self, batch: _Batch, suspect: npt.NDArray[np.uint8]) -> dict[int, int]:
        """Repair and normalise what the screen does not pass; the number of lines repaired by row."""
        form, repaired = self.params.unicode_form, {}
        for row, (text, found) in enumerate(zip(batch.texts, suspect.tolist(), strict=True)):
            fixed = text
            if found & MOJIBAKE and self.params.repair_mojibake:
                fixed, lines = repair(text)
                if lines:
                    repaired[row] = lines
            if found & (UNTIDY | MOJIBAKE) or (found & FORM and not is_normalised(text, form)):
                fixed = normalise(fixed, form, self.params.max_blank_lines)
            if fixed != text:
                batch.change(row, fixed)
                suspect[row] = _ALL  # what was taken out may have parted a number
        return repaired

    def _measured(self, array: pa.LargeStringArray, batch: _Batch) -> pa.LargeStringArray:
        """The texts as far as statistics look: behind that, a document is too long in every language."""
        limits = [self.params.en.max_characters, self.params.zh.max_characters]
        longest = None if None in limits else max(limit for limit in limits if limit is not None) + 1
        cut = {row: batch.texts[row] for row in batch.changed}
        if longest is not None:
            long = [row for row, text in enumerate(batch.texts) if len(text) > longest]
            cut |= {row: batch.texts[row][:longest] for row in long}
        return _replaced(array, cut)

    def _judge(self, batch: _Batch, statistics: Statistics) -> list[_Judged]:
        """Identify the languages and apply the rules in order: the first that fails is the reason."""
        columns = (statistics[name].tolist() for name in ("han", "latin", "other_letter", "stop_words"))
        found = [
            language.identify(text, *counted, limits=self.params.language)
            for text, *counted in zip(batch.texts, *columns, strict=True)
        ]
        unknown = [each.code == language.UNDETERMINED for each in found]
        batch.langs = [each.code for each in found]
        batch.reasons = ["language" if drop else "" for drop in unknown]
        batch.details = [each.detail if drop else "" for each, drop in zip(found, unknown, strict=True)]
        self._count("matched", "language", language.UNDETERMINED, sum(unknown))
        codes, judged = np.array(batch.langs), []
        for lang in (language.ENGLISH, language.CHINESE):
            rows = np.flatnonzero(codes == lang)
            if not len(rows):
                continue
            own = Statistics(statistics.counts[rows])
            for rule in rules.RULES:
                judgement = rules.judge(rule, own, self.params.limits(lang))
                if judgement is None:
                    continue
                judged.append(_Judged(rule, lang, rows, judgement))
                failed = np.flatnonzero(judgement.fails)
                self._count("matched", rule.name, lang, len(failed))
                for index in failed.tolist():
                    if not batch.reasons[rows[index]]:
                        batch.reasons[rows[index]] = rule.name
                        batch.details[rows[index]] = rules.detail(rule, judgement.value[index], judgement.limit[index])
        return judged

    def _mask(self, batch: _Batch, row: int) -> str:
        text, found = privacy.mask(batch.texts[row], self.params.mask)
        for kind, number in found.items():
            name, lang = mask_name(kind), batch.langs[row]
            self._count("matched", name, lang, number)
            if self.samples.wants(name, lang, CHANGED, batch.doc_ids[row]):
                place = text.index(getattr(self.params.mask, kind))
                self.samples.add(name, lang, CHANGED, batch.doc_ids[row], text[max(0, place - 60) : place + 80])
        return text

    def _note_repair(self, batch: _Batch, row: int, raw: str, lines: int) -> None:
        lang, doc_id = batch.langs[row], batch.doc_ids[row]
        self._count("matched", "repair", lang, lines)
        if self.samples.wants("repair", lang, CHANGED, doc_id):
            pairs = zip(raw.split("\n"), repair(raw)[0].split("\n"), strict=True)
            before, after = next((old, new) for old, new in pairs if old != new)
            self.samples.add("repair", lang, CHANGED, doc_id, self._excerpt(after[:120]), self._excerpt(before[:120]))

    def _note_boilerplate(self, batch: _Batch, row: int, taken: list[tuple[str, str, int]]) -> None:
        assert self.params.boilerplate is not None
        lang, minimum = batch.langs[row], float(self.params.boilerplate.min_documents)
        self._count("matched", "boilerplate", lang, len(taken))
        for name, line, documents in taken:
            if self.samples.wants("boilerplate", lang, CHANGED, name):
                self.samples.add("boilerplate", lang, CHANGED, name, self._excerpt(line), "", float(documents), minimum)

    def _sample(self, batch: _Batch, judged: list[_Judged]) -> None:
        """Sample for each rule what it dropped, and of what every rule kept that which came nearest to this one's limit."""
        kept = np.array([not reason for reason in batch.reasons], bool)
        for each in judged:
            value, limit = each.judgement.value, each.judgement.limit
            distance = np.abs(value - limit) / np.where(limit > 0, limit, np.nan)  # nothing comes near to a limit of nothing
            near = np.flatnonzero(kept[each.rows] & (distance <= NEAR))
            for index in near[np.argsort(distance[near], kind="stable")].tolist():
                doc_id, row = batch.doc_ids[each.rows[index]], int(each.rows[index])
                if distance[index] > self.samples.farthest(each.rule.name, each.lang, KEPT):
                    break
                text = batch.texts[row]
                numbers = (float(value[index]), float(limit[index]), float(distance[index]))
                self.samples.add(each.rule.name, each.lang, KEPT, doc_id, text, batch.details[row], *numbers)
        for row, reason in enumerate(batch.reasons):
            if reason and self.samples.wants(reason, batch.langs[row], DROPPED, batch.doc_ids[row]):
                excerpt = self._excerpt(batch.texts[row])
                self.samples.add(reason, batch.langs[row], DROPPED, batch.doc_ids[row], excerpt, batch.details[row])

    def _excerpt(self, text: str) -> str:
        """The beginning of a text that was not masked, masked."""
        return privacy.mask(text[:1000], self.params.mask)[0]

    def _drop(self, batch: _Batch) -> None:
        for lang, number in Counter(batch.langs).items():
            self._count("seen", "documents", lang, number)
        for doc_id, source, lang, reason, detail in zip(
            batch.doc_ids, batch.sources, batch.langs, batch.reasons, batch.details, strict=True
        ):
            if reason:
                self._count("drops", reason, lang)
                self.drops.append({"doc_id": doc_id, "source": source, "lang": lang, "reason": reason, "detail": detail})

    def _kept(self, batch: pa.RecordBatch, documents: _Batch, statistics: Statistics) -> pa.RecordBatch:
        """The rows that are kept, counted."""
        kept, codes = np.array([not reason for reason in documents.reasons], bool), np.array(documents.langs)
        texts = _replaced(batch["text"], {row: documents.texts[row] for row in documents.changed})
        sizes = pc.binary_length(texts.cast(pa.large_binary())).to_numpy()
        for lang in sorted(set(codes[kept].tolist())):
            rows = kept & (codes == lang)
            self._count("kept", "documents", lang, int(rows.sum()))
            self._count("kept", "bytes", lang, int(sizes[rows].sum()))
            for name in CHARACTERS:
                self._count("characters", name, lang, int(statistics[name][rows].sum()))
        for claimed, lang, keep in zip(batch["lang"].to_pylist(), documents.langs, kept.tolist(), strict=True):
            if keep and claimed != lang:
                self._count("kept", "relabelled", f"{claimed} to {lang}")
        new = {"text": texts, "lang": pa.array(documents.langs, pa.string())}
        arrays = [new[name] if name in new else batch[name] for name in _documents.SCHEMA.names]
        return pa.RecordBatch.from_arrays(arrays, schema=_documents.SCHEMA).filter(pa.array(kept))

    def _count(self, what: str, name: str, lang: str, number: int = 1) -> None:
        if number:
            self.counts.setdefault(what, {}).setdefault(name, Counter())[lang] += number
