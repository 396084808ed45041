"""Training beside plain torch: one table of ratios, one machine, one run.

Run in the environment of `make repro`, in a built project:  python benchmarks/training.py [--json] [--only SECTION ...]
    speed    tokens a second of the laptop profile, beside a bare loop of torch over the same model and a plain causal GPT
    memory   what the loss takes, beside the usual way that holds all logits: a process for each way, peak less start
    plan     memory of laptop and 125m as `glm plan` foresees it, beside the resident peak of real steps and saves
    gpu      MFU at 124M, 350M, 760M and 1.3B parameters, beside a compiled causal GPT of the same shape; says so without a GPU
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from benchmarks._measure import Row

SECTIONS = {
    "speed": "_training_speed",
    "memory": "_loss_memory",
    "plan": "_training_plan",
    "gpu": "_training_gpu",
}  # name: its module, which has `rows(bench)`


@dataclass(frozen=True)
class TrainingBench:
    """What all sections share.

    Attributes:
        threads: of torch, in every process that is measured.
        say: where progress goes.
        project: a built project, whose packed samples are trained on.
        steps: how many of each loop are timed.
    """

    threads: int
    say: Callable[[str], None]
    project: Path = Path()
    steps: int = 24


def measure(bench: TrainingBench, sections: list[str]) -> list[Row]:
    """The rows of all chosen sections, in the order of `SECTIONS`."""
    rows: list[Row] = []
    for name, module in SECTIONS.items():
        if name in sections:
            bench.say(f"measuring: {name}")
            section: Callable[[TrainingBench], list[Row]] = import_module(f"benchmarks.{module}").rows
            rows += section(bench)
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--project", type=Path, default=Path(), help="a built project (its packed samples and its tokenizer)")
    parser.add_argument("--steps", type=int, default=24, help="steps of each loop whose speed is compared")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="measure these sections alone")
    return parser.parse_args()


def main() -> int:
    """Print the table, or one JSON object with --json; 1 where a target is missed."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it alone
    from benchmarks._measure import print_table

    chosen = arguments()
    bench = TrainingBench(
        threads=chosen.threads,
        say=lambda message: print(f"training benchmark: {message}", file=sys.stderr, flush=True),
        project=chosen.project.resolve(),
        steps=chosen.steps,
    )
    rows = measure(bench, chosen.only)
    if chosen.json:
        print(json.dumps({"rows": [row.plain() for row in rows]}))
    else:
        print_table(rows, Console(width=150))
    return int(any(row.verdict in ("MISSED", "not measured") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
