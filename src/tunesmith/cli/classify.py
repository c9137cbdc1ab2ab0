"""``tunesmith classify`` and ``tunesmith predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.shared import (
    Debug,
    Json,
    ModelName,
    Overrides,
    as_called,
    errors_in_one_paragraph,
    print_lines,
)


def classify(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, such as recipes/classify.yaml.")],
    overrides: Overrides = None,
    columns: Columns = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier on labelled texts. Example: tunesmith classify recipes/classify.yaml data.train=rows.csv."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.classify import describe_result, train_classifier
        from tunesmith.recipes.classify_prepare import ClassifyConfig

        named = [f"data.columns.{ours}={json.dumps(theirs)}" for ours, theirs in column_map(columns).items()]
        overrides = [*named, *(overrides or [])]
        config, notes = load_config(ClassifyConfig, recipe, overrides)
        trained = train_classifier(config)
        if as_json:
            typer.echo(json.dumps(trained.as_dict()))
        else:
            print_lines([*notes, *describe_result(trained, as_called(recipe, overrides))])
        if trained.interrupted:
            raise typer.Exit(130)


def predict(
    rows: Annotated[str, typer.Argument(help="Rows with a text, and a label where its accuracy is asked for.")],
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder of a classifier.")],
    model: ModelName = "smollm2-135m-instruct",
    output: Annotated[str, typer.Option("--output", help="Where the rows with labels go.")] = "predictions.jsonl",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="error, or drop and count.")] = "error",
    over_length: Annotated[str, typer.Option("--over-length", help="error, drop or truncate.")] = "error",
    max_length: Annotated[int | None, typer.Option("--max-length", help="Most tokens of a text.")] = None,
    columns: Columns = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Give rows a label, with probabilities. Example: tunesmith predict rows.jsonl --adapter runs/classify."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.data.convert import in_option_words
        from tunesmith.errors import DataError
        from tunesmith.recipes.classify_predict import PredictConfig, describe, predict_rows

        settings = {
            "rows": rows, "adapter": str(adapter), "model_name_or_path": model, "output": output,
            "overwrite": overwrite, "on_bad_row": on_bad_row, "over_length": over_length, "max_length": max_length,
            "columns": column_map(columns),
        }  # fmt: skip
        try:
            predicted = predict_rows(build_config(PredictConfig, settings, place="command line"))
        except DataError as error:
            raise in_option_words(error) from None
        print_lines([json.dumps(predicted.as_dict())] if as_json else describe(predicted))
