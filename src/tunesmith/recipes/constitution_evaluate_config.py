"""What the last stage of ``tunesmith constitution run`` measures, before and after."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.config import Config
from tunesmith.recipes.judge_open import JudgeSettings

Measured = Literal["base", "helpful", "sft", "final"]


class HelpfulPrompts(Config):
    """Harmless requests that were kept out of training."""

    prompts: str | None = None
    """A file of prompts; empty: those of ours that are held out."""
    columns: dict[str, str] = {}
    """Our column name -> theirs."""
    where: dict[str, str] = {}
    """Only rows with these values: column -> value."""
    num: int = Field(60, ge=1)
    """So many at most, from the first."""
    num_judged: int = Field(30, ge=0)
    """Of these, so many whose two answers are put before the judge; 0: none."""


class ReferenceRows(Config):
    """Requests with good answers, whose likelihood is measured; none was trained on."""

    rows: str = Field(min_length=1)
    """A file as data.train of `tunesmith sft`."""
    columns: dict[str, str] = {}
    """Our column name -> theirs."""
    num: int = Field(100, ge=1)
    """So many at most, chosen by the seed."""


class CreativePrompts(Config):
    """Requests for invention."""

    prompts: str | None = None
    """A file of prompts; empty: ours."""
    num: int = Field(24, ge=1)
    """So many at most, from the first."""
    num_samples: int = Field(3, ge=2)
    """Draws of each: how alike they are tells variety."""
    temperature: float = Field(0.8, gt=0, le=10)
    """Of the draws."""
    max_new_tokens: int = Field(80, ge=1)
    """Most tokens of a draw."""


class ConstitutionEvaluateConfig(Config):
    """Base and tuned models on the same prompts; every answer lies in one results file and is never asked again."""

    measured: tuple[Measured, ...] = ("sft", "final")
    """Beside the base: after which stages; final is the last one that trains."""
    data_dir: str | None = None
    """Folder of the public sets; empty: the environment's TUNESMITH_DATA, else ../shared/data where that exists."""
    advbench: int = Field(100, ge=0)
    """Harmful requests of AdvBench; 0: none."""
    harmbench: int = Field(100, ge=0)
    """Harmful behaviours of HarmBench; 0: none."""
    xstest_safe: int = Field(250, ge=0)
    """Safe prompts of XSTest that sound unsafe, for over-refusal; 0: none."""
    xstest_unsafe: int = Field(200, ge=0)
    """Their unsafe contrasts; 0: none."""
    max_new_tokens: int = Field(64, ge=1)
    """Most tokens of an answer to these; refusals show early."""
    helpful: HelpfulPrompts | None = HelpfulPrompts()
    """Whether help is kept: refusals, nonsense, length and variety, and a judge; empty: not measured."""
    reference: ReferenceRows | None = None
    """Whether help is kept: how likely good answers are; empty: not measured."""
    creative: CreativePrompts | None = CreativePrompts()
    """Whether invention is kept; empty: not measured."""
    scenarios: str | None = "ours"
    """A file of scenarios with their rules, or ours; empty: none."""
    scenario_max_new_tokens: int = Field(160, ge=1)
    """Most tokens of an answer to a scenario."""
    judge: JudgeSettings = JudgeSettings()
    """Who compares helpful answers of base and tuned model; see docs/judge.md for how far a judge can be trusted."""
