"""``tunesmith tokenizer extend``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, Overrides, errors_in_one_paragraph, print_lines


def extend(
    overrides: Overrides = None,
    files: Annotated[
        list[str] | None, typer.Option("--files", help="Text of the domain; repeat it for several files.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Embedded name, hub id, folder or .gguf file.")] = None,
    num: Annotated[int | None, typer.Option("--num", min=0, help="New tokens; 0: LoRA alone, to compare.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="Folder of the run and the adapter.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A YAML recipe, as recipes/extend.yaml.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Add tokens for a domain. Example: tunesmith tokenizer extend --files notes.jsonl --num 300 --output runs/new."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.extend import ExtendConfig, describe_extension
        from tunesmith.recipes.extend import extend as run

        given = {"files": files, "model_name_or_path": model, "num_tokens": num, "output_dir": output}
        options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
        config, notes = load_config(ExtendConfig, recipe, [*(overrides or []), *options])
        result = run(config, say=(lambda _: None) if as_json else typer.echo)
        print_lines(
            [json.dumps(result.as_dict(), ensure_ascii=False)]
            if as_json
            else [*notes, *describe_extension(result, config)]
        )
        if result.trained.interrupted:
            raise typer.Exit(130)
