"""Two small builds with planted differences of each kind, in each format."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from ledger import LedgerError
from ledger.rebuild.compare import compare
from ledger.rebuild.formats import Tolerance

STAGES = {"corpus": [], "pretrain": ["data/corpus"], "report": ["data/corpus", "data/pretrain"]}


def canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True)


def seal(root: Path) -> None:
    """True manifests, and a journal and checkpoint that follow from the weights."""
    folder = root / "data/pretrain"
    weights = hashlib.sha256((folder / "step-1/model.safetensors").read_bytes()).hexdigest()
    previous, lines = "0" * 64, []
    for step in range(2):
        line = {"last_step": step, "previous": previous, "weights_sha256": weights}
        previous = hashlib.sha256(canonical(line).encode()).hexdigest()
        lines.append(canonical({**line, "hash": previous}) + "\n")
    (folder / "journal.jsonl").write_text("".join(lines))
    (folder / "step-1/manifest.json").write_text(canonical({"journal": previous, "weights_sha256": weights, "step": 2}))
    for stage, inputs in STAGES.items():
        output = root / "data" / stage
        if stage == "report":
            (output / "index.html").write_text(f"<p>loss 2.500000, weights {weights[:12]}</p>\n")
        files = sorted(path for path in output.rglob("*") if path.is_file() and path != output / "manifest.json")
        listed = {f.relative_to(output).as_posix(): {"sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files}
        digests = {dep: hashlib.sha256((root / dep / "manifest.json").read_bytes()).hexdigest() for dep in inputs}
        manifest = {"stage": stage, "params": {"seed": 1}, "counts": {"rows": 3}, "files": listed, "inputs": digests}
        (output / "manifest.json").write_text(canonical(manifest))


@pytest.fixture
def builds(tmp_path: Path) -> tuple[Path, Path]:
    corpus, training = tmp_path / "a/data/corpus", tmp_path / "a/data/pretrain"
    for folder in (corpus, training / "step-1", tmp_path / "a/data/report"):
        folder.mkdir(parents=True)
    table = pa.table({"doc_id": ["x", "y", "z"], "share": [0.5, None, float("nan")], "ids": [[1, 2], [3], []]})
    pq.write_table(table, corpus / "rows.parquet")
    with pa.ipc.new_file(str(corpus / "tokens.arrow"), pa.schema([("token", pa.int32())])) as writer:
        writer.write_table(pa.table({"token": pa.array(range(100), pa.int32())}), max_chunksize=100)
    (corpus / "facts.json").write_text('{"names": ["a", "b"], "size": 3, "mean": 0.25}')
    (corpus / "blob.model").write_bytes(bytes(range(200)))
    (training / "loss.csv").write_text("step,loss\n1,2.5\n2,2.25\n")
    tensors = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.arange(3, dtype=np.int64)}
    save_file(tensors, training / "step-1/model.safetensors")
    seal(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def verdicts(builds: tuple[Path, Path], tolerance: Tolerance | None = None) -> dict[str, tuple[str, str | None, str]]:
    return {line.stage: (line.verdict, line.file, line.place) for line in compare(*builds, tolerance)}


def rewrite(file: Path, change: Callable[[str], str]) -> None:
    file.write_text(change(file.read_text()))


def put(file: Path, column: str, values: list[Any]) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values)), file)


def grow(file: Path) -> None:
    tensors = load_file(file)
    tensors["n"][1] += 1
    save_file(tensors, file)


def test_equal_builds(builds: tuple[Path, Path]) -> None:
    assert verdicts(builds) == dict.fromkeys(["corpus", "pretrain", "report"], ("identical", None, ""))


def test_other_bytes_of_the_same_content_are_canonical(builds: tuple[Path, Path]) -> None:
    folder = builds[1] / "data/corpus"
    pq.write_table(pq.read_table(folder / "rows.parquet"), folder / "rows.parquet", compression="zstd", row_group_size=1)
    tokens = pa.table({"token": pa.array(range(100), pa.int32())})
    with pa.ipc.new_file(str(folder / "tokens.arrow"), tokens.schema) as writer:
        writer.write_table(tokens, max_chunksize=7)
    (folder / "facts.json").write_text('{"mean": 2.5e-1,\n "size": 3, "names": ["a", "b"]}\r\n')
    rewrite(builds[1] / "data/pretrain/loss.csv", lambda text: text.replace("1,2.5", '"1","2.5"').replace("\n", "\r\n"))
    seal(builds[1])
    found = verdicts(builds)
    assert {stage: verdict for stage, (verdict, _, _) in found.items()} == {
        "corpus": "canonical",
        "pretrain": "canonical",
        "report": "canonical",  # its manifest names the others' digests
    }
    assert found["corpus"][1] == "data/corpus/rows.parquet"


def test_close_weights_make_a_close_training_and_nothing_worse(builds: tuple[Path, Path]) -> None:
    """The digests in journal, checkpoint, manifests and report follow from the weights: one cause, told once."""
    file = builds[1] / "data/pretrain/step-1/model.safetensors"
    tensors = load_file(file)
    tensors["w"][2, 1] *= np.float32(1 + 1e-6)
    save_file(tensors, file)
    seal(builds[1])
    found = verdicts(builds)
    assert found["corpus"][0] == "identical"
    assert found["pretrain"] == (
        "close", "data/pretrain/step-1/model.safetensors", "tensor w, element (2, 1): 9 and 9.00000858; 1 of 12 differ",
    )  # fmt: skip
    assert found["report"][:2] == ("close", "data/report/index.html")
    assert verdicts(builds, Tolerance(1e-9, 0.0))["pretrain"][0] == "different"


@pytest.mark.parametrize(
    ("file", "change", "place"),
    [
        ("corpus/facts.json", lambda f: rewrite(f, lambda t: t.replace('"b"', '"c"')), "names[1]: 'b' and 'c'"),
        ("corpus/facts.json", lambda f: rewrite(f, lambda t: t.replace("3", "4")), "size: 3 and 4"),
        ("corpus/facts.json", lambda f: rewrite(f, lambda t: t.replace('"mean"', '"mode"')), "mean: only in the first build"),
        ("corpus/facts.json", lambda f: rewrite(f, lambda t: t[:-3]), "cannot be read as .json"),
        ("corpus/blob.model", lambda f: f.write_bytes(bytes(150) + f.read_bytes()[150:]), "byte 1"),
        ("corpus/blob.model", lambda f: f.write_bytes(f.read_bytes()[:-9]), "byte 191"),
        ("corpus/blob.model", lambda f: f.unlink(), "the second build lacks it"),
        ("corpus/rows.parquet", lambda f: put(f, "share", [0.5, 1.0, float("nan")]), "row 1, column share: None and 1.0"),
        ("corpus/rows.parquet", lambda f: put(f, "ids", [[1, 2], [4], []]), "row 1, column ids[0]: 3 and 4"),
        ("corpus/rows.parquet", lambda f: pq.write_table(pq.read_table(f).slice(1), f), "3 and 2 rows"),
        ("corpus/rows.parquet", lambda f: pq.write_table(pq.read_table(f).select(["doc_id"]), f), "columns ["),
        (
            "pretrain/loss.csv",
            lambda f: rewrite(f, lambda t: t.replace("2.25", "2.26")),
            "row 3, column loss: '2.25' and '2.26'",
        ),
        ("pretrain/loss.csv", lambda f: rewrite(f, lambda t: t + "3,2\n"), "3 and 4 rows"),
        ("pretrain/step-1/model.safetensors", grow, "tensor n, element (1,): 1 and 2; 1 of 3 differ"),
    ],
)
def test_what_differs_is_named(builds: tuple[Path, Path], file: str, change: Callable[[Path], Any], place: str) -> None:
    change(builds[1] / "data" / file)
    verdict, name, where = verdicts(builds)[file.partition("/")[0]]
    assert verdict == ("missing" if "lacks" in place else "different")
    assert name == f"data/{file}"
    assert where.startswith(place)


def test_numbers_in_tables_may_be_close(builds: tuple[Path, Path]) -> None:
    put(builds[1] / "data/corpus/rows.parquet", "share", [0.5000001, None, float("nan")])
    rewrite(builds[1] / "data/pretrain/loss.csv", lambda text: text.replace("2.5", "2.500001"))
    found = verdicts(builds)
    assert found["corpus"] == ("close", "data/corpus/rows.parquet", "row 0, column share: 0.5 and 0.5000001")
    assert found["pretrain"] == ("close", "data/pretrain/loss.csv", "row 2, column loss: '2.5' and '2.500001'")


def test_a_foreign_digest_is_a_difference(builds: tuple[Path, Path]) -> None:
    rewrite(builds[1] / "data/report/index.html", lambda text: text.replace("weights ", "weights 0"))
    assert verdicts(builds)["report"][0] == "different"


def test_a_stage_that_one_build_lacks(builds: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.rmtree(builds[1] / "data/report")
    assert verdicts(builds)["report"][0] == "missing"
    with pytest.raises(LedgerError, match="holds a build"):
        list(compare(tmp_path / "x", tmp_path / "y"))
