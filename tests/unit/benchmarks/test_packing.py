"""The packing benchmark's own parts: peers read what was written, and the figures stand with their targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _packing
from benchmarks._loading import Indexed
from benchmarks._packing import CONFIGS, PUBLISHED, Job, tally, write
from model.packed import GMASK_KIND, MASK_KIND
from stages.pack.kernel import LOST, SAMPLES, TARGETS
from stages.pretrain.data import PackedSamples

SMALL = replace(CONFIGS["L = 256"], sequence_length=64, gmask_row=62, mask_row=52, short_minimum=8)


def test_both_files_hold_the_same_samples(tmp_path: Path) -> None:
    job = Job(SMALL, 50)
    job.compiled()
    write(job, tmp_path / "samples-00000.arrow", 3)
    Indexed.write(tmp_path / "samples", [job.batch.input_ids] * 3)
    samples, indexed = PackedSamples(tmp_path), Indexed(tmp_path / "samples")
    assert len(samples) == len(indexed) == 150
    rows = np.array([0, 149, 50, 7, 7, 100])
    assert np.array_equal(samples.column("input_ids", rows), np.stack([indexed[row] for row in rows.tolist()]))
    index = (tmp_path / "samples.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert int.from_bytes(index[9:17], "little") == 1


def test_both_ways_of_packing_take_all_tokens() -> None:
    job = Job(SMALL, 40)
    job.compiled()
    assert job.tally[:, SAMPLES].sum() == 40
    job.by_sample()  # runs off no end: its rows are those of the kernel
    assert job.sizes.sum() == len(job.tokens)


def test_tally_counts_every_row() -> None:
    found = tally(PUBLISHED, 5000)
    assert found[:, SAMPLES].sum() == 5000
    assert found[MASK_KIND, TARGETS] / found[MASK_KIND, SAMPLES] == pytest.approx(251.5, abs=3)
    assert found[GMASK_KIND, LOST] == 0


def test_every_row_of_the_figures_has_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packing, "_FIGURE_ROWS", 5000)
    rows = {row.what: row for row in _packing.figures()}
    assert rows["difference from 250.7"].target == 2.0
    assert rows["loss tokens of a MASK sequence"].theirs == 250.7
    assert all(row.ours is not None for row in rows.values())


def test_the_published_draws_explain_the_published_mean() -> None:
    """Facts 3.2: run on 4,000 rows, the collator gave 1,206 loss tokens a [gMASK] sequence; its formula has the mean 1,200."""
    assert _packing.published_gmask(4_000) == pytest.approx(1206, abs=0.6)
    assert _packing.published_gmask(100_000) == pytest.approx(1200, abs=4)
