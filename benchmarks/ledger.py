"""The ledger at the size of GLM-130B's training: what its questions cost, beside what is asked of them.

python benchmarks/ledger.py [--json] [--documents N] [--only queries merkle records] [--project FOLDER]
The corpus is generated (benchmarks/_generated.py): 416 million documents in 208 million samples. Making its table takes minutes
and 10 GB of disk for a while; the questions are asked by a process of their own, whose memory counts, mapped pages too. They
are those of `glm lineage`, with documents called by number: a name costs a read of the table of names beside that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

SECTIONS = ("queries", "merkle", "records")
_ASKED = 1_000_000
_NAMED = 5_000_000  # rows that are streamed with names
_ORDERED = 2_000_000  # samples whose leaves of the ordered root are made


def ask(folder: Path, documents: int, rows: int) -> dict[str, Any]:
    """Time the questions, in this process: seconds of wall and of CPU, bytes."""
    from benchmarks._generated import Size, open_ledger
    from benchmarks._measure import cpu_seconds, peak_bytes

    ledger = open_ledger(folder, Size(documents))
    found: dict[str, Any] = {}

    def timed(name: str, run: Any, rounds: int = 3) -> Any:
        best = [float("inf"), float("inf")]
        for _ in range(rounds):
            cpu, wall = cpu_seconds(), time.perf_counter()
            result = run()
            best = [min(best[0], time.perf_counter() - wall), min(best[1], cpu_seconds() - cpu)]
        found[name], found[f"{name}_cpu"] = best
        return result

    wanted = np.random.default_rng(1).integers(0, documents, _ASKED)
    steps = timed("lookup", lambda: ledger.plan.ramp.step_of(ledger.consumptions(wanted)[1]))
    found["exposures"] = len(steps)
    last = ledger.journal.segments[-1].last_step
    found["step_pieces"] = timed("step", lambda: ledger.step(last).pieces.num_rows)
    found["peak_lookups"] = peak_bytes()
    found["streamed"] = timed("stream", lambda: _taken(ledger.stream("newest", names=False), rows), rounds=1)
    found["peak"] = peak_bytes()
    found["ordered_samples"] = timed("ordered", lambda: _ordered(ledger, documents), rounds=1)
    names = ledger.sources.all_names()
    found["names_bytes"] = peak_bytes() - found["peak"]
    ledger.sources.all_names = lambda: names  # read once: what is timed is the answer
    found["named_rows"] = timed("named", lambda: _taken(ledger.stream("newest"), min(rows or _NAMED, _NAMED)), rounds=1)
    return found


def _ordered(ledger: Any, documents: int) -> int:
    """Leaves of the ordered root for the first samples of the training; how many samples these hold."""
    from ledger.proof.consumption import Consumption

    class Digests:
        """Digests of all documents in the place of 32 bytes for each: at the published size 13 GB, mapped from a file."""

        known = np.random.default_rng(5).integers(0, 256, (1 << 20, 32), np.uint8)

        def __len__(self) -> int:
            return documents

        def __getitem__(self, numbers: Any) -> Any:
            return self.known[numbers & ((1 << 20) - 1)]

    consumption, samples = Consumption(ledger), 0
    consumption.__dict__["digests"] = Digests()
    for step in consumption.steps(ledger.journal.segments[-1]):
        samples += len(step.leaf) and step.samples
        if samples >= _ORDERED:
            break
    return samples


def _taken(batches: Any, rows: int) -> int:
    taken = 0
    for batch in batches:
        taken += batch.num_rows
        if rows and taken >= rows:
            break
    return taken


def query_rows(documents: int, stream_rows: int, work: Path, say: Any) -> list[Any]:
    """The rows of what is asked over the generated corpus."""
    from benchmarks._generated import Size, make
    from benchmarks._measure import Row, wall_seconds

    folder = work / "table"
    took = wall_seconds(lambda: make(folder, Size(documents)))
    stored = sum(file.stat().st_size for file in folder.iterdir())
    say(f"table of {documents:,} documents: {stored:,} bytes, made in {took:.0f} s")
    command = [sys.executable, __file__, "--ask", str(folder), "--documents", str(documents), "--stream-rows", str(stream_rows)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    size, name = documents, f"{documents:,} documents, {documents // 2:,} samples"
    whole = size / 2 / 60 * found["ordered"] / found["ordered_samples"]
    room = (8 * size + 200e6) / 1e6
    return [
        Row(name, f"{_ASKED:,} documents -> steps", "s", found["lookup"], sense="<=", target=1.0,
            note=f"{found['exposures']:,} exposures, {found['lookup_cpu']:.2f} CPU s"),
        Row(name, "one step -> documents", "s", found["step"], sense="<=", target=0.2,
            note=f"{found['step_pieces']:,} pieces, {found['step_cpu']:.3f} CPU s"),
        Row(name, "documents of a checkpoint", "million rows/s", found["streamed"] / found["stream"] / 1e6, target=2.0,
            note=f"{found['streamed']:,} rows, {found['streamed'] / found['stream_cpu'] / 1e6:.2f} million per CPU s"),
        Row(name, "stored table", "bytes/document", stored / size, sense="<=", target=8.0),
        Row(name, "memory, look-ups", "MB", found["peak_lookups"] / 1e6, sense="<=", target=room, note="mapped pages too"),
        Row(name, "memory, stream", "MB", found["peak"] / 1e6, sense="<=", target=room, note="mapped pages too"),
        Row(name, "documents of a checkpoint, with names", "million rows/s", found["named_rows"] / found["named"] / 1e6,
            note=f"{found['named_rows']:,} rows; the names take {found['names_bytes'] / 1e6:,.0f} MB more"),
        Row(name, "ordered root", "million samples/s", found["ordered_samples"] / found["ordered"] / 1e6,
            note=f"{found['ordered_samples']:,} samples; all of them: {whole:.1f} min"),
        Row(name, "making the table", "s", took, note="generating the pieces included; once"),
    ]  # fmt: skip


def merkle_rows(leaves: int) -> list[Any]:
    """The rows of Merkle trees over document hashes."""
    from benchmarks._measure import Row, wall_seconds
    from ledger.proof.merkle import MerkleTree

    digests = np.random.default_rng(3).bytes(32 * leaves).hex()
    texts = [digests[at : at + 64] for at in range(0, len(digests), 64)]
    trees: list[MerkleTree] = []
    took = wall_seconds(lambda: trees.append(MerkleTree.of_set(texts, workers=2)))
    (tree,) = trees
    proofs = [tree.prove(number) for number in range(0, leaves, leaves // 200)]
    checking = wall_seconds(lambda: [proof.holds(tree.root) for proof in proofs]) / len(proofs)
    proving = wall_seconds(lambda: [tree.prove(number) for number in range(0, leaves, leaves // 200)]) / len(proofs)
    name = f"Merkle tree of {leaves:,} documents"
    return [
        Row(name, "sort and hash", "s", took, sense="<=", target=20.0, note="two processes"),
        Row(name, "check a proof", "ms", checking * 1e3, sense="<=", target=10.0),
        Row(name, "make a proof", "ms", proving * 1e3),
    ]


def record_rows(project: Path) -> list[Any]:
    """What the ledger writes beside the packed samples of a built project."""
    from benchmarks._measure import Row

    packed = sum(file.stat().st_size for file in (project / "data/pack").glob("samples-*.arrow"))
    written = [*(project / "data/pack").glob("pieces-*.parquet"), project / "data/pretrain/journal.jsonl"]
    written += [project / "data/pretrain/plan.json", *(project / ".cache/ledger").glob("*/*")]
    size = sum(file.stat().st_size for file in written if file.is_file())
    note = f"{size:,} bytes beside {packed:,}; the document table counted"
    name = "Records of a built project"
    rows = [Row(name, "journal, plan, provenance", "%", 100 * size / packed, sense="<=", target=5, note=note)]
    run = project / "runs/pretrain/run.json"
    if run.is_file():
        wall, took = json.loads(run.read_text(encoding="utf-8"))["wall_seconds"], _written_again(project)
        note = f"{took:.2f} s beside {wall:,.0f} s; every line and table flushed to the disk"
        share = 100 * took / wall
        rows.append(Row(name, "writing them", "% of the training", share, sense="<=", target=1, note=note))
    return rows


def _written_again(project: Path) -> float:
    """Seconds that it takes to write the journal, line by line, and the tables of pieces of a project once more."""
    import os

    import pyarrow.parquet as pq

    from benchmarks._measure import wall_seconds
    from ledger.journal import Journal

    segments = Journal.read(project / "data/pretrain/journal.jsonl").segments
    tables = [pq.read_table(file) for file in sorted((project / "data/pack").glob("pieces-*.parquet"))]

    def write(folder: Path) -> None:
        journal = Journal.open(folder / "journal.jsonl")
        for segment in segments:
            journal.append(segment)
        for number, table in enumerate(tables):
            with (folder / f"{number}.parquet").open("wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())

    with tempfile.TemporaryDirectory(prefix="ledger-benchmark-") as folder:
        return wall_seconds(lambda: write(Path(folder)))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--documents", type=int, default=416_000_000, help="documents of the generated corpus")
    parser.add_argument("--stream-rows", type=int, default=0, help="rows that are streamed; 0 for all")
    parser.add_argument("--leaves", type=int, default=10_000_000, help="documents below the Merkle tree")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="measure these sections alone")
    parser.add_argument("--project", type=Path, default=Path(), help="a built project, for the size of its records")
    parser.add_argument("--work", type=Path, help="folder for the generated table; removed afterwards")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Print the table, or one JSON object with --json; 1 where a target is missed."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # run as a file, Python looks beside it, where this is `ledger`
    chosen = arguments()
    if chosen.ask:
        print(json.dumps(ask(chosen.ask, chosen.documents, chosen.stream_rows)))
        return 0
    from benchmarks._measure import print_table

    def say(message: str) -> None:
        print(f"ledger benchmark: {message}", file=sys.stderr, flush=True)

    rows: list[Any] = []
    if "queries" in chosen.only:
        with tempfile.TemporaryDirectory(prefix="ledger-benchmark-", dir=chosen.work) as work:
            rows += query_rows(chosen.documents, chosen.stream_rows, Path(work), say)
    if "merkle" in chosen.only:
        rows += merkle_rows(chosen.leaves)
    if "records" in chosen.only and (chosen.project / "data/pack").is_dir():
        rows += record_rows(chosen.project)
    if chosen.json:
        print(json.dumps({"rows": [row.plain() for row in rows]}))
    else:
        print_table(rows, Console(width=150))
    return int(any(row.verdict in ("MISSED", "not measured") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
