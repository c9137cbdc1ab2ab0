"""``tunesmith tokenizer show``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines
from tunesmith.errors import ConfigError


def show(
    text: Annotated[str | None, typer.Argument(help="The text; leave it out with --file.")] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option("--tokenizer", "--model", help="A model's name, a folder or a file; repeat it to compare."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Side by side, with words and characters.")] = False,
    file: Annotated[list[str] | None, typer.Option("--file", help="Count over the rows of a file instead.")] = None,
    field: Annotated[list[str] | None, typer.Option("--field", help="Only this column of the rows.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="The PNG that --file draws.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What a tokenizer does to a text, step by step.

    Example: tunesmith tokenizer show "Tokenization helps AI understand text." --tokenizer smollm2-135m-instruct
    """
    with errors_in_one_paragraph(debug):
        if (text is None) == (not file):
            raise ConfigError("tokenizer show", "needs either a text or --file.", 'Write: tokenizer show "A text."')
        from tunesmith.recipes.tokenizers import (
            compare_files,
            compare_text,
            describe_fertility,
            describe_steps,
            find_tokenizer,
            steps_as_dict,
        )

        names = tokenizer or ["smollm2-135m-instruct"]
        several = compare or bool(file) or len(names) > 1
        inspectors = [find_tokenizer(name) for name in [*names, *(["words", "characters"] if several else [])]]
        if text is not None and not several:
            steps = inspectors[0].steps(text)
            shown = [json.dumps(steps_as_dict(inspectors[0], steps))]
            print_lines(shown if as_json else describe_steps(inspectors[0], text, steps))
            return
        if text is not None:
            rows, pieces = compare_text(inspectors, text)
            out = [{**row.as_dict(), "shown": shown} for row, shown in zip(rows, pieces, strict=True)]
            print_lines([json.dumps(out)] if as_json else describe_fertility(rows, pieces))
            return
        rows = compare_files(inspectors, file or [], picture, field or [])
        print_lines([json.dumps([row.as_dict() for row in rows])] if as_json else describe_fertility(rows))
        if picture is not None and not as_json:
            print_lines([f"wrote {picture}"])
