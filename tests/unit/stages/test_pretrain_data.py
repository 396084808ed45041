"""Batches of packed samples, and what reading them loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from stages.pretrain.data import PackedSamples
from tests.support.training import ROOT, training_project

READ = """
import sys
from pathlib import Path
import numpy as np
from stages.pretrain.data import PackedSamples
print(len(PackedSamples(Path(sys.argv[1])).batch(np.arange(3)).input_ids), "pandas" in sys.modules)
"""


def test_rows_come_in_the_order_asked_for_across_shards(tmp_path: Path) -> None:
    samples = PackedSamples(training_project(tmp_path) / "data/pack")
    rows = np.array([81, 0, 40, 39])  # shards hold 40
    batch = samples.batch(rows)
    for index, row in enumerate(rows):
        alone = samples.batch(rows[index : index + 1])
        assert (batch.input_ids[index] == alone.input_ids[0]).all(), row
        assert (batch.target_ids[index] == alone.target_ids[0]).all(), row


def test_reading_them_loads_no_pandas(tmp_path: Path) -> None:
    """It would be 40 MB of every rank."""
    packed = training_project(tmp_path) / "data/pack"
    command = [sys.executable, "-c", READ, str(packed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "False"], done.stderr
