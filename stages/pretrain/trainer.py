"""The training loop of one rank, whatever plan runs: order by formula, ramp, schedule, checkpoints, journal, resume."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ledger.journal import Journal, Segment
from ledger.plan import DataPlan
from model.checkpoint import WEIGHTS, write_checkpoint
from model.config import ModelConfig
from model.parallel.plan import Place
from stages._manifest import canonical, sha256_file, write_atomic
from stages._runner import Progress, StageError
from stages.pretrain.data import PackedSamples
from stages.pretrain.engine import build_engine, prepare_environment, start_process_group
from stages.pretrain.settings import Params
from stages.pretrain.state import LossLog, TrainingState


@dataclass(frozen=True)
class Job:
    """Everything that a rank needs to know; picklable, so that ranks can be started as processes."""

    params: Params
    config: ModelConfig
    plan: DataPlan
    packed: Path
    tokenizer: Path
    scratch: Path


def train(rank: int, job: Job) -> None:
    """Train to the last step as rank `rank` of the plan; entry point of every rank's process."""
    prepare_environment(job.scratch)
    torch.set_num_threads(job.params.threads)
    torch.use_deterministic_algorithms(True)
    # A debugging aid, on by default, that costs a sixth of a CPU step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    start_process_group(rank, job.params.plan.world, job.scratch / "rendezvous")
    try:
        Trainer(rank, job).run()
    finally:
        dist.destroy_process_group()


class Trainer:
    """One rank."""

    def __init__(self, rank: int, job: Job) -> None:
        self.rank, self.job, self.params = rank, job, job.params
        self.samples = PackedSamples(job.packed)
        self.engine = build_engine(job.config, job.params, rank)
        self.state = TrainingState(job.scratch)
        self.journal = Journal.open(job.scratch / "journal.jsonl") if rank == 0 else None
        self.boundaries = job.plan.ramp.boundaries(job.plan.steps)
        self.schedule = job.params.optimizer.schedule()

    def run(self) -> None:
        """Resume from the newest state, or start; then train to the end."""
        finished = self.state.newest() or 0
        if finished:
            self.engine.load_state(self.state.load(finished, self.rank)[0])
        dist.barrier()
        if self.rank != 0:
            for step in range(finished, self.job.plan.steps):
                self._step(step)
            return
        self.state.clear_partial()
        log = LossLog(self.job.scratch / "loss.csv", finished)
        with Progress("pretrain", f"training {self._size()}", self.job.plan.steps, "steps") as progress:
            progress.advance(finished)
            for step in range(finished, self.job.plan.steps):
                row = self._step(step, log)
                progress.advance(note=f"loss {row['loss']}")
        log.close()

    def _step(self, step: int, log: LossLog | None = None) -> dict[str, Any]:
        rows = self.job.plan.rows(step)
        lr = float(self.schedule.at(int(self.boundaries[step])))
        mine = rows.reshape(-1, self.params.data_parallel, self.params.micro_batch)[:, self.engine.place.data]
        torch.manual_seed(_step_seed(self.params.seed, step, self.engine.place))  # dropout depends on the step, not on resumes
        meter = torch.zeros(2 + 2 * 3, dtype=torch.float64)
        losses = self.engine.train_step([self.samples.batch(micro) for micro in mine], lr)
        for (loss, losses_T, where_T), micro in zip(losses, mine[: len(losses)], strict=True):  # some ranks have none
            meter += _measure(loss, losses_T, where_T, self.samples.kinds(micro), self.samples.length)
        row = self._row(step, lr, len(rows), self.engine.total(meter))
        if not np.isfinite(float(row["loss"])):
            raise StageError(
                f"loss is {row['loss']} at step {step}", remedy="lower pretrain.optimizer.peak_lr or lengthen its warm-up"
            )
        if log is not None:
            log.add(row)
        self._keep(step + 1)
        return row

    def _keep(self, finished: int) -> None:
        """Checkpoint and state where they are due; the state comes last, so a kill in between repeats, never skips."""
        last = finished == self.job.plan.steps
        checkpoint = last or finished % self.params.checkpoint_every == 0
        if not checkpoint and finished % self.params.save_every:
            return
        masters = self.engine.master_weights()
        if checkpoint and self.journal is not None:
            self._checkpoint(finished, masters, self.journal)
        self.state.save_rank(finished, self.rank, self.engine.state())
        dist.barrier()
        if self.rank == 0:
            self.state.publish(finished, masters)
        dist.barrier()

    def _checkpoint(self, finished: int, masters: dict[str, Tensor], journal: Journal) -> None:
        name = f"step-{finished:06d}"
        folder = self.job.scratch / "checkpoints" / name
        write_checkpoint(folder, masters, {"model": asdict(self.job.config)}, self.job.tokenizer)
        digest = sha256_file(folder / WEIGHTS)
        segment = journal.checkpoints().get(name)
        if segment is None:
            segment = journal.append(self._segment(finished, name, digest, journal))
        elif segment.weights_sha256 != digest:
            raise StageError(
                f"checkpoint {name} came out differently after a resume", file=folder, remedy="remove the scratch folder"
            )
        write_atomic(folder / "manifest.json", canonical(segment.checkpoint_manifest()))

    def _segment(self, finished: int, name: str, digest: str, journal: Journal) -> Segment:
        parent = next(reversed(journal.checkpoints().items()), None)
        first = parent[1].last_step + 1 if parent else 0
        return Segment(
            parent=parent[0] if parent else None,
            first_step=first,
            last_step=finished - 1,
            first_sample=int(self.boundaries[first]),
            last_sample=int(self.boundaries[finished]) - 1,
            plan=self.job.plan.digest,
            status="kept",
            checkpoint=name,
            weights_sha256=digest,
            settings={"embedding_gradient_shrink": self.params.embedding_gradient_shrink},
        )

    def _row(self, step: int, lr: float, batch: int, meter: Tensor) -> dict[str, Any]:
        loss, count, *by_kind = meter.tolist()
        names = ("gmask_loss", "mask_loss", "instruction_loss")
        means = zip(names, by_kind[:3], by_kind[3:], strict=True)
        samples = int(self.boundaries[step + 1])
        return {
            "step": step + 1,
            "samples": samples,
            "tokens": samples * self.samples.length,
            "batch_size": batch,
            "lr": f"{lr:.6e}",
            "loss": f"{loss / count:.6f}",
            **{name: f"{total / targets:.6f}" if targets else "" for name, total, targets in means},
            "grad_norm": f"{self.engine.gradient_norm():.6f}",
        }

    def _size(self) -> str:
        config = self.job.config
        return f"{config.layers} layers x {config.hidden}, {self.params.precision}, {self.params.plan.world} rank(s)"


def _measure(loss: Tensor, losses_T: Tensor, where_T: Tensor, kinds_B: NDArray[np.int64], length: int) -> Tensor:
    """[loss, 1, sum of target losses by kind (3), targets by kind (3)] of one micro-batch, FP64."""
    kind_T = torch.from_numpy(kinds_B)[where_T.cpu() // length]
    sums = torch.bincount(kind_T, weights=losses_T.double().cpu(), minlength=3)
    return torch.cat([torch.tensor([float(loss), 1.0], dtype=torch.float64), sums, torch.bincount(kind_T, minlength=3)])


def _step_seed(seed: int, step: int, place: Place) -> int:
    """Seed of a step's dropout: equal on the ranks that share matrices, another one for other sequences and other blocks."""
    stage = f"/{place.stage}" if place.stage else ""
    digest = hashlib.sha256(f"{seed}/{step}/{place.data}{stage}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
