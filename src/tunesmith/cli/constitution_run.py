"""``tunesmith constitution run``: the whole method, stage by stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, errors_in_one_paragraph, print_lines


def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as recipes/constitution/run.yaml.")],
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is due and what it costs, and do nothing.")] = False,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Do this stage and all after it afresh, whatever is there.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="A stage to leave out; give it again for another.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Revise, tune, label, align, measure. Example: tunesmith constitution run recipes/constitution/run.yaml --plan.

    The same command goes on where it was stopped, and does again only what has changed.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config, load_config
        from tunesmith.recipes.constitution_run import describe_run, run_constitution
        from tunesmith.recipes.constitution_run_config import ConstitutionRunConfig

        config, notes = load_config(ConstitutionRunConfig, recipe, overrides or [])
        if skip:
            told = {**config.model_dump(exclude_unset=True), "skip": [*config.skip, *skip]}
            config = build_config(ConstitutionRunConfig, told, place="--skip")
        print_lines([] if as_json else notes)
        say = (lambda _: None) if as_json else typer.echo
        facts = run_constitution(config, say, place=str(recipe), start_from=start_from, plan_only=plan)
        if as_json:
            typer.echo(json.dumps(facts, default=str))
        if facts.get("interrupted"):
            raise typer.Exit(130)
        if not as_json and not plan:
            print_lines(describe_run(config, facts))
