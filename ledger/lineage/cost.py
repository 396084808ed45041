"""What a checkpoint cost: CPU and GPU seconds of every stage that it rests on, and an estimate of the energy.

Seconds are measured, in the run records (`runs/STAGE/run.json`); the training's are spread over its segments by the samples
that each trained on, so that what a checkpoint cost includes the branches that were given up on the way to it. Energy is an
estimate and nothing else: seconds times the power of a busy core or GPU, times what the building uses besides (`Power`).

A record tells of the process that finished the stage, and under `unfinished` of those that were killed or failed on the way
(but for their last seconds). A stage whose output came from a cache may have no record here. Its cost is then unknown, never
zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ledger import LedgerError
from ledger.journal import Segment
from ledger.query import Ledger

TRAINING = "pretrain"


@dataclass(frozen=True)
class Power:
    """Watts by which seconds become energy.

    Attributes:
        cpu: of one busy core. 12 is a common assumption for servers, memory not counted.
        gpu: of one GPU. 400 is an A100's limit and what GLM-130B's published 442.4 MWh come to (768 GPUs for 60 days).
        overhead: what the building takes for each watt of the machines (PUE); the published figure has 1.
    """

    cpu: float = 12.0
    gpu: float = 400.0
    overhead: float = 1.0

    def __post_init__(self) -> None:
        if min(self.cpu, self.gpu) < 0 or self.overhead < 1:
            raise LedgerError(f"power figures must not be negative, and the overhead is 1 or more: {self}")

    def watt_hours(self, cpu_seconds: float, gpu_seconds: float) -> float:
        """Energy of so many core and GPU seconds."""
        return (cpu_seconds * self.cpu + gpu_seconds * self.gpu) * self.overhead / 3600


@dataclass(frozen=True)
class Cost:
    """One line of the bill; None where there is no record.

    Attributes:
        what: a stage; of the training a segment's checkpoint, or `segment N` where it left none.
        stage: the stage whose record it comes from.
        status: `stage`, or the segment's: `kept`, `abandoned`, `left behind`.
        share: of the record that is counted here.
    """

    what: str
    stage: str
    status: str
    share: float
    wall_seconds: float | None
    cpu_seconds: float | None
    gpu_seconds: float | None
    watt_hours: float | None


def of_checkpoint(ledger: Ledger, checkpoint: str | Path, power: Power | None = None) -> list[Cost]:
    """Everything that a checkpoint cost: the stages before the training, then the segments that led to it.

    Counted are the segments of its path, and those that were given up or left behind before it was reached.

    Raises:
        LedgerError: unknown checkpoint, or a record is damaged.
    """
    power = power or Power()
    target = ledger.resolve(checkpoint)
    path = {segment.index for segment in ledger.journal.ancestry(target)}
    counted = [segment for segment in ledger.journal.segments if segment.index <= target.index]
    before = of_stages(ledger.root, ancestors(ledger.root, TRAINING), power)
    return [*before, *of_segments(ledger, counted, path, power)]


def of_segments(ledger: Ledger, segments: Iterable[Segment], path: set[int], power: Power | None = None) -> list[Cost]:
    """What segments of the training cost; those not on `path` (their numbers) are called what they are."""
    power = power or Power()
    trained = {segment.index: _samples(ledger, [segment]) for segment in ledger.journal.segments}
    whole = max(1, sum(trained.values()))
    bill = []
    for segment in segments:
        status = segment.status if segment.index in path or segment.status == "abandoned" else "left behind"
        name = segment.checkpoint or f"segment {segment.index}"
        bill.append(_of_stage(ledger.root, TRAINING, power, trained[segment.index] / whole, name, status))
    return bill


def of_stages(root: Path, stages: Iterable[str], power: Power | None = None) -> list[Cost]:
    """What whole stages cost, by their records."""
    return [_of_stage(root, stage, power or Power()) for stage in stages]


def total(bill: Iterable[Cost]) -> Cost:
    """The sum of what is known."""
    lines = list(bill)
    sums = {
        name: sum(getattr(line, name) or 0.0 for line in lines)
        for name in ("wall_seconds", "cpu_seconds", "gpu_seconds", "watt_hours")
    }
    unknown = sum(line.cpu_seconds is None for line in lines)
    return Cost("total", "", f"{unknown} of {len(lines)} not recorded" if unknown else "complete", 1.0, **sums)


def as_table(bill: Iterable[Cost]) -> pa.Table:
    """The bill as columns."""
    text, number = pa.string(), pa.float64()
    names = {"what": text, "stage": text, "status": text, "share": number}
    names |= dict.fromkeys(("wall_seconds", "cpu_seconds", "gpu_seconds", "watt_hours"), number)
    rows = [{name: _rounded(getattr(line, name)) for name in names} for line in bill]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(names.items())))


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def ancestors(root: Path, stage: str) -> list[str]:
    """The stages whose outputs `stage` rests on, by the manifests, each behind those that it rests on itself.

    Raises:
        LedgerError: a manifest is absent or damaged.
    """
    ordered: list[str] = []

    def visit(name: str) -> None:
        for parent in inputs(root, name):
            if parent not in ordered:
                visit(parent)
                ordered.append(parent)

    visit(stage)
    return ordered


def descendants(root: Path, stage: str) -> list[str]:
    """The stages whose outputs rest on that of `stage`, by name."""
    present = sorted(path.parent.name for path in (root / "data").glob("*/manifest.json"))
    return [name for name in present if name != stage and stage in ancestors(root, name)]


def inputs(root: Path, stage: str) -> list[str]:
    """The stages whose outputs a stage read, from its manifest."""
    file = root / "data" / stage / "manifest.json"
    try:
        named: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["inputs"]
    except FileNotFoundError as error:
        raise LedgerError(f"{file}: no such file. Remedy: run `dvc repro` or `dvc pull`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{file}: not a manifest: {error!r}") from error
    return sorted(Path(dep).name for dep in named if dep.startswith("data/"))


def _samples(ledger: Ledger, segments: list[Segment]) -> int:
    """Samples that segments trained on."""
    ranges = ledger.trained(segments)
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def _of_stage(root: Path, stage: str, power: Power, share: float = 1.0, what: str | None = None, status: str = "stage") -> Cost:
    file = root / "runs" / stage / "run.json"
    if not file.is_file():
        return Cost(what or stage, stage, status, share, None, None, None, None)
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        attempts = [record, *record.get("unfinished", ())]
        wall, cpu = (share * sum(float(one[name]) for one in attempts) for name in ("wall_seconds", "cpu_seconds"))
        gpu = wall * int(record.get("gpus", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{file}: not a run record: {error!r}. Remedy: run the {stage} stage again") from error
    return Cost(what or stage, stage, status, share, wall, cpu, gpu, power.watt_hours(cpu, gpu))
