"""``tunesmith redteam gcg``: suffixes that the model's own gradients lead to, beside random ones."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, errors_in_one_paragraph, print_lines


def gcg(
    overrides: Overrides = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="A YAML file of settings; options override it.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Embedded name, hub id, folder or .gguf file.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Folder of the adapter under attack.")] = None,
    goals: Annotated[list[str] | None, typer.Option("--goals", help="Set or file; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many goals at most.")] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="gcg, random-search, random-suffix or none; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Most steps a goal.")] = None,
    candidates: Annotated[int | None, typer.Option("--candidates", min=1, help="Suffixes measured in a step.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder of the public sets.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Chooses goals and draws.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="Folder for suffixes and result.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search suffixes on a model of yours; the same command goes on where it was stopped.

    Example: tunesmith redteam gcg --adapter runs/dpo --goals advbench --limit 8 --steps 50
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.redteam_gcg import PAGE_FILE, SUFFIXES_FILE, GcgConfig, run_gcg
        from tunesmith.reports.redteam_gcg import gcg_lines

        given = {
            "model_name_or_path": model, "adapter": adapter and str(adapter), "goals": goals, "limit": limit,
            "methods": method, "steps": steps, "candidates": candidates, "data_dir": data, "seed": seed,
            "output_dir": output,
        }  # fmt: skip
        options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
        config, notes = load_config(GcgConfig, recipe, [*(overrides or []), *options])
        facts = run_gcg(config, say=lambda line: typer.echo(line, err=True))
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            folder = Path(config.output_dir)
            print_lines([*notes, *gcg_lines(facts), f"wrote {folder / SUFFIXES_FILE}, {folder / PAGE_FILE}"])
        if facts["interrupted"]:
            typer.echo(f"\nstopped; go on with:  tunesmith {shlex.join(sys.argv[1:])}", err=True)
            raise typer.Exit(130)
