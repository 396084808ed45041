"""The gate between data and training: Great Expectations over the split and over the records of the stages before it.

Reads: data/decontaminate, and the records of data/corpus, data/clean, data/dedup
Writes: data/validate/report.json (every expectation with its result)
Params: validate
Promises: what follows sees only data that meets every expectation; else the stage fails and runs/validate/report.json says why.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages import _documents, _manifest
from stages._params import Fraction, NonNegative, Positive
from stages._runner import StageError, StageIO, run_stage

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 20  # unexpected rows that the report names for each expectation
SIDES = ("train", "heldout")


@dataclass(frozen=True)
class Params:
    """Parameters of this stage."""

    languages: tuple[str, ...]
    min_characters: Positive
    max_characters: Positive
    max_replacement_share: Fraction
    min_language_share: Fraction
    max_language_share: Fraction
    min_language_bytes: NonNegative
    min_heldout_bytes: NonNegative
    min_kept_share: Fraction


class Check(NamedTuple):
    """One expectation: table, snake-case name of the Great Expectations expectation, and its arguments."""

    table: str
    expectation: str
    arguments: dict[str, Any]


# --- the tables that are checked, and the column that names their rows -----------------------------------------------------

KEYS = {"documents": "doc_id", "fates": "doc_id", "groups": "group", "languages": "lang", "steps": "step"}


def read_side(folder: Path, side: str) -> Iterator[dict[str, Any]]:
    """One row for each document of a side, with measures of the text in place of the text.

    The text is read as bytes: Arrow does not check that a string column holds UTF-8.
    """
    for file in _documents.document_files(folder / side):
        for batch in pq.ParquetFile(file).iter_batches(columns=["doc_id", "source", "lang", "licence", "text"]):
            texts = batch.column("text").cast(pa.large_binary())
            for row, data in zip(batch.drop_columns("text").to_pylist(), texts, strict=True):
                raw = data.as_py() or b""
                text = raw.decode("utf-8", errors="replace")
                yield {
                    **row,
                    "side": side,
                    "source_licence": f"{row['source']}: {row['licence']}",
                    "bytes": len(raw),
                    "characters": len(text),
                    "replacement_share": text.count("\ufffd") / max(1, len(text)),
                    "valid_utf8": text.encode() == raw,
                    "text_sha256": hashlib.sha256(raw).hexdigest(),
                }


def ids(file_or_folder: Path) -> list[str]:
    """The doc_ids of a table, or of all documents of a stage's output."""
    files = [file_or_folder] if file_or_folder.is_file() else _documents.document_files(file_or_folder)
    return [doc_id for file in files for doc_id in pq.read_table(file, columns=["doc_id"])["doc_id"].to_pylist()]


def fate_rows(corpus: Iterable[str], fates: dict[str, list[str]]) -> list[dict[str, Any]]:
    """How often each document of the corpus, and each that appears later, meets one of the `fates`: it must be once."""
    known, met = set(corpus), defaultdict(list)
    for fate, names in fates.items():
        for name in names:
            met[name].append(fate)
    rows = ((name, met.get(name, [])) for name in sorted(known | set(met)))
    return [{"doc_id": name, "fate": "+".join(found), "fates": len(found), "in_corpus": name in known} for name, found in rows]


def step_rows(steps: dict[str, tuple[int, list[int]]]) -> list[dict[str, Any]]:
    """For each step documents before it, kept, removed, and the difference that must be zero."""
    rows = []
    for step, (before, (kept, removed)) in steps.items():
        share = kept / max(1, before)
        rows.append({"step": step, "before": before, "kept": kept, "difference": before - kept - removed, "kept_share": share})
    return rows


def group_rows(clusters: list[dict[str, Any]], side_of: dict[str, str]) -> list[dict[str, Any]]:
    """For each group of similar documents the number of sides on which its members stand: at most one."""
    sides: dict[str, set[str]] = defaultdict(set)
    for row in clusters:
        sides[row["group"]].update(side_of[name] for name in (row["doc_id"], row["cluster"]) if name in side_of)
    return [{"group": group, "sides": len(sides[group])} for group in sorted(sides)]


