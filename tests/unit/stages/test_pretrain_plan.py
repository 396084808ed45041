"""`glm plan` against the published run, and what it says of profiles that do not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from model.planning.cluster import Cluster
from model.planning.layout import Layout
from stages.pretrain.plan import app, make_plan
from stages.pretrain.profile import Profile, read_profile

ROOT = Path(__file__).parents[3]
PUBLISHED_CLUSTER = "96x8xA100-40G"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")


def told(*arguments: str, status: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    return result.output


def test_the_130b_plan_is_the_published_run() -> None:
    found = told("--profile", "130b", "--cluster", PUBLISHED_CLUSTER, "--tflops", "134.15", "--price-per-gpu-hour", "2")
    assert found["parameters"] == 128_697_794_560
    assert found["layout"]["processes"] == 768
    assert found["layers_per_stage"] == [8, 9, 9, 9, 9, 9, 9, 8]
    assert found["micro_batches"] == 176
    assert round(found["bubble"], 3) == 0.038  # paper B.4
    assert found["time"]["step_seconds"] == pytest.approx(88.5, abs=0.01)  # the run's log
    assert found["hfu"] == pytest.approx(0.43, abs=0.0005)
    assert found["mfu"] == pytest.approx(0.324, abs=0.0005)
    assert found["time"]["positions"] == 195_591_480 * 2048
    assert found["time"]["total_hardware_flops"] == pytest.approx(4.22e23, rel=0.001)  # facts 4.3
    assert 47 < found["time"]["days"] < 50  # of the 60 that the GPUs were lent for
    assert found["cost"] == pytest.approx(found["time"]["days"] * 24 * 768 * 2)
    assert found["fits"] is True
    assert found["inference"]["int4"]["RTX3090-24G"] == 4


def test_every_profile_has_a_plan() -> None:
    """One that fits the cluster which the file names."""
    for name, cluster in {"125m": "1x1xA100-40G", "1b": "1x8xA100-40G", "10b": "8x8xA100-40G"}.items():
        profile = read_profile(ROOT / "profiles" / f"{name}.yaml")
        plan = make_plan(profile, Cluster.parse(cluster))
        assert plan.profile.layout == profile.layout, "the profile is made for this many GPUs"
        assert plan.time is not None
        assert plan.fits
        assert plan.proposal is None


def test_the_laptop_is_planned_without_a_cluster() -> None:
    found = told("--tflops", "0.05")
    assert found["profile"] == "laptop"
    assert "fits" not in found
    assert found["time"]["samples_per_second"] == pytest.approx(found["batch"] / found["time"]["step_seconds"])


def test_smaller_batches_wait_longer_in_the_pipeline() -> None:
    profile = read_profile(ROOT / "profiles/130b.yaml")
    plan = make_plan(profile, Cluster.parse(PUBLISHED_CLUSTER))
    assert plan.time is not None
    without = plan.time.samples / plan.time.samples_per_second / 86_400
    assert 1.0 < plan.time.days / without < 1.05


def copies_alone() -> Profile:
    """10b with nothing but data parallelism, which no GPU holds."""
    profile = read_profile(ROOT / "profiles/10b.yaml")
    return dataclasses.replace(profile, layout=Layout(1, 1, 64, 2, checkpointing=False))


def test_what_does_not_fit_says_which_settings_would() -> None:
    plan = make_plan(copies_alone(), Cluster.parse("8x8xA100-80G"))
    assert plan.fits is False
    assert "activation_checkpointing: true" in plan.knobs
    tight = make_plan(copies_alone(), Cluster.parse("8x8xA100-40G"))
    assert tight.fits is False
    assert "micro_batch: 1" not in tight.knobs


@pytest.mark.parametrize(
    ("cluster", "settings"),
    [
        ("8x8xA100-80G", {"tensor_parallel": 1, "zero_stage": 1, "activation_checkpointing": False, "micro_batch": 1}),
        ("8x8xA100-40G", {"tensor_parallel": 1, "zero_stage": 2, "activation_checkpointing": True}),
        ("8x8xV100-32G", {"tensor_parallel": 1, "zero_stage": 2, "activation_checkpointing": True, "micro_batch": 2}),
        ("8x8xT4-16G", {"tensor_parallel": 1, "data_parallel": 64, "zero_stage": 3, "activation_checkpointing": True}),
    ],
)
def test_the_smallest_layout_that_fits_is_proposed_and_does(cluster: str, settings: dict[str, Any]) -> None:
    there = Cluster.parse(cluster)
    plan = make_plan(copies_alone(), there)
    assert plan.proposal is not None
    changes = yaml.safe_load("{" + plan.proposal.partition(" (")[0] + "}")
    assert changes.items() >= settings.items(), plan.proposal
    layout = Layout(
        changes["tensor_parallel"], changes["pipeline_parallel"], changes["data_parallel"], changes["micro_batch"],
        changes["zero_stage"], changes["activation_checkpointing"],
    )  # fmt: skip
    assert layout.gpus == there.gpus
    assert make_plan(dataclasses.replace(plan.profile, layout=layout), there).fits


def test_where_a_model_has_to_be_cut_its_parts_stay_within_a_node() -> None:
    profile = read_profile(ROOT / "profiles/130b.yaml")
    kept = dataclasses.replace(profile, layout=dataclasses.replace(profile.layout, checkpointing=False))
    plan = make_plan(kept, Cluster.parse(PUBLISHED_CLUSTER))
    assert (plan.proposal or "").startswith("tensor_parallel: 8, pipeline_parallel: 4, data_parallel: 24, zero_stage: 1, ")


def test_where_no_layout_fits_that_is_said() -> None:
    profile = read_profile(ROOT / "profiles/130b.yaml")
    plan = make_plan(dataclasses.replace(profile, layout=Layout(8, 1, 1, 1)), Cluster.parse("1x8xT4-16G"))
    assert (plan.fits, plan.proposal) == (False, None)


def test_replicas_follow_the_cluster_where_batches_divide() -> None:
    found = told("--profile", "130b", "--cluster", "48x8xA100-40G")
    assert found["layout"]["data"] == 12
    assert found["micro_batches"] == 352


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--profile", "130b", "--cluster", "1x8xA100-40G"), "do not divide by tensor_parallel x pipeline_parallel = 32"),
        (("--profile", "130b", "--cluster", "20x8xA100-40G"), "does not divide by 5 replicas"),
        (("--cluster", "8xA100"), "NODESxGPUSxNAME"),
        (("--profile", "7b"), "profiles here: laptop, 10b, 125m, 130b, 1b"),
        (("--utilisation", "0.4"), "give --cluster"),
        (("--cluster", "1x1xT4-16G", "--utilisation", "0.4", "--tflops", "9"), "give one"),
    ],
)
def test_requests_that_cannot_be_planned_are_refused_with_the_reason(arguments: tuple[str, ...], reason: str) -> None:
    assert reason in " ".join(refused(*arguments).split())


def test_the_page_says_what_a_person_asks_first() -> None:
    result = CliRunner().invoke(app, ["--profile", "130b", "--cluster", PUBLISHED_CLUSTER])
    assert result.exit_code == 0, result.output
    for said in ("128,697,794,560 parameters", "pipeline bubble 3.8%", "assumed", "days", "fits: ", "Inference"):
        assert said in result.output
    result = CliRunner().invoke(app, ["--profile", "10b", "--cluster", "8x8xRTX3090-24G"])
    assert result.exit_code == 1
    assert "DOES NOT FIT" in result.output
    assert "the smallest layout that fits: set tensor_parallel: " in result.output
