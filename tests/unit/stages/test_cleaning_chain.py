"""The three stages as `dvc repro` starts them: processes in the sandbox; and again, with different string hashing."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cleaning_project import REPOSITORY, STAGES, document, write_corpus
from tests.support.text import text as sample_text


def verse(seed: int, lines: int = 20) -> str:
    generator = random.Random(seed)
    return "\n".join("".join(chr(0x4E00 + generator.randrange(3000)) for _ in range(7)) + "。" for _ in range(lines))


def prose(seed: int) -> str:
    return sample_text("en", seed, 800)


def run_stages(root: Path, stages: tuple[str, ...], hash_seed: str) -> dict[str, bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": hash_seed}
    for stage in stages:
        command = [sys.executable, "-m", f"stages.{stage}"]
        result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "data").rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(tmp_path):
    rows = [document(f"en/{n}", prose(n)) for n in range(30)] + [document(f"zh/{n}", verse(n), "zh") for n in range(30)]
    rows += [document("zh/near", verse(0) + "尾"), document("en/exact", prose(0).title()), document("zh/short", "短")]
    write_corpus(tmp_path, rows)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    (tmp_path / "takedowns.jsonl").touch()
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("may_match_nothing: []", "may_match_nothing: [heldout]")
    text = re.sub(r"(rules_may_be_idle:.*\n)", r"\1    - all\n", text)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    first = run_stages(tmp_path, STAGES, "1")
    second = run_stages(tmp_path, STAGES, "2")
    assert {name for name in first if "manifest" in name} == {f"data/{stage}/manifest.json" for stage in STAGES}
    assert first == second