def language_rows(documents: list[dict[str, Any]], languages: Iterable[str]) -> list[dict[str, Any]]:
    """Training bytes, their share of all, and held-out bytes by language."""
    size: dict[str, Counter[str]] = {side: Counter() for side in SIDES}
    for row in documents:
        size[row["side"]][row["lang"]] += row["bytes"]
    train, total = size["train"], max(1, size["train"].total())
    return [
        {"lang": lang, "bytes": train[lang], "share": train[lang] / total, "heldout_bytes": size["heldout"][lang]}
        for lang in languages
    ]


def gather(params: Params, io: StageIO) -> tuple[dict[str, list[dict[str, Any]]], set[str]]:
    """The tables to check, and the `source: licence` pairs of the register."""
    corpus, clean, dedup = io.input("data/corpus"), io.input("data/clean"), io.input("data/dedup")
    split = io.input("data/decontaminate")
    register = json.loads((corpus / "sources.json").read_text(encoding="utf-8"))
    documents = [row for side in SIDES for row in io.track(read_side(split, side), f"reading {side}", unit="documents")]
    side_of = {row["doc_id"]: row["side"] for row in documents}
    clusters = pq.read_table(dedup / "clusters.parquet").to_pylist()
    hits = pq.read_table(split / "hits.parquet", columns=["doc_id", "action"]).to_pylist()
    fates = {
        "dropped": ids(clean / "drops.parquet"),
        "duplicate": [row["doc_id"] for row in clusters if not row["survivor"]],
        "contaminated": sorted({row["doc_id"] for row in hits if row["action"] == "remove"}),
        **{side: [row["doc_id"] for row in documents if row["side"] == side] for side in SIDES},
    }
    number = {fate: len(names) for fate, names in fates.items()}
    before = {stage: len(ids(folder)) for stage, folder in (("corpus", corpus), ("clean", clean), ("dedup", dedup))}
    steps = {
        "clean": (before["corpus"], [before["clean"], number["dropped"]]),
        "dedup": (before["clean"], [before["dedup"], number["duplicate"]]),
        "decontaminate": (before["dedup"], [number["train"] + number["heldout"], number["contaminated"]]),
    }
    tables = {
        "documents": documents,
        "fates": fate_rows(ids(corpus), fates),
        "groups": group_rows(clusters, side_of),
        "languages": language_rows(documents, params.languages),
        "steps": step_rows(steps),
    }
    return tables, {f"{source['id']}: {source['licence']}" for source in register}


# --- expectations ----------------------------------------------------------------------------------------------------------


def expectations(params: Params, licences: Iterable[str]) -> list[Check]:
    """Everything that must hold. `text_sha256` and `doc_id` are unique over both sides: train and held-out are disjoint."""

    def between(table: str, column: str, low: float | None, high: float | None) -> Check:
        return Check(table, "expect_column_values_to_be_between", {"column": column, "min_value": low, "max_value": high})

    def in_set(table: str, column: str, values: Iterable[Any]) -> Check:
        return Check(table, "expect_column_values_to_be_in_set", {"column": column, "value_set": list(values)})

    columns = ("doc_id", "source", "lang", "licence")
    return [
        *(Check("documents", "expect_column_values_to_not_be_null", {"column": column}) for column in columns),
        *(Check("documents", "expect_column_values_to_be_unique", {"column": column}) for column in ("doc_id", "text_sha256")),
        in_set("documents", "lang", params.languages),
        in_set("documents", "source_licence", sorted(licences)),
        in_set("documents", "valid_utf8", [True]),
        between("documents", "characters", params.min_characters, params.max_characters),
        between("documents", "replacement_share", None, params.max_replacement_share),
        between("fates", "fates", 1, 1),
        in_set("fates", "in_corpus", [True]),
        between("groups", "sides", None, 1),
        between("languages", "share", params.min_language_share, params.max_language_share),
        between("languages", "bytes", params.min_language_bytes, None),
        between("languages", "heldout_bytes", params.min_heldout_bytes, None),
        between("steps", "difference", 0, 0),
        between("steps", "kept_share", params.min_kept_share, None),
    ]


