"""A plan as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from model.planning.cluster import ACCELERATORS, GIB
from model.planning.flops import parameters
from model.planning.layout import layers_per_stage

if TYPE_CHECKING:
    from stages.pretrain.plan import Plan


def print_plan(plan: Plan, *, assumed: bool) -> None:
    """Print it; `assumed`: nobody said which FLOP/s are reached."""
    console = Console(width=118, highlight=False)
    for line in (*_facts(plan), *_time(plan, assumed)):
        console.print(line)
    console.print(_memory(plan))
    for line in _verdict(plan):
        console.print(line)
    console.print(_inference(plan))


def _facts(plan: Plan) -> list[str]:
    config, layout, full = plan.profile.config, plan.profile.layout, max(plan.profile.batches)
    again = ", activations computed again" if layout.checkpointing else ""
    return [
        f"{plan.profile.name}: {parameters(config):,} parameters; {config.layers} layers x {config.hidden}, {config.heads} "
        f"heads, vocabulary {config.vocabulary:,}, {config.max_sequence:,} positions",
        f"{layout.gpus:,} process(es): tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}, "
        f"ZeRO-{layout.zero_stage}, {plan.profile.precision}{again}",
        f"batch {full:,} = {layout.data} replicas x {layout.micro_batches(full)} micro-batches of {layout.micro_batch}; "
        f"pipeline bubble {layout.bubble(full):.1%}",
    ]


def _time(plan: Plan, assumed: bool) -> list[str]:
    time, layout = plan.time, plan.profile.layout
    if time is None:
        return ["time: give --cluster, or --tflops that each process reaches"]
    share = ""
    if plan.cluster is not None:
        peak = plan.cluster.accelerator.peak_flops
        share = f" (HFU {time.hardware_flops_per_gpu / peak:.1%}, MFU {time.model_flops_per_gpu / peak:.1%})"
    source = "assumed, as GLM-130B reached it" if assumed else "as given"
    lines = [
        f"{time.hardware_flops_per_gpu / 1e12:,.2f} TFLOP/s a process{share}, {source}: {time.step_seconds:,.2f} s a step, "
        f"{time.samples_per_second:,.1f} samples/s, {time.tokens_per_second:,.0f} tokens/s",
        f"{sum(plan.profile.batches.values()):,} steps, {time.samples:,} samples, {time.positions / 1e9:,.2f} billion tokens, "
        f"{time.total_hardware_flops:.2e} FLOPs: {time.days:,.2f} days without a failure",
    ]
    if plan.price_per_gpu_hour is not None:
        hours = time.gpu_hours(layout.gpus)
        lines.append(f"{hours:,.0f} GPU hours at {plan.price_per_gpu_hour:g}: {hours * plan.price_per_gpu_hour:,.0f}")
    return lines


def _memory(plan: Plan) -> Table:
    layout = plan.profile.layout
    counts = layers_per_stage(plan.profile.config.layers, layout.pipeline)
    names = [name for name in plan.stages[0].parts() if any(stage.parts()[name] for stage in plan.stages)]
    title = "GiB on one GPU of each stage; total is the fuller of end of forward and update"
    if plan.stages[0].keeps:
        title = "GiB of the process: both of end of forward and update, for it keeps freed pages"
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for name in ("layers", *names, "total"):
        table.add_column(name.replace("_", " "), justify="right")
    for number, (count, stage) in enumerate(zip(counts, plan.stages, strict=True)):
        sizes = [stage.parts()[name] for name in names]
        table.add_row(str(number), str(count), *(f"{size / GIB:.2f}" for size in (*sizes, stage.total)))
    return table


def _verdict(plan: Plan) -> list[str]:
    from stages.pretrain.plan import USABLE

    if plan.cluster is None:
        return []
    gpu, layout = plan.cluster.accelerator, plan.profile.layout
    most = max(stage.total for stage in plan.stages) / GIB
    lines = [f"fits: {most:.1f} of {gpu.memory_gib} GiB of each {gpu.name}"]
    if not plan.fits:
        way = "neither one setting nor one with activations computed again is enough"
        if plan.knobs:
            way = f"each of these alone would do, under pretrain: {'; '.join(plan.knobs)}"
        lines = [f"DOES NOT FIT: {most:.1f} GiB, {gpu.name} has {gpu.memory_gib}, of which {USABLE:.0%} count; {way}"]
        proposal = f"set {plan.proposal}, under pretrain" if plan.proposal else "none on this cluster: take more or larger GPUs"
        lines.append(f"the smallest layout that fits: {proposal}")
    if layout.tensor > plan.cluster.gpus_per_node:
        lines.append(
            f"tensor_parallel {layout.tensor} leaves the node of {plan.cluster.gpus_per_node} GPUs: its network is slow"
        )
    return lines


def _inference(plan: Plan) -> Table:
    from stages.pretrain.plan import set_ups

    found = set_ups(plan.profile.config)
    table = Table(title="Inference: fewest GPUs that hold the model and a full context", title_justify="left")
    table.add_column("precision")
    for name in ACCELERATORS:
        table.add_column(name, justify="right")
    for precision, counts in found.items():
        table.add_row(precision, *(str(counts[name] or "-") for name in ACCELERATORS))
    return table
