"""``tunesmith dpo``: a policy that learns from preferences without a reward model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, as_called, errors_in_one_paragraph, print_lines


def dpo(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as recipes/dpo.yaml or recipes/kto.yaml.")],
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn from pairs (DPO, IPO) or thumbs (KTO). Example: tunesmith dpo recipes/dpo.yaml data.train=pairs.jsonl."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.dpo import describe_result, train
        from tunesmith.recipes.dpo_prepare import DPOConfig

        config, notes = load_config(DPOConfig, recipe, overrides or [])
        aligned = train(config)
        if as_json:
            typer.echo(json.dumps(aligned.as_dict()))
        else:
            print_lines([*notes, *describe_result(aligned, config, as_called(recipe, overrides))])
        if aligned.interrupted:
            raise typer.Exit(130)
