"""A whole small project for the report stage: every output by its real stage in this process, but no gate and no training.

Great Expectations takes too long to import for a fixture, so the gate's report is written here; training is two checkpoints
of fresh weights with the plan and the journal that a real training would leave. Everything else is what `dvc repro` makes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ledger.journal import Journal, Segment
from ledger.order import Order
from ledger.plan import DataPlan
from ledger.schedule import BatchRamp
from stages import attest, clean, decontaminate, dedup, encode, evaluate, instruct, pack, quantize, tokenizer
from stages._documents import write_table
from stages._manifest import canonical, sha256_file
from stages._params import load_section, parse, to_plain
from stages._runner import StageIO, stage_entry
from stages.corpus.shelf import QUARANTINE
from tests.support.ledger_project import REPOSITORY, seal
from tests.support.text import documents, write_documents

STEPS, BATCH = 24, 4
TOKENIZER = tokenizer.Params(1500, 0.999, 200_000, 0.5, True, 4, 16, 15_000, 128, 2, 1)
INSTRUCT = {
    "seed": 1,
    "block_length": 64,
    "minimum_text_share": 0.25,
    "evaluation_sets": ["lambada"],
    "datasets": [
        {"name": "en-topic", "task": "topic", "lang": "en", "sources": ["tales"], "cap": 30},
        {"name": "zh-title", "task": "title", "lang": "zh", "sources": ["poems"], "cap": 30},
    ],
}
PACK = {
    "epochs": 2, "blocks": 2, "sequence_length": 128, "gmask_row": 120, "mask_row": 104, "short_minimum": 8,
    "instruction_share": 0.2, "shard_samples": 300,
}  # fmt: skip
EVALUATE = {
    "threads": 1, "window": 127, "context": 63, "checkpoint_tokens": 400, "bootstrap": 200,
    "cloze": {
        "items": 12, "context": 48, "min_context": 8, "min_sentence": 3, "min_count": 2, "frequency_ratio": 8.0,
    },
}  # fmt: skip
HOSTILE = "</script><img src=https://example.org/x.png onerror=alert(1)> & <b>"  # a document may hold anything


def make_report_project(root: Path) -> Path:
    """Write the project below `root`: the inputs of `stages.report`, and its params.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("dvc.yaml", "params.yaml"):
        (root / name).write_bytes((REPOSITORY / name).read_bytes())
    (root / "takedowns.jsonl").touch()
    _write_corpus(root)
    split = {"heldout_share": 0.15, "may_match_nothing": ["heldout"]}
    for module, changes in ((clean, {"rules_may_be_idle": ["all"]}), (dedup, {}), (decontaminate, split)):
        stage = module.__name__.rpartition(".")[2]
        _run(root, stage, module.run, parse(module.Params, _section(stage) | changes, stage))
    _run(root, "tokenizer", tokenizer.run, TOKENIZER)
    _run(root, "encode", encode.run, load_section(encode.Params, REPOSITORY / "params.yaml", "encode"))
    _run(root, "instruct", instruct.run, parse(instruct.Params, INSTRUCT, "instruct"))
    _run(root, "pack", pack.run, parse(pack.Params, _section("pack") | PACK, "pack"))
    _write_gate(root)
    _write_training(root)
    _run(root, "quantize", quantize.run, parse(quantize.Params, _section("quantize") | {"group_size": 16}, "quantize"))
    _run(root, "evaluate", evaluate.run, parse(evaluate.Params, _section("evaluate") | EVALUATE, "evaluate"))
    _run(root, "attest", attest.run, load_section(attest.Params, REPOSITORY / "params.yaml", "attest"))
    return root


def _section(stage: str) -> dict[str, Any]:
    import yaml

    section: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))[stage]
    return section


def _run(root: Path, stage: str, run: Callable[[Any, StageIO], dict[str, Any]], params: Any) -> None:
    """Run a stage without its sandbox, which would bind the test process for good; move its output into place."""
    deps, out = stage_entry(root, stage)
    io = StageIO(stage, root, deps, out)
    io.output.mkdir(parents=True)
    counts = run(params, io)
    io.collect()
    io.forget()
    io.output.rename(root / out)
    seal(root, stage, counts, to_plain(params))


