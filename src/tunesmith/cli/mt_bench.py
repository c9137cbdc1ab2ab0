"""``tunesmith eval mt-bench``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tunesmith.cli.judge import Annotator, Calibrations, JudgeAdapter, JudgeModel, JudgeName, keyboard_for
from tunesmith.cli.progress import row_bar
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines


def mt_bench(
    questions: Annotated[str, typer.Option("--questions", help="MT-Bench's question.jsonl, or one of your own.")],
    references: Annotated[str | None, typer.Option("--references", help="File of right answers.")] = None,
    model: ModelName = "smollm2-135m-instruct",
    adapter: Annotated[str | None, typer.Option("--adapter", help="Adapter that is measured.")] = None,
    compare: Annotated[str | None, typer.Option("--compare", help="base, or the folder of an adapter.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="all, grade or pair.")] = "all",
    judge: JudgeName = "local",
    judge_model: JudgeModel = None,
    judge_adapter: JudgeAdapter = None,
    annotator: Annotator = "person",
    calibrations: Calibrations = "runs/judges",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Questions, one of each category in turn.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most tokens of one answer.")] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Keys the draws and picks the examples.")] = 0,
    output: Annotated[str, typer.Option("--output", help="Folder for answers, verdicts and page.")] = "runs/mt-bench",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result of another evaluation.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Two-turn questions, graded and compared by a judge.

    Example: tunesmith eval mt-bench --questions question.jsonl --adapter runs/sft --compare base --judge local
    """
    settings: dict[str, Any] = {
        "questions": questions, "references": references, "model_name_or_path": model, "adapter": adapter,
        "compare": compare, "mode": mode, "judge": judge, "judge_model": judge_model, "judge_adapter": judge_adapter,
        "annotator": annotator, "calibrations": calibrations, "limit": limit, "max_new_tokens": max_new_tokens,
        "seed": seed, "output_dir": output, "overwrite_output_dir": overwrite,
    }  # fmt: skip
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.mt_bench import MTBenchConfig

        show_mt_bench(build_config(MTBenchConfig, settings, place="command line"), as_json=as_json)


def show_mt_bench(config: Any, *, as_json: bool) -> None:
    """Run an MTBenchConfig with bars and a person's keys where they judge, and print what came of it."""
    from tunesmith.recipes.mt_bench import run_mt_bench
    from tunesmith.recipes.mt_bench_result import describe_mt_bench

    say = (lambda _: None) if as_json else typer.echo
    with keyboard_for(config.judge) as keyboard, row_bar() as bar:
        facts = run_mt_bench(config, say, keyboard, bar)
    print_lines([json.dumps(facts)] if as_json else describe_mt_bench(facts, config.output_dir))
