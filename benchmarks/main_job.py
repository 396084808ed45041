"""The main job, measured: time and memory of every stage, the second `dvc repro`, and what the trained model is worth.

Run after `make repro`, in its environment:  python benchmarks/main_job.py [--json]
Times are those of the last real run of each stage (runs/STAGE/run.json); the no-op repro is timed here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

BOUNDS = {"minutes": 12.0, "peak_gib": 8.0, "no_op_seconds": 10.0, "ratio_to_unigram": 0.80, "int8_over_fp32": 1.005}


def stages(root: Path) -> list[dict[str, Any]]:
    """Wall seconds, CPU seconds and peak memory of each stage's last run, in the order of dvc.yaml."""
    names = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    records = []
    for name in names:
        record = json.loads((root / "runs" / name / "run.json").read_text(encoding="utf-8"))
        records.append(
            {
                "stage": name,
                "wall_s": record["wall_seconds"],
                "cpu_s": record["cpu_seconds"],
                "peak_gib": record["peak_rss_bytes"] / 2**30,
            }
        )
    return records


def no_op_seconds(root: Path) -> float:
    """Wall seconds of a `dvc repro` that has nothing to do.

    Raises:
        RuntimeError: it failed, or it ran a stage.
    """
    started = time.monotonic()
    done = subprocess.run(["dvc", "repro"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode or "Running stage" in done.stdout:
        raise RuntimeError(f"`dvc repro` was not a no-op:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def quality(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Bits per byte of every model by language, with ratios to the unigram, the bigram and FP32."""
    bpb, rows = metrics["bpb"], []
    for model, by_language in bpb.items():
        for language, value in by_language.items():
            ratios = {f"to_{other}": value / bpb[other][language] for other in ("unigram", "bigram", "fp32")}
            rows.append({"model": model, "language": language, "bpb": value, **ratios})
    return rows


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each bound of the project beside what was reached."""
    rows = report["quality"]
    worst = max(row["to_unigram"] for row in rows if row["model"] == "fp32")
    int8 = max(row["to_fp32"] for row in rows if row["model"] == "int8")
    found = {
        "minutes": report["total_s"] / 60,
        "peak_gib": max(stage["peak_gib"] for stage in report["stages"]),
        "no_op_seconds": report["no_op_s"],
        "ratio_to_unigram": worst,
        "int8_over_fp32": int8,
    }
    return [{"what": k, "found": v, "bound": BOUNDS[k], "holds": v <= BOUNDS[k]} for k, v in found.items()]


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    return table


def main() -> int:
    """Print the tables, or one JSON object with --json; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--project", type=Path, default=Path())
    arguments = parser.parse_args()
    root = arguments.project
    report: dict[str, Any] = {"stages": stages(root), "no_op_s": no_op_seconds(root)}
    report["total_s"] = sum(stage["wall_s"] for stage in report["stages"])
    report["quality"] = quality(json.loads((root / "data/evaluate/metrics.json").read_text(encoding="utf-8")))
    report["bounds"] = verdicts(report)
    if arguments.json:
        print(json.dumps(report))
    else:
        console = Console(width=110)
        console.print(_table("Stages (last real run of each)", report["stages"]))
        console.print(_table("Held-out bits per byte", report["quality"]))
        console.print(_table("Bounds", report["bounds"]))
    return 0 if all(row["holds"] for row in report["bounds"]) else 1


if __name__ == "__main__":
    sys.exit(main())
