"""The corpus stages beside datasketch, rensa, datatrove and warcio: one table of ratios, one machine, one corpus, one run.

Run in the environment of `make repro`, in a built project:  python benchmarks/corpus.py [--json]
Real text comes from data/clean of the project, or from a folder of Parquet or JSON lines with `text` and `lang` (--text). From
it a corpus with planted duplicates is made (benchmarks/_planted.py), on which speed, recall and precision are measured.
Numbers are CPU seconds, workers included, the best of interleaved rounds; numba's compilation is not counted, as it is cached.
Peers that are not installed are named in their rows: pip install rensa datatrove warcio spacy jieba py3langid.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from benchmarks._bench import Bench
    from benchmarks._measure import Row

SECTIONS = ("signatures", "clusters", "rules", "language", "crawl", "chain", "scale")


def measure(bench: Bench, sections: list[str]) -> list[Row]:
    """The rows of all sections, in the order of `SECTIONS`."""
    rows: list[Row] = []
    for name in SECTIONS:
        if name in sections:
            bench.say(f"measuring: {name}")
            section: Callable[[Bench], list[Row]] = import_module(f"benchmarks._{name}").rows
            found = section(bench)
            rows += found
            for row in found:  # a later section that fails must not take these with it
                if row.verdict:
                    bench.say(f"{row.verdict}: {row.section}, {row.what}: {row.ours if row.of == 'ours' else row.ratio}")
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--project", type=Path, default=Path(), help="a built project (its text and its tokenizer)")
    parser.add_argument("--text", type=Path, help="folder of real text; default: data/clean/documents of the project")
    parser.add_argument("--mb", type=float, default=20.0, help="planted corpus of each language, in MB (full run: 100)")
    parser.add_argument("--chain-mb", type=float, default=20.0, help="text of the whole chain, in MB (full run: 200)")
    parser.add_argument("--rounds", type=int, default=4, help="interleaved rounds; the best counts")
    parser.add_argument("--scale-mb", type=float, default=2**31 / 1e6, help="text of the section `scale`, in MB; 2 GiB")
    usual = [section for section in SECTIONS if section != "scale"]  # which takes a quarter of an hour
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=usual, help="measure these sections; all but `scale`")
    return parser.parse_args()


def main() -> int:
    """Print the table, or one JSON object with --json; 1 where a target is missed."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it alone
    from benchmarks._bench import Bench
    from benchmarks._measure import print_table

    chosen = arguments()
    project = chosen.project.resolve()
    with tempfile.TemporaryDirectory(prefix="corpus-benchmark-") as work:
        bench = Bench(
            text=chosen.text or project / "data/clean/documents",
            project=project,
            work=Path(work),
            size=int(chosen.mb * 1e6),
            chain=int(chosen.chain_mb * 1e6),
            scale=int(chosen.scale_mb * 1e6),
            rounds=chosen.rounds,
            say=lambda message: print(f"corpus benchmark: {message}", file=sys.stderr, flush=True),
        )
        rows = measure(bench, chosen.only)
    if chosen.json:
        print(json.dumps({"rows": [row.plain() for row in rows]}))
    else:
        print_table(rows, Console(width=150))
    return int(any(row.verdict in ("MISSED", "not measured") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
