"""``tunesmith compare-methods``: full tuning, LoRA, QLoRA and the others on the same rows and steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, as_called, errors_in_one_paragraph, print_lines


def compare_methods(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; recipes/compare_methods.yaml is one.")],
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Which method, measured on your rows. Example: tunesmith compare-methods recipes/compare_methods.yaml."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.compare_methods import CompareMethodsConfig, run_compare_methods
        from tunesmith.reports.compare_methods import describe

        config, notes = load_config(CompareMethodsConfig, recipe, overrides or [])
        result = run_compare_methods(config, say=(lambda _: None) if as_json else typer.echo)
        if as_json:
            typer.echo(json.dumps(result))
        else:
            print_lines([*notes, *describe(result, as_called(recipe, overrides, keep_folder=True))])
        if result.get("interrupted"):
            raise typer.Exit(130)
