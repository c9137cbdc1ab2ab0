"""``tunesmith redteam judges``: how often red-team judges err, on answers that people labelled."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tunesmith.cli.progress import row_bar
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def judges(
    judge: Annotated[
        list[str] | None,
        typer.Option("--judge", help="detector, rubric, harm, or composed such as detector+rubric; again for another."),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Only sets whose names begin so; again for another.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many answers of each set at most.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws the answers under a limit.")] = 0,
    model: ModelName = "smollm2-135m-instruct",
    judge_model: Annotated[str | None, typer.Option("--judge-model", help="A rubric's base, or name at --url.")] = None,
    judge_adapter: Annotated[str | None, typer.Option("--judge-adapter", help="Adapter of a local rubric.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="OpenAI-compatible address of a rubric.")] = None,
    success_from: Annotated[float, typer.Option("--success-from", help="A rubric's score that is a success.")] = 0.5,
    calibrations: Annotated[str, typer.Option("--calibrations", help="Folder where errors are filed.")] = "runs/judges",
    data_dir: Annotated[str | None, typer.Option("--data", "--data-dir", help="Folder of the public sets.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Have judges read what people labelled, and file how often each errs under its settings.

    Example: tunesmith redteam judges --judge detector --judge detector+rubric --limit 100
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.redteam_judges import RedteamJudgesConfig, describe_redteam_judges, run_redteam_judges

        settings = {
            "judges": tuple(judge or ("detector", "harm")), "sources": tuple(source or ()), "limit": limit,
            "seed": seed, "model_name_or_path": model, "judge_model": judge_model, "judge_adapter": judge_adapter,
            "judge_url": url, "judge_success_from": success_from, "calibrations": calibrations, "data_dir": data_dir,
        }  # fmt: skip
        config = build_config(RedteamJudgesConfig, settings, place="command line")
        with row_bar() as bar:
            facts = run_redteam_judges(config, (lambda _: None) if as_json else typer.echo, bar)
        print_lines([json.dumps(facts)] if as_json else describe_redteam_judges(facts))
