"""``tunesmith data split``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tunesmith.cli.check import Columns, Shape, column_map
from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def split(
    file: Annotated[str, typer.Argument(help="A file of rows.")],
    output_dir: Annotated[str, typer.Argument(help="Folder for the train, validation and test files.")],
    validation: Annotated[float, typer.Option("--validation", help="Share of the rows; 0: no such file.")] = 0.1,
    test: Annotated[float, typer.Option("--test", help="Share of the rows; 0: no such file.")] = 0.1,
    group_by: Annotated[str | None, typer.Option("--group-by", help="Column whose values stay together.")] = None,
    stratify_by: Annotated[
        str | None, typer.Option("--stratify-by", help="Column whose values are shared out.")
    ] = None,
    shape: Shape = "auto",
    columns: Columns = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Picks the rows.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rows into train, validation and test files. Example: tunesmith data split rows.jsonl parts --group-by patient."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.split import SplitConfig, describe, split_rows

        settings = {
            "file": file, "output_dir": output_dir, "validation": validation, "test": test, "group_by": group_by,
            "stratify_by": stratify_by, "shape": shape, "columns": column_map(columns), "seed": seed,
        }  # fmt: skip
        config = build_config(SplitConfig, settings, place="command line")
        report = split_rows(config)
        print_lines([json.dumps(report.as_dict())] if as_json else describe(report, config))
