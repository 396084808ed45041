"""Puts the page together: facts and columns as data that its scripts read, styles and scripts in line."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.query import Ledger
from stages.report import graph
from stages.report.corpus import Removal
from stages.report.explorer.columns import Columns
from stages.report.explorer.documents import Documents, read_documents
from stages.report.explorer.history import Pieces, history
from stages.report.explorer.samples import follow
from stages.report.facts import Facts, language
from stages.report.lineage import Exposures

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("order.js", "store.js", "draw.js", "journal.js", "documents.js", "sample.js", "main.js")
_FILES = 40  # of a stage's output, named in the page


def explorer(
    facts: Facts,
    ledger: Ledger,
    tokenizer: Tokenizer,
    seen: Exposures,
    removed: Sequence[Removal],
    model: dict[str, Any],
    *,
    samples: int,
    most: int,
) -> str:
    """The page.

    Args:
        facts: outputs of the stages before.
        ledger: plan and journal.
        tokenizer: for the tokens of the samples.
        seen: what the final checkpoint was shown.
        removed: documents that did not get to the training set.
        model: its name and version.
        samples: shown of each kind and language.
        most: documents in the page.

    Raises:
        StageError: something that the page shows is absent or contradicts the rest.
    """
    columns = Columns()
    documents = read_documents(facts, removed, most)
    pieces = Pieces.of(facts.pieces(["sample", "doc_index", "doc_offset", "length"]))
    content = {"model": model} | told(ledger, documents, pieces, columns)
    followed = follow(facts, tokenizer, seen, ledger.plan.ramp, pieces, documents, samples)
    columns.text("samples", json.dumps(followed, ensure_ascii=False, separators=(",", ":")))
    columns.text("stages", json.dumps(_stages(facts), ensure_ascii=False, separators=(",", ":")))
    pictures = [graph.drawing(facts, "report", narrow=narrow, link=lambda stage: f"#stage={stage}") for narrow in (False, True)]
    return render(content, columns, pictures)


def told(ledger: Ledger, documents: Documents, pieces: Pieces, columns: Columns) -> dict[str, Any]:
    """What the page knows of documents and training; the tables go to `columns`."""
    documents.pack(columns)
    plan = ledger.plan.order
    pieces.pack(columns, plan.samples * plan.epochs, documents.place)
    return {
        "documents": documents.table.num_rows,
        "all": documents.all,
        "origins": documents.origins,
        "languages": {lang: language(lang) for _, lang, _ in documents.origins},
        "reasons": documents.reasons,
        "examples": documents.examples(),
        **history(ledger, pieces, documents, columns),
    }


def render(content: dict[str, Any], columns: Columns, pictures: Sequence[str]) -> str:
    """The page as text. Its own policy allows its style and its script, and nothing from outside."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    script = '"use strict";\n' + "".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    data = json.dumps(content | {"columns": columns.described}, ensure_ascii=False, separators=(",", ":"))
    return environment.get_template("page.html").render(
        model=content["model"],
        number=content["documents"],
        all=content["all"],
        pictures=pictures,
        columns=columns.encoded,
        facts=Markup(data.replace("<", "\\u003c")),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _stages(facts: Facts) -> dict[str, Any]:
    found = {}
    for stage in facts.manifests:
        files = facts.of(stage, "files")
        found[stage] = {
            "digest": facts.digests[stage],
            "params": facts.of(stage, "params"),
            "counts": facts.of(stage, "counts"),
            "inputs": facts.of(stage, "inputs"),
            "files": [[name, entry["bytes"], entry["sha256"]] for name, entry in sorted(files.items())[:_FILES]],
            "number": len(files),
            "bytes": sum(entry["bytes"] for entry in files.values()),
        }
    return found


def _hash(source: str) -> str:
    """The source expression that a Content-Security-Policy names an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
