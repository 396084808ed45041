"""The gate over tokens and instructions: for each expectation a tampered artifact that it, by name, refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from model.tokenizer import SPECIAL
from stages.validate.expect import Validator
from tests.support.gate_checks import (
    ENCODED,
    INSTRUCTIONS,
    TOKENS,
    check,
    failures,
    name_of,
)
from tests.support.gate_project import (
    edit,
    edit_arrow,
    put,
)


@pytest.fixture
def project(gate_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(gate_project, tmp_path / "project")
    return tmp_path / "project"


def token(place: str, value: int) -> Callable[[Path], None]:
    """Set the first, the second or the last token of training document 3."""

    def tamper(root: Path) -> None:
        row = pq.read_table(root / ENCODED).to_pylist()[3]
        at = {"first": 0, "second": 1, "last": row["length"] - 1}[place] + row["offset"]
        edit_arrow(root / TOKENS, "token", lambda tokens: tokens.__setitem__(at, value))

    return tamper


def field(file: str, column: str, value: Any) -> Callable[[Path], None]:
    return lambda root: put(root / file, 3, column, value)


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        (field(ENCODED, "lang", "en"), ["documents.as_in_split"]),
        (field(ENCODED, "bytes", 1), ["documents.as_in_split"]),
        (field(ENCODED, "doc_index", 7), ["documents.index_gap"]),
        (field(ENCODED, "offset", lambda old: old + 1), ["documents.offset_gap", "documents.ends_with_eod"]),
        (field(ENCODED, "length", 0), ["documents.length", "documents.ends_with_eod"]),
        (field(ENCODED, "length", 10**9), ["documents.in_named_shard", "documents.ends_with_eod"]),
        (field(ENCODED, "shard", 1), ["documents.in_named_shard"]),
        (token("first", 800), ["documents.outside_vocabulary"]),
        (token("first", -5), ["documents.outside_vocabulary"]),
        (token("second", SPECIAL.mask), ["documents.special_tokens_inside"]),
        (token("last", 50), ["documents.ends_with_eod"]),
    ],
)
def test_tampered_tokens(project: Path, validator: Validator, tamper: Callable[[Path], None], broken: list[str]) -> None:
    tamper(project)
    name = name_of(project, ENCODED, 3)
    for expectation in broken:
        assert name in failures(check(project, validator, "tokens", expectation))[expectation]


def test_tokens_without_a_document(project: Path, validator: Validator) -> None:
    edit(project / ENCODED, lambda rows: rows[:-1])
    assert failures(check(project, validator, "tokens")) == {"splits.difference": ["train"]}


@pytest.mark.parametrize(
    ("column", "value", "broken"),
    [
        ("prompt_ids", lambda ids: [800, *ids[1:]], "samples.outside_vocabulary"),
        ("target_ids", [-1], "samples.outside_vocabulary"),
        ("target_ids", [SPECIAL.eop], "samples.special_tokens"),
        ("prompt_ids", lambda ids: [SPECIAL.mask, *ids], "samples.masks"),
        ("prompt_ids", lambda ids: [SPECIAL.mask, *ids[:-1]], "samples.ends_with_mask"),
        ("prompt_ids", [], "samples.ends_with_mask"),
        ("target_ids", [], "samples.target_tokens"),
        ("doc_index", 10**6, "samples.document_known"),
        ("doc_id", "poems/other", "samples.document_known"),
        ("licence", "MIT", "samples.document_known"),
        ("lang", "fr", "samples.lang"),
    ],
)
def test_tampered_instructions(project: Path, validator: Validator, column: str, value: Any, broken: str) -> None:
    put(project / INSTRUCTIONS, 3, column, value)
    found = failures(check(project, validator, "instructions", broken))
    assert found[broken] == [name_of(project, INSTRUCTIONS, 3, "sample_id")]


def test_two_samples_of_one_name(project: Path, validator: Validator) -> None:
    name = name_of(project, INSTRUCTIONS, 0, "sample_id")
    put(project / INSTRUCTIONS, 1, "sample_id", name)
    assert failures(check(project, validator, "instructions")) == {"names.samples": [name]}
