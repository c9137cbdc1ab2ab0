"""``tunesmith winrate``: policies against the model they came from, judged blind by a source they never saw."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tunesmith.cli.check import Columns, column_map
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def winrate(
    prompts: Annotated[str, typer.Argument(help="File of held-out prompts.")],
    policy: Annotated[list[str], typer.Option("--policy", help="Folder of an adapter to judge; may be repeated.")],
    output: Annotated[str, typer.Option("--output", help="Folder for the result, the rows and the page.")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Adapter to compare with; none: the bare base.")
    ] = None,
    reward: Annotated[list[str] | None, typer.Option("--reward", help="Folder of a reward model that judges.")] = None,
    function: Annotated[list[str] | None, typer.Option("--function", help="file.py:name of a judge.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="OpenAI-compatible address of a judge.")] = None,
    judge_model: Annotated[str | None, typer.Option("--judge-model", help="The judge's name there.")] = None,
    model: ModelName = "smollm2-135m-instruct",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First rows of the prompts.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers of each model to a prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0)] = 1.0,
    examples: Annotated[int, typer.Option("--examples", min=0, help="Prompts shown with all answers.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys the draws and picks the examples.")] = 0,
    columns: Columns = None,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Take a judge a policy was trained with.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge tuned models blind against the one they started from.

    Example: tunesmith winrate held-out.jsonl --policy runs/ppo --baseline runs/sft --reward runs/reward-2 --output wins
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.errors import ConfigError
        from tunesmith.recipes.winrate import WinRateConfig, describe, run_winrate

        rewards: list[dict[str, Any]] = [{"model": folder} for folder in reward or []]
        rewards += [{"function": address} for address in function or []]
        if judge is not None or judge_model is not None:
            rewards.append({"judge": {key: v for key, v in (("url", judge), ("model", judge_model)) if v is not None}})
        if not rewards:
            fix = "Name a judge with --reward FOLDER, --function file.py:name, or --judge URL --judge-model NAME."
            raise ConfigError("winrate", "nobody judges.", fix)
        settings = {
            "prompts": prompts, "policies": policy, "baseline": baseline, "rewards": rewards, "output_dir": output,
            "model_name_or_path": model, "limit": limit, "num_samples": samples, "num_examples": examples,
            "sampling": {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed},
            "columns": column_map(columns), "allow_seen": allow_seen,
        }  # fmt: skip
        config = build_config(WinRateConfig, settings, place="command line")
        facts = run_winrate(config, say=(lambda _: None) if as_json else typer.echo)
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            print_lines(describe(config, facts))
