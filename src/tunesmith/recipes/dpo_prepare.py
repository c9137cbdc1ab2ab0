"""Everything up to the first step of preference tuning: read, group, load, render, score under the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from tunesmith.data.preferences import LoadedPreferences, PreferenceDataConfig, load_preferences
from tunesmith.errors import ConfigError
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter
from tunesmith.models.budget import Budget, decide
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base, Role
from tunesmith.records import Example, PreferenceGroup
from tunesmith.tokens.forest import num_forest_tokens
from tunesmith.tokens.preference import GroupReport, RenderedGroup, render_groups
from tunesmith.tokens.render import RenderConfig
from tunesmith.tokens.unpaired import UnpairedGroup, unpair
from tunesmith.training.distribute import World, from_environment
from tunesmith.training.preference import Group, Model, PreferenceLossConfig, Reference
from tunesmith.training.reference_scores import reference_scores
from tunesmith.training.schedule import TrainConfig, examples_of_step, num_steps_of

POLICY_NAME = "policy"


class DPOConfig(ModelConfig, RenderConfig, TrainConfig, PreferenceLossConfig):
    """The whole recipe of ``tunesmith dpo``."""

    data: PreferenceDataConfig
    """Where the judged answers are and how they are read."""
    adapter_name_or_path: str | None = None
    """An adapter to start from, such as an SFT run's folder; as it is before the first step it is the reference.
    Empty: a fresh adapter, and the bare base is the reference (with virtual tokens: as they begin)."""
    adapter: AdapterConfig = AdapterConfig()
    """What is trained where no adapter is started from."""
    cache_reference: bool = True
    """Keep the reference's scores in the cache folder, so that the next run need not compute them anew."""
    output_dir: str = "runs/dpo"
    """Where the run is written; a folder in use is refused."""
    learning_rate: float = Field(2e-5, gt=0, le=1)
    """Peak learning rate; preferences want a tenth of supervised tuning's, or less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Training or validation: groups and what the reference says of each, by the same index."""

    groups: Sequence[Group]
    references: list[Reference]

    def take(self, indices: Sequence[int]) -> tuple[Sequence[Group], list[Reference]]:
        """Some of the groups with their references."""
        return [self.groups[i] for i in indices], [self.references[i] for i in indices]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that is known before the first step. verdicts_even: answers left out of KTO, nobody's verdict won."""

    config: DPOConfig
    base: Base
    role: Role
    data: LoadedPreferences
    train: Side
    valid: Side | None
    train_report: GroupReport
    verdicts_even: int
    reference_digest: str
    budget: Budget
    num_steps: int
    world: World

    def indices(self, step: int) -> list[int]:
        """This rank's groups of one step."""
        return examples_of_step(self.config, len(self.train.groups), self.world, step)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resume to continue the same run."""
        free = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
        free |= {"logging_steps", "report_to", "cache_reference", "adapter_name_or_path"}
        resolved = self.base.resolved
        return {
            **self.config.model_dump(mode="json", exclude=free),
            "data_digest": self.data.digest,
            "base_digest": self.base.digest,
            "reference_digest": self.reference_digest,
            "tokenizer_digest": resolved.tokenizer_digest,
            "template_digest": resolved.template_digest,
        }

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        report = {name: getattr(self.train_report, name) for name in GroupReport.__slots__}
        return {
            "data": self.data.summary(),
            "rendered": {**report, "answers_without_a_clear_verdict": self.verdicts_even},
            "reference_digest": self.reference_digest,
            "budget": self.budget.as_dict(),
        }


def prepare(config: DPOConfig, base: Base | None = None, dtype: str | None = None) -> Prepared:
    """Read, load, render, plan and score under the reference. A base already in memory is shared.

    dtype: what an earlier part of the run decided on, where the recipe leaves it open.
    """
    world = from_environment(config.device)
    kto = config.loss_type == "kto"
    data = load_preferences(config.data, config.seed, needs="any" if kto else "pairs")
    if kto and data.shape in ("rating", "ranking"):
        raise ConfigError("loss_type", f"kto wants good or bad, and the rows are {data.shape}s.", "Use sigmoid.")
    if base is None:
        base = load_base(config.model_copy(update={"device": world.device, "dtype": dtype or config.dtype}))
    if base.is_encoder_decoder:
        raise ConfigError("model_name_or_path", "an encoder-decoder model has no shared prompt.", "Use a causal one.")
    role = _policy(base, config)
    context = base.context_tokens_of(role.adapter)
    limit = min(config.max_length or context, context)
    tokenizer = base.tokenizer_of(role.adapter)
    train_groups, report = render_groups(data.train, tokenizer, config, max_tokens=limit)
    train, even = _judged(train_groups, config, limit)
    valid = _judged(_rendered(data.validation, tokenizer, config, limit), config, limit)[0] if data.validation else None
    longest = max(num_forest_tokens(_scored_examples(group)) for group in [*train, *(valid or [])])
    budget = decide(
        base,
        role,
        micro_batch_tokens=config.micro_batch_tokens,
        longest_tokens=longest,
        checkpointing=None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing,
        each_token=bool(base.token_rows),
    )
    num_steps = num_steps_of(config, len(train), world)
    reference = Model(base=base, role=role, micro_batch_tokens=budget.micro_batch_tokens)
    return Prepared(
        config=config,
        base=base,
        role=role,
        data=data,
        train=_with_references(reference, train, config, world),
        valid=None if valid is None else _with_references(reference, valid, config, world),
        train_report=report,
        verdicts_even=even,
        reference_digest=adapter_digest(base, role.adapter),
        budget=budget,
        num_steps=num_steps,
        world=world,
    )


def _policy(base: Base, config: DPOConfig) -> Role:
    """The role that learns; before the first step it is the reference."""
    if config.adapter_name_or_path is None:
        return add_adapter(base, POLICY_NAME, config.adapter, config.seed)
    if config.adapter != AdapterConfig():
        raise ConfigError(
            "adapter", "its settings come with adapter_name_or_path.", "Remove the section, or the adapter."
        )
    return load_adapter(base, Path(config.adapter_name_or_path), POLICY_NAME, trainable=True)


def _rendered(groups: Sequence[PreferenceGroup], tokenizer: Any, config: DPOConfig, limit: int) -> list[RenderedGroup]:
    return render_groups(groups, tokenizer, config, max_tokens=limit)[0]


def _judged(groups: list[RenderedGroup], config: DPOConfig, limit: int) -> tuple[Sequence[Group], int]:
    """The groups as the loss takes them, and the answers left out because nobody's verdict won."""
    if config.loss_type != "kto":
        return groups, 0
    return unpair(groups, config.seed, max_tokens=limit, place=config.data.train)


def _scored_examples(group: Group) -> tuple[Example, ...]:
    """What the reference is asked of a group; a mismatched answer stands behind the same prompt."""
    return (*group.examples, group.mismatched) if isinstance(group, UnpairedGroup) else group.examples


def _with_references(reference: Model, groups: Sequence[Group], config: DPOConfig, world: World) -> Side:
    asked = [(_scored_examples(group), group.where) for group in groups]
    scores = reference_scores(reference, asked, world, cache=config.cache_reference)
    references = []
    for group, logprobs in zip(groups, scores, strict=True):
        count = len(group.examples)
        mismatched = float(logprobs[count]) if isinstance(group, UnpairedGroup) else None
        references.append(Reference(logprobs_K=torch.from_numpy(logprobs[:count].copy()), mismatched=mismatched))
    return Side(groups=groups, references=references)
