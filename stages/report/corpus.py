"""Section "Corpus": the register, what each step left of every source and language, and real documents kept and dropped."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from stages._documents import document_files
from stages._runner import StageError
from stages.report import quarantine
from stages.report.facts import Facts, at
from stages.report.flow import Loss, Passage, flow
from stages.report.rules import decisions

FOLDERS = {
    "corpus": "data/corpus",
    "clean": "data/clean",
    "dedup": "data/dedup",
    "train": "data/decontaminate/train",
    "heldout": "data/decontaminate/heldout",
}
TAKEN_DOWN = "taken down"
_REGISTER = ("id", "kind", "package", "version", "file", "url", "path", "licence", "rights", "sha256", "lang")
Tally = Counter[str]


@dataclass(frozen=True)
class Removal:
    """A document that did not get past a step: where it was last, why it went, and what the table says of it."""

    doc_id: str
    last: str
    reason: str
    detail: str
    other: str | None = None


@dataclass(frozen=True)
class Example:
    """A document on the page. `marked` is HTML of ours, escaped, with what decided its fate in <mark>."""

    doc_id: str
    lang: str
    note: str
    marked: Markup
    other: Markup | None = None


def removals(facts: Facts) -> list[Removal]:
    """Every document of the corpus that is neither in train nor held out, in the order of the steps."""
    found = []
    drops = facts.table("data/clean/drops.parquet", ["doc_id", "reason", "detail"])
    for row in drops.to_pylist():
        found.append(Removal(row["doc_id"], "corpus", row["reason"].replace("_", " "), row["detail"]))
    clusters = facts.table("data/dedup/clusters.parquet", ["doc_id", "cluster", "survivor", "kind", "jaccard"])
    for row in clusters.filter(pc.invert(clusters["survivor"])).to_pylist():
        detail = "equal but for case and punctuation" if row["kind"] == "exact" else f"Jaccard similarity {row['jaccard']:.3f}"
        found.append(Removal(row["doc_id"], "clean", f"{row['kind']} duplicate", detail, row["cluster"]))
    hits: dict[str, Removal] = {}
    columns = ["doc_id", "evaluation", "item", "ngram", "action"]
    for row in facts.table("data/decontaminate/hits.parquet", columns).to_pylist():
        if row["action"] == "remove":
            reason = "overlap with held-out text" if row["evaluation"] == "heldout" else f"overlap with {row['evaluation']}"
            hits.setdefault(row["doc_id"], Removal(row["doc_id"], "dedup", reason, row["ngram"], row["item"]))
    return [*found, *_emptied(facts), *hits.values(), *_taken_down(facts)]


def _emptied(facts: Facts) -> list[Removal]:
    """Documents of which nothing was left without the passages that earlier ones have too."""
    if not facts.of("dedup", "counts").get("documents_emptied"):
        return []
    rows = facts.table("data/dedup/passages.parquet", ["doc_id", "emptied"]).to_pylist()
    detail = "all of its passages stand in earlier documents"
    return [Removal(row["doc_id"], "clean", "repeated passages", detail) for row in rows if row["emptied"]]


def _taken_down(facts: Facts) -> list[Removal]:
    """Documents that somebody asked to take down."""
    if not facts.of("decontaminate", "counts").get("taken_down"):
        return []
    names = facts.table("data/decontaminate/takedowns.parquet", ["doc_id"])["doc_id"].to_pylist()
    return [Removal(name, "dedup", TAKEN_DOWN, "see takedowns.jsonl") for name in names]


def section(facts: Facts, samples: int) -> dict[str, Any]:
    """What the template needs; `samples` documents are shown for each language and for each reason to drop one."""
    removed = removals(facts)
    known = {stage: _measure(facts, folder, removed, stage) for stage, folder in FOLDERS.items()}
    tallies = {stage: tally for stage, (tally, _) in known.items()}
    lost: dict[str, dict[tuple[str, str], Tally]] = {stage: defaultdict(Counter) for stage in ("corpus", "clean", "dedup")}
    for item in removed:
        entry = known[item.last][1].get(item.doc_id)
        if entry is None:
            raise StageError(
                f"{item.doc_id!r} was removed ({item.reason}), but did not stand there before",
                file=f"{FOLDERS[item.last]}/documents",
                remedy="run `dvc repro decontaminate`",
            )
        lang, size = entry
        lost[item.last][lang, item.reason].update(documents=1, bytes=size)
    by_language = {stage: _group(tally, 1) for stage, tally in tallies.items()}
    languages = sorted(by_language["train"])
    return {
        "languages": languages,
        "quarantine": quarantine.section(facts),
        "register": [_registered(facts, entry, tallies) for entry in facts.json("data/corpus/sources.json")],
        "by_language": by_language,
        "totals": {stage: sum(tally.values(), Counter()) for stage, tally in tallies.items()},
        "flow": flow(_passages(by_language, lost), languages),
        "kept": _kept(facts, languages, samples),
        "dropped": _dropped(facts, removed, samples),
        "removed": len(removed),
        "decisions": decisions(facts),
    }


def fates(removed: Iterable[Removal]) -> dict[str, Removal]:
    """The removals by document."""
    return {item.doc_id: item for item in removed}


def _measure(
    facts: Facts, folder: str, removed: list[Removal], stage: str
) -> tuple[dict[tuple[str, str], Tally], dict[str, tuple[str, int]]]:
    """Documents and bytes by (source, language); language and bytes of those documents that the next step removes."""
    wanted = pa.array([item.doc_id for item in removed if item.last == stage], pa.string())
    tally: dict[tuple[str, str], Tally] = defaultdict(Counter)
    going: dict[str, tuple[str, int]] = {}
    for file in _files(facts, folder):
        for batch in pq.ParquetFile(file).iter_batches(columns=["doc_id", "source", "lang", "text"]):
            size = pc.binary_length(batch["text"].cast(pa.large_binary()))
            table = pa.table({"doc_id": batch["doc_id"], "source": batch["source"], "lang": batch["lang"], "bytes": size})
            grouped = table.group_by(["source", "lang"], use_threads=False).aggregate([("doc_id", "count"), ("bytes", "sum")])
            for row in grouped.to_pylist():
                tally[row["source"], row["lang"]].update(documents=row["doc_id_count"], bytes=row["bytes_sum"])
            for row in table.filter(pc.is_in(table["doc_id"], wanted)).to_pylist():
                going[row["doc_id"]] = (row["lang"], row["bytes"])
    return dict(tally), going


def _files(facts: Facts, folder: str) -> list[Path]:
    files = document_files(facts.io.input(folder))
    if not files:
        raise StageError("no documents", file=f"{folder}/documents", remedy="run the stage that writes them again")
    return files


def _group(tally: dict[tuple[str, str], Tally], part: int) -> dict[str, Tally]:
    found: dict[str, Tally] = defaultdict(Counter)
    for key, counts in tally.items():
        found[key[part]].update(counts)
    return dict(found)


def _registered(facts: Facts, entry: dict[str, Any], tallies: dict[str, dict[tuple[str, str], Tally]]) -> dict[str, Any]:
    row = {key: at(entry, "data/corpus/sources.json", key) for key in _REGISTER}
    origin = " ".join(str(row[key]) for key in ("package", "version") if row[key]) or row["url"] or row["path"]
    through = {stage: _group(tally, 0).get(row["id"], Counter()) for stage, tally in tallies.items()}
    return {**row, "origin": origin, "through": through}


def _passages(
    by_language: dict[str, dict[str, Tally]], lost: dict[str, dict[tuple[str, str], Tally]]
) -> tuple[list[Passage], Passage]:
    """The steps for the picture: what stood after each, and what it took away; held-out text leaves at the last."""

    def losses(stage: str) -> dict[str, list[Loss]]:
        found: dict[str, list[Loss]] = defaultdict(list)
        for (lang, reason), counts in sorted(lost[stage].items(), key=lambda item: (-item[1]["documents"], item[0])):
            found[lang].append(Loss(reason, counts["documents"], counts["bytes"]))
        return dict(found)

    final = losses("dedup")
    for lang, counts in by_language["heldout"].items():
        final.setdefault(lang, []).append(Loss("held out for evaluation", counts["documents"], counts["bytes"], kept=True))
    steps = [
        Passage("corpus", "fetched", by_language["corpus"], losses("corpus")),
        Passage("clean", "cleaned", by_language["clean"], losses("clean")),
        Passage("dedup", "deduplicated", by_language["dedup"], final),
    ]
    return steps, Passage("decontaminate", "train", by_language["train"], {})


def _order(doc_id: str) -> bytes:
    """Documents are shown in the order of this hash: nobody picked them."""
    return hashlib.sha256(doc_id.encode()).digest()


def texts_of(facts: Facts, folder: str, doc_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Language and text of the documents named."""
    wanted, found = pa.array(sorted(doc_ids), pa.string()), {}
    for file in _files(facts, folder):
        for batch in pq.ParquetFile(file).iter_batches(columns=["doc_id", "lang", "text"]):
            for row in batch.filter(pc.is_in(batch["doc_id"], wanted)).to_pylist():
                found[row["doc_id"]] = (row["lang"], row["text"])
    return found


