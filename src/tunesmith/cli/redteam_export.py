"""``tunesmith redteam export``: what went through becomes rows to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a red-team run, or a file of attempts.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Folder of the rows and of what is kept for tests.")],
    to: Annotated[str, typer.Option("--to", help="preferences, sft or constitution-prompts.")] = "preferences",
    train: Annotated[
        list[str] | None, typer.Option("--train-family", help="A family to train on; again for another.")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test-family", help="A family kept for the next test; again for another.")
    ] = None,
    answers: Annotated[str, typer.Option("--answers", help="Safe answers: template or revision.")] = "template",
    model: Annotated[str | None, typer.Option("--model", help="Who revises, for --answers revision.")] = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Folder of an adapter that revises.")] = None,
    helpful: Annotated[str, typer.Option("--helpful-rows", help="Rows of good answers to mix in, or ours.")] = "ours",
    helpful_share: Annotated[float, typer.Option("--helpful-share", help="Their share of all rows.")] = 0.5,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for any other key of docs/redteam-loop.md.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys split, wording and order.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier call.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn successes into training rows, none of a family or goal kept for the next test.

    Example: tunesmith redteam export runs/redteam --to preferences --output-dir runs/redteam-rows
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.constitution_revise_show import answer_bar
        from tunesmith.recipes.redteam_export import describe_export, run_export
        from tunesmith.recipes.redteam_export_config import RedteamExportConfig

        settings = {
            "run": str(run), "output_dir": str(output_dir), "to": to, "train_families": train, "test_families": test,
            "answers": answers, "revise.model": model, "revise.adapter": None if adapter is None else str(adapter),
            "helpful": helpful, "helpful_share": helpful_share, "seed": seed, "overwrite": overwrite,
        }  # fmt: skip
        # As JSON, which YAML reads as it is meant: a folder named 7 stays a text.
        given = [f"{key}={json.dumps(value)}" for key, value in settings.items() if value is not None]
        config, _ = load_config(RedteamExportConfig, None, [*given, *(set_ or [])])
        with answer_bar() as show:
            exported = run_export(config, (lambda _: None) if as_json else typer.echo, show)
        if exported.interrupted:
            typer.echo("stopped while revising; the same command goes on there.", err=True)
            raise typer.Exit(130)
        print_lines([json.dumps(exported.summary, ensure_ascii=False)] if as_json else describe_export(exported))
