"""Two rebuilds of the committed project in two new folders, without a run cache; are all manifests the same?

Run in the environment of `make repro`:  python benchmarks/rebuild_twice.py [--json] [--reuse FOLDER]
Each rebuild is a `git clone` and a full `dvc repro` with a cache of its own, one after the other. `--reuse` names an already
built clone of the same commit and makes only the second one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def rebuild(source: Path, folder: Path) -> Path:
    """Clone `source` into `folder` and build everything there; returns the folder."""
    subprocess.run(["git", "clone", "--quiet", str(source), str(folder)], check=True)
    subprocess.run(["dvc", "repro"], cwd=folder, check=True, stdout=sys.stderr)
    return folder


def manifests(folder: Path) -> dict[str, str]:
    """SHA-256 of every stage's manifest, which itself holds the SHA-256 of every file of the output."""
    files = sorted((folder / "data").glob("*/manifest.json"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def compare(first: Path, second: Path) -> list[dict[str, Any]]:
    """One row per stage, with the first file that differs where one does."""
    left, right = manifests(first), manifests(second)
    rows = []
    for stage in left.keys() | right.keys():
        same = left.get(stage) == right.get(stage)
        rows.append({"stage": stage, "manifest": left.get(stage, "")[:16], "identical": same})
        if not same:
            a, b = (json.loads((f / "data" / stage / "manifest.json").read_text(encoding="utf-8")) for f in (first, second))
            names = sorted(n for n in a["files"].keys() | b["files"].keys() if a["files"].get(n) != b["files"].get(n))
            rows[-1]["first_difference"] = names[0] if names else "manifest.json"
    return sorted(rows, key=lambda row: str(row["stage"]))


def main() -> int:
    """Print the table, or one JSON object with --json; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--reuse", type=Path, help="an already built clone of the same commit")
    arguments = parser.parse_args()
    source = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="rebuild-") as temporary:
        first = arguments.reuse or rebuild(source, Path(temporary) / "first")
        rows = compare(first, rebuild(source, Path(temporary) / "another-folder" / "second"))
    if arguments.json:
        print(json.dumps({"stages": rows}))
    else:
        table = Table("stage", "manifest", "identical", "first difference", title="Two rebuilds", title_justify="left")
        for row in rows:
            table.add_row(row["stage"], row["manifest"], str(row["identical"]), row.get("first_difference", ""))
        Console(width=110).print(table)
    return 0 if rows and all(row["identical"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