def _kept(facts: Facts, languages: list[str], samples: int) -> list[Example]:
    train = facts.table("data/encode/train.documents.parquet", ["doc_id", "lang", "length"])
    examples = []
    for lang in languages:
        ids = train.filter(pc.equal(train["lang"], lang))
        length = dict(zip(ids["doc_id"].to_pylist(), ids["length"].to_pylist(), strict=True))
        chosen = sorted(length, key=_order)[:samples]
        texts = texts_of(facts, FOLDERS["train"], chosen)
        examples += [Example(name, lang, f"{length[name]:,} tokens", Markup.escape(excerpt(texts[name][1]))) for name in chosen]
    return examples


def _dropped(facts: Facts, removed: list[Removal], samples: int) -> list[tuple[str, int, list[Example]]]:
    """(reason, number of documents, examples) for each reason, in the order of the steps."""
    reasons: dict[tuple[str, str], list[Removal]] = defaultdict(list)
    for item in removed:
        reasons[item.last, item.reason].append(item)
    chosen = {key: sorted(items, key=lambda item: _order(item.doc_id))[:samples] for key, items in reasons.items()}
    texts: dict[str, tuple[str, str]] = {}
    for stage in ("corpus", "clean", "dedup"):
        items = [item for (last, _), picked in chosen.items() if last == stage for item in picked]
        others = [item.other for item in items if item.other and stage == "clean"]
        texts |= texts_of(facts, FOLDERS[stage], [*(item.doc_id for item in items), *others])
    return [
        (reason, len(reasons[last, reason]), [_example(item, texts) for item in picked])
        for (last, reason), picked in chosen.items()
    ]


