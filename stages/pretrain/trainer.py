"""The training loop of one rank, whatever plan runs: order by formula, ramp, schedule, checkpoints, journal, resume."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ledger import LedgerError
from ledger.journal import Journal, Segment
from ledger.plan import DataPlan
from model.checkpoint import CheckpointError, weights_file
from model.config import ModelConfig
from model.glm import Batch
from model.parallel.plan import Place
from stages._manifest import canonical, sha256_file, write_atomic
from stages._runner import Progress, StageError
from stages.pretrain import validation
from stages.pretrain.anchors import Anchors
from stages.pretrain.data import PackedSamples
from stages.pretrain.engine import build_engine, prepare_environment, start_process_group
from stages.pretrain.identity import check_identity, check_journal, identity
from stages.pretrain.logs import Logs, Row, watched
from stages.pretrain.memory import shortage_explained
from stages.pretrain.meters import Meters, Tracer, console
from stages.pretrain.saving import Saver, Target, clear_partial
from stages.pretrain.settings import Params
from stages.pretrain.stability import Course, Spike
from stages.pretrain.state import TrainingState
from stages.pretrain.world import Group


@dataclass(frozen=True)
class Job:
    """Everything that a rank needs to know; picklable, so that ranks can be started as processes."""

    params: Params
    config: ModelConfig
    plan: DataPlan
    packed: Path
    tokenizer: Path
    scratch: Path
    held_out: Path | None = None


def train(rank: int, job: Job, group: Group | None = None) -> None:
    """Train to the last step as rank `rank` of the plan; entry point of every rank's process.

    Args:
        rank: of this process.
        job: the same on all ranks.
        group: the ranks, where a launcher has started them; otherwise they are all of this host and meet in the scratch folder.
    """
    prepare_environment(job.scratch)
    torch.set_num_threads(job.params.threads)
    torch.use_deterministic_algorithms(True)
    # A debugging aid, on by default, that costs a sixth of a CPU step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if group is None:
        start_process_group(rank, job.params.plan.world, job.scratch / "rendezvous")
    else:
        start_process_group(rank, job.params.plan.world, group.store, group.place.local_rank)
    try:
        with shortage_explained(rank, job):
            Trainer(rank, job).run()
    except LedgerError as error:
        raise StageError(str(error), remedy=f"restore it; or remove {job.scratch}, and train from the start") from error
    finally:
        dist.destroy_process_group()


class Trainer:
    """One rank."""

    def __init__(self, rank: int, job: Job) -> None:
        self.rank, self.job, self.params = rank, job, job.params
        self.samples = PackedSamples(job.packed)
        self.engine = build_engine(job.config, job.params, rank)
        self.journal = Journal.open(job.scratch / "journal.jsonl") if rank == 0 else None
        self.boundaries = job.plan.ramp.boundaries(job.plan.steps)
        self.schedule = job.params.optimizer.schedule()
        self.held_out = self._held_out()
        self.training = identity(job.params, job.config, job.plan, job.tokenizer)
        target = Target(
            job.scratch / "checkpoints", {"model": asdict(job.config)}, job.tokenizer, self.training, job.params.shard_bytes
        )
        self.saver = Saver(rank, self.engine, target, self._record)
        self.meters = Meters(job.scratch / "meters" if rank == 0 else None, job.config, job.params.plan)
        self.engine.time_updates(partial(self.meters.watch.timed, "optimizer"))
        self.tracer = Tracer(job.scratch / "meters", rank)

    def run(self) -> None:
        """Resume from the newest state, or start; then train to the end, by way of as many returns as it takes."""
        try:
            while not self._branch():
                pass
        except BaseException:
            self.saver.close(failed=True)
            raise
        self.tracer.close()
        self.meters.close()
        self.saver.close(failed=False)

    def _branch(self) -> bool:
        """Train on from where the journal and the newest state stand; False if the training has to go back first."""
        finished = self._resume()
        self.meters.begin(finished)
        if self.rank != 0:
            return all(self._step_and_keep(step, None) for step in range(finished, self.job.plan.steps))
        bar = Progress("pretrain", f"training {self._size()}", self.job.plan.steps, "steps")
        with closing(Logs(self.job.scratch, self.params, finished)) as logs, bar as progress:
            progress.advance(finished)
            for step in range(finished, self.job.plan.steps):
                if not self._step_and_keep(step, logs):
                    return False
                progress.advance(note=f"{logs.note}, {console(self.speed)}")
        return True

    def _resume(self) -> int:
        """Load the newest state of this branch, or what it began with; gives the number of finished steps."""
        dist.barrier()
        self.course = Course(self.journal or Journal.read(self.job.scratch / "journal.jsonl"))
        branch = len(self.course.returns)
        folder = self.job.scratch / f"branch-{branch}" if branch else self.job.scratch
        folder.mkdir(exist_ok=True)
        dist.barrier()
        self.state = TrainingState(folder)
        finished = self.state.newest() or 0
        if finished:
            self._load(self.state, finished)
            self._anchor(finished)
        elif origin := self.course.origin():
            self._load(Anchors(self.job.scratch).state, origin)
        if self.journal is not None:
            check_journal(self.journal, self.job.scratch, finished)
            self.state.clear_partial()
            clear_partial(self.job.scratch / "checkpoints")
        dist.barrier()
        return finished or self.course.origin()

    def _load(self, state: TrainingState, finished: int) -> None:
        """Go on from a state, whatever number of ranks it comes from; a collective call."""
        facts, place = check_identity(state, finished, self.training), self.engine.place
        try:
            shards = state.load(finished, place.tensor, self.params.tensor_parallel)
            self.engine.load_shards(shards, facts["updates"], facts.get("loss_scaler"))
        except CheckpointError as error:
            older = "remove that folder: training then goes on from the state before it, or from the start"
            raise StageError(str(error), remedy=older) from error

    def _step_and_keep(self, step: int, logs: Logs | None) -> bool:
        """One step with all that follows from it; False if the training has to go back."""
        self.tracer.before(step + 1)
        if self.course.skips(step):
            row, norms = self._row(step, None), Row()
        else:
            row, norms = self._step(step)
        spike = self._spike(step, row, norms, logs)
        if spike is not None:
            self._go_back(spike)
            return False
        finished, rule = step + 1, self.params.validation
        due = rule is not None and (finished % rule.every == 0 or finished == self.job.plan.steps)
        validated = self._validate(finished) if due else None
        if logs is not None:
            logs.add(row, norms, validated)
        with self.meters.watch.part("checkpoint"):
            self._keep(finished)
        trained = 0 if "loss" not in row else int(self.boundaries[finished] - self.boundaries[step])
        self.speed = self.meters.step(finished, trained)
        return True

    def _step(self, step: int) -> tuple[Row, Row]:
        """Train on the samples of a step: its row of `loss.csv`, and its gradient norms by part where they are watched."""
        rows = self.job.plan.rows(step)
        mine = self._mine(rows)
        torch.manual_seed(_step_seed(self.params.seed, step, self.engine.place))  # dropout depends on the step, not on resumes
        self.engine.set_embedding_gradient_shrink(self._shrink(step))
        meter = torch.zeros(2 + 2 * 3, dtype=torch.float64)
        with self.meters.watch.part("data"):
            batches = [self.samples.batch(micro) for micro in mine]
        with self.meters.watch.part("forward_backward"), _lost_scale_explained(step):
            losses = self.engine.train_step(batches, self._lr(step))
        for (loss, losses_T, where_T), micro in zip(losses, mine[: len(losses)], strict=True):  # some ranks have none
            meter += _measure(loss, losses_T, where_T, self.samples.kinds(micro), self.samples.length)
        row = self._row(step, self.engine.total(meter))
        norms = {name: f"{norm:.6f}" for name, norm in self.engine.gradient_norms().items()}
        if self.params.stability is None:
            _check_finite(row, step, self.params.precision)
        return row, norms

    def _mine(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of a step's rows, [micro-batches, micro-batch]."""
        parts: NDArray[np.int64] = rows.reshape(-1, self.params.data_parallel, self.params.micro_batch)
        return parts[:, self.engine.place.data]

    def _lr(self, step: int) -> float:
        return float(self.schedule.at(int(self.boundaries[step]))) * self.course.factor("learning_rate_factor", step)

    def _shrink(self, step: int) -> float:
        return self.params.shrink(step) * self.course.factor("shrink_factor", step)

    def _held_out(self) -> Batch | None:
        rule = self.params.validation
        if rule is None or self.job.held_out is None:
            return None
        blocks = self.samples.batch(np.array([0])).block_context.shape[1]
        return validation.held_out(self.job.held_out, rule.sequences, self.samples.length, blocks)

    def _validate(self, finished: int) -> Row:
        """A row of `validation.csv`; on every rank, a collective call."""
        assert self.held_out is not None
        mine = self._mine(np.arange(len(self.held_out.input_ids)))
        outputs = self.engine.evaluate([_rows(self.held_out, micro) for micro in mine])
        meter = torch.zeros(3, dtype=torch.float64)
        for loss, losses_T, _ in outputs:
            meter += torch.tensor([float(loss), 1.0, float(len(losses_T))], dtype=torch.float64)
        loss_sum, count, targets = self.engine.total(meter).tolist()
        sequences = len(self.held_out.input_ids)
        samples = int(self.boundaries[finished])
        values = (finished, samples, sequences, int(targets), f"{loss_sum / count:.6f}")
        return dict(zip(validation.FIELDS, values, strict=True))

    def _spike(self, step: int, row: Row, norms: Row, logs: Logs | None) -> Spike | None:
        """Whether it is time to go back: rank 0 says so, to all."""
        if self.params.stability is None:
            return None
        watch = logs.watch if logs is not None else None
        spike = watch.see(step, watched(row, norms, self.params.precision)) if watch is not None else None
        said = torch.tensor([0.0, 0.0] if spike is None else [spike.first + 1.0, spike.last + 1.0], dtype=torch.float64)
        first, last = (int(value) - 1 for value in self.engine.total(said).tolist())
        return spike or (Spike(first, last, "rank 0 knows") if last >= 0 else None)

    def _go_back(self, spike: Spike) -> None:
        """Write down the return; `_branch` then begins with it."""
        self.saver.wait()
        rule = self.params.stability
        if self.journal is None or rule is None:
            return
        back_to = self.course.good(spike, rule)
        if back_to is None:
            raise StageError(
                f"training diverges with no checkpoint {rule.good_after} steps old to go back to: {spike.cause}",
                remedy="lower pretrain.optimizer.peak_lr, lengthen its warm-up, or set a smaller checkpoint_every",
            )
        if len(self.course.returns) == rule.returns:
            raise StageError(
                f"training diverges after {rule.returns} returns, which is all that it may make: {spike.cause}",
                remedy="see journal.jsonl in the scratch folder for what was tried, and lower pretrain.optimizer.peak_lr",
            )
        settings = self.course.settings_of_return(spike, rule, back_to, self.job.plan.steps)
        self.journal.append(self._segment(spike.last + 1, settings, status="abandoned"))
        print(f"pretrain: {spike.cause}: back to {back_to.checkpoint}", file=sys.stderr, flush=True)

    def _keep(self, finished: int) -> None:
        """Checkpoint and state where they are due; the state comes last, so a kill in between repeats, never skips."""
        self.saver.check()
        last = finished == self.job.plan.steps
        checkpoint = last or finished % self.params.checkpoint_every == 0
        if not checkpoint and finished % self.params.save_every:
            return
        self.saver.save(self.state, finished, f"step-{finished:06d}" if checkpoint else None, lambda: self._anchor(finished))

    def _anchor(self, finished: int) -> None:
        """Let the training come back to the state of a checkpoint, if it may want to."""
        rule = self.params.stability
        if self.rank == 0 and rule is not None and finished % self.params.checkpoint_every == 0:
            Anchors(self.job.scratch).add(self.state, finished, rule.good_after)

    def _record(self, finished: int, folder: Path) -> None:
        """Append a checkpoint that stands in `folder` to the journal, or compare it with what the journal has of it."""
        journal, name = self.journal, folder.name
        assert journal is not None
        digest = sha256_file(weights_file(folder))
        segment = self.course.checkpoint(name)
        if segment is None:
            settings = self._settings(finished - 1)
            segment = journal.append(self._segment(finished, settings, checkpoint=name, weights_sha256=digest))
            self.course = Course(journal)
        elif segment.weights_sha256 != digest:
            raise StageError(
                f"checkpoint {name} came out differently after a resume", file=folder, remedy="remove the scratch folder"
            )
        write_atomic(folder / "manifest.json", canonical(segment.checkpoint_manifest()))

    def _segment(self, finished: int, settings: Row, status: Literal["kept", "abandoned"] = "kept", **names: Any) -> Segment:
        """The steps behind the newest checkpoint, `finished` the number behind the last of them."""
        parent = self.course.tip
        first = parent.last_step + 1 if parent else 0
        return Segment(
            parent=parent.checkpoint if parent else None,
            first_step=first,
            last_step=finished - 1,
            first_sample=int(self.boundaries[first]),
            last_sample=int(self.boundaries[finished]) - 1,
            plan=self.job.plan.digest,
            status=status,
            skipped=self.course.skipped_within(first, finished - 1),
            settings=settings,
            **names,
        )

    def _settings(self, step: int) -> Row:
        """What a kept segment says of its settings: those of its last step."""
        lr_factor = self.course.factor("learning_rate_factor", step)
        changed = {"learning_rate_factor": lr_factor} if lr_factor != 1 else {}
        return {"embedding_gradient_shrink": self._shrink(step), **changed}

    def _row(self, step: int, meter: Tensor | None) -> Row:
        """A row of `loss.csv`; without a meter, of a step that is passed over."""
        samples = int(self.boundaries[step + 1])
        row = {
            "step": step + 1,
            "samples": samples,
            "tokens": samples * self.samples.length,
            "batch_size": samples - int(self.boundaries[step]),
            "lr": f"{self._lr(step):.6e}",
        }
        if meter is None:
            return row
        loss, count, *by_kind = meter.tolist()
        names = ("gmask_loss", "mask_loss", "instruction_loss")
        means = zip(names, by_kind[:3], by_kind[3:], strict=True)
        return {
            **row,
            "loss": f"{loss / count:.6f}",
            **{name: f"{total / targets:.6f}" if targets else "" for name, total, targets in means},
            "grad_norm": f"{self.engine.gradient_norm():.6f}",
        }

    def _size(self) -> str:
        config = self.job.config
        ranks, attention = self.params.plan.world, self.engine.attention
        return f"{config.layers} layers x {config.hidden}, {self.params.precision}, {ranks} rank(s), attention {attention}"


