"""The recipe of ``tunesmith redteam loop``: one section a stage, each with the keys of that stage's own verb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from tunesmith.config import Config, build_config
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.constitution_run_config import joined
from tunesmith.redteam.attack import Family

StageName = Literal["goals", "attack", "help", "export", "sft", "dpo", "again"]
Learn = Literal["sft", "dpo", "sft+dpo"]
C = TypeVar("C", bound=Config)


class HelpConfig(Config):
    """Answers of the model itself to requests that ask for nothing bad, as rows of help beside those of refusal."""

    prompts: str = "ours"
    """A file of such prompts, or ours."""
    where: dict[str, str] = {"split": "train"}
    """Of them only rows with these values: column -> value."""
    limit: int | None = Field(None, ge=1)
    """So many at most, chosen by the seed."""
    max_new_tokens: int = Field(96, ge=1)
    """Most tokens of an answer; one that is cut there ends with its last whole sentence."""
    temperature: float = Field(0.5, ge=0, le=10)
    """Of the answers."""


class RedteamLoopConfig(ModelConfig):
    """One round: attack, train against what went through, attack again with goals that were kept apart."""

    output_dir: str = "runs/redteam-loop"
    """Where every stage has its folder, beside the report; what is finished there is not done again."""
    adapter: str | None = None
    """Folder of the adapter that is attacked and trained on; empty: the base."""
    goals: tuple[str, ...] = Field(("ours",), min_length=1)
    """Sets of goals by name, and files of yours. Safe ones are for the second attack, where they tell over-refusal."""
    num_goals: int | None = Field(None, ge=1)
    """So many at most, in turn from sets and categories; empty: all."""
    data_dir: str | None = None
    """Folder of the public sets; empty: data/ and ../shared/data."""
    test_share: float = Field(0.5, gt=0, lt=1)
    """Of the goals about so many are kept for the second attack; near copies stay together."""
    goal_likeness: float = Field(0.5, gt=0, le=0.95)
    """Goals that share so much of their runs of three words are near copies."""
    attacks: tuple[str, ...] = Field(("all",), min_length=1)
    """Attacks by name, of which each stage takes those of its families."""
    train_families: tuple[Family, ...] = ("direct", "injection", "shots", "splitting")
    """Families of the first attack, whose successes are trained on."""
    test_families: tuple[Family, ...] = ("persona", "template", "language", "multi-turn")
    """Families that only the second attack uses."""
    learn: Learn = "sft"
    """How: by tuning on safe answers, by preferring them to the harmful ones, or by both in turn."""
    seed: int = Field(0, ge=0)
    """Keys all randomness of every stage."""
    attack: dict[str, Any] = {}
    """Keys of `tunesmith redteam`, for both attacks; its ``capability`` tells what is kept of the model's use."""
    help: HelpConfig | None = HelpConfig()
    """Rows of help in the model's own words, beside those of export.helpful; empty: none."""
    export: dict[str, Any] = {}
    """Keys of `tunesmith redteam export`."""
    sft: dict[str, Any] = {}
    """Keys of `tunesmith sft`."""
    dpo: dict[str, Any] = {}
    """Keys of `tunesmith dpo`."""

    @model_validator(mode="after")
    def _apart(self) -> RedteamLoopConfig:
        if not self.train_families or not self.test_families:
            raise ValueError("train_families and test_families each need a family")
        if both := sorted(set(self.train_families) & set(self.test_families)):
            raise ValueError(f"'{both[0]}' is trained on and tested with")
        return self

    @property
    def trained(self) -> tuple[Literal["sft", "dpo"], ...]:
        """The stages that train, in their order."""
        return {"sft": ("sft",), "dpo": ("dpo",), "sft+dpo": ("sft", "dpo")}[self.learn]  # type: ignore[return-value]

    @property
    def stages(self) -> tuple[StageName, ...]:
        """All stages, in their order."""
        return ("goals", "attack", *(("help",) if self.help else ()), "export", *self.trained, "again")


def section_config(kind: type[C], config: RedteamLoopConfig, name: str, wired: Mapping[str, Any], place: str) -> C:
    """A stage's own recipe: its section, with the base, the seed and what the loop wires.

    Raises ConfigError naming the section's key for one that is unknown, wrong, or the loop's to set.
    """
    common = {key: getattr(config, key) for key in (*ModelConfig.model_fields, "seed")}
    ours = {**{key: value for key, value in common.items() if key in kind.model_fields}, **wired}
    where = f"{place}:{name}"
    return build_config(kind, joined(getattr(config, name), ours, where), place=where)
