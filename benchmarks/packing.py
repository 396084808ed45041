"""Tokenizer, encode and pack beside their peers: one table of ratios, one machine, one run.

Run in the environment of `make repro`, in a built project:  python benchmarks/packing.py [--json]
Text comes from data/clean of the project, or from a folder of Parquet or JSON lines with `text` and `lang` (--text), tokens
from data/encode. Numbers are CPU seconds on one core, the best of interleaved rounds; numba's compilation is not counted, as it
is cached. Peers: SentencePiece's own batch encode, kitoken, a per-sample Python collator, Megatron-LM's .bin/.idx files and
Parquet. Peers that are not installed are named in their rows: pip install kitoken
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from benchmarks._bench import Bench
    from benchmarks._measure import Row

SECTIONS = ("encode", "pack", "load", "memory")


def measure(bench: Bench, sections: list[str], train: bool) -> list[Row]:
    """The rows of all sections, in the order of `SECTIONS`."""
    from benchmarks import _encoding, _loading, _packing

    works = {
        "encode": lambda: _encoding.rows(bench, train),
        "pack": lambda: _packing.rows(bench),
        "load": lambda: _loading.rows(bench),
        "memory": lambda: _packing.memory_rows(bench),
    }
    rows: list[Row] = []
    for name, work in works.items():
        if name in sections:
            bench.say(f"measuring: {name}")
            rows += work()
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--project", type=Path, default=Path(), help="a built project (its text, tokenizer and tokens)")
    parser.add_argument("--text", type=Path, help="folder of real text; default: data/clean/documents of the project")
    parser.add_argument("--mb", type=float, default=20.0, help="text of each language that is encoded, in MB")
    parser.add_argument("--memory-mb", type=float, default=50.0, help="text that is packed for memory, and ten times as much")
    parser.add_argument("--rounds", type=int, default=4, help="interleaved rounds; the best counts")
    parser.add_argument("--train", action="store_true", help="train 150,000 pieces on 50 MB too, which takes minutes")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="measure these sections alone")
    return parser.parse_args()


def main() -> int:
    """Print the table, or one JSON object with --json; 1 where a target is missed."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it alone
    from benchmarks._bench import Bench
    from benchmarks._measure import print_table

    chosen = arguments()
    project = chosen.project.resolve()
    with tempfile.TemporaryDirectory(prefix="packing-benchmark-") as work:
        bench = Bench(
            text=chosen.text or project / "data/clean/documents",
            project=project,
            work=Path(work),
            size=int(chosen.mb * 1e6),
            chain=int(chosen.memory_mb * 1e6),
            rounds=chosen.rounds,
            say=lambda message: print(f"packing benchmark: {message}", file=sys.stderr, flush=True),
        )
        rows = measure(bench, chosen.only, chosen.train)
    if chosen.json:
        print(json.dumps({"rows": [row.plain() for row in rows]}))
    else:
        print_table(rows, Console(width=150))
    return int(any(row.verdict in ("MISSED", "not measured") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