def _check_finite(row: Row, step: int, precision: str) -> None:
    """Stop at a loss or gradient that is not finite; an FP16 gradient may overflow, which the loss scale answers."""
    values = {"loss": row["loss"]} | ({"gradient norm": row["grad_norm"]} if precision != "fp16" else {})
    broken = next((f"{name} is {value}" for name, value in values.items() if not np.isfinite(float(value))), None)
    if broken is None:
        return
    if step == 0:
        raise StageError(
            f"{broken} in the first step, before anything was learnt",
            remedy="it is not the learning rate: try pretrain.precision: fp32, and look at the packed samples in data/validate",
        )
    raise StageError(f"{broken} at step {step}", remedy="lower pretrain.optimizer.peak_lr or lengthen its warm-up")


@contextmanager
def _lost_scale_explained(step: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # DeepSpeed has no class of its own for it
        if "loss scale already at minimum" not in str(error):
            raise
        raise StageError(
            f"FP16 gradients are not finite at step {step}, with the least loss scale as with all before it",
            remedy="set pretrain.precision to bf16, or lower pretrain.optimizer.peak_lr or lengthen its warm-up; "
            "a rerun goes on from the newest state",
        ) from error


def _rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    return Batch(*(getattr(batch, field.name)[torch.from_numpy(rows)] for field in fields(Batch)))


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
