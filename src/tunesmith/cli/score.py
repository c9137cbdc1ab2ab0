"""``tunesmith score``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def score(
    rows: Annotated[str, typer.Argument(help="Pairs, rankings, ratings, flags, prompts with answers, or chats.")],
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder of a reward model.")],
    model: ModelName = "smollm2-135m-instruct",
    output: Annotated[str, typer.Option("--output", help="Where the rows with their rewards go.")] = "scores.jsonl",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="error, or drop and count.")] = "error",
    over_length: Annotated[str, typer.Option("--over-length", help="error, drop or truncate.")] = "error",
    columns: Columns = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score answers with a reward model. Example: tunesmith score rows.jsonl --adapter runs/reward."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.data.convert import in_option_words
        from tunesmith.errors import DataError
        from tunesmith.recipes.score import ScoreConfig, describe, score_rows

        settings = {
            "rows": rows, "adapter": str(adapter), "model_name_or_path": model, "output": output,
            "overwrite": overwrite, "on_bad_row": on_bad_row, "over_length": over_length,
            "columns": column_map(columns),
        }  # fmt: skip
        try:
            scored = score_rows(build_config(ScoreConfig, settings, place="command line"))
        except DataError as error:
            raise in_option_words(error) from None
        print_lines([json.dumps(scored.as_dict())] if as_json else describe(scored))
