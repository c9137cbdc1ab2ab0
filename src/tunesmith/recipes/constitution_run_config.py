"""The recipe of ``tunesmith constitution run``: one section a stage, each with the keys of that stage's own verb.

What the run itself wires together (folders, the files that pass from stage to stage, the base, the seed) cannot be set
in a section: two ways to say it would be one too many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from tunesmith.config import Config, build_config
from tunesmith.errors import ConfigError
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.constitution_evaluate_config import ConstitutionEvaluateConfig
from tunesmith.recipes.constitution_run_prompts import RunPromptsConfig

StageName = Literal["prompts", "helpful", "revise", "sft", "label", "prefer", "reward", "dpo", "ppo", "evaluate"]
Align = Literal["dpo", "ppo", "none"]
# The stages of a run that aligns by this, in their order.
CHAINS: Mapping[Align, tuple[StageName, ...]] = {
    "none": ("prompts", "helpful", "revise", "sft", "evaluate"),
    "dpo": ("prompts", "helpful", "revise", "sft", "label", "prefer", "dpo", "evaluate"),
    "ppo": ("prompts", "helpful", "revise", "sft", "label", "prefer", "reward", "ppo", "evaluate"),
}
# Stages that leave an adapter; without one, what follows starts from the adapter before it.
TRAINS = ("helpful", "sft", "dpo", "ppo")
C = TypeVar("C", bound=Config)


class ConstitutionRunConfig(ModelConfig):
    """Constitutional AI from end to end (arXiv:2212.08073): which stages, and what each is told."""

    output_dir: str = "runs/constitution"
    """Where every stage has its folder, beside the report; what is finished there is not done again."""
    constitution: str = "ours"
    """A constitution's file, or ours."""
    align: Align = "dpo"
    """How the judge's preferences are learnt: dpo; ppo, against a reward model trained on them; none: not at all."""
    skip: tuple[StageName, ...] = ()
    """Stages to leave out. Of one that trains, what follows starts from the adapter before it; of another, what an
    earlier run left in its folder is taken as it is."""
    seed: int = Field(0, ge=0)
    """Keys all randomness of every stage."""
    prompts: RunPromptsConfig | None = None
    """What is learnt from: prompts of both kinds, none that is measured."""
    helpful: dict[str, Any] = {}
    """Keys of `tunesmith sft`: tuning on helpful rows before anything else."""
    revise: dict[str, Any] = {}
    """Keys of `tunesmith constitution revise`: the supervised phase's rows."""
    sft: dict[str, Any] = {}
    """Keys of `tunesmith sft`: tuning on those rows, going on from the helpful adapter where there is one."""
    label: dict[str, Any] = {}
    """Keys of `tunesmith constitution label`: the AI-feedback phase's judgements."""
    prefer: dict[str, Any] = {}
    """Keys of `tunesmith feedback prefer`: judgements into pairs."""
    reward: dict[str, Any] = {}
    """Keys of `tunesmith reward`; for ppo."""
    dpo: dict[str, Any] = {}
    """Keys of `tunesmith dpo`."""
    ppo: dict[str, Any] = {}
    """Keys of `tunesmith ppo`."""
    evaluate: ConstitutionEvaluateConfig = ConstitutionEvaluateConfig()
    """What is measured before and after."""
    mixing_shares: tuple[float, ...] = ()
    """Shares of helpful rows at which the sft stage is trained and measured besides: the curve of harmful compliance
    against over-refusal."""
    controls: tuple[Literal["random", "always-refuse"], ...] = ()
    """Critics that read nothing, with which revise and sft are done and measured besides."""

    @model_validator(mode="after")
    def _shares_and_stages(self) -> ConstitutionRunConfig:
        if bad := [share for share in self.mixing_shares if not 0 <= share < 1]:
            raise ValueError(f"a mixing share is from 0 to below 1, not {bad[0]:g}")
        if len(set(self.mixing_shares)) < len(self.mixing_shares):
            raise ValueError("a mixing share is named twice")
        if (self.mixing_shares or self.controls) and {"revise", "sft", "evaluate"} & set(self.skip):
            raise ValueError("mixing_shares and controls train and measure: revise, sft and evaluate cannot be skipped")
        if self.mixing_shares and "helpful_rows" not in self.revise:
            raise ValueError("mixing_shares mixes helpful rows: set revise.helpful_rows and revise.helpful_share")
        return self

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages that run, in their order."""
        return tuple(name for name in CHAINS[self.align] if name not in self.skip)


def stage_config(
    kind: type[C], config: ConstitutionRunConfig, stage: StageName, wired: Mapping[str, Any], place: str
) -> C:
    """A stage's own recipe: its section, with the base, the seed and what the run wires.

    Raises ConfigError naming the section's key for one that is unknown, wrong, or the run's to set.
    """
    section = getattr(config, stage)
    common = {name: getattr(config, name) for name in (*ModelConfig.model_fields, "seed")}
    ours = {**{name: value for name, value in common.items() if name in kind.model_fields}, **wired}
    where = f"{place}:{stage}"
    return build_config(kind, joined(section, ours, where), place=where)


def joined(section: Mapping[str, Any], wired: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Both trees as one; groups are joined key by key. Raises ConfigError where both say something."""
    out = dict(section)
    for key, value in wired.items():
        if isinstance(value, Mapping) and isinstance(out.get(key, {}), Mapping):
            out[key] = joined(out.get(key, {}), value, f"{place}.{key}")
        elif key in out:
            raise ConfigError(f"{place}.{key}", "is set by the run itself.", "Remove it from the section.")
        else:
            out[key] = value
    return out
