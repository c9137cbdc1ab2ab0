"""``tunesmith card``: the report card of a model, beside the one it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.shared import AdapterPath, Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def card(
    model: ModelName = "smollm2-135m-instruct",
    adapter: AdapterPath = None,
    compare: Annotated[
        str | None, typer.Option("--compare", help="Adapter it is compared with; none: the bare base.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for the card.")] = Path("runs/card"),
    results: Annotated[
        Path | None, typer.Option("--results", help="Results file; cards that share it ask the base once.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Questions to each model over the whole card.")] = 1600,
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", help="Refuse to begin where the estimate is above this.")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="Choice suite for accuracy and calibration; may be repeated.")
    ] = None,
    form_suite: Annotated[
        list[str] | None, typer.Option("--form-suite", help="Choice suite asked in changed forms; may be repeated.")
    ] = None,
    generated_suite: Annotated[
        list[str] | None, typer.Option("--generated-suite", help="Suite answered by a text; may be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder of the public sets.")] = None,
    plain: Annotated[bool, typer.Option("--no-chat-template", help="Ask as plain text.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Chooses items, forms and draws.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Accuracy, calibration, robustness, fairness, bias, toxicity and speed on one page.

    Example: tunesmith card --adapter runs/demo --output runs/card
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.card import CardConfig, describe, run_card

        settings: dict[str, Any] = {
            "model_name_or_path": model, "adapter": None if adapter is None else str(adapter), "compare": compare,
            "output_dir": str(output), "results": None if results is None else str(results), "limit": limit,
            "max_minutes": max_minutes, "data_dir": data, "chat_template": not plain, "seed": seed,
        }  # fmt: skip
        named = {"choice_suites": suite, "form_suites": form_suite, "generated_suites": generated_suite}
        settings |= {key: names for key, names in named.items() if names}
        config = build_config(CardConfig, settings, place="command line")
        facts = run_card(config, say=(lambda _: None) if as_json else typer.echo)
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            print_lines(describe(config, facts))
