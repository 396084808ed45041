"""`glm plan`: what a profile needs before a GPU is rented: parameters, memory by stage and part, time, money.

Everything is arithmetic over a parameter file (model/planning); nothing is built and no GPU is asked for.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from model.config import ModelConfig
from model.parallel.plan import ParallelPlan
from model.planning import flops, inference
from model.planning.cluster import ACCELERATORS, Cluster
from model.planning.layout import Layout, layers_per_stage
from model.planning.memory import Attention, StageMemory, stage_memory
from model.planning.schedule import Schedule, schedule
from stages._params import ParamsError, load_file, load_section
from stages.pretrain.settings import Params

HFU_OF_THE_PUBLISHED_RUN = 0.43  # facts 4.3
USABLE = 0.95  # of a GPU's memory; the rest goes to fragments between blocks of different sizes
_EXPLICIT_LENGTH = 512  # as in model/attention.py

app = typer.Typer(help="Memory, time and cost of a training, and where it can run afterwards.")


@dataclass(frozen=True)
class Profile:
    """What a parameter file says of a training.

    Attributes:
        name: of the file.
        config: the model, with its vocabulary padded as the tokenizer stage pads it.
        layout: how it is spread.
        batches: number of steps of each batch size.
        precision: of weights and arithmetic.
        attention: the backend that is asked for.
    """

    name: str
    config: ModelConfig
    layout: Layout
    batches: dict[int, int]
    precision: str
    attention: str = "auto"


def read_profile(file: Path) -> Profile:
    """The training of a parameter file.

    Raises:
        ParamsError: a section does not fit its stage.
        OSError: no such file.
    """
    params, other = load_section(Params, file, "pretrain"), load_file(file)
    tokenizer = other["tokenizer"]
    multiple = tokenizer["pad_multiple"] * tokenizer.get("tensor_parallel", 1)
    vocabulary = -(-tokenizer["vocab_size"] // multiple) * multiple
    bounds = params.ramp().boundaries(params.steps)
    plan = params.plan
    return Profile(
        name="laptop" if file.name == "params.yaml" else file.stem,
        config=params.model.with_data(vocabulary, other["pack"]["sequence_length"]),
        layout=layout_of(plan, params.micro_batch),
        batches=dict(sorted(Counter((bounds[1:] - bounds[:-1]).tolist()).items())),
        precision=params.precision,
        attention=params.attention,
    )


def layout_of(plan: ParallelPlan, micro_batch: int) -> Layout:
    """A plan of processes, as the arithmetic of memory and time takes it."""
    return Layout(plan.tensor, plan.pipeline, plan.data, micro_batch, plan.zero_stage, plan.activation_checkpointing)


def on_cluster(profile: Profile, cluster: Cluster) -> Profile:
    """The profile with as many replicas as the cluster holds.

    Raises:
        ValueError: it cannot be cut so; says what to change.
    """
    layout = profile.layout
    group = layout.tensor * layout.pipeline
    if cluster.gpus % group:
        raise ValueError(
            f"{cluster.gpus} GPUs do not divide by tensor_parallel x pipeline_parallel = {group}: set these, or take a "
            f"multiple of {group} GPUs"
        )
    replicas = cluster.gpus // group
    odd = [batch for batch in profile.batches if batch % (replicas * layout.micro_batch)]
    if odd:
        raise ValueError(
            f"a batch of {odd[0]} does not divide by {replicas} replicas x micro_batch {layout.micro_batch}: the profile is "
            f"for {layout.data} replicas, {layout.gpus} GPUs; change the cluster, or batch_start, batch_increment and batch_end"
        )
    return dataclasses.replace(profile, layout=dataclasses.replace(layout, data=replicas))


def memory_of(profile: Profile, device: str, target_share: float = 1.0) -> list[StageMemory]:
    """Memory of each stage at the full batch; on a CPU with what its attention keeps there."""
    attention, asked = Attention(), profile.attention
    if asked == "explicit" or (asked == "auto" and device == "cpu" and profile.config.max_sequence <= _EXPLICIT_LENGTH):
        attention = Attention(scores=True)
    elif device == "cpu":
        attention = Attention(mask_share=target_share)
    return stage_memory(
        profile.config,
        profile.layout,
        max(profile.batches),
        profile.precision,
        device=device,
        attention=attention,
        target_share=target_share,
    )


def knobs(profile: Profile, room: float) -> list[str]:
    """Changes to `pretrain`, each enough alone, that make every stage fit into `room` bytes; the gentlest first.

    Where no single setting is enough, computing activations again goes with each.
    """
    layout = profile.layout
    tries: list[dict[str, Any]] = [{"micro_batch": size} for size in _halves(layout.micro_batch)]
    tries += [{"activation_checkpointing": True}] if not layout.checkpointing else []
    if layout.pipeline == layout.tensor == 1:
        tries += [{"zero_stage": stage} for stage in (2, 3) if stage > layout.zero_stage]
    for name, size in (("tensor_parallel", layout.tensor), ("pipeline_parallel", layout.pipeline)):
        tries += [{name: size * more, "data_parallel": layout.data // more} for more in (2, 4, 8) if layout.data % more == 0]
    found = [change for change in tries if _fits(profile, change, room)]
    if not found and not layout.checkpointing:
        both = [change | {"activation_checkpointing": True} for change in tries]
        found = [change for change in both if _fits(profile, change, room)]
    return [_written(change) for change in found]


def savings(profile: Profile, device: str) -> list[tuple[str, int]]:
    """The gentlest changes to `pretrain` that need less memory, and bytes of the fullest stage with each; the best last."""
    layout = profile.layout
    tries: list[dict[str, Any]] = [{"micro_batch": size} for size in _halves(layout.micro_batch)[:2]]
    if not layout.checkpointing:
        tries += [change | {"activation_checkpointing": True} for change in ({}, *tries[-1:])]
    tries += [{"zero_stage": 2}, {"zero_stage": 3}] if layout.data > 1 and layout.pipeline == layout.tensor == 1 else []
    now, found = _fullest(profile, {}, device), []
    for change in tries:
        total = _fullest(profile, change, device)
        if total < now:
            found.append((_written(change), total))
    return sorted(found, key=lambda saving: -saving[1])


def _fullest(profile: Profile, change: dict[str, Any], device: str) -> int:
    layout = dataclasses.replace(profile.layout, **{_FIELDS[name]: value for name, value in change.items()})
    return max(stage.total for stage in memory_of(dataclasses.replace(profile, layout=layout), device))


def _written(change: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {json.dumps(value)}" for name, value in change.items())


def _halves(size: int) -> list[int]:
    sizes = []
    while size > 1:
        size //= 2
        sizes.append(size)
    return sizes


_FIELDS = {
    "micro_batch": "micro_batch",
    "activation_checkpointing": "checkpointing",
    "zero_stage": "zero_stage",
    "tensor_parallel": "tensor",
    "pipeline_parallel": "pipeline",
    "data_parallel": "data",
}


def _fits(profile: Profile, change: dict[str, Any], room: float) -> bool:
    try:
        return _fullest(profile, change, "cuda") <= room
    except ValueError:  # sizes that do not divide are no way out
        return False


@dataclass(frozen=True)
class Plan:
    """All that `glm plan` says; see `Profile`, `Cluster`, `StageMemory` and `Schedule`."""

    profile: Profile
    cluster: Cluster | None
    stages: list[StageMemory]
    time: Schedule | None
    price_per_gpu_hour: float | None
    knobs: list[str]

    @property
    def fits(self) -> bool | None:
        """Whether the fullest stage fits its GPU; None without a cluster."""
        if self.cluster is None:
            return None
        return max(stage.total for stage in self.stages) <= USABLE * self.cluster.accelerator.memory

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        config, layout, full = self.profile.config, self.profile.layout, max(self.profile.batches)
        found: dict[str, Any] = {
            "profile": self.profile.name,
            "parameters": flops.parameters(config),
            "model": asdict(config),
            "layout": asdict(layout) | {"processes": layout.gpus},
            "layers_per_stage": layers_per_stage(config.layers, layout.pipeline),
            "precision": self.profile.precision,
            "steps": sum(self.profile.batches.values()),
            "batch": full,
            "micro_batches": layout.micro_batches(full),
            "bubble": layout.bubble(full),
            "memory": [stage.parts() | {"total": stage.total} for stage in self.stages],
            "inference": set_ups(config),
        }
        if self.cluster is not None:
            gpu = self.cluster.accelerator
            found |= {"cluster": asdict(self.cluster), "gpu_memory": gpu.memory, "fits": self.fits, "knobs": self.knobs}
        if self.time is not None:
            found["time"] = asdict(self.time)
            if self.cluster is not None:
                peak = self.cluster.accelerator.peak_flops
                found["hfu"] = self.time.hardware_flops_per_gpu / peak
                found["mfu"] = self.time.model_flops_per_gpu / peak
            if self.price_per_gpu_hour is not None:
                found["gpu_hours"] = self.time.gpu_hours(layout.gpus)
                found["cost"] = found["gpu_hours"] * self.price_per_gpu_hour
        return found


def make_plan(
    profile: Profile,
    cluster: Cluster | None,
    *,
    tflops: float | None = None,
    utilisation: float | None = None,
    price: float | None = None,
) -> Plan:
    """The plan of a profile, on a cluster if one is given.

    Args:
        profile, cluster: see there. Without a cluster memory is that of a CPU process where one replica is all there is.
        tflops: hardware TFLOP/s that each GPU is taken to reach.
        utilisation: the same as a share of the peak; where both are None, that of the published run.
        price: of a GPU for an hour, in whatever money.

    Raises:
        ValueError: sizes that do not divide.
    """
    achieved = None if tflops is None else tflops * 1e12
    if cluster is not None:
        profile = on_cluster(profile, cluster)
        share = HFU_OF_THE_PUBLISHED_RUN if utilisation is None else utilisation
        achieved = achieved or share * cluster.accelerator.peak_flops
    cpu = cluster is None and profile.layout.gpus == 1
    stages = memory_of(profile, "cpu" if cpu else "cuda")
    time = None if achieved is None else schedule(profile.config, profile.layout, profile.batches, achieved)
    room = USABLE * cluster.accelerator.memory if cluster is not None else 0.0
    full = cluster is not None and max(stage.total for stage in stages) > room
    return Plan(profile, cluster, stages, time, price, knobs(profile, room) if full else [])


def set_ups(config: ModelConfig) -> dict[str, dict[str, int | None]]:
    """Fewest GPUs of each kind that run the model, by precision; None where 32 do not."""
    return {
        precision: {name: inference.smallest(config, precision, gpu) for name, gpu in ACCELERATORS.items()}
        for precision in inference.WEIGHT_BITS
    }


@app.command()
def plan(
    profile: Annotated[str, typer.Option(help="Parameter file, or a name in profiles/; laptop: params.yaml.")] = "laptop",
    cluster: Annotated[str | None, typer.Option(help="NODESxGPUSxNAME, as in 96x8xA100-40G.")] = None,
    tflops: Annotated[float | None, typer.Option(min=0.001, help="Hardware TFLOP/s that each GPU reaches.")] = None,
    utilisation: Annotated[float | None, typer.Option(min=0.001, max=1.0, help="The same as a share of its peak.")] = None,
    price_per_gpu_hour: Annotated[float | None, typer.Option(min=0.0, help="For the cost of the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a training needs; exit status 1 where it does not fit the cluster."""
    from stages.pretrain.plan_page import print_plan

    known = {"laptop": Path("params.yaml"), **{file.stem: file for file in sorted(Path("profiles").glob("*.yaml"))}}
    file = known.get(profile, Path(profile))
    try:
        if not file.is_file():
            raise ValueError(f"no parameter file {file}; profiles here: {', '.join(known)}")
        if tflops is not None and utilisation is not None:
            raise ValueError("--tflops and --utilisation say the same thing: give one")
        if utilisation is not None and cluster is None:
            raise ValueError("--utilisation is a share of a GPU's peak: give --cluster, or --tflops instead")
        found = make_plan(
            read_profile(file),
            None if cluster is None else Cluster.parse(cluster),
            tflops=tflops,
            utilisation=utilisation,
            price=price_per_gpu_hour,
        )
    except (ParamsError, ValueError) as error:
        typer.echo(f"glm plan: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=1))
    else:
        print_plan(found, assumed=tflops is None and utilisation is None)
    if found.fits is False:
        raise typer.Exit(1)
