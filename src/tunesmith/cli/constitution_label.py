"""``tunesmith constitution label``: a judge's soft labels by written principles, into the feedback store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.progress import row_bar
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def label(
    prompts: Annotated[str, typer.Argument(help="Prompts, or rows that hold one each; a .txt has one a line.")],
    store: Annotated[Path, typer.Option("--store", help="The feedback store; made where there is none.")],
    constitution: Annotated[str, typer.Option("--constitution", help="A constitution's file, or ours.")] = "ours",
    model: ModelName = "smollm2-135m-instruct",
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="Draws candidates; several take turns, none is the base.")
    ] = None,
    judge: Annotated[
        str, typer.Option("--judge", help="local, an OpenAI-compatible address, or a control: random, first, length.")
    ] = "local",
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", help="The local judge's base, or the model's name at the address.")
    ] = None,
    judge_adapter: Annotated[str | None, typer.Option("--judge-adapter", help="Adapter of a local judge.")] = None,
    pairs: Annotated[str, typer.Option("--pairs", help="different (least alike), first, or all.")] = "different",
    num_candidates: Annotated[int, typer.Option("--num-candidates", min=2, max=26, help="Drawn where two lack.")] = 2,
    num_principles: Annotated[int, typer.Option("--num-principles", min=1, max=16, help="Averaged for a pair.")] = 1,
    demonstrations: Annotated[int, typer.Option("--demonstrations", min=0, max=16, help="Put before a question.")] = 0,
    clamp: Annotated[str | None, typer.Option("--clamp", help="Limits of p, such as 0.4,0.6.")] = None,
    tie_margin: Annotated[float, typer.Option("--tie-margin", min=0, help="|2p - 1| below this is no label.")] = 0.0,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Draw candidates where the store lacks them.")] = True,
    temperatures: Annotated[str, typer.Option("--temperatures", help="The ladder, taken in turn.")] = "0.3,0.6,0.9,1.2",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Of one candidate.")] = 128,
    max_rouge_l: Annotated[float, typer.Option("--max-rouge-l", min=0.01, max=1, help="Near copies from here.")] = 0.8,
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", help="Environment variable that holds an address's key.")
    ] = "TUNESMITH_API_KEY",
    max_attempts: Annotated[int, typer.Option("--max-attempts", min=1, max=20, help="An address: tries in all.")] = 6,
    columns: Columns = None,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="error or drop.")] = "error",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys all randomness.")] = 0,
    output_dir: Annotated[str | None, typer.Option("--output-dir", help="Folder for summary.json.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say how much there is to do.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a judge compare two answers a prompt by principles; the same command goes on where it was stopped.

    Example: tunesmith constitution label prompts.txt --store feedback.db --adapter runs/sft --judge local
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.constitution_label import run_label
        from tunesmith.recipes.constitution_label_config import LabelConfig
        from tunesmith.recipes.constitution_label_show import describe

        settings: dict[str, Any] = {
            "prompts": prompts, "store": str(store), "constitution": constitution, "model_name_or_path": model,
            "adapters": adapter or [], "judge": judge, "judge_model": judge_model, "judge_adapter": judge_adapter,
            "pairs": pairs, "num_candidates": num_candidates, "num_principles": num_principles,
            "demonstrations": demonstrations, "clamp": clamp.split(",") if clamp is not None else None,
            "tie_margin": tie_margin, "draw": draw, "temperatures": temperatures.split(","),
            "max_new_tokens": max_new_tokens, "max_rouge_l": max_rouge_l, "api_key_env": api_key_env,
            "max_attempts": max_attempts, "columns": column_map(columns), "on_bad_row": on_bad_row, "seed": seed,
            "output_dir": output_dir,
        }  # fmt: skip
        config = build_config(LabelConfig, settings, place="command line")
        say = (lambda _: None) if as_json else typer.echo
        with row_bar() as bar:
            labelled = run_label(config, say, bar, plan=plan)
        print_lines([json.dumps(labelled.as_dict())] if as_json else describe(labelled, config))
        if labelled.interrupted:
            raise typer.Exit(130)
