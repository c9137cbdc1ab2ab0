"""The keys of ``tunesmith constitution label``, and what it is come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.constitution.label import LabelRules
from tunesmith.constitution.principles import OURS
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.constitution_judges import CONTROLS, EACH
from tunesmith.recipes.feedback_slots import SampleConfig
from tunesmith.recipes.judge_open import LOCAL, JudgeSettings

SUMMARY_FILE = "summary.json"


class LabelConfig(ModelConfig, SampleConfig, JudgeSettings, LabelRules):
    """What ``tunesmith constitution label`` can be told."""

    judge: str = LOCAL
    """local: a model on this machine that compares the two, by the probabilities of its verdict tokens; each: the same
    model, asked of each answer by itself; an OpenAI-compatible address; or a control: random, first, length."""
    constitution: str = Field(OURS, min_length=1)
    """A constitution's file, or ours."""
    harmless: str | None = Field(None, min_length=1)
    """Prompts that ask for nothing bad, as far as they are among those above. Where of two answers to one of them one
    declines, the other is better: the refusal detector tells, and the judge is not asked."""
    adapters: tuple[str, ...] = ()
    """Folders of adapters that draw candidates in turn on one base; none is the bare base. Empty: the base alone."""
    num_candidates: int = Field(2, ge=2, le=26)
    """Candidates drawn for a prompt of which the store has no two that can be compared."""
    limit: int | None = Field(None, ge=1)
    """First prompts of the file; empty: all."""
    draw: bool = True
    """Draw candidates where they lack; false leaves such prompts out and counts them."""
    demonstrations: int = Field(0, ge=0, le=16)
    """Demonstrations of a principle that are put before each question, as far as it has them: its answer against its
    revision, places in turn."""
    output_dir: str | None = None
    """Folder for summary.json; empty: it is put beside the store, under its name."""

    @field_validator("judge")
    @classmethod
    def _known(cls, judge: str) -> str:
        if judge not in (LOCAL, EACH, *CONTROLS) and not judge.startswith(("http://", "https://")):
            raise ValueError(f"is local, each, {', '.join(CONTROLS)}, or an address such as http://localhost:8000/v1")
        return judge

    @model_validator(mode="after")
    def _a_judge(self) -> Self:
        if self.judge not in (LOCAL, EACH, *CONTROLS) and self.judge_model is None:
            raise ValueError("an address needs judge_model, the model's name there")
        return self

    @property
    def summary_file(self) -> Path:
        """Where the facts go."""
        store = Path(self.store).expanduser()
        return Path(self.output_dir) / SUMMARY_FILE if self.output_dir else store.with_name(f"{store.name}.labels.json")


def labels_file(store: Path) -> Path:
    """Where a judge's words on a store's pairs are kept, log-probabilities of both orders included."""
    return store.with_name(f"{store.name}.labels.jsonl")


@dataclass(slots=True, kw_only=True)
class Labelled:
    """What a job has come to; facts: plain values for --json and summary.json."""

    facts: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    planned: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.facts, "interrupted": self.interrupted}
