"""Quality rules: the statistics of Gopher, C4 and FineWeb in one pass, beside datatrove's four filters with their defaults."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa

from benchmarks import _ours, _peers, _planted
from benchmarks._bench import Bench
from benchmarks._measure import Row, Speed, Work, faster, interleaved

SECTION = "Quality rules (MB of text for each CPU second; documents as they come from their sources)"
_FAST_BYTES, _SLOW_BYTES, _COMPARED, _TARGET, _KEPT = 20_000_000, 400_000, 500, 100.0, 0.95


def rows(bench: Bench) -> list[Row]:
    """Speed beside datatrove's filters, agreement with the plain definition, and what is kept of real text."""
    return [row for lang in _planted.LANGUAGES for row in _language(bench, lang)]


def _language(bench: Bench, lang: str) -> list[Row]:
    texts, size = bench.documents(lang, _FAST_BYTES)
    few, few_bytes = bench.documents(lang, _SLOW_BYTES)
    column = pa.array(texts, pa.large_string())
    works = {
        "statistics": Work(partial(_ours.statistics, column), size, len(texts)),
        "stage": Work(partial(_ours.clean, _ours.batches(texts, lang)), size, len(texts)),
    }
    filters = _peers.datatrove_filters(lang) if _peers.datatrove_words(lang) else {}
    for name, rule in filters.items():
        works[name] = Work(partial(_apply, rule, few), few_bytes, len(few))
    for work in works.values():
        work.run()  # compiles, loads word tokenisers
    speeds = interleaved(works, max(1, bench.rounds - 1))
    table: list[Row] = []
    what, all_four = f"{lang}: statistics of all rules", "datatrove, 4 filters"
    if filters:
        seconds = sum(speeds[name].cpu for name in filters)
        together = Speed(seconds, few_bytes, len(few))
        table.append(faster(SECTION, what, speeds["statistics"], all_four, together, _TARGET))
        everything = f"{lang}: repair, normalisation, language, rules, masking"
        table.append(faster(SECTION, everything, speeds["stage"], all_four, together))
        table += [faster(SECTION, what, speeds["statistics"], name, speeds[name]) for name in filters]
    else:
        table.append(faster(SECTION, what, speeds["statistics"], all_four, None))
    agreeing = _ours.agreement(texts[:_COMPARED])
    what = f"{lang}: documents whose statistics equal plain Python's"
    table.append(Row(SECTION, what, f"of {_COMPARED}", agreeing, target=1.0))
    table.append(_kept_row(lang, texts, few, filters))
    return table


def _kept_row(lang: str, texts: list[str], few: list[str], filters: dict[str, Any]) -> Row:
    kept = _ours.clean(_ours.batches(texts, lang)) / len(texts)
    theirs = {name: _apply(rule, few) / len(few) for name, rule in filters.items()}
    note = ", ".join(f"{name} {share:.2f}" for name, share in theirs.items())
    target = _KEPT if lang == "zh" else None
    what = f"{lang}: share of {len(texts):,} clean documents kept"
    worst = min(theirs.values(), default=None)
    return Row(SECTION, what, "share", kept, "datatrove, worst filter", worst, target=target, note=note or "not installed")


def _apply(rule: Any, texts: list[str]) -> int:
    """How many documents a datatrove filter keeps."""
    return sum(1 for _ in rule.run(_peers.datatrove_texts(texts)))
