"""``tunesmith after``: what the tuning of a finished run broke."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def after(
    run: Annotated[Path, typer.Argument(help="Folder of a finished sft run.")],
    rows: Annotated[int, typer.Option("--rows", min=2, help="Most rows trained on, and held out, that are read.")] = 32,
    row_tokens: Annotated[int, typer.Option("--row-tokens", min=64, help="Most tokens of either.")] = 2500,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Search every training row, not 100,000.")] = False,
    evaluation_set: Annotated[
        list[str] | None, typer.Option("--evaluation-set", help="File of rows to look for; may be repeated.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Folder of the public evaluation sets.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys every sample and bootstrap.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what tuning broke: lost abilities, rows learnt by heart, contamination. Example: tunesmith after runs/sft."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.after_ask import AfterConfig
        from tunesmith.recipes.after_training import REPORT_FILE, RESULT_FILE, look_at_run
        from tunesmith.reports.after_training import say_after

        settings = {
            "rows": rows, "row_tokens": row_tokens, "evaluation_sets": evaluation_set or [], "data_dir": data_dir,
            "seed": seed, **({"max_rows_read": None} if all_rows else {}),
        }  # fmt: skip
        config = build_config(AfterConfig, settings, place="command line")
        facts = look_at_run(run, config, say=lambda line: typer.echo(line, err=True))
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            print_lines([*say_after(facts), f"wrote {run / RESULT_FILE}, {run / REPORT_FILE}"])
