"""Everything of a reward model up to its first step: read, load, render, plan memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tunesmith.data.preferences import LoadedPreferences, PreferenceDataConfig, load_preferences
from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter
from tunesmith.models.budget import Budget, decide
from tunesmith.models.heads import add_head
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base, Role
from tunesmith.records import PreferenceGroup
from tunesmith.tokens.forest import num_forest_tokens
from tunesmith.tokens.preference import GroupReport, RenderedGroup, render_groups
from tunesmith.tokens.render import RenderConfig
from tunesmith.training.distribute import World, from_environment
from tunesmith.training.reward_step import LossType, RewardLoss
from tunesmith.training.schedule import TrainConfig, examples_of_step, num_steps_of

ROLE_NAME = "reward"


class RewardConfig(ModelConfig, RenderConfig, TrainConfig):
    """The whole recipe of ``tunesmith reward``."""

    data: PreferenceDataConfig
    """Where the judged answers are and how they are read."""
    adapter: AdapterConfig = AdapterConfig()
    """The LoRA matrices under the scalar head."""
    adapter_path: str | None = Field(None, min_length=1)
    """Folder of the adapter to start from, such as that of an SFT run; empty: a fresh one. Its own rank and targets
    hold, not ``adapter``."""
    loss_type: LossType = "pairwise"
    """pairwise: every pair counts alike; ranking: every prompt does, however many answers it has; rating: regression
    on the grades. An answer is computed once in all of them."""
    center_rewards_coefficient: float = Field(0.0, ge=0)
    """Weight of the mean squared sum of a pair's two rewards, which keeps rewards near 0 (arXiv:2312.09244)."""
    micro_batch_tokens: int = Field(512, ge=64)
    """Most tokens in memory at once, which never changes the step. Less than in SFT: a step here holds few prompts, and
    on the CPU half the tokens cost 7 % of the speed and save a quarter of the memory (bench/LOG.md)."""
    output_dir: str = "runs/reward"
    """Where the run is written; a folder in use is refused."""

    @model_validator(mode="after")
    def _one_start(self) -> RewardConfig:
        if self.adapter.method == "full":
            raise ValueError("a reward model trains an adapter; adapter.method full is none")
        if self.adapter_path is not None and "adapter" in self.model_fields_set:
            raise ValueError("adapter_path brings its own settings; remove 'adapter'")
        if self.loss_type == "rating" and self.center_rewards_coefficient:
            raise ValueError("grades fix the level of the rewards; set center_rewards_coefficient: 0")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedReward:
    """Everything that is known before the first step."""

    config: RewardConfig
    base: Base
    role: Role
    data: LoadedPreferences
    train: list[RenderedGroup]
    valid: list[RenderedGroup]
    reports: dict[str, GroupReport]
    loss: RewardLoss
    start_digest: str
    budget: Budget
    num_steps: int
    world: World

    def groups(self, step: int) -> list[RenderedGroup]:
        """This rank's prompts of one step."""
        return [self.train[i] for i in examples_of_step(self.config, len(self.train), self.world, step)]

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resume to continue the same run."""
        free = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
        resolved = self.base.resolved
        return {
            **self.config.model_dump(mode="json", exclude=free | {"logging_steps", "report_to"}),
            "data_digest": self.data.digest,
            "base_digest": self.base.digest,
            "tokenizer_digest": resolved.tokenizer_digest,
            "template_digest": resolved.template_digest,
            "start_digest": self.start_digest,
        }


def prepare_reward(config: RewardConfig, base: Base | None = None, dtype: str | None = None) -> PreparedReward:
    """Read, check, load, render and plan. A base already in memory is shared.

    dtype: what an earlier part of the run decided on, where the recipe leaves it open.
    """
    world = from_environment(config.device)
    data = load_preferences(config.data, config.seed, needs="grades" if config.loss_type == "rating" else "pairs")
    if base is None:
        base = load_base(config.model_copy(update={"device": world.device, "dtype": dtype or config.dtype}))
    if base.is_encoder_decoder:
        raise ModelError(base.resolved.name, "an encoder-decoder model cannot be a reward model.", "Take a causal one.")
    role = start_role(base, config)
    reports: dict[str, GroupReport] = {}
    sides = {
        name: _render(groups, name, base, role, config, reports)
        for name, groups in (("train", data.train), ("validation", data.validation))
    }
    if not sides["train"]:
        raise ConfigError("loss_type", f"{config.loss_type} finds nothing to learn in {config.data.train}.",
                          "Choose another loss_type, or raise max_length.")  # fmt: skip
    grades = [rating for group in sides["train"] for rating in group.ratings if rating is not None]
    budget = decide(
        base,
        role,
        micro_batch_tokens=config.micro_batch_tokens,
        longest_tokens=max(num_forest_tokens(group.examples) for side in sides.values() for group in side),
        checkpointing=None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing,
    )
    return PreparedReward(
        config=config,
        base=base,
        role=role,
        data=data,
        train=sides["train"],
        valid=sides["validation"],
        reports=reports,
        loss=RewardLoss(
            kind=config.loss_type,
            center_coefficient=config.center_rewards_coefficient,
            mean_grade=sum(grades) / len(grades) if config.loss_type == "rating" else 0.0,
        ),
        start_digest=adapter_digest(base, role.adapter),
        budget=budget,
        num_steps=num_steps_of(config, len(sides["train"]), world),
        world=world,
    )


def start_role(base: Base, config: RewardConfig) -> Role:
    """The role to train: a fresh adapter, or a copy of the one to start from, with a head on it."""
    if config.adapter_path is None:
        role = add_adapter(base, ROLE_NAME, config.adapter, config.seed)
    else:
        role = load_adapter(base, Path(config.adapter_path), ROLE_NAME, trainable=True)
    return role if role.head is not None else add_head(base, role, config.seed)


def _render(
    groups: Sequence[PreferenceGroup],
    side: str,
    base: Base,
    role: Role,
    config: RewardConfig,
    reports: dict[str, GroupReport],
) -> list[RenderedGroup]:
    """The tokens of one side; prompts in which the loss finds nothing are counted as dropped."""
    if not groups:
        return []
    context = base.context_tokens_of(role.adapter)
    limit = min(config.max_length or context, context)
    rendered, report = render_groups(groups, base.tokenizer_of(role.adapter), config, max_tokens=limit)
    loss = RewardLoss(kind=config.loss_type)
    kept = [group for group in rendered if loss.weight(group) > 0]
    report.groups_dropped += len(rendered) - len(kept)
    reports[side] = report
    return kept
