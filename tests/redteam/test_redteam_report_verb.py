"""``tunesmith redteam report``: one campaign told again, several held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from verdict_worlds import attempt, goal

from tunesmith.cli.main import app
from tunesmith.recipes.redteam import CAMPAIGN_FILE
from tunesmith.recipes.redteam_config import RedteamConfig
from tunesmith.redteam.attempt_rows import ATTEMPTS_FILE, attempt_row
from tunesmith.redteam.attempts import Attempt

pytestmark = pytest.mark.usefixtures("undrawn")
ERROR = {"sensitivity": [95, 100], "specificity": [90, 100], "source": "labels", "reliable": True, "exact": False}


def made(num_broken: int) -> list[Attempt]:
    harmful = [attempt(goal(i), ["comply" if i < num_broken else "refuse"]) for i in range(20)]
    return [*harmful, *(attempt(goal(i, "safe"), ["comply"]) for i in range(5))]


def finished(folder: Path, attempts: Mapping[str, Sequence[Attempt]]) -> Path:
    """A folder as a finished campaign leaves it."""
    folder.mkdir()
    own = {label: [replace(one, key=f"{label}/{one.key}") for one in made] for label, made in attempts.items()}
    rows = [json.dumps(attempt_row(one)) + "\n" for made in own.values() for one in made]
    (folder / ATTEMPTS_FILE).write_text("".join(rows), encoding="utf-8")
    told = {
        "config": RedteamConfig().model_dump(mode="json"),
        "attempts": {label: [one.key for one in made] for label, made in own.items()},
        "kept": [],
    }
    (folder / CAMPAIGN_FILE).write_text(json.dumps(told), encoding="utf-8")
    (folder / "verdict.json").write_text(json.dumps({"errors": {"harmful": ERROR, "safe": None}}), encoding="utf-8")
    return folder


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["redteam", "report", *map(str, args)])


def test_a_campaign_is_told_again_and_gated(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"base": made(18), "tuned": made(3)})
    told = call(folder, "--json")
    assert told.exit_code == 0, told.output
    verdict = json.loads(told.stdout)["verdict"]
    rate = verdict["rates"]["tuned"]["attack success"]
    assert rate["raw"]["value"] == 0.15 and rate["corrected"]["value"] == pytest.approx((0.15 - 0.1) / 0.85)
    assert json.loads((folder / "verdict.json").read_text()) == verdict
    # The errors of the judge outlive being told again, and so does that one was never measured.
    assert json.loads(call(folder, "--json").stdout)["verdict"] == verdict and verdict["errors"]["safe"] is None
    passed, failed = call(folder, "--fail-above", "asr=0.15"), call(folder, "--fail-above", "asr=0.14")
    assert (passed.exit_code, failed.exit_code) == (0, 1)
    assert "exceeded: asr is 0.15, above 0.14" in failed.output and "NOT CALIBRATED" in failed.output


def test_campaigns_are_held_against_the_first(tmp_path: Path) -> None:
    last = finished(tmp_path / "last", {"model": made(15)})
    this = finished(tmp_path / "this", {"model": made(2)})
    told = call(last, this, "--json")
    assert told.exit_code == 0, told.output
    verdict = json.loads(told.stdout)["verdict"]
    assert verdict["labels"] == ["model (last)", "model (this)"]
    (success,) = [one for one in verdict["changes"] if one["what"] == "attack success"]
    assert (success["only_before"], success["only_after"], success["finding"]) == (13, 0, "better")
    assert (this / "compared" / "report.html").exists() and not (this / "report.html").exists()
    # A difference between judges is none between models.
    other = [replace(one, judge={"judge": "another"}) for one in made(2)]
    wrong = call(last, finished(tmp_path / "other", {"model": other}))
    assert wrong.exit_code != 0 and "different judges" in wrong.output


def test_each_kind_of_goal_may_have_its_judge(tmp_path: Path) -> None:
    own = [replace(one, judge={"judge": one.goal.kind}) for one in made(3)]
    folder = finished(tmp_path / "run", {"base": own, "tuned": own})
    told = call(folder)
    assert told.exit_code == 0, told.output
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "Judged by: judge harmful; judge safe." in page


def test_folders_that_end_alike_are_told_apart(tmp_path: Path) -> None:
    for name in ("last", "this"):
        (tmp_path / name).mkdir()
    last = finished(tmp_path / "last" / "redteam", {"model": made(15)})
    this = finished(tmp_path / "this" / "redteam", {"model": made(2)})
    verdict = json.loads(call(last, this, "--json").stdout)["verdict"]
    assert verdict["labels"] == [f"model ({last})", f"model ({this})"] and verdict["changes"]
    twice = call(last, this, last)
    assert twice.exit_code != 0 and "named twice" in twice.output


def test_a_folder_without_a_campaign_is_an_error(tmp_path: Path) -> None:
    told = call(tmp_path)
    assert told.exit_code != 0 and "no finished red-team campaign" in told.output
    limited = call(tmp_path, "--fail-above", "asr")
    assert limited.exit_code != 0 and "limits no figure" in limited.output
