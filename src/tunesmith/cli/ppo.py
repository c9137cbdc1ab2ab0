"""``tunesmith ppo``: reinforcement learning from feedback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, as_called, errors_in_one_paragraph, print_lines


def ppo(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as recipes/ppo.yaml.")],
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn from rewards. Example: tunesmith ppo recipes/ppo.yaml algorithm=rloo num_generations=4."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.ppo import align
        from tunesmith.recipes.ppo_config import PPOConfig
        from tunesmith.recipes.ppo_show import describe_result

        config, notes = load_config(PPOConfig, recipe, overrides or [])
        aligned = align(config)
        result = aligned.as_dict()
        if as_json:
            typer.echo(json.dumps(result))
        else:
            print_lines([*notes, *describe_result(result, as_called(recipe, overrides))])
        if aligned.interrupted:
            raise typer.Exit(130)
