"""The stage itself: gathers the sections, renders them, refuses a page that is too large, adds the explorer."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ledger import LedgerError
from ledger.journal import Segment
from ledger.query import Ledger
from stages._manifest import write_atomic
from stages._params import NonNegative, Positive, Range
from stages._runner import StageError, StageIO
from stages.report import (
    corpus,
    evaluation,
    gates,
    graph,
    instructions,
    lineage,
    objective,
    overview,
    provenance,
    tokens,
    training,
)
from stages.report.explorer import explorer
from stages.report.facts import Facts, language
from stages.report.pieces import load_tokenizer
from stages.report.svg import plain

if TYPE_CHECKING:
    import jinja2

    from model.tokenizer import Tokenizer

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Params:
    """Section `report` of params.yaml.

    Attributes:
        samples: documents shown for each language and for each reason to drop one, and cloze items for each language.
        indexed_documents: most documents in the page's search.
        max_bytes: a larger page stops the stage.
        explorer_documents: most documents in the explorer, which is as large as they make it.
    """

    samples: Annotated[int, Range(1, 20)]
    indexed_documents: NonNegative
    max_bytes: Positive
    explorer_documents: Positive


@dataclass(frozen=True)
class Opened:
    """What both pages are made from."""

    facts: Facts
    ledger: Ledger
    tokenizer: Tokenizer
    segment: Segment
    seen: lineage.Exposures
    removed: list[corpus.Removal]

    @classmethod
    def read(cls, io: StageIO) -> Opened:
        """Open the outputs of the stages before.

        Raises:
            StageError: something is absent or contradicts the rest.
        """
        facts = Facts(io)
        try:
            ledger = Ledger(io.root)
        except LedgerError as error:
            raise StageError(str(error).replace(f"{io.root}/", "")) from error
        tokenizer = load_tokenizer(facts)
        segment = lineage.final_segment(ledger)
        seen = lineage.exposures(ledger, segment, facts.pieces(["sample", "doc_index", "length"]))
        return cls(facts, ledger, tokenizer, segment, seen, corpus.removals(facts))


def gather(params: Params, io: StageIO) -> dict[str, Any]:
    """All sections of the report by name.

    Raises:
        StageError: something that the page shows is absent or contradicts the rest.
    """
    return sections_of(params, Opened.read(io))


def sections_of(params: Params, opened: Opened) -> dict[str, Any]:
    """All sections of the report by name; raises StageError as `gather` does."""
    facts, seen = opened.facts, opened.seen
    sections = {
        "corpus": corpus.section(facts, params.samples),
        "tokenizer": tokens.section(facts, opened.tokenizer),
        "objective": objective.section(facts, opened.tokenizer, seen, opened.ledger.plan.ramp),
        "instructions": instructions.section(facts),
        "gates": gates.section(facts),
        "training": training.section(facts, opened.ledger),
        "evaluation": evaluation.section(facts, params.samples),
        "lineage": lineage.section(facts, seen, opened.segment, opened.removed, params.indexed_documents),
        "provenance": provenance.section(facts),
    }
    graphs = {
        "wide": graph.drawing(facts, facts.io.stage, narrow=False),
        "narrow": graph.drawing(facts, facts.io.stage, narrow=True),
        "caption": graph.caption(facts, facts.io.stage),
    }
    return {**sections, "graph": graphs, "tiles": overview.tiles(sections), "limits": overview.limits(sections)}


def render(sections: dict[str, Any]) -> str:
    """The page as text. Style and script are inlined; the page's own policy allows these two and no outside address.

    Raises:
        StageError: a template asks for a field that no section has.
    """
    import jinja2

    environment = _environment()
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "search.js"))
    template = environment.get_template("page.html")
    inlined = {"style": _markup(style), "script": _markup(script), "style_hash": _hash(style), "script_hash": _hash(script)}
    try:
        return template.render(sections, **inlined)
    except jinja2.UndefinedError as error:
        raise StageError(
            f"something that the page shows is absent: {error}", remedy="run `dvc repro --force report`"
        ) from error


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Write the pages."""
    opened = Opened.read(io)
    sections = sections_of(params, opened)
    page = render(sections)
    size = len(page.encode())
    if size > params.max_bytes:
        raise StageError(
            f"the page has {size:,} bytes, more than {params.max_bytes:,}",
            file="data/report/index.html",
            remedy="lower report.indexed_documents or report.samples",
        )
    write_atomic(io.output / "index.html", page)
    io.log(f"{size:,} bytes, {sections['lineage']['indexed']:,} documents to ask for: {io.out}/index.html")
    explored = explorer(
        opened.facts,
        opened.ledger,
        opened.tokenizer,
        opened.seen,
        opened.removed,
        sections["provenance"]["model"],
        samples=params.samples,
        most=params.explorer_documents,
    )
    write_atomic(io.output / "explorer.html", explored)
    io.log(f"{len(explored.encode()):,} bytes: {io.out}/explorer.html")
    return {"bytes": size, "indexed_documents": sections["lineage"]["indexed"], "explorer_bytes": len(explored.encode())}


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}" if isinstance(value, int) else plain(value),
        "megabytes": lambda value: f"{value / 1e6:,.2f} MB" if value >= 1e4 else f"{value:,} B",
        "percent": lambda value, digits=1: f"{value:.{digits}%}",
        "fixed": lambda value, digits=3: f"{value:.{digits}f}",
        "short": lambda digest: str(digest)[:12],
        "flat": flat,
        "language": language,
    }
    return environment


def flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as pairs of dotted name and value."""
    if not isinstance(settings, dict):
        return [(prefix, settings)]
    return [pair for key, value in settings.items() for pair in flat(value, f"{prefix}.{key}" if prefix else str(key))]


def _markup(source: str) -> Any:
    from markupsafe import Markup

    return Markup(source)  # files of this package


def _hash(source: str) -> str:
    """The source expression that a Content-Security-Policy names an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
