"""``tunesmith redteam report``: the verdict of campaigns that were run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folder of a campaign; several are held against the first.")],
    output: Annotated[Path | None, typer.Option("--output", help="Folder for the verdict.")] = None,
    fail_above: Annotated[
        list[str] | None, typer.Option("--fail-above", help="Such as asr=0.10,over-refusal=0.2: else exit code 1.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell a campaign's verdict again, or hold campaigns against each other; no model is loaded.

    Example: tunesmith redteam report runs/last-release runs/this-one --fail-above asr=0.10
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.redteam_report import run_report
        from tunesmith.redteam.thresholds import exceeded, parse_thresholds
        from tunesmith.reports.redteam import HTML_FILE, JSON_FILE, MARKDOWN_FILE
        from tunesmith.reports.redteam_tables import headline

        limits = parse_thresholds(fail_above or [])
        where, facts = run_report(folders, output)
        beyond = [str(one) for one in exceeded(facts, limits)]
        if as_json:
            typer.echo(json.dumps({"verdict": facts, "output_dir": str(where), "exceeded": beyond}))
        else:
            wrote = f"wrote {where / HTML_FILE}, {MARKDOWN_FILE}, {JSON_FILE}"
            print_lines([*headline(facts), *(f"exceeded: {one}" for one in beyond), wrote])
        if beyond:
            raise typer.Exit(1)
