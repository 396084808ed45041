"""docs/data.md describes the tables of encode, instruct and pack field by field: every column, in its type, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from model.masking import MaskingConfig
from stages import encode
from stages.instruct import mix
from stages.pack import shard

TEXT = (Path(__file__).parents[3] / "docs/data.md").read_text(encoding="utf-8")
CONFIG = MaskingConfig(2048, 4, 2046, 1840, 0.7, 0.2, 0.15, 3.0, 39, 0.02, 32, 0.02)
SIZES = {"L": 2048, "K": 4, "K+1": 5, "S": CONFIG.most_blanks}


def described(heading: str, number: int = 0) -> dict[str, str]:
    """Column -> type, as the `number`-th table of columns below a heading says."""
    section = TEXT.split(f"\n## {heading}\n")[1].partition("\n## ")[0]
    table = section.split("| column | type | meaning |\n|---|---|---|\n")[number + 1].partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in table.splitlines():
        names, types, meaning = (cell.strip() for cell in line.strip("|").split("|", 2))
        assert meaning
        columns, kinds = names.split(", "), types.split(", ")
        found |= dict(zip(columns, kinds * len(columns) if len(kinds) == 1 else kinds, strict=len(kinds) > 1))
    return found


def spelled(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        size = next(name for name, size in SIZES.items() if size == kind.list_size)
        return f"fixed_size_list<{kind.value_type}>[{size}]"
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)


@pytest.mark.parametrize(
    ("heading", "number", "schema"),
    [
        ("Token shards (encode)", 0, encode.DOCUMENTS),
        ("Instruction samples (instruct)", 0, mix.SAMPLES),
        ("Instruction samples (instruct)", 1, mix.DOCUMENTS),
        ("Packed samples (pack)", 0, shard.schema(CONFIG)),
    ],
    ids=["documents", "instructions", "labelled", "samples"],
)
def test_every_column_is_described_in_its_type(heading: str, number: int, schema: pa.Schema) -> None:
    assert described(heading, number) == {field.name: spelled(field.type) for field in schema}


def test_the_pieces_are_described() -> None:
    said = TEXT.split("`data/pack/pieces-00000.parquet`")[1].partition(". A piece is")[0]
    found = re.findall(r"(\w+) \((int\d+)\b", said)
    assert found == [(field.name, str(field.type)) for field in shard.PIECES]


def test_what_is_derived_is_described() -> None:
    section = TEXT.split("\n## Packed samples (pack)\n")[1].partition("\n## ")[0]
    assert "| target_ids [L] |" in section
    assert "| position_ids [L] |" in section