def _write_corpus(root: Path) -> None:
    rows = documents("en", 1, 20, 3000, "tales") + documents("zh", 1, 60, 900, "poems")
    for number, row in enumerate(rows):
        row |= {"title": f"Tale {number}" if row["lang"] == "en" else f"第{number}首", "author": "无名氏"}
        row["licence"] = "CC0-1.0" if row["source"] == "poems" else "CC-BY-SA-3.0"
    tale, poem = rows[3], rows[30]
    rows += [
        {**poem, "doc_id": "poems/copy", "path": "copy"},
        {**poem, "doc_id": "poems/edition", "path": "edition", "text": poem["text"].replace("，", "，\n", 1) + "完。"},
        {**poem, "doc_id": "poems/short", "path": "short", "text": "短。"},
        {**tale, "doc_id": "tales/<odd>", "path": "<odd>", "text": f"{HOSTILE} of the and with\n{rows[5]['text'][:900]}"},
        {**tale, "doc_id": "tales/noise", "path": "noise", "text": f"{HOSTILE} 12 34 56 78 " * 30},
    ]
    for row in rows:
        row["raw_sha256"] = hashlib.sha256(f"{row['doc_id']} {row['text']}".encode()).hexdigest()
    folder = root / "data/corpus"
    write_documents(folder, rows)
    register = []
    for source, kind, lang in (("tales", "pypi", "en"), ("poems", "npm", "zh")):
        mine = [row for row in rows if row["source"] == source]
        register.append(
            {
                "id": source, "kind": kind, "package": source, "version": "1.0", "file": f"{source}-1.0.tgz", "url": None,
                "path": None, "licence": mine[0]["licence"], "rights": f"rights of <{source}>", "lang": lang,
                "sha256": hashlib.sha256(source.encode()).hexdigest(), "documents": len(mine),
                "bytes": sum(len(row["text"].encode()) for row in mine),
            }
        )  # fmt: skip
    (folder / "sources.json").write_text(canonical(register), encoding="utf-8")
    sources = {entry["id"]: {"documents": entry["documents"], "bytes": entry["bytes"]} for entry in register}
    refused = [("poems", "poems.json", str(number), "empty", None) for number in range(5)] + [
        ("tales", "<tales>.txt", None, "truncated", "the file ends inside the record at byte 7")
    ]
    columns = ("source", "file", "record", "reason", "detail")
    write_table(
        folder / "quarantine.parquet", QUARANTINE, ({**dict(zip(columns, row, strict=True)), "bytes": 9} for row in refused)
    )
    counts = {"documents": len(rows), "bytes": sum(s["bytes"] for s in sources.values()), "quarantined": len(refused)}
    seal(root, "corpus", {**counts, "sources": sources})


def _write_gate(root: Path) -> None:
    checks = [
        {
            "suite": "documents", "table": "languages", "expectation": "expect_column_values_to_be_between",
            "arguments": {"column": "share", "min_value": 0.35, "max_value": 0.65}, "observed": {"low": 0.42, "high": 0.58},
            "rows": 2, "unexpected": 0, "success": True, "examples": [], "error": None,
        }
    ]  # fmt: skip
    (root / "data/validate").mkdir()
    (root / "data/validate/report.json").write_text(canonical({"expectations": checks}), encoding="utf-8")
    seal(root, "validate", {"expectations": len(checks)})


def _write_training(root: Path) -> None:
    """Steps 0-11, a branch 12-15 that was given up, 12-23 with step 13 passed over."""
    from model.checkpoint import write_checkpoint
    from model.config import ModelConfig
    from model.glm import GLM, initialise

    packed = json.loads((root / "data/pack/pack.json").read_text(encoding="utf-8"))
    sizes = json.loads((root / "data/tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    plan = DataPlan(
        order=Order(seed=5, samples=packed["samples_per_epoch"], epochs=packed["epochs"]),
        ramp=BatchRamp(start=BATCH, end=BATCH),
        steps=STEPS,
        pack_manifest_sha256=sha256_file(root / "data/pack/manifest.json"),
    )
    folder = root / "data/pretrain"
    folder.mkdir()
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    journal = Journal.open(folder / "journal.jsonl")
    config = ModelConfig(2, 32, 2, 48, sizes["padded_size"], 128)
    for seed, (parent, first, end, kept, skipped) in enumerate(
        ((None, 0, 12, True, ()), ("step-000012", 12, 16, False, ()), ("step-000012", 12, STEPS, True, ((13, 13),)))
    ):
        digest, name = None, f"step-{end:06d}"
        if kept:
            model = GLM(config)
            initialise(model, seed)
            checkpoint = folder / "checkpoints" / name
            checkpoint.parent.mkdir(exist_ok=True)
            write_checkpoint(checkpoint, model.state_dict(), {"model": asdict(config)}, root / "data/tokenizer/tokenizer.model")
            digest = sha256_file(checkpoint / "model.safetensors")
        samples = plan.ramp.consumed([first, end]).tolist()
        segment = Segment(
            parent, first, end - 1, samples[0], samples[1] - 1, plan.digest, "kept" if kept else "abandoned",
            name if kept else None, digest, skipped, {} if kept else {"cause": "loss spike"},
        )  # fmt: skip
        segment = journal.append(segment)
        if kept:
            (checkpoint / "manifest.json").write_text(canonical(segment.checkpoint_manifest()), encoding="utf-8")
    header = "step,samples,tokens,batch_size,lr,loss,gmask_loss,mask_loss,instruction_loss,grad_norm\n"
    lines = []
    for step in range(1, STEPS + 1):
        loss = 7.3 - math.log(step)
        mask = f"{loss + 0.1:.6f}" if step % 3 else ""
        shown = f"{step},{step * BATCH},{step * BATCH * 128},{BATCH},{step * 1e-5:.6e},{loss:.6f}"
        lines.append(f"{shown},{loss:.6f},{mask},{loss:.6f},1.5\n")
    (folder / "loss.csv").write_text(header + "".join(lines), encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in GLM(config).parameters())
    seal(root, "pretrain", {"parameters": parameters, "steps": STEPS}, {"seed": 1234, "model": {"layers": 2, "hidden": 32}})
