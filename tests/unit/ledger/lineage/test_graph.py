"""The chain of artifacts from raw bytes to a checkpoint, told from files alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ledger import LedgerError
from ledger.lineage.graph import ancestors, artifacts, commit_of, lock

CHAIN = {"corpus": [], "clean": ["corpus"], "pack": ["clean"], "pretrain": ["pack"], "report": ["pretrain"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five stages in a row, with a lock file whose entries stand in another order."""
    stages: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for name, sources in CHAIN.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        inputs = {f"data/{source}": digests[source] for source in sources}
        (folder / "manifest.json").write_text(json.dumps({"stage": name, "inputs": inputs}))
        digests[name] = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        deps = [{"path": f"stages/{name}.py", "md5": "c" * 32, "size": 9}]
        deps += [{"path": f"data/{source}", "md5": f"{source}.dir", "size": 5} for source in sources]
        outs = [{"path": f"data/{name}", "md5": f"{name}.dir", "size": 5}]
        params = {"params.yaml": {name: {"seed": 1}}}
        stages[name] = {"cmd": f"python -m stages.{name}", "deps": deps, "outs": outs, "params": params}
    raw = pa.table(
        {"source": ["s"], "file": ["a.zip"], "url": ["https://example.org/a.zip"], "sha256": ["ab" * 32], "bytes": [7]}
    )
    pq.write_table(raw, tmp_path / "data/corpus/files.parquet")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": dict(reversed(stages.items()))}))
    run = tmp_path / "runs/pack/run.json"
    run.parent.mkdir(parents=True)
    record = {"started": "2026-01-01T00:00:00Z", "wall_seconds": 2.5, "commit": "5" * 40}
    run.write_text(json.dumps(record | {"manifest_sha256": digests["pack"]}))
    other = tmp_path / "runs/clean/run.json"  # of an output that no longer lies here
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(record | {"manifest_sha256": "0" * 64}))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text("6" * 40)
    return tmp_path


def test_every_artifact_in_the_order_of_making(root: Path) -> None:
    rows = artifacts(root, "ee" * 32).to_pylist()
    assert (rows[0]["role"], rows[0]["artifact"], rows[0]["sha256"]) == ("raw", "https://example.org/a.zip", "ab" * 32)
    outputs = [row for row in rows if row["role"] == "output"]
    assert [row["stage"] for row in outputs] == ["corpus", "clean", "pack", "pretrain"]
    for row in outputs:
        manifest = (root / row["artifact"] / "manifest.json").read_bytes()
        assert row["sha256"] == hashlib.sha256(manifest).hexdigest()
        assert json.loads(row["params"]) == {row["stage"]: {"seed": 1}}
    assert [row["wall_seconds"] for row in outputs] == [None, None, 2.5, None]
    assert [row["commit"] for row in outputs] == [None, None, "5" * 40, None], "the one that made it, not what is checked out"
    assert (rows[-1]["role"], rows[-1]["sha256"]) == ("checkpoint", "ee" * 32)
    assert [row["artifact"] for row in rows if row["role"] == "code"] == [f"stages/{name}.py" for name in list(CHAIN)[:4]]


def test_a_chain_that_does_not_hold_is_named(root: Path) -> None:
    (root / "data/clean/manifest.json").write_text("{}")
    with pytest.raises(LedgerError, match=r"data/pack: made from another data/clean than lies here. Remedy"):
        artifacts(root, None)
    (root / "data/clean/manifest.json").unlink()
    with pytest.raises(LedgerError, match=r"data/clean/manifest.json: no such file"):
        artifacts(root, None)


def test_a_stage_that_was_not_built(root: Path) -> None:
    with pytest.raises(LedgerError, match=r"stage 'evaluate' was not built. Built: clean, corpus, pack, pretrain, report"):
        ancestors(lock(root), "evaluate")


@pytest.mark.parametrize("text", ["[]", "stages: {a: {cmd: x, deps: [{md5: y}]}}", "stages: {a: 3}", "{"])
def test_a_damaged_lock_file(root: Path, text: str) -> None:
    (root / "dvc.lock").write_text(text)
    with pytest.raises(LedgerError, match=r"dvc.lock: not a lock file"):
        lock(root)


def test_the_commit_from_gits_own_files(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs\n" + "1" * 40 + " refs/heads/main\n")
    assert commit_of(tmp_path) == "1" * 40
    (git / "refs/heads/main").write_text("2" * 40 + "\n")
    assert commit_of(tmp_path) == "2" * 40
    (git / "HEAD").write_text("3" * 40 + "\n")
    assert commit_of(tmp_path) == "3" * 40
