"""``tunesmith judge``: a judge as an instrument, checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.progress import row_bar
from tunesmith.cli.shared import Debug, Json, ModelName, errors_in_one_paragraph, print_lines

if TYPE_CHECKING:
    from tunesmith.recipes.judge_open import Keyboard

app = typer.Typer(name="judge", help="Judges of answers: how they agree with people and with themselves.")
JudgeName = Annotated[str, typer.Option("--judge", help="local, person, detector, or an OpenAI-compatible address.")]
JudgeModel = Annotated[
    str | None, typer.Option("--judge-model", help="The local judge's base, or the model's name at the address.")
]
JudgeAdapter = Annotated[str | None, typer.Option("--judge-adapter", help="Adapter of a local judge.")]
Annotator = Annotated[str, typer.Option("--annotator", help="Name of the person who judges.")]
Calibrations = Annotated[str, typer.Option("--calibrations", help="Folder where agreement with people is filed.")]


@app.command()
def calibrate(
    rows: Annotated[str, typer.Argument(help="Answers that people judged, or preference pairs.")],
    rubric: Annotated[str, typer.Option("--rubric", help="pair, grade, refusal, outcome, harm, or a .yaml file.")],
    judge: JudgeName = "local",
    judge_model: JudgeModel = None,
    judge_adapter: JudgeAdapter = None,
    model: ModelName = "smollm2-135m-instruct",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First rows of the file.")] = None,
    annotator: Annotator = "person",
    calibrations: Calibrations = "runs/judges",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask a judge what people were asked, and file how far it agrees under its settings.

    Example: tunesmith judge calibrate refusal.jsonl --rubric refusal --judge local
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.config import build_config
        from tunesmith.recipes.judge import CalibrateConfig, describe_calibration, run_calibrate

        settings = {
            "rows": rows, "rubric": rubric, "judge": judge, "judge_model": judge_model, "judge_adapter": judge_adapter,
            "model_name_or_path": model, "limit": limit, "annotator": annotator, "calibrations": calibrations,
        }  # fmt: skip
        config = build_config(CalibrateConfig, settings, place="command line")
        say = (lambda _: None) if as_json else typer.echo
        with keyboard_for(judge) as keyboard, row_bar() as bar:
            facts = run_calibrate(config, say, keyboard, lambda done, total: bar("judging", done, total))
        print_lines([json.dumps(facts)] if as_json else describe_calibration(facts))


@app.command()
def stats(
    verdicts: Annotated[str, typer.Argument(help="Rows of question_id, first, second and score, outcome or text.")],
    text_format: Annotated[
        str, typer.Option("--format", help="Form of a verdict in a text: letters, number or two-scores.")
    ] = "letters",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What recorded verdicts on pairs say: place preferred, agreement with itself, win rates.

    Example: tunesmith judge stats verdicts.jsonl --format number
    """
    with errors_in_one_paragraph(debug):
        from tunesmith.recipes.judge import describe_stats, run_stats

        facts = run_stats(verdicts, text_format)
        print_lines([json.dumps(facts)] if as_json else describe_stats(facts))


@contextmanager
def keyboard_for(judge: str) -> Iterator[Keyboard | None]:
    """The terminal's keys while a person judges; nothing for other judges."""
    if judge != "person":
        yield None
        return
    from tunesmith.cli.feedback_label import show_screen
    from tunesmith.cli.keys import keys
    from tunesmith.recipes.judge_open import Keyboard

    with keys() as read_key:
        yield Keyboard(read_key=read_key, show=show_screen)
