"""``tunesmith constitution label``: a judge's soft labels by written principles, into the feedback store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.progress import row_bar
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def label(
    prompts: Annotated[str, typer.Argument(help="Prompts, or rows that hold one each; a .txt has one a line.")],
    store: Annotated[Path, typer.Option("--store", help="The feedback store; made where there is none.")],
    constitution: Annotated[str, typer.Option("--constitution", help="A file of principles, or ours.")] = "ours",
    model: ModelName = "smollm2-135m-instruct",
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="Draws candidates; several take turns, none is the base.")
    ] = None,
    judge: Annotated[
        str,
        typer.Option("--judge", help="local, each, an OpenAI-compatible address, or: random, first, length."),
    ] = "local",
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", help="The local judge's base, or the model's name at the address.")
    ] = None,
    judge_adapter: Annotated[str | None, typer.Option("--judge-adapter", help="Adapter of a local judge.")] = None,
    pairs: Annotated[str, typer.Option("--pairs", help="different (least alike), first, or all.")] = "different",
    num_candidates: Annotated[int, typer.Option("--num-candidates", min=2, max=26, help="Drawn where two lack.")] = 2,
    principles: Annotated[int, typer.Option("--principles", min=1, max=16, help="Averaged for a pair.")] = 1,
    demonstrations: Annotated[int, typer.Option("--demonstrations", min=0, max=16, help="Put before a question.")] = 0,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Draw candidates where the store lacks them.")] = True,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Of one candidate.")] = 128,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for any other key of docs/constitution-label.md.")
    ] = None,
    columns: Columns = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first prompts of the file.")] = None,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="error or drop.")] = "error",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys all randomness.")] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Only say how much there is to do.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a judge compare two answers a prompt by principles; the same command goes on where it was stopped.

    Example: tunesmith constitution label prompts.txt --store feedback.db --adapter runs/sft --judge local
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import load_config
        from tunesmith.recipes.constitution_label import run_label
        from tunesmith.recipes.constitution_label_config import LabelConfig
        from tunesmith.recipes.constitution_label_show import describe

        settings = {
            "prompts": prompts, "store": str(store), "constitution": constitution, "model_name_or_path": model,
            "adapters": adapter or [], "judge": judge, "judge_model": judge_model, "judge_adapter": judge_adapter,
            "pairs": pairs, "num_candidates": num_candidates, "num_principles": principles,
            "demonstrations": demonstrations, "draw": draw, "max_new_tokens": max_new_tokens,
            "columns": column_map(columns), "limit": limit, "on_bad_row": on_bad_row, "seed": seed,
        }  # fmt: skip
        # As JSON, which YAML reads as it is meant: a folder named 7 stays a text.
        given = [f"{key}={json.dumps(value)}" for key, value in settings.items() if value is not None]
        config, _ = load_config(LabelConfig, None, [*given, *(set_ or [])])
        with row_bar() as bar:
            labelled = run_label(config, (lambda _: None) if as_json else typer.echo, bar, plan=plan)
        print_lines([json.dumps(labelled.as_dict())] if as_json else describe(labelled, config))
    if labelled.interrupted:
        raise typer.Exit(130)
