"""``tunesmith redteam loop``: attack, train, attack again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, errors_in_one_paragraph, print_lines


def loop(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as recipes/redteam/loop.yaml.")],
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is due, and do nothing.")] = False,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Do this stage and all after it afresh, whatever is there.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """One round: attack, train, attack again. Example: tunesmith redteam loop recipes/redteam/loop.yaml.

    The same command goes on where it was stopped, and does again only what has changed.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.redteam_loop import describe_loop, run_loop
        from tunesmith.recipes.redteam_loop_config import RedteamLoopConfig

        config, notes = load_config(RedteamLoopConfig, recipe, overrides or [])
        print_lines([] if as_json else notes)
        say = (lambda _: None) if as_json else typer.echo
        facts = run_loop(config, say, place=str(recipe), start_from=start_from, plan_only=plan)
        if as_json:
            typer.echo(json.dumps(facts, default=str))
        if facts.get("interrupted"):
            raise typer.Exit(130)
        if not as_json and not plan:
            print_lines(describe_loop(config, facts))
