"""``tunesmith redteam import``: what garak and PyRIT found, in our report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def import_scans(
    files: Annotated[list[Path], typer.Argument(help="garak's report.jsonl or PyRIT's records; the first is before.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for attempts and verdict.")] = Path(
        "runs/redteam-import"
    ),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read what garak or PyRIT found. Example: tunesmith redteam import demo.report.jsonl --output runs/garak.

    docs/redteam-interop.md says how they attack a model of ours.
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.redteam_import import describe_import, run_import

        imported = run_import(files, output)
        print_lines([json.dumps(imported.as_dict())] if as_json else describe_import(imported))
