"""``tunesmith data show``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Annotated

import typer

from tunesmith.cli.check import Columns, Shape, column_map
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def show(
    file: Annotated[str, typer.Argument(help="A file of rows.")],
    num_rows: Annotated[int, typer.Option("-n", "--num", min=1, help="How many rows.")] = 3,
    row: Annotated[int, typer.Option("--row", min=1, help="The first row shown, counted from 1.")] = 1,
    model: ModelName = "smollm2-135m-instruct",
    shape: Shape = "auto",
    columns: Columns = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="Marks instead of colours; also NO_COLOR=1.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rows as the model sees them. Example: tunesmith data show rows.jsonl -n 3 --model smollm2-135m-instruct."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.data.load import DataConfig
        from tunesmith.recipes.show import describe, show_rows

        settings = {"train": file, "shape": shape, "columns": column_map(columns)}
        config = build_config(DataConfig, settings, place="command line")
        rows = show_rows(config, model, num_rows=num_rows, first=row - 1)
        if as_json:
            typer.echo(json.dumps({"model": model, "rows": [shown.as_dict() for shown in rows]}))
            return
        colour = sys.stdout.isatty() and not no_color and not os.environ.get("NO_COLOR")
        # Not through typer.echo, which would strip colours or add them by rules of its own.
        sys.stdout.write("\n".join(describe(rows, colour=colour)) + "\n\n")
        print_lines([f"next:  tunesmith data check {shlex.quote(file)} --model {shlex.quote(model)}"])
