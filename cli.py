"""The `glm` command. Each room brings its own sub-command, imported only when it is called: `glm --help` loads none of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

ROOMS = {
    "dedup": ("stages.dedup.query", "Ask whether a document is a duplicate of one in the corpus."),
    "replay": ("stages.pack.replay", "Print one training sample, made again from its key."),
    "lineage": ("ledger.cli.lineage", "Ask the training ledger: who saw what, in which order."),
    "takedown": ("ledger.cli.takedown", "Take documents out of the training set, and prove it."),
    "attest": ("ledger.cli.attest", "Sign, prove and check what a checkpoint was made from."),
    "plan": ("stages.pretrain.plan", "Say what a training needs: memory, time, money, before a GPU is rented."),
    "checkpoint": ("model.checkpoint_cli", "Reshape a checkpoint for other tensor-parallel sizes, or check it."),
    "generate": ("model.cli", "Fill the blanks of a text with a checkpoint."),
    "verify": ("pipelines.verify_cli", "Build everything a second time, and compare."),
    "rebuild": ("pipelines.cli", "Run the whole workflow as a Prefect flow."),
}
"""Sub-command, the module whose typer application `app` it is, its line in the help."""

_OWN = ("ledger", "model", "pipelines", "stages")

app = typer.Typer(name="glm", help="GLM-130B's pretraining, rebuilt in the open.", no_args_is_help=True, add_completion=False)
params = typer.Typer(help="Check parameter files.", no_args_is_help=True)
app.add_typer(params, name="params")


def _mount(name: str, module: str, help_line: str) -> None:
    """Add sub-command `name`: it imports `module` when called and hands it every argument, `--help` too, as it stands."""
    as_it_stands = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}

    @app.command(name, help=help_line, add_help_option=False, context_settings=as_it_stands)
    def call(context: typer.Context) -> None:
        try:
            importlib.import_module(module).app(args=context.args, prog_name=f"glm {name}")
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in _OWN:
                raise
            typer.echo(f"ERROR: glm {name} needs {missing}. Remedy: pip install 'glm-rebuild[build]'", err=True)
            raise typer.Exit(1) from error


for _name, (_module, _help) in ROOMS.items():
    _mount(_name, _module, _help)


@params.callback()
def _group() -> None:
    """Check parameter files."""


@params.command()
def check(files: Annotated[list[Path] | None, typer.Argument(help="Parameter files; params.yaml, if none.")] = None) -> None:
    """Check every section of parameter files against its stage: unknown or missing keys, types, ranges.

    Run it from the project's root: dvc.yaml there names the stages.
    """
    complaints = [complaint for file in files or [Path("params.yaml")] for complaint in _complaints(file)]
    for complaint in complaints:
        typer.echo(f"ERROR: {complaint}", err=True)
    if complaints:
        raise typer.Exit(1)
    typer.echo("every section fits its stage")


def _complaints(file: Path) -> Iterator[str]:
    import yaml

    from stages._params import ParamsError, load_file, load_section

    try:
        stages = list(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])
        sections = load_file(file)
    except FileNotFoundError:
        yield "no dvc.yaml here. Remedy: run from the project's root"
        return
    except ParamsError as error:
        yield str(error)
        return
    for stage in stages:
        try:
            load_section(_params_class(stage), file, stage)
        except ParamsError as error:
            yield str(error)
    for section in sorted(set(sections) - set(stages)):
        yield f"{file}: section {section!r} belongs to no stage of dvc.yaml"


def _params_class(stage: str) -> type:
    """The parameters of a stage: `Params` in its module, or in the `__main__` of its package."""
    module = importlib.import_module(f"stages.{stage}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"stages.{stage}.__main__")
    params: type = module.Params
    return params


def main() -> None:
    """Entry point of the `glm` command."""
    app()


if __name__ == "__main__":
    main()
