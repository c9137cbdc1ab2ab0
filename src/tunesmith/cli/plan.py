"""``tunesmith plan``: a recipe's first step for real, or a model's memory from its config alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.shared import Debug, Json, as_called, errors_in_one_paragraph, print_lines

# Options that say of a model without weights what a recipe says itself, or what this machine is.
MODEL_OPTIONS = {
    "gpu": "--gpu", "method": "--method", "rank": "--r", "batch_tokens": "--batch-tokens", "max_length": "--max-length",
    "output": "--output",
}  # fmt: skip
# What people call methods, as settings.
METHODS = {"qlora": ("quantization=4bit",), "dora": ("adapter.use_dora=true",)}


def plan(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="A YAML recipe; none with --model.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value settings, adapter.r=8 with --model too.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Shipped shape, config.json, folder or hub id.")] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="t4, rtx3090, a100-80gb, 24GB, laptop, this, ...")] = "this",
    method: Annotated[
        str, typer.Option("--method", help="lora, qlora, dora, full, bottleneck, prefix, prompt or ia3.")
    ] = "lora",
    rank: Annotated[int | None, typer.Option("--r", min=1, help="LoRA's rank.")] = None,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=64, help="Most tokens at once.")] = 1024,
    max_length: Annotated[int, typer.Option("--max-length", min=8, help="Tokens of the longest row.")] = 1024,
    output: Annotated[Path | None, typer.Option("--output", help="A picture of the memory, as PNG.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Memory, rows and time before training. Example: tunesmith plan recipes/chat.yaml, or --model llama-7b-like."""
    with errors_in_one_paragraph(debug):
        if model is None:
            _refuse_options(context)
            _plan_recipe(recipe, overrides, as_json)
            return
        from tunesmith.config import load_config
        from tunesmith.recipes.plan_model import PlanConfig, as_dict, plan_model
        from tunesmith.reports.plan import lines_of, memory_picture, option_name

        words = METHODS.get(method, (f"adapter.method={method}",))
        ranks = [f"adapter.r={rank}"] if rank is not None else []
        sizes = [f"micro_batch_tokens={batch_tokens}", f"max_length={max_length}"]
        given = [*words, *ranks, *sizes, *([recipe] if recipe else []), *(overrides or [])]
        config, notes = load_config(PlanConfig, None, [f"model={json.dumps(model)}", f"gpu={json.dumps(gpu)}", *given])
        report = as_dict(plan_model(config))
        lines = [*notes, *lines_of(report, model)]
        if output is not None:
            bars = {option_name(option): option["memory"] for option in report["options"]}
            title = f"{model}, {method}, on {report['machine']['name']}"
            memory_picture(bars, report["machine"]["free_bytes"], output, title=title)
            lines.append(f"wrote      {output}")
        print_lines([json.dumps(report)] if as_json else lines)


def _refuse_options(context: typer.Context) -> None:
    """Raise ConfigError for an option that a recipe's plan would not heed."""
    from tunesmith.errors import ConfigError

    for name, option in MODEL_OPTIONS.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(option, "goes with --model.", "Leave it out: a recipe is planned as it stands.")


def _plan_recipe(recipe: str | None, overrides: list[str] | None, as_json: bool) -> None:
    from tunesmith.config import load_config
    from tunesmith.errors import ConfigError
    from tunesmith.recipes.plan import describe, make_plan
    from tunesmith.recipes.prepare import SFTConfig

    if recipe is None:
        raise ConfigError("plan", "there is nothing to plan.", "Name a recipe, or a model with --model llama-7b-like.")
    path = Path(recipe)
    config, notes = load_config(SFTConfig, path, overrides or [])
    report = make_plan(config)
    called = as_called(path, overrides, keep_folder=True)
    print_lines([json.dumps(report)] if as_json else [*notes, *describe(report, called)])
