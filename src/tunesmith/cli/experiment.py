"""``tunesmith experiment``: measured answers to questions about a way of training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, errors_in_one_paragraph, print_lines

Recipe = Annotated[Path, typer.Argument(help="A YAML recipe.")]

app = typer.Typer(help="Measured answers to questions about a way of training.", no_args_is_help=True)


@app.callback()
def _experiments() -> None:
    """Measured answers to questions about a way of training."""


@app.command()
def instructions(
    recipe: Annotated[Path, typer.Argument(help="A recipe whose data.train is a mixture with held-out tasks.")],
    overrides: Overrides = None,
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Where arms and report are written.")] = Path(
        "runs/instructions_experiment"
    ),
    num_rows: Annotated[int, typer.Option("--rows", min=1, help="Test rows a task.")] = 40,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 16,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The same rows with and without instructions. Example: tunesmith experiment instructions recipes/mixture.yaml."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.instructions import run_experiment
        from tunesmith.recipes.prepare import SFTConfig

        config, notes = load_config(SFTConfig, recipe, overrides or [])
        if not as_json:
            print_lines(notes)
        result = run_experiment(
            config,
            output_dir,
            num_rows=num_rows,
            max_new_tokens=max_new_tokens,
            say=(lambda _: None) if as_json else typer.echo,
        )
        if as_json:
            typer.echo(json.dumps(result))
        if result.get("interrupted"):
            raise typer.Exit(130)


@app.command()
def continual(recipe: Recipe, overrides: Overrides = None, as_json: Json = False, debug: Debug = False) -> None:
    """Tasks one after the other: what is left. Example: tunesmith experiment continual recipes/continual.yaml."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.continual import ContinualConfig, describe_continual, run_continual

        config, notes = load_config(ContinualConfig, recipe, overrides or [])
        print_lines([] if as_json else notes)
        summary = run_continual(config, say=(lambda _: None) if as_json else typer.echo)
        _show(summary, as_json, lambda: describe_continual(summary, config))


@app.command()
def fast(recipe: Recipe, overrides: Overrides = None, as_json: Json = False, debug: Debug = False) -> None:
    """Quality against rows and seconds, a method at a time. Example: tunesmith experiment fast recipes/fast.yaml."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.fast import FastConfig, describe_fast, run_fast

        config, notes = load_config(FastConfig, recipe, overrides or [])
        print_lines([] if as_json else notes)
        summary = run_fast(config, say=(lambda _: None) if as_json else typer.echo)
        _show(summary, as_json, lambda: describe_fast(summary, config))


def _show(summary: Mapping[str, Any], as_json: bool, describe: Callable[[], list[str]]) -> None:
    """Print what came of an experiment; one that was stopped ends with 130."""
    if as_json:
        typer.echo(json.dumps(summary))
    if summary.get("interrupted"):
        raise typer.Exit(130)
    print_lines([] if as_json else describe())
