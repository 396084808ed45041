"""Pretrains a GLM with DeepSpeed; a killed run goes on where its last state stands.

Reads:    data/pack, data/tokenizer, data/encode (held-out text, for validation), data/validate (the gate)
Writes:   data/pretrain: checkpoints/, loss.csv, journal.jsonl, plan.json; where they are switched on, validation.csv and
          gradient_norms.csv (docs/data.md)
Params:   pretrain
Promises: which samples a step sees follows from the plan alone; kill -9 and rerun give the bytes of an undisturbed run (CPU);
          nothing is unpickled; live state never mixes between different inputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from stages._params import ParamsError, load_section
from stages._runner import StageError, StageIO, keep_freed_memory, run_stage, stage_entry
from stages.pretrain.settings import Params
from stages.pretrain.world import Group, Place, joined, launched


def run(params: Params, io: StageIO) -> dict[str, Any]:
    """Train in the scratch folder keyed by all inputs, then copy the results to the output."""
    with joined(launched(os.environ, params.plan.world)) as group:
        return _run(params, io, group)


def follow(params: Params, place: Place | None, root: Path) -> None:
    """What a launcher's ranks behind the first do: train; output and records of the stage are rank 0's.

    Raises:
        StageError: this rank failed.
    """
    with joined(place) as group:
        assert group is not None
        io = StageIO("pretrain", root, *stage_entry(root, "pretrain"))
        _launch(params, _job(params, io, io.scratch(group.store.get("scratch").decode())), group)


def _run(params: Params, io: StageIO, group: Group | None) -> dict[str, Any]:
    import torch

    from stages.pretrain.state import only_writer

    job_folder = io.scratch(io.fingerprint(params))
    with only_writer(job_folder):
        (job_folder / "rendezvous").unlink(missing_ok=True)
        job = _job(params, io, job_folder)
        if params.resume_from:
            _take_over(io, job)
        if group is not None:
            group.store.set("scratch", job_folder.name)
        _launch(params, job, group)
        (io.output / "plan.json").write_text(job.plan.to_json(), encoding="utf-8")
        for name in ("loss.csv", "journal.jsonl", "validation.csv", "gradient_norms.csv"):
            if (job_folder / name).exists():
                shutil.copyfile(job_folder / name, io.output / name)
        shutil.copytree(job_folder / "checkpoints", io.output / "checkpoints")
    io.notes["gpus"] = params.plan.world if torch.cuda.is_available() else 0
    io.notes["meters"] = json.loads((job_folder / "meters" / "metrics.json").read_text(encoding="utf-8"))
    _drop_other_scratch(io, job_folder.name)
    return _counts(io, job)


def _job(params: Params, io: StageIO, scratch: Any) -> Any:
    from ledger.order import Order
    from ledger.plan import DataPlan
    from stages.pretrain.trainer import Job

    packed, tokenizer = io.input("data/pack"), io.input("data/tokenizer")
    facts = json.loads((packed / "pack.json").read_text(encoding="utf-8"))
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["padded_size"]
    if facts["samples_per_epoch"] < 1:
        raise StageError("there is no sample to train on", file="data/pack/pack.json", remedy="give the corpus more text")
    try:
        params.plan.check_vocabulary(vocabulary)
    except ValueError as error:
        raise StageError(str(error), file="data/tokenizer/tokenizer.json") from error
    return Job(
        params=params,
        config=params.model.with_data(vocabulary, facts["sequence_length"]),
        plan=DataPlan(
            order=Order(params.seed, facts["samples_per_epoch"], facts["epochs"]),
            ramp=params.ramp(),
            steps=params.steps,
            pack_manifest_sha256=hashlib.sha256((packed / "manifest.json").read_bytes()).hexdigest(),
        ),
        packed=packed,
        tokenizer=tokenizer / "tokenizer.model",
        scratch=scratch,
        held_out=io.input("data/encode") if params.validation is not None else None,
    )


def _take_over(io: StageIO, job: Any) -> None:
    """Begin where the training that `resume_from` names was interrupted."""
    from stages.pretrain.identity import identity, take_over

    folders = {folder.name: folder for folder in (io.runs / "scratch").iterdir() if folder != job.scratch}
    if job.params.resume_from not in folders:
        raise StageError(
            f"pretrain.resume_from: there is no training {job.params.resume_from!r} in runs/pretrain/scratch",
            remedy=f"there are: {', '.join(sorted(folders)) or 'none'}",
        )
    training = identity(job.params, job.config, job.plan, job.tokenizer)
    take_over(folders[job.params.resume_from], job.scratch, training)


def _launch(params: Params, job: Any, group: Group | None) -> None:
    from model.parallel.plan import PlanError
    from stages.pretrain.launch import run_ranks
    from stages.pretrain.trainer import train

    try:
        if group is not None:
            train(group.place.rank, job, group)
        elif params.plan.world == 1:
            train(0, job)
        else:
            run_ranks(train, job, params.plan.world)
    except PlanError as error:
        raise StageError(str(error)) from error


def _drop_other_scratch(io: StageIO, keep: str) -> None:
    """States of other inputs are of no use once a training has come to its end."""
    for folder in (io.runs / "scratch").iterdir():
        if folder.name != keep:
            shutil.rmtree(folder)


def _counts(io: StageIO, job: Any) -> dict[str, Any]:
    import torch

    from model.glm import GLM

    with torch.device("meta"):
        parameters = sum(p.numel() for p in GLM(job.config).parameters())
    samples = int(job.plan.ramp.consumed(job.plan.steps))
    return {
        "parameters": parameters,
        "steps": job.plan.steps,
        "samples": samples,
        "positions": samples * job.config.max_sequence,
        "epochs": round(samples / job.plan.order.samples, 3),
        "checkpoints": sorted(path.name for path in (io.output / "checkpoints").iterdir()),
    }


def main() -> None:
    """Be the stage; or, where a launcher says so, one of its ranks behind the first."""
    if os.environ.get("RANK", "0") == "0":
        run_stage("pretrain", Params, run)
        return
    try:
        params = load_section(Params, Path("params.yaml"), "pretrain")
        place = launched(os.environ, params.plan.world)
    except (ParamsError, StageError) as error:
        raise SystemExit(1) from error  # rank 0 meets the same, and says so
    try:
        follow(params, place, Path.cwd())
    except StageError as error:
        print(f"ERROR: stage pretrain: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    keep_freed_memory()
    main()
