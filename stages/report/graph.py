"""The stage graph as a picture, drawn from what the manifests say that each stage was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from stages._runner import StageError
from stages.report.facts import Facts
from stages.report.svg import picture, tag, text

COLUMNS = (
    ("text", ("corpus", "clean", "dedup", "decontaminate")),
    ("tokens", ("tokenizer", "encode", "instruct", "pack", "validate")),
    ("model", ("pretrain", "quantize", "evaluate")),
    ("evidence", ("attest", "report")),
)
SECTIONS = {
    "corpus": "corpus",
    "clean": "corpus",
    "dedup": "corpus",
    "decontaminate": "corpus",
    "tokenizer": "tokenizer",
    "encode": "tokenizer",
    "instruct": "objective",
    "pack": "objective",
    "validate": "gates",
    "pretrain": "training",
    "quantize": "evaluation",
    "evaluate": "evaluation",
    "attest": "provenance",
    "report": "provenance",
}
_BOX, _ROW, _COLUMN, _TOP = (190, 50), 78, 282, 44


@dataclass(frozen=True)
class Node:
    """A stage: where it stands, and what it counts."""

    stage: str
    count: str
    x: float
    y: float


def counts(facts: Facts) -> dict[str, str]:
    """The main count of every stage, in words."""
    train = facts.count("decontaminate", "train").values()
    tokens = facts.count("encode", "train", "tokens")
    packed = sum(facts.count("pack", f"{kind}_samples") for kind in ("gmask", "mask", "instruction"))
    return {
        "corpus": f"{facts.count('corpus', 'documents'):,} documents",
        "clean": f"{facts.count('clean', 'documents'):,} documents",
        "dedup": f"{facts.count('dedup', 'documents'):,} documents",
        "decontaminate": f"{sum(source['documents'] for source in train):,} to train on",
        "validate": f"{facts.count('validate', 'expectations'):,} expectations hold",
        "tokenizer": f"{facts.count('tokenizer', 'pieces'):,} pieces",
        "encode": f"{tokens:,} tokens",
        "instruct": f"{facts.count('instruct', 'samples'):,} samples",
        "pack": f"{packed:,} sequences",
        "pretrain": f"{facts.count('pretrain', 'steps'):,} steps",
        "quantize": f"{len(facts.count('quantize', 'bytes')):,} exports",
        "evaluate": f"{sum(facts.count('evaluate', 'items').values()):,} cloze items",
        "attest": f"{len(facts.of('attest', 'files')):,} documents",
        "report": "this page",
    }


def edges(facts: Facts, stage: str) -> list[tuple[str, str]]:
    """(from, to) of every input recorded by a manifest, and of those that `stage`, which runs now, declares.

    Raises:
        StageError: a stage has no place in the picture.
    """
    found = [(dep.removeprefix("data/"), name) for name in facts.manifests for dep in facts.of(name, "inputs")]
    found += [(name, stage) for name in facts.manifests]
    known = {name for _, names in COLUMNS for name in names}
    strange = sorted({name for pair in found for name in pair} - known)
    if strange:
        raise StageError(f"no place in the picture for stage {strange[0]!r}", remedy="name it in stages/report/graph.py")
    return found


def gathering(links: list[tuple[str, str]]) -> dict[str, int]:
    """The stages that read the outputs of more than half of all stages, and how many they read; in the order of the graph."""
    inputs = Counter(b for _, b in links)
    names = [name for _, names in COLUMNS for name in names]
    return {name: inputs[name] for name in names if 2 * inputs[name] > len(names)}


def caption(facts: Facts, stage: str) -> str:
    """What the pale lines of the picture are."""
    *most, last = (f"{name} ({number})" for name, number in gathering(edges(facts, stage)).items())
    readers = f"{', '.join(most)} and {last}" if most else last
    return f"The pale line gathers what goes to the stages that read the outputs of more than half of all: {readers}."


def section_of(stage: str) -> str:
    """Where a stage's box leads on the report's page."""
    return f"#{SECTIONS[stage]}"


def drawing(facts: Facts, stage: str, *, narrow: bool, link: Callable[[str], str] = section_of) -> Markup:
    """The picture: four columns, or one below the other for a narrow page; `link` says where each stage's box leads."""
    labels, links = counts(facts), edges(facts, stage)
    nodes: dict[str, Node] = {}
    heads = []
    for column, (name, stages) in enumerate(COLUMNS):
        y = _TOP + (len(nodes) * 60 + column * 34 if narrow else 0)
        x = 92 if narrow else 4 + column * _COLUMN
        heads.append(text(name, x, y - 14, "row-heading"))
        for row, node in enumerate(stages):
            nodes[node] = Node(node, labels[node], x, y + row * (60 if narrow else _ROW))
    last = max(node.y for node in nodes.values()) + _BOX[1] + 6
    width, height = (92 + _BOX[0] + 20, last) if narrow else (4 * _COLUMN - 80, last + 20)
    gathered = gathering(links)
    wires = [_collected(nodes[a], nodes[b], last + 10, narrow=narrow) for a, b in links if b in gathered]
    wires += [_edge(nodes[a], nodes[b], narrow=narrow) for a, b in links if b not in gathered]
    said = "; ".join(f"{name} from {', '.join(a for a, b in links if b == name) or 'the sources'}" for name in nodes)
    words = ("graph-narrow" if narrow else "graph", "The stages and what each was made from", said)
    return picture(*words, width, height, [*wires, *heads, *(_box(node, link(node.stage)) for node in nodes.values())])


