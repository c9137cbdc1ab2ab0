"""``tunesmith feedback sample``: prompts in, diverse candidates in a feedback store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.shared import Debug, Json, errors_in_one_paragraph, print_lines

if TYPE_CHECKING:
    from tunesmith.recipes.feedback_slots import SampleConfig


def sample(
    prompts: Annotated[str, typer.Argument(help="Prompts, or rows that hold one each; a .txt has one a line.")],
    store: Annotated[Path, typer.Option("--store", help="The feedback store; made where there is none.")],
    num_candidates: Annotated[int, typer.Option("--num-candidates", min=1, max=26, help="Candidates of a prompt.")] = 4,
    model: Annotated[str | None, typer.Option("--model", help="Hub id, folder or .gguf; none: the embedded.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="Folder of an adapter; several take turns, none is the base.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="OpenAI-compatible address, ending in /v1.")
    ] = None,
    endpoint_model: Annotated[str | None, typer.Option("--endpoint-model", help="The model's name there.")] = None,
    api_key_env: Annotated[
        str, typer.Option("--api-key-env", help="Environment variable that holds the endpoint's key.")
    ] = "TUNESMITH_API_KEY",
    temperatures: Annotated[str, typer.Option("--temperatures", help="The ladder, taken in turn.")] = "0.3,0.6,0.9,1.2",
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1)] = 0.95,
    top_k: Annotated[int, typer.Option("--top-k", min=0)] = 0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 128,
    max_rouge_l: Annotated[float, typer.Option("--max-rouge-l", min=0.01, max=1, help="Likeness drawn again.")] = 0.8,
    max_redraws: Annotated[int, typer.Option("--max-redraws", min=0, max=99, help="Tries more for a slot.")] = 3,
    columns: Columns = None,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="error or drop.")] = "error",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys all randomness.")] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Only say how much there is to do.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw several different answers a prompt; the same command goes on where it was stopped.

    Example: tunesmith feedback sample prompts.jsonl --num-candidates 4 --adapter runs/sft --store feedback.db
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.feedback_slots import SampleConfig

        settings: dict[str, Any] = {
            "prompts": prompts,
            "store": str(store),
            "num_candidates": num_candidates,
            "temperatures": [part.strip() for part in temperatures.split(",")],
            "top_p": top_p,
            "top_k": top_k,
            "max_new_tokens": max_new_tokens,
            "max_rouge_l": max_rouge_l,
            "max_redraws": max_redraws,
            "columns": column_map(columns),
            "on_bad_row": on_bad_row,
            "seed": seed,
        }
        server = {"url": endpoint, "model": endpoint_model, "api_key_env": api_key_env}
        config = build_config(SampleConfig, settings, place="command line")
        _run(config, server, model, adapter or [], plan=plan, as_json=as_json)


def _run(
    config: SampleConfig, server: dict[str, Any], model: str | None, adapters: list[str], *, plan: bool, as_json: bool
) -> None:
    """Check the choice, open prompts, writers and store, sample, report."""
    from tunesmith.config import build_config
    from tunesmith.errors import DataError
    from tunesmith.feedback.store import FeedbackStore
    from tunesmith.recipes.bootstrap_open import check_choice
    from tunesmith.recipes.feedback_open import open_endpoint, open_local
    from tunesmith.recipes.feedback_sample import Sampler
    from tunesmith.recipes.feedback_sample_show import candidate_bar, estimate, is_ours, last_lines
    from tunesmith.rollout.endpoint import EndpointConfig

    check_choice(model, Path(adapters[0]) if adapters else None, server["url"], server["model"])
    try:
        if server["url"] is not None:
            opened = open_endpoint(config, build_config(EndpointConfig, server, place="command line"))
        else:
            opened = open_local(config, model, adapters)
    except DataError as error:
        fix = error.fix.replace("set data.on_bad_row: drop", "pass --on-bad-row drop")
        raise DataError(error.place, error.cause, fix) from None
    with FeedbackStore.open(config.store, create=True) as held:
        sampler = Sampler(config, opened.prompts, opened.writers, held)
        told = estimate(sampler, probe=is_ours(sampler))
        if not as_json:
            print_lines([*opened.notes, told])
        if plan:
            if as_json:
                typer.echo(json.dumps({"prompts": len(opened.prompts), "to_draw": sampler.missing(), "estimate": told}))
            return
        began = time.monotonic()
        with candidate_bar(sampler.sampled.wanted) as show:
            sampler.progress = show
            sampled = sampler.run()
        print_lines(
            [json.dumps(sampled.as_dict())] if as_json else last_lines(config, sampler, time.monotonic() - began)
        )
    if sampled.interrupted:
        raise typer.Exit(130)
