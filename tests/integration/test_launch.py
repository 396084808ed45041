"""The same stage under launchers: torchrun and deepspeed on one host, two hosts with a wire between them, a host that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stages.pretrain.world import PATIENCE
from tests.support.hosts import Host, two_hosts, why_not
from tests.support.training import PRETRAIN, run_stage, training_project, weights

pytestmark = pytest.mark.slow

TWO: dict[str, Any] = {"data_parallel": 2, "steps": 6, "checkpoint_every": 6, "save_every": 3, "batch_start": 4, "batch_end": 4}
BIN = Path(sys.executable).parent
MODULE = ["-m", "stages.pretrain"]
TORCHRUN = [str(BIN / "torchrun"), "--nnodes", "2", "--nproc-per-node", "1", "--master-port", "29500"]
NO_HOSTS = why_not()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Output of two ranks that the stage starts itself."""
    root = training_project(tmp_path_factory.mktemp("alone"), **TWO)
    done = run_stage(root)
    assert done.returncode == 0, done.stderr
    return weights(root)


@pytest.mark.parametrize(
    "launcher",
    [
        [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", *MODULE],
        [str(BIN / "deepspeed"), "--num_accelerators", "2", "--no_local_rank", "--module", "stages.pretrain"],
    ],
    ids=["torchrun", "deepspeed"],
)
def test_a_launcher_on_one_host_makes_the_same_bytes(alone: dict[str, str], tmp_path: Path, launcher: list[str]) -> None:
    root = training_project(tmp_path / "project", **TWO)
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(launcher, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights(root) == alone


def test_another_number_of_processes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    root = training_project(tmp_path / "project", **TWO)
    said = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = run_stage(root, **said)
    assert done.returncode == 1
    assert "the launcher has started 3 processes, the plan is for 2" in done.stderr
    done = run_stage(root, **said | {"RANK": "1"})
    assert (done.returncode, "ERROR" in done.stderr) == (1, False), "rank 0 says it, once"


@pytest.mark.skipif(bool(NO_HOSTS), reason=NO_HOSTS or "there are namespaces")
def test_two_hosts_under_torchrun_make_the_same_bytes(alone: dict[str, str], tmp_path: Path) -> None:
    root = training_project(tmp_path / "project", **TWO)
    options: dict[str, Any] = {"cwd": root, "stderr": subprocess.PIPE}
    with two_hosts() as hosts:
        agents = [
            host.start([*TORCHRUN, "--node-rank", str(number), "--master-addr", hosts[0].address, *MODULE], **options)
            for number, host in enumerate(hosts)
        ]
        said = [agent.communicate(timeout=120)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert weights(root) == alone


@pytest.mark.skipif(bool(NO_HOSTS), reason=NO_HOSTS or "there are namespaces")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_dies_ends_the_other_in_a_bounded_time_with_one_message(tmp_path: Path, killed: int) -> None:
    """Started as Slurm starts ranks, without agents; one host goes without a word, in the midst of the training."""
    model = PRETRAIN["model"] | {"hidden": 64}
    root = training_project(tmp_path / "project", **TWO | {"steps": 20_000, "checkpoint_every": 20_000, "model": model})
    with two_hosts() as hosts:
        ranks = [_start(host, number, hosts[0].address, root) for number, host in enumerate(hosts)]
        until = time.monotonic() + 100
        while not list((root / "runs/pretrain/scratch").glob("*/state/step-*")) and time.monotonic() < until:
            assert [rank.poll() for rank in ranks] == [None, None]
            time.sleep(0.2)
        os.killpg(ranks[killed].pid, signal.SIGKILL)
        started = time.monotonic()
        _, said = ranks[1 - killed].communicate(timeout=PATIENCE + 30)
    assert time.monotonic() - started < PATIENCE + 20
    assert ranks[1 - killed].returncode == 1
    gone = "and with it rank 0" if killed == 0 else f"rank 1 of 2 has given no sign of life for {PATIENCE:.0f} s"
    assert said.count("ERROR: stage pretrain") == 1, said
    assert gone in said


def _start(host: Host, rank: int, master: str, root: Path) -> subprocess.Popen[str]:
    said = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": master, "MASTER_PORT": "29500"}
    return host.start([sys.executable, *MODULE], cwd=root, env=said, stderr=subprocess.PIPE)
