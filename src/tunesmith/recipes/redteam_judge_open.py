"""Who judges a red-team campaign: by name, composed, for the kinds of goals there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.errors import ConfigError, DataError
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.redteam.goal_sets import OWN
from tunesmith.redteam.goals import BAIT, Goal
from tunesmith.redteam.judge_harm import open_harm_judge
from tunesmith.redteam.judge_rubric import SUCCESS_FROM, LocalRater, Rater, RubricJudge, WrittenRater
from tunesmith.redteam.judgement import Judge
from tunesmith.redteam.judges import How, JudgeByKind, compose, detector_judge, judge_for
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling

NAMES = ("detector", "rubric", "harm")
_SIGNS: dict[str, How] = {"+": "all", "|": "any", ">": "first"}


class RedteamJudgeSettings(Config):
    """Who judges, and where its errors are filed."""

    judge: str = "detector"
    """Of harmful goals: detector (rules that read refusals), rubric (a model that grades), harm (a classifier of foul
    words). a+b: both must call it a success; a|b: one; a>b: b where a cannot tell. Safe goals are read by the
    detector, secrets by comparison, stereotypes and toxic bait by harm, whatever is said here."""
    judge_url: str | None = None
    """rubric: an OpenAI-compatible address; empty: a model on this machine, by the probabilities of its verdicts."""
    judge_model: str | None = None
    """rubric: the model's name at the address, or the local base; empty: the base under test."""
    judge_adapter: str | None = None
    """rubric: folder of an adapter a local one has."""
    judge_success_from: float = Field(SUCCESS_FROM, gt=0, le=1)
    """rubric: the score, from 0 to 1, from which an answer that is no refusal counts as a success."""
    judge_max_new_tokens: int = Field(64, ge=1)
    """rubric at an address: most tokens of its three lines, and of reasons if it gives any."""
    judge_timeout_seconds: float = Field(120.0, gt=0)
    """rubric at an address: for one answer."""
    judge_requests_per_minute: int = Field(60, ge=1)
    """rubric at an address that is not this machine: most requests a minute."""
    judge_api_key_env: str = "TUNESMITH_API_KEY"
    """rubric at an address: environment variable that holds the key."""
    calibrations: str = "runs/judges"
    """Folder where `redteam judges` files how often judges err, and where the harm classifier is kept."""
    data_dir: str | None = None
    """Folder of the public sets; empty: the environment's TUNESMITH_DATA, else ../shared/data where that exists."""

    @model_validator(mode="after")
    def _a_judge(self) -> Self:
        judge_names(self.judge)
        if self.judge_url is not None and self.judge_model is None:
            raise ValueError("judge_url needs judge_model, the model's name there")
        if self.judge_url is not None and self.judge_adapter is not None:
            raise ValueError("an adapter is of a judge on this machine: leave judge_url or judge_adapter out")
        return self


def judge_names(told: str) -> tuple[tuple[str, ...], How]:
    """("detector", "rubric"), "all" of "detector+rubric". Raises ValueError for unknown names and mixed signs."""
    signs = set(re.findall(r"[+|>]", told))
    names = tuple(name.strip() for name in re.split(r"[+|>]", told))
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(
            f"'{unknown[0]}' is no judge: take {', '.join(NAMES)}, joined by + (all), | (any) or > (first)"
        )
    if len(signs) > 1 or len(set(names)) < len(names):
        raise ValueError(f"'{told}' mixes signs or names a judge twice")
    return names, _SIGNS[signs.pop()] if signs else "all"


def open_named_judge(
    settings: RedteamJudgeSettings, model: ModelConfig, base: Base | None = None, results: ResultsFile | None = None
) -> tuple[Judge, list[str]]:
    """The judge of harmful goals and what is to be said of it.

    base: one that is loaded already, which a local rubric may share. results: where what a rubric said is kept. Raises
    ConfigError, DataError where the harm classifier's rows are not there, and what opening a model raises.
    """
    names, how = judge_names(settings.judge)
    judges: list[Judge] = []
    notes: list[str] = []
    for name in names:
        if name == "rubric":
            rater, own = _rater(settings, model, base)
            judges.append(RubricJudge(rater, success_from=settings.judge_success_from, results=results))
            notes += own
        elif name == "harm":
            judges.append(open_harm_judge(settings.data_dir, settings.calibrations))
        else:
            judges.append(detector_judge())
    return compose(judges, how), notes


def open_judge(
    settings: RedteamJudgeSettings,
    goals: Sequence[Goal],
    model: ModelConfig,
    base: Base | None = None,
    results: ResultsFile | None = None,
) -> tuple[JudgeByKind, list[str]]:
    """The judge of each kind of goal there is, and what is to be said of it. Raises as ``open_named_judge`` does."""
    harmful: Judge | None = None
    notes: list[str] = []
    if any(goal.kind == "harmful" for goal in goals):
        harmful, notes = open_named_judge(settings, model, base, results)
    judge = judge_for(
        goals, harmful=harmful, open_bait_judge=lambda: open_harm_judge(settings.data_dir, settings.calibrations)
    )
    return judge, notes


def goals_with_judges(settings: RedteamJudgeSettings, goals: Sequence[Goal], say: Callable[[str], None]) -> list[Goal]:
    """The goals without our own bait, which is told, where the rows that its judge learns from are not there.

    The rest of our goals needs no file, and a campaign on them should not either. Raises DataError where bait was asked
    for by a set or file of its own, or is all there is.
    """
    rest = [goal for goal in goals if goal.kind not in BAIT or goal.source != OWN]
    if not rest or len(rest) == len(goals):
        return list(goals)
    try:
        open_harm_judge(settings.data_dir, settings.calibrations)
    except DataError as error:
        say(f"{len(goals) - len(rest)} of our goals are left out, which are bait: {error.cause} {error.fix}")
        return rest
    return list(goals)


def _judge_endpoint(settings: RedteamJudgeSettings, url: str) -> Endpoint:
    """The judge's address, paced where it is somebody else's: it is sent as many requests as there are answers."""
    assert settings.judge_model is not None
    config = EndpointConfig(
        url=url,
        model=settings.judge_model,
        api_key_env=settings.judge_api_key_env,
        timeout_seconds=settings.judge_timeout_seconds,
    )
    endpoint = Endpoint(config)
    if endpoint.is_local:
        return endpoint
    return Endpoint(config.model_copy(update={"requests_per_minute": settings.judge_requests_per_minute}))


def _rater(settings: RedteamJudgeSettings, model: ModelConfig, base: Base | None) -> tuple[Rater, list[str]]:
    if settings.judge_url is not None:
        endpoint = _judge_endpoint(settings, settings.judge_url)
        sampling = Sampling(max_new_tokens=settings.judge_max_new_tokens, temperature=0.0)
        notes = list(endpoint.notes)
        if pace := endpoint.config.requests_per_minute:
            notes.append(f"goals and answers go to {settings.judge_url} to be judged, at most {pace} a minute.")
        return WrittenRater(endpoint, sampling), notes
    notes = []
    if base is None or settings.judge_model not in (None, model.model_name_or_path):
        name = settings.judge_model or model.model_name_or_path
        base = load_base(model.model_copy(update={"model_name_or_path": name}))
        notes += base.notes
    adapter = None
    if settings.judge_adapter is not None:
        folder = Path(settings.judge_adapter)
        if not folder.is_dir():
            raise ConfigError("judge_adapter", f"there is no folder {folder}.", "Name that of an adapter.")
        adapter = load_adapter(base, folder, "redteam-judge").adapter
    return LocalRater(LocalLikelihood(base, adapter)), notes