def _example(item: Removal, texts: dict[str, tuple[str, str]]) -> Example:
    lang, text = texts[item.doc_id]
    if item.reason == TAKEN_DOWN:
        return Example(item.doc_id, lang, f"{item.detail}; its text is not shown", Markup())
    if item.last == "clean" and item.other in texts:
        marked, other = differences(text, texts[item.other][1])
        return Example(item.doc_id, lang, f"{item.detail}; kept: {item.other}", marked, other)
    if item.last == "dedup":
        return Example(item.doc_id, lang, f"shares this passage with {item.other}", around(text, item.detail))
    return Example(item.doc_id, lang, item.detail, Markup.escape(excerpt(text)))


def excerpt(text: str, limit: int = 150) -> str:
    """The beginning of a text, `limit` columns of it (a Han character takes two), blank lines left out."""
    lines = "\n".join(line for line in text.split("\n") if line.strip())
    room = limit
    for place, character in enumerate(lines):
        room -= 2 if character > "\u2e80" else 1
        if room < 0:
            return lines[:place].rstrip() + " …"
    return lines


def differences(text: str, other: str) -> tuple[Markup, Markup]:
    """Both texts from a little before their first difference on, with what differs in <mark>; line ends do not count."""
    text, other = (re.sub(r"(?<![\u2e80-\uffff])\n+", " ", side).replace("\n", "") for side in (text, other))
    ends = (min(len(text), len(other)), 0)
    first = next((place for place in range(ends[0]) if text[place] != other[place]), ends[0])
    start = max(0, first - 30)
    parts = [excerpt(side[start:], 130) for side in (text, other)]
    left, right = Markup("…") if start else Markup(), Markup("…") if start else Markup()
    for kind, a, b, c, d in SequenceMatcher(None, parts[0], parts[1], autojunk=False).get_opcodes():
        here, there = Markup.escape(parts[0][a:b]), Markup.escape(parts[1][c:d])
        left += here if kind == "equal" or not here else _marked(here)
        right += there if kind == "equal" or not there else _marked(there)
    return left, right


def _marked(words: str) -> Markup:
    """`words` in <mark>, escaped."""
    return Markup("<mark>") + words + Markup("</mark>")


def around(text: str, ngram: str) -> Markup:
    """The passage of a text that an n-gram of stages._ngrams stands for, in <mark>, with a little text on both sides."""
    words = ["['’]?".join(map(re.escape, unit)) for unit in ngram.split()]
    found = re.search(r"[\W_]*".join(words), text, re.IGNORECASE)
    if found is None:  # a letter that casefolds to others: the n-gram itself says enough
        return _marked(ngram)
    start, end = max(0, found.start() - 40), found.end() + 40
    before, behind = ("…" if start else "") + text[start : found.start()], text[found.end() : end]
    return Markup.escape(before) + _marked(found[0]) + behind + ("…" if end < len(text) else "")
