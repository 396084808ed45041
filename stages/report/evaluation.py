"""Section "Evaluation": bits per byte and cloze of every model with intervals, errors of quantization, and real items."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from stages._runner import StageError
from stages.report.charts import Line, Marker, Row, Value, Words, line_chart, value_chart
from stages.report.facts import Facts, at, language, number

_RESULTS, _ITEMS, _ERRORS = "data/evaluate/results.json", "data/evaluate/items.parquet", "data/quantize/errors.csv"
BASELINES = ("unigram", "bigram")
STYLES = {"fp32": "c-1", "int8": "c-2", "int4": "c-3", "int4-group": "c-4", "bigram": "c-5", "unigram": "c-6"}
_LAYER = re.compile(r"layers\.(\d+)\.(.+?)(?:\.weight)?")


def section(facts: Facts, samples: int) -> dict[str, Any]:
    """What the template needs; `samples` cloze items are shown for each language."""
    results = facts.json(_RESULTS)
    bits = at(results, _RESULTS, "bits_per_byte")
    models = order(bits)
    languages = sorted(at(bits, _RESULTS, "fp32", "language"))
    differences, cloze = at(results, _RESULTS, "differences"), at(results, _RESULTS, "cloze")
    _check(results, models)
    sizes = {"fp32": facts.count("quantize", "checkpoint_bytes"), **facts.count("quantize", "bytes")}
    items = facts.table(_ITEMS, ["item", "lang", "doc_id", "context", "choices", "label", "model", "prediction", "scores"])
    choices = len(items["choices"][0]) if items.num_rows else 0
    return {
        "checkpoint": at(results, _RESULTS, "checkpoint"),
        "heldout": at(results, _RESULTS, "heldout"),
        "baselines": at(results, _RESULTS, "baselines"),
        "models": models,
        "styles": STYLES,
        "languages": languages,
        "bits": bits,
        "differences": differences,
        "charts": {
            "bits": _bits(bits, models, languages),
            "gain": _differences(differences, "gain", languages),
            "cost": _differences(differences, "cost", languages),
            "cloze": _cloze(cloze, models, choices),
            "errors": _errors(facts),
            "curve": _curve(at(results, _RESULTS, "checkpoints"), languages),
        },
        "cloze": cloze,
        "choices": choices,
        "items": [_item(items, name) for name in _chosen(items, samples)],
        "sizes": {model: sizes[model] for model in models if model in sizes},
        "error_means": facts.count("quantize", "mean_relative_error"),
    }


def _check(results: dict[str, Any], models: list[str]) -> None:
    """Every number that the page shows is there; raises StageError else."""
    for group in ("language", "source"):
        for name, size in at(results, _RESULTS, "heldout", group).items():
            for key in ("documents", "bytes"):
                at(size, _RESULTS, key)
            for model in models:
                at(results, _RESULTS, "bits_per_byte", model, group, name)
    for row in at(results, _RESULTS, "differences"):
        for key in ("model", "reference", "lang", "value", "low", "high"):
            at(row, _RESULTS, key)
    for row in at(results, _RESULTS, "checkpoints"):
        for keys in (("step",), *(("bpb", lang) for lang in at(results, _RESULTS, "heldout", "language"))):
            at(row, _RESULTS, *keys)
    for model in models:
        for row in at(results, _RESULTS, "cloze", model).values():
            for key in ("value", "low", "high", "items"):
                at(row, _RESULTS, key)


def order(models: dict[str, Any]) -> list[str]:
    """The models as they are listed: the checkpoint, its exports, the baselines.

    Raises:
        StageError: the checkpoint or a baseline is absent.
    """
    for name in ("fp32", *BASELINES):
        at(models, _RESULTS, name)
    exports = [name for name in models if name not in ("fp32", *BASELINES)]
    known = [name for name in STYLES if name in exports]
    return ["fp32", *known, *sorted(set(exports) - set(known)), "bigram", "unigram"]


def difference(rows: list[dict[str, Any]], model: str, reference: str, lang: str) -> dict[str, float]:
    """The row of results.json that compares two models.

    Raises:
        StageError: there is none.
    """
    for row in rows:
        if (row["model"], row["reference"], row["lang"]) == (model, reference, lang):
            return {key: float(row[key]) for key in ("value", "low", "high")}
    raise StageError(f"no difference of {model} and {reference} for {lang!r}", file=_RESULTS, remedy="run `dvc repro evaluate`")


def _bits(bits: dict[str, Any], models: list[str], languages: list[str]) -> Markup:
    rows = [
        Row(language(lang), [Value(name, STYLES.get(name, "c-6"), bits[name]["language"][lang]) for name in models])
        for lang in languages
    ]
    said = "; ".join(f"{row.label}: " + ", ".join(f"{v.series} {v.value:.3f}" for v in row.values) for row in rows)
    words = Words("bits", "Bits per byte on held-out documents", said, "bits per UTF-8 byte, lower is better")
    return value_chart(words, rows, 440)


def _differences(differences: list[dict[str, Any]], which: str, languages: list[str]) -> Markup:
    """`gain`: the model less each baseline; `cost`: each export less the model."""
    rows, said = [], []
    for lang in languages:
        rows.append(Row(language(lang), heading=True))
        for entry in differences:
            if entry["lang"] != lang or (entry["reference"] in BASELINES) != (which == "gain"):
                continue
            style = STYLES.get(entry["reference" if which == "gain" else "model"], "c-6")
            label = f"{entry['model']} − {entry['reference']}"
            rows.append(Row(label, [Value(label, style, entry["value"], entry["low"], entry["high"])]))
            said.append(f"{lang} {label}: {entry['value']:+.4f} ({entry['low']:+.4f} to {entry['high']:+.4f})")
    if not said:
        raise StageError(f"no differences for the {which} chart", file=_RESULTS, remedy="run `dvc repro evaluate`")
    title = "Against the n-gram models" if which == "gain" else "What quantization costs"
    words = Words(which, title, "Differences with 95 % intervals. " + "; ".join(said), "bits per byte, with 95 % interval")
    return value_chart(words, rows, 440, reference=Marker(0.0, "0"))


def _cloze(cloze: dict[str, Any], models: list[str], choices: int) -> Markup | None:
    """Accuracy of every model; None where the held-out text gave no items."""
    if not choices:
        return None
    rows = []
    for lang in sorted({lang for model in cloze.values() for lang in model}):
        values = [
            Value(name, STYLES.get(name, "c-6"), *(at(cloze, _RESULTS, name, lang, key) for key in ("value", "low", "high")))
            for name in models
        ]
        rows.append(Row(language(lang), values))
    chance = 1 / choices
    said = "; ".join(f"{row.label}: " + ", ".join(f"{v.series} {v.value:.1%}" for v in row.values) for row in rows)
    words = Words(
        "cloze", "Last-word cloze, accuracy", f"Chance is {chance:.0%}. {said}", "share of items right, with 95 % interval"
    )
    return value_chart(words, rows, 440, reference=Marker(chance, "chance"))


def _curve(rows: list[dict[str, Any]], languages: list[str]) -> Markup | None:
    """Bits per byte by checkpoint; None where the parameters ask for no curve or there is one checkpoint."""
    if len(rows) < 2:
        return None
    steps = [float(row["step"]) for row in rows]
    lines = [Line(language(lang), f"c-{lang}", steps, [float(row["bpb"][lang]) for row in rows]) for lang in languages]
    said = "; ".join(
        f"step {row['step']}: " + ", ".join(f"{lang} {row['bpb'][lang]:.3f}" for lang in languages) for row in rows
    )
    words = Words("curve", "Held-out text by checkpoint", said, "step", "bits per byte")
    return line_chart(words, lines, (440, 240), x_range=(0.0, steps[-1]))


def _errors(facts: Facts) -> list[tuple[str, Markup]]:
    """One chart for each scheme: relative error by layer, a line for each kind of matrix."""
    rows = facts.csv(_ERRORS, ["scheme", "layer", "relative_error"])
    found: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        match, value = _LAYER.fullmatch(row["layer"]), number(row, "relative_error", _ERRORS, index)
        if match is None or value is None:
            raise StageError(f"{row['layer']!r} with error {row['relative_error']!r}: not a layer's", file=_ERRORS, row=index)
        found[row["scheme"]][match[2]].append((int(match[1]), value))
    charts = []
    for scheme, matrices in found.items():
        lines = []
        for place, (name, points) in enumerate(matrices.items(), 1):
            x, y = zip(*sorted(points), strict=True)
            short = name.rpartition(".")[2].removeprefix("dense_").replace("query_key_value", "qkv")
            lines.append(Line(short, f"c-{place}", x, y))
        said = f"Largest relative error {max(value for points in matrices.values() for _, value in points):.4f}."
        words = Words(f"errors-{scheme}", f"{scheme}: error of the weights", said, "layer", "relative error")
        charts.append((scheme, line_chart(words, lines, (340, 230), y_from=0.0)))
    return charts


def _chosen(items: pa.Table, samples: int) -> list[str]:
    """Items of each language, the first in the order of a hash."""
    found = []
    for lang in sorted(set(items["lang"].to_pylist())):
        names = set(items.filter(pc.equal(items["lang"], lang))["item"].to_pylist())
        found += sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:samples]
    return found


def _item(items: pa.Table, name: str) -> dict[str, Any]:
    """One item with every model's choice, and the share that fp32 gives to each choice."""
    rows = {row["model"]: row for row in items.filter(pc.equal(items["item"], name)).to_pylist()}
    fp32 = rows.get("fp32")
    if fp32 is None:
        raise StageError(f"item {name!r} has no answer of fp32", file=_ITEMS, remedy="run `dvc repro evaluate`")
    most = max(fp32["scores"])
    weights = [math.exp(score - most) for score in fp32["scores"]]
    return {
        **{key: fp32[key] for key in ("item", "lang", "doc_id", "context", "choices", "label")},
        "shares": [weight / math.fsum(weights) for weight in weights],
        "chosen_by": [[model for model, row in rows.items() if row["prediction"] == index] for index in range(len(weights))],
    }
