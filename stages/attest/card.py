"""The model card: Markdown in which every number is computed from the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stages.attest.evidence import Evidence, Params


def model_card(params: Params, evidence: Evidence) -> str:
    """The card, with the front matter that model hubs read."""
    sections = (_front, _model, _data, _training, _results, _exports, _provenance, _limits)
    return "\n".join(line for section in sections for line in [*section(params, evidence), ""]).rstrip() + "\n"


def _front(params: Params, evidence: Evidence) -> Iterator[str]:
    yield from [
        "---",
        "language:",
        *(f"- {lang}" for lang in _languages(evidence)),
        "tags:",
        "- glm",
        "- text-infilling",
        "---",
        "",
    ]
    yield f"# {params.name} {params.version}"
    yield ""
    yield (
        f"A bilingual GLM of {_number(evidence.model.parameters)} parameters, trained from scratch on "
        f"{_number(evidence.documents)} documents by the rebuilt GLM-130B recipe. Written by the attest stage from the "
        f"outputs of the stages before it; state of {params.timestamp}."
    )


def _model(params: Params, evidence: Evidence) -> Iterator[str]:
    yield from ["## Model", ""]
    rows: list[tuple[str, Any]] = [
        ("checkpoint", evidence.model.name),
        ("parameters", evidence.model.parameters),
        ("bytes", evidence.model.bytes),
    ]
    rows += [(key, str(value)) for key, value in _flat(evidence.manifests["pretrain"]["params"].get("model", {}))]
    yield from _table(("setting", "value"), rows)


def _data(params: Params, evidence: Evidence) -> Iterator[str]:
    yield from ["## Training data", "", "What was trained on, and how much of it this checkpoint was shown:", ""]
    shown = {(row["source"], row["lang"], row["licence"]): row for row in evidence.shown}
    rows = []
    for row in evidence.train:
        seen = shown.get((row["source"], row["lang"], row["licence"]), {"documents": 0, "tokens": 0})
        rows.append([*row.values(), seen["documents"], seen["tokens"], _ratio(seen["tokens"], row["tokens"])])
    totals = [sum(row[column] for row in rows) for column in range(3, 8)]
    rows.append(["**all**", "", "", *totals, _ratio(totals[4], totals[1])])
    heads = ("source", "language", "licence", "documents", "tokens", "bytes", "documents shown", "tokens shown", "passes")
    yield from _table(heads, rows)
    yield from ["", "What was fetched:", ""]
    register = [(s["id"], s["lang"], s["licence"], s["documents"], s["bytes"], f"`{s['sha256']}`") for s in evidence.sources]
    yield from _table(("source", "language", "licence", "documents", "bytes", "SHA-256 of the archive"), register)
    yield from ["", "What was left out, and why:", ""]
    removed = [(f"filter: {reason}", count) for reason, count in evidence.dropped.items()]
    removed += [(f"{kind} duplicate", count) for kind, count in evidence.duplicates.items()]
    removed += [("held out for evaluation", evidence.heldout)]
    yield from _table(("reason", "documents"), removed)
    if evidence.hits:
        yield from ["", "Overlaps between text and evaluation items that were found, by evaluation:", ""]
        yield from _table(("evaluation", "overlaps"), evidence.hits.items())


def _training(params: Params, evidence: Evidence) -> Iterator[str]:
    yield from ["## Training", ""]
    params_used = _flat(evidence.manifests["pretrain"]["params"])
    settings = [(key, str(value)) for key, value in params_used if not key.startswith("model.")]
    segment = evidence.model.segment
    done: list[tuple[str, Any]] = [("steps done", segment.last_step + 1), ("samples consumed", segment.last_sample + 1)]
    done += [("tokens of documents shown", sum(row["tokens"] for row in evidence.shown))]
    if evidence.losses is not None:
        first, last = evidence.losses
        done += [(f"loss at step {first['step']}", first["loss"]), (f"loss at step {last['step']}", last["loss"])]
    yield from _table(("setting", "value"), [*done, *settings])
    yield from ["", "Segments of the training journal:", ""]
    heads = ("segment", "from", "steps (from 0)", "skipped", "status", "checkpoint")
    rows = []
    for item in evidence.segments:
        skipped = ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in item.skipped)
        steps = f"{item.first_step}-{item.last_step}"
        rows.append((item.index, item.parent or "scratch", steps, skipped, item.status, item.checkpoint or ""))
    yield from _table(heads, rows)


def _results(params: Params, evidence: Evidence) -> Iterator[str]:
    yield from ["## Results", "", "Error bars and single items are in `data/evaluate`.", ""]
    yield from _table(("measure", "value"), sorted(evidence.metrics.items()))


def _exports(params: Params, evidence: Evidence) -> Iterator[str]:
    yield from ["## Quantized exports", ""]
    rows = [(e.scheme, e.parent.name, e.bytes, _ratio(e.bytes, e.parent.bytes), f"`{e.sha256}`") for e in evidence.exports]
    yield from _table(("scheme", "made from", "bytes", "share of its bytes", "SHA-256"), rows)
    if evidence.errors:
        yield from ["", "Errors of the weights, over the layers:", ""]
        yield from _table(
            [name.replace("_", " ") for name in evidence.errors[0]], [tuple(row.values()) for row in evidence.errors]
        )


def _provenance(params: Params, evidence: Evidence) -> Iterator[str]:
    yield from ["## Provenance", ""]
    rows = [(f"weights of {item.name}", item.sha256) for item in evidence.checkpoints]
    rows += [("Merkle root of the train documents", evidence.merkle_root)]
    rows += [("head of the training journal", evidence.head), ("data plan", evidence.plan.digest)]
    rows += [(f"manifest of {stage}", digest) for stage, digest in evidence.digests.items()]
    yield from _table(("what", "SHA-256"), [(what, f"`{digest}`") for what, digest in rows])
    yield from ["", "`glm lineage docs` lists every document in order, `glm lineage seen --doc ID` asks for one, `glm lineage"]
    yield "verify` computes every digest again."


def _limits(params: Params, evidence: Evidence) -> Iterator[str]:
    tokens, parameters = sum(row["tokens"] for row in evidence.shown), evidence.model.parameters
    yield from ["## Limits", ""]
    yield (
        f"- It was shown {_number(tokens)} tokens of text, {_ratio(tokens, parameters)} per parameter; GLM-130B was shown "
        "about 400 billion, 3 per parameter. What a model of this size knows is bounded by both numbers."
    )
    yield f"- It knows {' and '.join(_languages(evidence))}; other languages occur by accident only."
    yield "- No stage removes prejudice or untruth from the text: the views of the sources, and of their times, are in it."
    yield "- It was not tuned by human feedback, neither to follow requests nor to refuse any."


def _languages(evidence: Evidence) -> list[str]:
    return sorted({row["lang"] for row in evidence.train})


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(_number(cell).replace('|', '&#124;') for cell in row)} |"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.3g}" if whole else ""
