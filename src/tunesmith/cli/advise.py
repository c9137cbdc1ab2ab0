"""``tunesmith advise``: prompt, retrieve or tune, measured on the user's own rows."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tunesmith.cli.check import Columns, Shape, column_map
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def advise(
    task: Annotated[str, typer.Option("--task", help="Rows of questions and right answers: to learn from, or all.")],
    validation: Annotated[str | None, typer.Option("--validation", help="Rows to choose on; none: a share.")] = None,
    test: Annotated[str | None, typer.Option("--test", help="Rows to measure on; none: a share.")] = None,
    output: Annotated[str, typer.Option("--output", help="Folder; a second call goes on there.")] = "runs/advise",
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt to try; {input}: the question.")
    ] = None,
    documents: Annotated[list[str] | None, typer.Option("--documents", help="Texts to retrieve from.")] = None,
    facts: Annotated[str | None, typer.Option("--facts", help="Rows of question, old, new; none: invented.")] = None,
    freshness: Annotated[bool, typer.Option(help="Ask for facts that change after tuning.")] = True,
    answers: Annotated[str, typer.Option("--answers", help="auto, json, number, label, text or long-text.")] = "auto",
    by_choice: Annotated[
        bool | None, typer.Option("--by-choice/--by-text", help="Labels by log-likelihood, or written.")
    ] = None,
    shots: Annotated[list[int] | None, typer.Option("--shots", min=1, help="A number to try; may be repeated.")] = None,
    retrieved: Annotated[list[int] | None, typer.Option("--retrieved", min=1, help="The same, for retrieval.")] = None,
    dense: Annotated[bool | None, typer.Option(help="Search by vectors too; none: where installed.")] = None,
    curve: Annotated[bool, typer.Option(help="25 and 50 % of the rows too.")] = True,
    limit: Annotated[int | None, typer.Option("--limit", help="Most training rows: a sample.")] = None,
    validation_limit: Annotated[int, typer.Option("--validation-limit", help="Most rows to choose on.")] = 24,
    test_limit: Annotated[int, typer.Option("--test-limit", help="Most rows to measure on.")] = 60,
    epochs: Annotated[float, typer.Option("--epochs", help="Passes over the training rows.")] = 2.0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak of the tuning.")] = 2e-3,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests you expect in all.")] = 10_000,
    margin: Annotated[float, typer.Option("--margin", help="Share you would give up for a cheaper one.")] = 0.05,
    facts_change: Annotated[bool, typer.Option(help="Facts change oftener than you tune.")] = False,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes", help="Leave out what does not fit.")] = None,
    model: ModelName = "smollm2-135m-instruct",
    shape: Shape = "auto",
    columns: Columns = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys the split, the samples and the tuning.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prompt, retrieve or tune? Example: tunesmith advise --task rows.jsonl --max-minutes 15."""
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.advise import describe, run_advise
        from tunesmith.recipes.advise_config import AdviseConfig

        settings: dict[str, Any] = {
            "task": task, "validation": validation, "test": test, "output_dir": output, "prompts": prompt or [],
            "documents": documents or [], "facts": facts, "freshness": freshness, "answers": answers,
            "by_choice": by_choice, "dense": dense, "limit": limit, "validation_limit": validation_limit,
            "test_limit": test_limit, "num_train_epochs": epochs, "learning_rate": learning_rate, "requests": requests,
            "margin": margin, "facts_change": facts_change, "max_minutes": max_minutes, "model_name_or_path": model,
            "shape": shape, "columns": column_map(columns), "seed": seed,
        }  # fmt: skip
        settings |= {key: value for key, value in (("shots", shots), ("retrieved", retrieved)) if value}
        settings |= {} if curve else {"curve": []}
        config = build_config(AdviseConfig, settings, place="command line")
        result = run_advise(config, say=(lambda _: None) if as_json else typer.echo)
        if as_json:
            typer.echo(json.dumps(result))
        else:
            print_lines(describe(config, result))
        if result.get("interrupted"):
            raise typer.Exit(130)
