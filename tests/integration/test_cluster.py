"""Beyond one machine: a real Ray cluster of two nodes, a real S3 interface, killed workers; always the bytes of one process."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from stages._documents import write_shard
from tests.support import text
from tests.support.project import ROOT, copy_rooms, overlay, smoke_params

pytestmark = pytest.mark.slow

STAGES = ("clean", "dedup")
BUCKET, SOURCES = "exchange", "sources"
_SHARDS, _DOCUMENTS = 4, 40


@pytest.fixture(scope="module")
def object_store() -> Iterator[None]:
    """An S3 server on loopback with one bucket; clients find it by the standard environment variables."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield
    server.stop()


@pytest.fixture(scope="module")
def cluster(object_store: None) -> Iterator[str]:
    """The address of a Ray cluster of two nodes with one core each: two workers cannot stand on one node."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made.address
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of made-up documents with exact copies, near copies and documents that clean drops, in every shard and across."""
    folder = tmp_path_factory.mktemp("corpus") / "data/corpus"
    draw = random.Random(130)
    rows = [row for lang in ("en", "zh") for row in text.documents(lang, "cluster", _DOCUMENTS, 1500, source="made")]
    for number, row in enumerate(list(rows)):
        if number % 4 == 0:
            rows.append(row)
        elif number % 4 == 1:
            lines = row["text"].split("\n")
            rows.append(row | {"text": "\n".join([*lines, lines[0][: len(lines[0]) // 2]])})
        elif number % 16 == 2:
            rows.append(row | {"text": "□ ■ □ " * 40})
    draw.shuffle(rows)
    for number, row in enumerate(rows):
        rows[number] = row | {"doc_id": f"made/{number:04d}", "path": f"{number:04d}", "url": None}
    for shard in range(_SHARDS):
        write_shard(folder / f"documents/made-{shard:05d}.parquet", rows[shard::_SHARDS])
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """One project for all tests: compiled kernels are kept by the path of their source."""
    folder = tmp_path_factory.mktemp("cluster") / "project"
    copy_rooms(folder)
    shutil.copytree(corpus, folder / "data/corpus")
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    params = overlay(smoke_params(), {"clean": {"rules_may_be_idle": ["all"]}})
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def harvest(tmp_path_factory: pytest.TempPathFactory, object_store: None) -> Path:
    """A project whose sources are compressed JSON lines in an object store."""
    import boto3

    store = boto3.client("s3")
    store.create_bucket(Bucket=SOURCES)
    for number in range(_SHARDS):
        lang = ("en", "zh")[number % 2]
        rows = text.documents(lang, f"harvest {number}", _DOCUMENTS, 500, source="made")
        lines = "".join(json.dumps({"text": row["text"]}, ensure_ascii=False) + "\n" for row in rows)
        store.put_object(Bucket=SOURCES, Key=f"{lang}/{number}.jsonl.gz", Body=gzip.compress(lines.encode(), mtime=0))
    sources = [
        {
            "id": f"made-{lang}",
            "reader": "jsonl",
            "members": [f"{lang}/*.jsonl.gz"],
            "lang": lang,
            "licence": "CC0-1.0",
            "rights": "ours",
        }
        for lang in ("en", "zh")
    ]
    origins = [{"kind": "store", "files": [f"s3://{SOURCES}/*/*.jsonl.gz"], "unpinned": True, "sources": sources}]
    folder = tmp_path_factory.mktemp("harvest") / "project"
    copy_rooms(folder)
    shutil.copyfile(ROOT / "dvc.yaml", folder / "dvc.yaml")
    params = smoke_params() | {"corpus": {"accepted_licences": ["CC0-1.0"], "origins": origins, "shard_bytes": 4000}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, str]:
    """What one process makes of the corpus."""
    reset(root, kind="inline")
    for stage in STAGES:
        finish(start(root, stage))
    return contents(root)


def reset(root: Path, stages: Sequence[str] = STAGES, **engine: Any) -> None:
    """Take away what earlier runs of `stages` left, and set the engine."""
    for stage in stages:
        shutil.rmtree(root / "data" / stage, ignore_errors=True)
        shutil.rmtree(root / "runs" / stage, ignore_errors=True)
    (root / "runner.yaml").write_text(yaml.safe_dump({"engine": engine}), encoding="utf-8")


def start(root: Path, stage: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GLM_")}
    command = [sys.executable, "-m", f"stages.{stage}"]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def contents(root: Path, stages: Sequence[str] = STAGES) -> dict[str, str]:
    """SHA-256 of every file of the stages' outputs, manifests too."""
    files = sorted(path for stage in stages for path in (root / "data" / stage).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ray_workers() -> list[psutil.Process]:
    """The actors of joblib's pool on the cluster's nodes."""
    return [process for process in psutil.Process().children(recursive=True) if "PoolActor" in " ".join(_command(process))]


def loky_workers(pid: int) -> list[psutil.Process]:
    return [process for process in psutil.Process(pid).children() if "LokyProcess" in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def finish_without_a_worker(root: Path, stage: str, workers: Callable[[int], list[psutil.Process]]) -> None:
    """Run a stage and kill one of its workers when the first task is done."""
    process = start(root, stage)
    deadline = time.monotonic() + 90
    while not list((root / "runs" / stage / "work").glob("*/results/*/*.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.002)
    found = workers(process.pid)
    assert found, "no worker to kill"
    found[0].send_signal(signal.SIGKILL)
    assert process.poll() is None, "the stage ended before its worker was killed"
    finish(process)


def test_two_nodes_make_the_bytes_of_one_process(root: Path, cluster: str, expected: dict[str, str]) -> None:
    reset(root, kind="ray", workers=2, ray_address=cluster)
    for stage in STAGES:
        finish(start(root, stage))
    assert contents(root) == expected
    assert sum(name.startswith("data/clean/documents/") for name in expected) == _SHARDS
    assert not (root / "runs/dedup/work").exists(), "intermediate files go when the stage is done"


def test_a_cluster_that_is_not_there_is_started_on_this_machine_and_taken_away(root: Path, expected: dict[str, str]) -> None:
    before = set(Path("/tmp").glob("ray-*"))
    reset(root, ["dedup"], kind="ray", workers=2, ray_address=None)
    assert len(str(root / "runs/dedup/tmp")) > 50, "a socket below it would have too long an address"
    finish(start(root, "dedup"))
    assert contents(root) == expected
    assert set(Path("/tmp").glob("ray-*")) <= before


def test_two_nodes_read_the_sources_that_one_process_reads(harvest: Path, cluster: str) -> None:
    made = []
    for settings in ({"kind": "inline"}, {"kind": "ray", "workers": 2, "ray_address": cluster}):
        reset(harvest, ["corpus"], **settings)
        finish(start(harvest, "corpus"))
        made.append(contents(harvest, ["corpus"]))
    assert made[0] == made[1]
    assert sum(name.endswith(".parquet") for name in made[0]) > _SHARDS


def test_shards_may_lie_in_an_object_store(root: Path, cluster: str, expected: dict[str, str]) -> None:
    import boto3

    reset(root, kind="ray", workers=2, ray_address=cluster, exchange=f"s3://{BUCKET}/run")
    for stage in STAGES:
        finish(start(root, stage))
    assert contents(root) == expected
    assert boto3.client("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0, "intermediate files go when the stage is done"


def test_a_killed_process_of_this_machine_changes_nothing(root: Path, expected: dict[str, str]) -> None:
    reset(root, kind="local", workers=2)
    for stage in STAGES:
        finish_without_a_worker(root, stage, loky_workers)
    assert contents(root) == expected


def test_a_killed_worker_of_the_cluster_changes_nothing(root: Path, cluster: str, expected: dict[str, str]) -> None:
    reset(root, ["dedup"], kind="ray", workers=2, ray_address=cluster)
    finish_without_a_worker(root, "dedup", lambda _: ray_workers())
    assert contents(root) == expected
