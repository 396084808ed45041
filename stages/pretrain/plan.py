"""`glm plan`: what a profile needs before a GPU is rented: parameters, memory by stage and part, time, money.

Everything is arithmetic over a parameter file (model/planning); nothing is built and no GPU is asked for.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from model.config import ModelConfig
from model.planning import flops, inference
from model.planning.cluster import ACCELERATORS, GIB, Cluster
from model.planning.layout import layers_per_stage
from model.planning.memory import StageMemory
from model.planning.schedule import Schedule, schedule
from stages._params import ParamsError
from stages.pretrain.fitting import knobs, smallest_layout, written
from stages.pretrain.profile import Profile, memory_of, on_cluster, read_profile

HFU_OF_THE_PUBLISHED_RUN = 0.43  # facts 4.3
USABLE = 0.95  # of a GPU's memory; the rest goes to fragments between blocks of different sizes

app = typer.Typer(help="Memory, time and cost of a training, and where it can run afterwards.")


@dataclass(frozen=True)
class Plan:
    """All that `glm plan` says; see `Profile`, `Cluster`, `StageMemory` and `Schedule`."""

    profile: Profile
    cluster: Cluster | None
    stages: list[StageMemory]
    time: Schedule | None
    price_per_gpu_hour: float | None
    knobs: list[str]
    proposal: str | None

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
            found["proposal"] = self.proposal
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
    if cluster is None:
        return Plan(profile, cluster, stages, time, price, [], None)
    room = USABLE * cluster.accelerator.memory
    if max(stage.total for stage in stages) <= room:
        return Plan(profile, cluster, stages, time, price, [], None)
    found = smallest_layout(profile, cluster, room)
    proposal = None if found is None else f"{written(found[0])} ({found[1] / GIB:.1f} GiB)"
    return Plan(profile, cluster, stages, time, price, knobs(profile, room), proposal)


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
