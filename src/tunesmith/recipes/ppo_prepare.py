"""Everything of ``tunesmith ppo`` up to the first iteration: prompts, base, roles, rewards, memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.data.prompts import LoadedPrompts, PromptRow, load_prompts, with_system
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.models.adapters import adapter_digest, add_adapter, load_adapter
from tunesmith.models.budget import Budget, decide
from tunesmith.models.heads import add_head
from tunesmith.models.load import load_base
from tunesmith.models.roles import Base, Role
from tunesmith.randomness import derive_seed, permutation
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.recipes.ppo_report import HeldOut
from tunesmith.rollout.experience import RLRoles
from tunesmith.rollout.generate import Prompt
from tunesmith.rollout.reward_open import ModelReward, open_rewards
from tunesmith.rollout.rewards import RewardSource, WeightedSum
from tunesmith.tokens.render import render_prompt
from tunesmith.training.distribute import from_environment
from tunesmith.training.rl_update import learning_parameters

POLICY, REFERENCE, VALUE = "policy", "reference", "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that is known before the first iteration; prompts and their token ids go together."""

    config: PPOConfig
    base: Base
    roles: RLRoles
    rewards: WeightedSum
    prompts: tuple[PromptRow, ...]
    ids: tuple[NDArray[np.int64], ...]
    loaded: LoadedPrompts
    num_too_long: int
    budget: Budget
    held_out: HeldOut | None

    def asked(self, iteration: int) -> tuple[list[PromptRow], list[Prompt]]:
        """The rows of one iteration and what is asked: K requests a row, neighbours.

        A function of seed and iteration alone: the epochs' orders lie end to end. A row that comes twice in one
        iteration, in two epochs, gets other samples.
        """
        count, size, samples = self.config.prompts_per_iteration, len(self.prompts), self.config.num_generations
        places = range(iteration * count, (iteration + 1) * count)
        orders = {e: permutation(size, self.config.seed, "prompt_order", e) for e in {p // size for p in places}}
        first_epoch = places[0] // size
        chosen = [(place // size - first_epoch, orders[place // size][place % size]) for place in places]
        asked = [
            Prompt(ids=self.ids[index], row_id=self.prompts[index].row_id, sample=again * samples + k)
            for again, index in chosen
            for k in range(samples)
        ]
        return [self.prompts[index] for _, index in chosen], asked

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resume to continue the same run."""
        free = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
        free |= {"sample_steps", "num_samples", "plot_steps", "held_out", "report_to"}
        resolved = self.base.resolved
        return {
            **self.config.model_dump(mode="json", exclude=free),
            "prompts_digest": self.loaded.digest,
            "base_digest": self.base.digest,
            "reference_digest": adapter_digest(self.base, self.roles.reference),
            "tokenizer_digest": resolved.tokenizer_digest,
            "template_digest": resolved.template_digest,
            "reward_identity": dict(self.rewards.identity),
        }

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        read = {
            "rows_read": self.loaded.num_rows,
            "prompts": len(self.prompts),
            "prompts_too_long": self.num_too_long,
            "prompts_repeated": self.loaded.num_copies,
            "longest_prompt_tokens": max(map(len, self.ids)),
        }
        return {"budget": self.budget.as_dict(), "data": read, "rewards": dict(self.rewards.identity)}


def prepare(
    config: PPOConfig, base: Base | None = None, dtype: str | None = None, reward: RewardSource | None = None
) -> Prepared:
    """Read the prompts, load the base and place the roles on it. Raises TunesmithErrors that say what to change.

    base: one already in memory, shared. dtype: what an earlier part of the run decided on. reward: a source in place
    of those the recipe names.
    """
    if from_environment(config.device).size > 1:
        raise ConfigError("environment:WORLD_SIZE", "tunesmith ppo runs in one process.", "Start it without torchrun.")
    loaded = load_prompts(config.data.train, config.data.columns, limit=config.data.limit)
    if base is None:
        base = load_base(config.model_copy(update={"dtype": dtype or config.dtype}))
    _check_base(base, config)
    rewards, notes = open_rewards(config.rewards, base) if reward is None else (WeightedSum([(reward, 1.0)]), [])
    counted = (source for source, weight in rewards.sources if weight > 0)
    offset = next((source.model.offset for source in counted if isinstance(source, ModelReward)), 0.0)
    roles = place_roles(base, config, offset)
    held_out = None
    if config.held_out is not None:
        held_out = HeldOut.open(config.held_out, base, rewards.identity, loaded, config.data.system)
    base.notes += [*notes, *loaded.notes(), *(held_out.notes if held_out is not None else ())]
    prompts, ids, too_long = _render(loaded, base, config)
    parameters = learning_parameters(roles)
    budget = decide(
        base,
        Role(name="policy and value", adapter=roles.policy.adapter, parameters=parameters),
        micro_batch_tokens=config.micro_batch_tokens,
        longest_tokens=max(map(len, ids)) + config.num_generations * config.max_new_tokens,
        checkpointing=None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing,
        each_token=True,
    )
    return Prepared(
        config=config,
        base=base,
        roles=roles,
        rewards=rewards,
        prompts=prompts,
        ids=ids,
        loaded=loaded,
        num_too_long=too_long,
        budget=budget,
        held_out=held_out,
    )


def place_roles(base: Base, config: PPOConfig, value_offset: float = 0.0) -> RLRoles:
    """Policy, reference and value as adapters on the one base.

    The value role starts as the first reward model of the recipe that counts, which already knows what good answers
    look like, or else as a fresh adapter and head: of one that only watches nothing may be learnt. value_offset: of
    that reward model.
    """
    reference = None
    if config.sft_adapter is None:
        policy = add_adapter(base, POLICY, config.adapter, config.seed)
    else:
        policy = load_adapter(base, Path(config.sft_adapter), POLICY, trainable=True)
        reference = load_adapter(base, Path(config.sft_adapter), REFERENCE).adapter
        if POLICY in base.token_rows:
            raise ModelError(
                config.sft_adapter,
                "brings new tokens, which reward and value roles of the base do not know.",
                "Use an adapter without new tokens.",
            )
    if policy.head is not None:
        raise ModelError(config.sft_adapter or POLICY, "is a reward model, not a policy.", "Name an SFT adapter.")
    if config.algorithm != "ppo":
        return RLRoles(policy=policy, reference=reference, value=None)
    model = next((reward.model for reward in config.rewards if reward.model is not None and reward.weight > 0), None)
    if model is None:
        value = add_head(base, add_adapter(base, VALUE, config.adapter, config.seed), config.seed)
        assert value.head is not None
        # It says 0 of everything until it has learnt something: a drawn start would be noise in every advantage.
        value.head.score.weight.data.zero_()
        return RLRoles(policy=policy, reference=reference, value=value)
    value = load_adapter(base, Path(model), VALUE, trainable=True)
    return RLRoles(policy=policy, reference=reference, value=value, value_offset=value_offset)


def iteration_seed(config: PPOConfig, iteration: int) -> int:
    """Keys every draw of an iteration, together with row and sample."""
    return derive_seed(config.seed, "rollouts", iteration)


def _check_base(base: Base, config: PPOConfig) -> None:
    if base.is_encoder_decoder:
        raise ModelError(base.resolved.name, "is an encoder-decoder model.", "Take a causal one for tunesmith ppo.")
    if base.dtype == torch.float16:
        raise ConfigError("dtype", "float16 loses small gradients of the policy.", "Set bfloat16 or float32.")
    if base.head.softcap is not None and config.temperature != 1.0:
        raise ConfigError(
            "temperature", f"must be 1 for '{base.resolved.name}', whose head caps its logits.", "Set temperature: 1."
        )


def _render(
    loaded: LoadedPrompts, base: Base, config: PPOConfig
) -> tuple[tuple[PromptRow, ...], tuple[NDArray[np.int64], ...], int]:
    """Prompts with their tokens, and how many were dropped for their length. Raises DataError."""
    # Every adapter that is on the base by now reads the answers: policy, value, reward models.
    limit = base.context_tokens_of(*base.methods) - config.max_new_tokens
    limit = min(limit, config.data.max_prompt_length or limit)
    kept, ids, too_long = [], [], 0
    for prompt in loaded:
        row = with_system(prompt, config.data.system)
        tokens = render_prompt(row.messages, base.tokenizer)
        if len(tokens) <= limit:
            kept.append(row)
            ids.append(tokens)
        elif config.data.over_length == "drop":
            too_long += 1
        else:
            raise DataError(
                row.where,
                f"the prompt has {len(tokens)} tokens; with max_new_tokens {config.max_new_tokens} there is room for "
                f"{limit}.",
                "Shorten it, lower max_new_tokens, or set data.over_length: drop.",
            )
    if too_long:
        base.notes.append(f"{too_long} prompts of more than {limit} tokens were dropped.")
    if not kept:
        raise DataError(config.data.train, f"no prompt has {limit} tokens or fewer.", "Raise data.max_prompt_length.")
    return tuple(kept), tuple(ids), too_long
