from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "deepspeed", "prefect", "dvc", "pyarrow", "duckdb", "numpy", "great_expectations")


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_loads_no_room() -> None:
    done = python(
        "import sys, cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('LOADED', sorted(set({HEAVY + tuple(cli._OWN)}) & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
    for command in (*cli.ROOMS, "params"):
        assert command in done.stdout


@pytest.mark.parametrize("command", cli.ROOMS)
def test_a_room_gets_its_arguments_as_they_stand(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Usage: glm {command}" in result.output
    refused = CliRunner().invoke(cli.app, [command, "--no-such-option"])
    assert refused.exit_code == 2
    assert "--no-such-option" in refused.output


def test_lineage_needs_the_base_install_alone() -> None:
    """The modules of the build extra are made unimportable: the auditor's laptop has none of them."""
    done = python(
        "import sys\n"
        "for name in ('torch', 'deepspeed', 'prefect', 'dvc', 'pandas', 'sentencepiece', 'numba'): sys.modules[name] = None\n"
        "import cli; cli.app(['lineage', 'docs', '--help'])"
    )
    assert done.returncode == 0, done.stderr


def test_a_command_whose_libraries_are_absent_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    done = python("import sys; sys.modules['prefect'] = None; import cli; cli.app(['rebuild'])", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "ERROR: glm rebuild needs prefect. Remedy: pip install 'glm-rebuild[build]'\n"


def test_rebuild_outside_a_project_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["rebuild"])
    assert result.exit_code == 1
    assert "no dvc.yaml here. Remedy: run from the project's root" in result.output


def test_the_projects_own_parameters_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli.app, ["params", "check"])
    assert result.exit_code == 0, result.output


def test_every_fault_of_a_parameter_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    changed = text.replace("permutations: 128", "permutations: many").replace("\nquantize:\n", "\nquantise:\n")
    (tmp_path / "mine.yaml").write_text(changed, encoding="utf-8")
    result = CliRunner().invoke(cli.app, ["params", "check", str(tmp_path / "mine.yaml"), str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "mine.yaml: dedup.permutations: 'many' has the wrong type; expected int" in result.output
    assert "section 'quantize' is missing" in result.output
    assert "section 'quantise' belongs to no stage of dvc.yaml" in result.output
    assert "none.yaml: no such parameter file" in result.output


def test_parameters_are_checked_from_the_projects_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["params", "check"])
    assert result.exit_code == 1
    assert "no dvc.yaml here" in result.output
