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


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Where to look; all folders below it too.")] = Path("runs"),
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Those inside runs too.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Every adapter below a folder, problems named. Example: tunesmith adapter list runs."""
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.adapter_folders import describe_list, find_adapters

        found = find_adapters(folder, checkpoints=checkpoints)
        print_lines([json.dumps([one.as_dict() for one in found])] if as_json else describe_list(found, folder))


@app.command()
def show(
    adapter: Folder, model: ModelName = "smollm2-135m-instruct", as_json: Json = False, debug: Debug = False
) -> None:
    """Settings, origin and how far each layer is moved. Example: tunesmith adapter show runs/demo."""
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.adapter_compare import describe_shown, show_adapter

        shown = show_adapter(adapter, model)
        print_lines([json.dumps(shown.as_dict())] if as_json else describe_shown(shown))


@app.command()
def diff(
    first: Folder,
    second: Folder,
    model: ModelName = "smollm2-135m-instruct",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Two adapters: settings, digests, angle and distance of their updates. Example: tunesmith adapter diff a b."""
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.adapter_compare import compare_adapters, describe_difference

        found = compare_adapters(first, second, model)
        print_lines([json.dumps(found.as_dict())] if as_json else describe_difference(found))


@app.command()
def combine(
    adapters: Annotated[list[Path], typer.Argument(help="Folders of two or more adapters of one base.")],
    output: Annotated[Path, typer.Option("--output", help="Folder of the new adapter.")],
    how: Annotated[str, typer.Option("--how", help="linear, cat, svd, ties, dare_linear, dare_ties, ...")] = "svd",
    weights: Annotated[str | None, typer.Option("--weights", help="One an adapter: 0.7,0.3.")] = None,
    density: Annotated[float | None, typer.Option("--density", help="Share of values ties and dare keep.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Rank of the new adapter, for the svd kinds.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Keys what dare drops.")] = 0,
    model: ModelName = "smollm2-135m-instruct",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """One adapter from several. Example: tunesmith adapter combine a b --weights 0.7,0.3 --output both."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.adapter_combine import CombineConfig, combine_adapters, describe_combined

        settings = {
            "adapters": [str(folder) for folder in adapters], "output": str(output), "how": how, "density": density,
            "weights": weights.split(",") if weights else None, "rank": rank, "seed": seed, "model": model,
        }  # fmt: skip
        found = combine_adapters(build_config(CombineConfig, settings, place="command line"))
        print_lines([json.dumps(found.as_dict())] if as_json else describe_combined(found))
