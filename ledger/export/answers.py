"""Documents whose every number is the answer to a query that stands beside it, in SQL over tables that anybody can build again.

A document is Markdown with queries in comments. What they answer stands behind them: `fill` writes it, `strip` takes it away,
`check` computes it again.

    <!-- query NAME            a table behind the comment
    SELECT ...
    -->
    <!--= SELECT ... -->VALUE<!--/-->      a value in a sentence
    #= SELECT ...              a list of YAML behind it, in the front matter

The tables are those of `tables`: files of the project (docs/data.md), and what the ledger works out from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from ledger import LedgerError
from ledger.export.tables import tables
from ledger.proof.consumption import Consumption

_FILES = {
    "train": "SELECT doc_id, source, lang, licence, length AS tokens, bytes FROM read_parquet({encode}, union_by_name=true)",
    "heldout": "SELECT * FROM read_parquet({root}/data/encode/heldout.documents.parquet')",
    "corpus": "SELECT * EXCLUDE text FROM read_parquet({root}/data/corpus/documents/*.parquet', union_by_name=true)",
    "samples": "SELECT * FROM read_parquet({root}/data/instruct/samples.parquet')",
    "drops": "SELECT * FROM read_parquet({root}/data/clean/drops.parquet')",
    "clusters": "SELECT * FROM read_parquet({root}/data/dedup/clusters.parquet')",
    "hits": "SELECT * FROM read_parquet({root}/data/decontaminate/hits.parquet')",
    "loss": "SELECT * FROM read_csv({root}/data/pretrain/loss.csv')",
    "errors": "SELECT * FROM read_csv({root}/data/quantize/errors.csv')",
}
_INLINE = re.compile(r"(<!--= (?P<sql>.*?) -->)(?P<value>.*?)(<!--/-->)")


@dataclass(frozen=True)
class Cell:
    """A value of a document, and where it stands: line of its query, table or sentence, row, column."""

    where: str
    value: str


@dataclass(frozen=True)
class Moved:
    """A cell whose query answers something else than the document says; None where one of them has no such cell."""

    where: str
    says: str | None
    answers: str | None

    def __str__(self) -> str:
        says = "nothing" if self.says is None else f"`{self.says}`"
        return f"{self.where}: says {says}, the query answers {'nothing' if self.answers is None else f'`{self.answers}`'}"


class Answers:
    """A DuckDB connection that holds the tables of one checkpoint; queries in it can only read, and only the project's data."""

    def __init__(self, consumption: Consumption, checkpoint: str, attest: dict[str, Any]) -> None:
        """Build the tables.

        Args:
            consumption: of the project.
            checkpoint: name of the checkpoint that the documents are about.
            attest: parameters of the attest stage: name, version, creator and what else the documents state.
        """
        self._connection = duckdb.connect()
        self._connection.execute("SET threads = 1")  # sums of floats come out the same everywhere
        root = consumption.ledger.root.resolve()
        texts = [str(root / "data/encode/train.documents.parquet"), str(root / "data/instruct/documents.parquet")]
        quoted = "[" + ", ".join(_quoted(text) for text in texts) + "]"
        for name, sql in _FILES.items():
            self._connection.execute(f"CREATE VIEW {name} AS " + sql.format(encode=quoted, root=_quoted(str(root))[:-1]))
        for name, table in tables(consumption, checkpoint, attest).items():
            self._connection.register(name, table)
        self._connection.execute(f"SET allowed_directories = [{_quoted(str(root / 'data'))}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def table(self, sql: str) -> tuple[list[str], list[list[str]]]:
        """Column names and rows of a query, as they are written into documents.

        Raises:
            LedgerError: not a single SELECT, or it fails.
        """
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise LedgerError(f"a query is one SELECT: {sql}")
            result = self._connection.execute(sql)
            names = [column[0] for column in result.description or []]
            return names, [[_written(value) for value in row] for row in result.fetchall()]
        except duckdb.Error as error:
            raise LedgerError(f"a query fails: {sql}: {error}") from error

    def value(self, sql: str) -> str:
        """The single value of a query.

        Raises:
            LedgerError: it answers more or less than one value.
        """
        _, rows = self.table(sql)
        if len(rows) != 1 or len(rows[0]) != 1:
            raise LedgerError(f"a query in a sentence answers one value: {sql}")
        return rows[0][0]


def fill(template: str, answers: Answers) -> str:
    """The document: a template with what its queries answer."""
    lines: list[str] = []
    for line, sql in _blocks(template):
        if sql is None:
            lines.append(_INLINE.sub(lambda match: f"{match[1]}{answers.value(match['sql'])}<!--/-->", line))
            continue
        names, rows = answers.table(sql)
        lines.append(line)
        if line.startswith("#="):
            lines += [f"- {row[0]}" for row in rows]
        else:
            lines += [_row(names), "|" + "---|" * len(names), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def strip(document: str) -> str:
    """The template of a document: what `fill` wrote is gone."""
    kept: list[str] = []
    answer = ""  # what the lines of an answer begin with
    for line, sql in _blocks(document):
        if answer and line.startswith(answer):
            continue
        answer = "" if sql is None else "- " if line.startswith("#=") else "|"
        kept.append(_INLINE.sub(r"\1<!--/-->", line) if sql is None else line)
    return "\n".join(kept) + "\n"


def check(document: str, answers: Answers) -> list[Moved]:
    """The cells of a document whose queries answer something else now.

    Raises:
        LedgerError: a query of the document fails.
    """
    said, now = _cells(document), _cells(fill(strip(document), answers))
    moved = [Moved(where, value, now.get(where)) for where, value in said.items() if now.get(where) != value]
    return moved + [Moved(where, None, value) for where, value in now.items() if where not in said]


def cells(document: str) -> int:
    """Number of cells that queries answer in a document."""
    return len(_cells(document))


def _blocks(text: str) -> Iterator[tuple[str, str | None]]:
    """Pieces of a document in order: a line, or a whole comment with the query in it."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("#= "):
            yield line, line[3:]
        elif line.startswith("<!-- query "):
            comment = [line]
            while comment[-1] != "-->":
                if (after := next(lines, None)) is None:
                    raise LedgerError(f"the comment of `{line}` does not end")
                comment.append(after)
            yield "\n".join(comment), "\n".join(comment[1:-1])
        else:
            yield line, None


def _cells(document: str) -> dict[str, str]:
    """The answered cells of a document by their place."""
    found: dict[str, str] = {}
    name, heads, row, listed, sentence = "", [""], 0, 0, 0
    for line, sql in _blocks(document):
        if sql is not None:
            name = "front matter" if line.startswith("#=") else line.splitlines()[0].removeprefix("<!-- query ").strip()
            heads, row, listed = [], 0, 0
        elif name and line.startswith("|"):
            values = [value.strip() for value in line[1:-1].split("|")]
            row += 1
            if row == 1:
                heads = values
            elif row > 2:
                places = [f"table {name!r}, row {row - 2} ({values[0]}), column {head!r}" for head in heads]
                found |= dict(zip(places, values, strict=False))
        elif name == "front matter" and line.startswith("- "):
            listed += 1
            found[f"front matter, entry {listed}"] = line[2:]
        else:
            name = ""
            for match in _INLINE.finditer(line):
                sentence += 1
                found[f"sentence query {sentence} ({match['sql']})"] = match["value"]
    return found


def _row(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def _written(value: Any) -> str:
    """A value as documents show it: thousands apart, six figures of what is measured, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "&#124;").replace("\n", " ").replace("<!--", "&lt;!--")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
