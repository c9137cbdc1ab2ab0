"""``tunesmith adapter``: many adapters on one base: look at them, compare, combine, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines

app = typer.Typer(help="Many adapters on one base: look at them, compare, combine, merge.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of an adapter or of a run.")]


@app.callback()
def _adapters() -> None:
    """Many adapters on one base: look at them, compare, combine, merge."""


@app.command()
def merge(
    adapter: Folder,
    output: Annotated[Path, typer.Option("--output", help="Folder of the new model.")],
    model: ModelName = "smollm2-135m-instruct",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, bfloat16, float16 or float32.")] = "auto",
    prompts: Annotated[str | None, typer.Option("--prompts", help="Rows or lines to measure the drift on.")] = None,
    max_kl: Annotated[float, typer.Option("--max-kl", help="Refuse above this mean KL in nats a token.")] = 1e-3,
    min_agreement: Annotated[float, typer.Option("--min-agreement", help="Refuse below this top-1 agreement.")] = 0.99,
    force: Annotated[bool, typer.Option("--force", help="Write it though the drift is above a limit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model's folder that exists.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """An adapter and its base as one plain model. Example: tunesmith adapter merge runs/demo --output merged."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.adapter_merge import MergeConfig, describe_merged, merge_adapter

        settings = {
            "adapter": str(adapter), "output": str(output), "model": model, "dtype": dtype, "prompts": prompts,
            "max_kl": max_kl, "min_agreement": min_agreement, "force": force, "overwrite": overwrite,
        }  # fmt: skip
        merged = merge_adapter(build_config(MergeConfig, settings, place="command line"))
        print_lines([json.dumps(merged.as_dict())] if as_json else describe_merged(merged))