def _box(node: Node, href: str) -> str:
    x, y = node.x, node.y
    parts = [
        tag("rect", x=x, y=y, width=_BOX[0], height=_BOX[1], rx=6, class_="node"),
        text(node.stage, x + 14, y + 21, "node-name"),
        text(node.count, x + 14, y + 38, "tick"),
    ]
    said = tag("title", escape(f"{node.stage}: {node.count}"))
    return tag("a", said + "".join(parts), href=href)


def _edge(a: Node, b: Node, *, narrow: bool) -> str:
    """An arrow: straight to the next box below, an arc beside the column to one further down, a curve to another column."""
    height = _BOX[1]
    if a.x == b.x and 0 < b.y - a.y < 2 * height:
        return _arrow(f"M{a.x + 30:.2f},{a.y + height:.2f}V{b.y - 3:.2f}", b.x + 30, b.y, "down", "edge")
    y1, y2 = a.y + height / 2, b.y + height / 2
    if a.x == b.x:
        reach = min(24 + (b.y - a.y) * (0.085 if narrow else 0.05), 86)
        side, sign = (a.x, -1) if narrow else (a.x + _BOX[0], 1)
        out = side + sign * reach
        line = f"M{side:.2f},{y1:.2f}C{out:.2f},{y1:.2f} {out:.2f},{y2:.2f} {side + sign * 3:.2f},{y2:.2f}"
        return _arrow(line, side, y2, "right" if narrow else "left", "edge")
    x1, x2 = a.x + _BOX[0], b.x
    bend = max(40.0, (x2 - x1) / 2)
    line = f"M{x1:.2f},{y1:.2f}C{x1 + bend:.2f},{y1:.2f} {x2 - bend:.2f},{y2:.2f} {x2 - 3:.2f},{y2:.2f}"
    return _arrow(line, x2, y2, "right", "edge")


def _collected(a: Node, b: Node, bottom: float, *, narrow: bool) -> str:
    """The line to a stage that reads most others: beside the column, along the bottom, up to its box; all share one way."""
    if a.x == b.x and not narrow:
        return _edge(a, b, narrow=narrow)
    y1, y2 = a.y + _BOX[1] / 2 + 12, b.y + _BOX[1] / 2
    side, out = a.x + _BOX[0], a.x + _BOX[0] + 12
    if narrow:
        return _arrow(f"M{side},{y1:.2f}H{out:.2f}V{y2:.2f}H{side + 3:.2f}", side, y2, "left", "edge collected")
    line = f"M{side},{y1:.2f}H{out:.2f}V{bottom:.2f}H{b.x - 18:.2f}V{y2:.2f}H{b.x - 3:.2f}"
    return _arrow(line, b.x, y2, "right", "edge collected")


def _arrow(line: str, x: float, y: float, towards: str, style: str) -> str:
    dx, dy = {"right": (-7, 3.5), "left": (7, 3.5), "down": (3.5, -7)}[towards]
    points = f"{x},{y} {x + dx},{y + dy} " + (f"{x - dx},{y + dy}" if towards == "down" else f"{x + dx},{y - dy}")
    return tag("path", d=line, class_=style) + tag("polygon", points=points, class_=f"head {style}")
