"""``tunesmith data mix``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines


def mix(
    mixture: Annotated[Path, typer.Argument(help="A mixture's .yaml file; docs/mixtures.md lists its keys.")],
    out: Annotated[Path, typer.Argument(help="The .jsonl file to write.")],
    validation: Annotated[
        Path | None, typer.Option("--validation", help="Also write the held-out rows of the trained tasks here.")
    ] = None,
    validation_share: Annotated[
        float, typer.Option("--validation-share", min=0, max=0.99, help="Share of each task's rows held out.")
    ] = 0.1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first examples.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Count tokens with this model's tokenizer.")] = None,
    drop_bad_rows: Annotated[
        bool, typer.Option("--drop-bad-rows", help="Leave faulty rows out and count them instead of stopping.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a mixture's examples. Example: tunesmith data mix tasks.yaml mixed.jsonl --model smollm2-135m-instruct."""
    with errors_in_one_paragraph(debug):
        from tunesmith.data.load import DataConfig
        from tunesmith.recipes.mix import describe_mixed, write_mixture_rows

        config = DataConfig(
            train=str(mixture),
            validation_share=validation_share,
            limit=limit,
            on_bad_row="drop" if drop_bad_rows else "error",
        )
        mixed = write_mixture_rows(config, out, validation, model=model, overwrite=overwrite)
        print_lines([json.dumps(mixed.as_dict())] if as_json else describe_mixed(mixed))