def validate(tables: dict[str, list[dict[str, Any]]], checks: list[Check]) -> list[dict[str, Any]]:
    """The result of every check, in order, by Great Expectations; free of times and random ids."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read at import
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("tables")
    results: dict[int, dict[str, Any]] = {}
    for table, rows in tables.items():
        numbers = [number for number, check in enumerate(checks) if check.table == table]
        definition = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("whole")
        batch = definition.get_batch(batch_parameters={"dataframe": frame(pd, table, rows, [checks[n] for n in numbers])})
        result_format = {"result_format": "COMPLETE", "unexpected_index_column_names": [KEYS[table]]}
        for number in numbers:
            check = checks[number]
            expectation = getattr(gx.expectations, class_name(check.expectation))(**check.arguments)
            results[number] = summarise(check, batch.validate(expectation, result_format=result_format).to_json_dict())
    return [results[number] for number in sorted(results)]


def frame(pd: Any, table: str, rows: list[dict[str, Any]], checks: list[Check]) -> pd.DataFrame:
    """A table as a pandas frame that has the checked columns even where it has no rows."""
    columns = dict.fromkeys([KEYS[table], *(check.arguments["column"] for check in checks)])
    return pd.DataFrame(rows, columns=list(columns))


def class_name(expectation: str) -> str:
    """`ExpectColumn...` for `expect_column_...`."""
    return "".join(part.capitalize() for part in expectation.split("_"))


def summarise(check: Check, outcome: dict[str, Any]) -> dict[str, Any]:
    """One entry of the report. A result can fail with nothing unexpected in it: then an exception stands in `error`."""
    found = outcome["result"]
    key, column = KEYS[check.table], check.arguments["column"]
    rows = (found.get("unexpected_index_list") or [])[:EXAMPLES]
    return {
        "table": check.table,
        "expectation": check.expectation,
        "arguments": check.arguments,
        "success": bool(outcome["success"]),
        "rows": found.get("element_count", 0),
        "unexpected": found.get("unexpected_count", 0),
        "examples": [{"row": row[key], "value": row.get(column)} for row in rows],
        "error": _exception(outcome.get("exception_info") or {}),
    }


def _exception(info: dict[str, Any]) -> str | None:
    entries = [info] if "raised_exception" in info else list(info.values())  # one exception, or one for each metric
    messages = [str(entry["exception_message"]) for entry in entries if entry.get("raised_exception")]
    return "; ".join(sorted(messages)) or None


def complaint(result: dict[str, Any]) -> str:
    """A failed expectation in one line: table, column, expectation, how many rows, which."""
    arguments = {name: value for name, value in result["arguments"].items() if name != "column" and value is not None}
    text = f"{result['table']}.{result['arguments']['column']}: {result['expectation']}({arguments or ''})"
    if result["error"]:
        return f"{text} raised {result['error']}"
    named = ", ".join(f"{example['row']} ({example['value']!r})" for example in result["examples"][:5])
    return f"{text} fails for {result['unexpected']} of {result['rows']} rows, such as {named}"


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Check everything; write the report; fail where an expectation does not hold."""
    tables, licences = gather(params, io)
    results = validate(tables, expectations(params, licences))
    failed = [result for result in results if not result["success"] or result["error"]]
    report = {"success": not failed, "rows": {name: len(rows) for name, rows in tables.items()}, "expectations": results}
    report |= {"languages": tables["languages"], "steps": tables["steps"]}
    if failed:
        _manifest.write_atomic(io.runs / "report.json", _manifest.canonical(report))
        remedy = "see runs/validate/report.json; repair the source or the stage before, or change validate in params.yaml"
        raise StageError(" | ".join(map(complaint, failed)), file="data/decontaminate", remedy=remedy)
    _manifest.write_atomic(io.output / "report.json", _manifest.canonical(report))
    return {"expectations": len(results), "rows": report["rows"]}


if __name__ == "__main__":
    run_stage("validate", Params, run)
