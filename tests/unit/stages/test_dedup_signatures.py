"""Signatures: equal to datasketch's bit for bit, and refused where they cannot be compared."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from datasketch import LeanMinHash, MinHash

from stages import _ngrams, dedup
from stages._errors import StageError
from stages.dedup import minhash, tables
from stages.dedup.signatures import SignTask, sign_shard
from tests.support.cleaning_project import document, params, write_documents
from tests.support.texts import han, words

PARAMS = params(dedup)
VECTORS = json.loads(Path(__file__).with_name("dedup_vectors.json").read_text(encoding="utf-8"))["vectors"]
NO_LIMIT = 10**9


def by_datasketch(text: str, n: int, count: int = 128, seed: int = 1) -> MinHash:
    made = MinHash(count, seed, scheme="affine32", hashfunc=lambda data: xxhash.xxh64_intdigest(data) & 0xFFFFFFFF)
    made.update_batch([shingle.encode() for shingle in _ngrams.shingles(text, n)])
    return made


def sign(texts: list[str], n: int = 5, count: int = 128, seed: int = 1, limit: int = NO_LIMIT) -> minhash.Signed:
    column = pa.array(texts, pa.large_string())
    sizes, seeds = np.full(len(texts), n), np.zeros(len(texts), np.uint64)
    return minhash.sign(column, sizes, seeds, limit, minhash.permutations(count, seed))


def random_document(generator: random.Random) -> str:
    length = generator.choice([0, 1, 3, 4, 5, 6, 30, 100, 700])
    units = words(generator.randrange(10**6), length) if generator.random() < 0.5 else han(generator.randrange(10**6), length)
    joints = [" ", "，", "\n", "", "'", " — ", "…"]
    return "".join(unit.title() + generator.choice(joints) for unit in units)


def test_signatures_are_datasketchs_on_a_thousand_random_documents():
    generator = random.Random(130)
    texts = [random_document(generator) for _ in range(1100)]
    made = sign(texts).signatures
    wrong = [text for text, row in zip(texts, made, strict=True) if not np.array_equal(by_datasketch(text, 5).hashvalues, row)]
    assert wrong == []


@pytest.mark.parametrize(("n", "count", "seed"), [(1, 16, 1), (3, 256, 7), (13, 100, 2**32 - 1)])
def test_other_parameters_give_datasketchs_signatures_too(n: int, count: int, seed: int):
    texts = [" ".join(words(1, 3000)), "".join(han(2)), "", "a b"]
    made = sign(texts, n, count, seed).signatures
    assert all(
        np.array_equal(by_datasketch(text, n, count, seed).hashvalues, row) for text, row in zip(texts, made, strict=True)
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["text"][:8] or "empty")
def test_stored_known_answers(vector: dict[str, Any]):
    row = sign([vector["text"]]).signatures[0]
    assert row[:4].tolist() == vector["begins"]
    assert hashlib.sha256(row.astype("<u4").tobytes()).hexdigest() == vector["sha256"]


def test_no_signature_is_empty():
    texts = ["", "…", "one", "two words", "三字", " ".join(words(3))]
    made = [LeanMinHash(seed=1, hashvalues=row, scheme="affine32") for row in sign(texts).signatures]
    assert not any(MinHash(hashvalues=lean.hashvalues, scheme="affine32").is_empty() for lean in made)
    assert len({lean.hashvalues.tobytes() for lean in made}) == len(texts)


def test_beyond_the_limit_shingles_do_not_count_but_copies_are_compared_whole():
    base = " ".join(words(4))
    made = sign([base, f"{base} one more", f"{base} and another"], limit=len(base))
    assert made.characters.tolist() == [len(base), len(base) + 9, len(base) + 12]
    assert np.array_equal(made.signatures[0], made.signatures[1])
    assert len({row.tobytes() for row in made.fingerprints}) == 3


@pytest.mark.parametrize(("bands", "rows"), [(25, 5), (32, 4), (9, 13), (128, 1)])
def test_a_band_key_is_a_hash_of_its_values(bands: int, rows: int):
    signatures = sign([" ".join(words(5)), "".join(han(6))]).signatures
    seeds = np.array([3, 2**64 - 1], np.uint64)
    keys = minhash.band_keys(signatures, seeds, bands, rows)
    for document_, row in enumerate(signatures):
        parts = row[: bands * rows].reshape(bands, rows).astype("<u4")
        assert keys[:, document_].tolist() == [xxhash.xxh64_intdigest(part.tobytes(), int(seeds[document_])) for part in parts]


class TestTables:
    def test_a_shard_that_is_read_in_parts_is_signed_as_a_whole(self, tmp_path: Path):
        rows = [document(f"a/{number:04}", " ".join(words(number, 9))) for number in range(2500)]
        write_documents(tmp_path, rows)
        shard, target = tmp_path / "documents/a-00000.parquet", str(tmp_path / "a.arrow")
        assert sign_shard(SignTask(str(shard), target, PARAMS)) == {"documents": 2500, "capped": 0}
        batch = tables.open_table(target).get_batch(0)
        assert batch["doc_id"].to_pylist() == [row["doc_id"] for row in rows]
        assert np.array_equal(tables.matrix(batch, "signature"), sign([row["text"] for row in rows]).signatures)
        assert tables.column(batch, "characters").tolist() == [len(row["text"]) for row in rows]

    def table(self, root: Path, **changes: Any) -> str:
        write_documents(root / "data/clean", [document("a/1", "one"), document("a/2", "字" * 9, lang="zh")])
        shard, target = root / "data/clean/documents/a-00000.parquet", str(root / "a.arrow")
        assert sign_shard(SignTask(str(shard), target, params(dedup, **changes))) == {"documents": 2, "capped": 0}
        return target

    def test_parameters_stand_in_the_header(self, tmp_path: Path):
        table = tables.open_table(self.table(tmp_path), (), tables.header(PARAMS))
        stored = json.loads(table.schema.metadata[tables.HEADER])
        assert (stored["permutations"], stored["bands"], stored["rows"], stored["seed"]) == (128, 32, 4, 1)
        assert tables.matrix(table.get_batch(0), "signature").shape == (2, 128)

    @pytest.mark.parametrize("changes", [{"seed": 2}, {"bands": 16}, {"ngram": {"en": 5, "zh": 4}}, {"max_characters": 9}])
    def test_tables_of_other_parameters_are_refused(self, tmp_path: Path, changes: dict[str, Any]):
        address = self.table(tmp_path, **changes)
        with pytest.raises(StageError, match=r"cannot be compared: .*instead of.*a\.arrow.*Remedy"):
            tables.open_table(address, (), tables.header(PARAMS))

    def test_a_program_that_gives_other_answers_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        address = self.table(tmp_path)
        monkeypatch.setattr(tables, "_KNOWN", ("another text",))
        with pytest.raises(StageError, match="known"):
            tables.open_table(address, (), tables.header(PARAMS))

    def test_half_a_table_is_refused(self, tmp_path: Path):
        path = Path(self.table(tmp_path))
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(StageError, match="not a whole Arrow file"):
            tables.open_table(str(path))
