"""``tunesmith reward``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, as_called, errors_in_one_paragraph, print_lines


def reward(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as recipes/reward.yaml.")],
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a reward model on judged answers. Example: tunesmith reward recipes/reward.yaml data.train=pairs.jsonl."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.reward import describe_result, train_reward
        from tunesmith.recipes.reward_prepare import RewardConfig

        config, notes = load_config(RewardConfig, recipe, overrides or [])
        trained = train_reward(config)
        if as_json:
            typer.echo(json.dumps(trained.as_dict()))
        else:
            print_lines([*notes, *describe_result(trained, as_called(recipe, overrides))])
        if trained.interrupted:
            raise typer.Exit(130)
