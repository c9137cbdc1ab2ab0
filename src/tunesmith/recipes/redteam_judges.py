"""Red-team judges as instruments: how often each errs on answers that people labelled, filed under its settings.

Read top to bottom: open, measure, file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tunesmith.evals.judge_agreement import file_agreement
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.recipes.redteam_judge_open import RedteamJudgeSettings, judge_names, open_named_judge
from tunesmith.redteam.judge_errors import JudgeError, LabelledCases, judge_digest, measure_judge
from tunesmith.redteam.judge_harm import HarmJudge
from tunesmith.redteam.judge_rows import answer_sets, some_cases, text_sets
from tunesmith.redteam.judgement import Judge
from tunesmith.rollout.results import ResultsFile
from tunesmith.runs import hold_file, machine_summary

SAID_FILE = "rubric.jsonl"
Progress = Callable[[str, int, int], None]


class RedteamJudgesConfig(ModelConfig, RedteamJudgeSettings):
    """What ``tunesmith redteam judges`` can be told."""

    judges: tuple[str, ...] = ("detector", "harm")
    """Each as ``judge`` of a campaign names it."""
    sources: tuple[str, ...] = ()
    """Only sets whose names begin with one of these; empty: all a judge can be asked."""
    limit: int | None = Field(None, ge=1)
    """So many answers of each set at most, drawn by ``seed``; empty: all."""
    seed: int = 0
    """Draws the answers under a limit."""

    @model_validator(mode="after")
    def _known(self) -> RedteamJudgesConfig:
        if not self.judges:
            raise ValueError("name a judge")
        for told in self.judges:
            judge_names(told)
        return self


def run_redteam_judges(
    config: RedteamJudgesConfig,
    say: Callable[[str], None],
    on_progress: Progress = lambda what, done, total: None,
    *,
    base: Base | None = None,
) -> dict[str, Any]:
    """Have each judge read what people labelled and file how often it errs; returns what ``--json`` prints.

    What a rubric's model said is kept, so that a run that was stopped goes on. Raises DataError for missing rows.
    """
    began = time.perf_counter()
    folder = Path(config.calibrations)
    sets = answer_sets(config.data_dir)
    results = ResultsFile(folder / SAID_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    told: list[dict[str, Any]] = []
    if base is None and config.judge_url is None and any("rubric" in one for one in config.judges):
        base = load_base(
            config.model_copy(update={"model_name_or_path": config.judge_model or config.model_name_or_path})
        )
        for note in base.notes:
            say(note)
    with hold_file(results.path):
        for name in config.judges:
            judge, notes = open_named_judge(config.model_copy(update={"judge": name}), config, base, results)
            for note in notes:
                say(note)
            own = sets
            if isinstance(judge, HarmJudge):
                # What it tells is no matter of what was asked for.
                own = [*(one for one in sets if one.question == "harm"), *text_sets(config.data_dir)]
            told.append(_measured(name, judge, own, config, on_progress))
    return {"judges": told, "machine": machine_summary(), "seconds": round(time.perf_counter() - began, 1)}


def _measured(
    name: str, judge: Judge, sets: Sequence[LabelledCases], config: RedteamJudgesConfig, on_progress: Progress
) -> dict[str, Any]:
    errors, file = [], None
    digest, identity = judge_digest(judge), dict(judge.identity)
    for labelled in sets:
        if config.sources and not labelled.source.startswith(config.sources):
            continue
        cases = some_cases(labelled, config.limit, config.seed)
        error = measure_judge(judge, cases, partial(on_progress, f"{name}: {labelled.source}"))
        file = file_agreement(Path(config.calibrations), digest, identity, error.rows, error.as_dict())
        errors.append(error)
    return {
        "name": name,
        "identity": identity,
        "digest": digest,
        "file": None if file is None else str(file),
        "measured": [_told(error) for error in errors],
    }


def _told(error: JudgeError) -> dict[str, Any]:
    return {**error.as_dict(), "reliable": error.reliable, "usable": error.usable}


def describe_redteam_judges(facts: dict[str, Any]) -> list[str]:
    """What a terminal shows."""
    lines = []
    for judge in facts["judges"]:
        lines.append(f"{judge['name']} ({judge['identity']['judge']}):")
        for one in judge["measured"]:
            doubt = "" if one["reliable"] else " - not reliable" if one["usable"] else " - no better than chance"
            unread = f", {one['unread']} unread" if one["unread"] else ""
            auc = f"; AUC {one['auc'][0]:.3f}" if one["auc"] else ""
            lines.append(f"  {one['source']} ({one['part']}), {one['num']} answers{unread}: {one['main']}{auc}{doubt}")
        lines.append(f"  filed in {judge['file']}" if judge["file"] else "  no set has a name like that")
    return [*lines, f"{facts['seconds']} s; next: tunesmith redteam --judge {facts['judges'][0]['name']}"]
