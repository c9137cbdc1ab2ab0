"""The update: several passes over an iteration's answers in mini-batches, policy and value each by its own adapter.

One function, ``update``, is what the recipe runs and what the tests on worlds with a known optimum run.
Shape letters: B answers, T tokens of the longest one; b answers of a micro-batch, t tokens of its longest one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tunesmith.errors import NonFiniteLossError
from tunesmith.losses.masked import masked_sum
from tunesmith.losses.ppo import answer_weights, kl_loss, policy_loss, value_loss
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.roles import Base
from tunesmith.randomness import permutation
from tunesmith.rollout.experience import Experience, RLRoles, packs, padded, policy_logprobs, state_values
from tunesmith.training.credit import Credit, CreditConfig
from tunesmith.training.optim import OptimConfig, build_optimizer, clip_gradients, learning_rate_at

Sums = dict[str, float]


class UpdateConfig(CreditConfig, OptimConfig):
    """How far and how often the roles move on the answers of one iteration."""

    num_ppo_epochs: int = Field(2, ge=1)
    """Passes over the answers of an iteration."""
    num_mini_batches: int = Field(2, ge=1)
    """Optimiser steps of one pass; the prompts are dealt out anew for every pass."""
    cliprange: float = Field(0.2, gt=0, lt=1)
    """A token's probability ratio is kept within 1 - this and 1 + this."""
    cliprange_value: float | None = Field(0.2, gt=0)
    """A value is kept this near to what it was before the update; empty never clips."""
    loss_per: Literal["token", "answer", "length"] = "token"
    """What a token counts in the policy loss: all alike, 1 / its answer's length, or 1 / max_new_tokens."""
    entropy_coef: float = Field(0.0, ge=0)
    """What one nat of entropy a token earns in the policy loss."""
    target_kl: float | None = Field(None, gt=0)
    """The policy rests for the iteration once policy/approxkl of a mini-batch is above this; empty never rests."""
    value_learning_rate: float | None = Field(None, gt=0, le=1)
    """Peak learning rate of the value role; empty: learning_rate."""
    temperature: float = Field(1.0, gt=0, le=10)
    """Divides the logits in sampling and in every log-probability: what is sampled is what is trained."""
    max_new_tokens: int = Field(64, ge=1)
    """Most tokens of one answer, the end-of-turn token included."""
    micro_batch_tokens: int = Field(2048, ge=64)
    """Most tokens in memory at once; never changes the step, only its memory."""

    @model_validator(mode="after")
    def _value_options(self) -> UpdateConfig:
        if self.algorithm != "ppo" and self.value_learning_rate is not None:
            raise ValueError(f"value_learning_rate is set, but {self.algorithm} has no value role")
        return self

    @property
    def updates_per_iteration(self) -> int:
        """Optimiser steps of an iteration."""
        return self.num_ppo_epochs * self.num_mini_batches


def learning_parameters(roles: RLRoles) -> dict[str, nn.Parameter]:
    """Everything that moves, the role's name before each parameter's: what a checkpoint holds."""
    named = {f"policy.{name}": p for name, p in roles.policy.parameters.items()}
    if roles.value is not None:
        named |= {f"value.{name}": p for name, p in roles.value.parameters.items()}
    return named


def build_rl_optimizer(roles: RLRoles, config: UpdateConfig) -> torch.optim.Optimizer:
    """One AdamW over both roles; its groups carry ``peak``, the learning rate their schedule rises to."""
    optimizer = build_optimizer(roles.policy.parameters, config)
    for group in optimizer.param_groups:
        group["peak"] = config.learning_rate * group["lr_ratio"]
    if roles.value is not None:
        peak = config.value_learning_rate or config.learning_rate
        for group in build_optimizer(roles.value.parameters, config).param_groups:
            optimizer.add_param_group({**group, "name": f"value_{group['name']}", "peak": peak * group["lr_ratio"]})
    return optimizer


def update(
    base: Base,
    roles: RLRoles,
    seen: Experience,
    credit: Credit,
    optimizer: torch.optim.Optimizer,
    config: UpdateConfig,
    *,
    seed: int,
    iteration: int,
    num_iterations: int,
    kl_coef: float,
    checkpointing: Checkpointing = False,
) -> dict[str, float]:
    """Move the roles on one iteration's answers; returns the update's metrics under TRL's names.

    iteration: 0-based, keys the order of the mini-batches and the learning rate. kl_coef: the KL's price, used here
    where the KL is a part of the loss. Raises NonFiniteLossError, with no parameter moved by the step it concerns.
    """
    steps: list[Sums] = []
    policy_rests = False
    num_steps, rate = num_iterations * config.updates_per_iteration, 0.0
    for epoch in range(config.num_ppo_epochs):
        order = permutation(seen.num_prompts, seed, "mini_batches", iteration, epoch)
        for number, prompts in enumerate(split_evenly(order, config.num_mini_batches)):
            step = iteration * config.updates_per_iteration + epoch * config.num_mini_batches + number
            share = learning_rate_at(step, num_steps, config) / config.learning_rate
            rate = share * config.learning_rate
            for group in optimizer.param_groups:
                group["lr"] = share * group["peak"]
            sums: Sums = {}
            if not policy_rests:
                sums |= policy_gradients(base, roles, seen, credit, prompts, config, kl_coef, checkpointing)
                if config.target_kl is not None and sums["policy/approxkl_avg"] > config.target_kl:
                    policy_rests = True
                    _forget(roles.policy.parameters)
                else:
                    sums["policy/grad_norm"] = _clip(roles.policy.parameters, config, "policy")
            if roles.value is not None:
                sums |= value_gradients(base, roles, seen, credit, prompts, config, checkpointing)
                sums["val/grad_norm"] = _clip(roles.value.parameters, config, "value")
            # A parameter without a gradient stays as it is, its moments too.
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps.append(sums)
    return {**_averages(steps), "policy/rested": float(policy_rests), "lr": rate}


def policy_gradients(
    base: Base,
    roles: RLRoles,
    seen: Experience,
    credit: Credit,
    prompts: Sequence[int],
    config: UpdateConfig,
    kl_coef: float,
    checkpointing: Checkpointing = False,
) -> Sums:
    """Fill the policy's gradients with those of one mini-batch's loss, whatever micro-batches it is cut into.

    No gradient is left where there is nothing to learn: no advantage, no KL and no entropy in the loss.
    """
    rows = seen.rows_of(prompts)
    weights_BT, total = answer_weights(seen.mask_BT[rows], config.loss_per, config.max_new_tokens)
    weight_of = dict(zip(rows, weights_BT, strict=True))
    num_tokens, scale = float(seen.mask_BT[rows].sum()), 1.0 / float(total)
    kl_in_loss = kl_coef if config.kl_in == "loss" else 0.0
    still = not (kl_in_loss or config.entropy_coef or bool(credit.advantages_BT[rows].any()))
    sums: Sums = defaultdict(float)
    for own, packed in packs(seen.examples, seen.num_samples, prompts, roles.policy.adapter, config.micro_batch_tokens):
        lengths = [seen.examples[row].num_loss_tokens for row in own]
        part = slice(0, max(lengths))
        logprobs_N, entropy_N = policy_logprobs(
            base, packed, temperature=config.temperature, grad=not still, checkpointing=checkpointing
        )
        logprobs_bt, entropy_bt = padded(logprobs_N, lengths), padded(entropy_N, lengths)
        mask_bt, weight_bt = seen.mask_BT[own, part], torch.stack([weight_of[row] for row in own])[:, part]
        old_bt, advantages_bt = seen.logprobs_BT[own, part], credit.advantages_BT[own, part]
        loss, _, _ = policy_loss(logprobs_bt, old_bt, advantages_bt, weight_bt, config.cliprange)
        _, _, stats = policy_loss(logprobs_bt.detach(), old_bt, advantages_bt, mask_bt, config.cliprange)
        if kl_in_loss:
            kl, _ = kl_loss(logprobs_bt, seen.reference_BT[own, part], weight_bt, config.kl_estimator)
            sums["loss/kl_avg"] += float(kl.detach()) * scale
            loss = loss + kl_in_loss * kl
        entropy = masked_sum(entropy_bt, weight_bt)
        if config.entropy_coef:
            loss = loss - config.entropy_coef * entropy
        _check(loss, own, "policy")
        sums["loss/policy_avg"] += float(loss.detach()) * scale
        sums["policy/approxkl_avg"] += float(stats["approx_kl"]) / num_tokens
        sums["policy/clipfrac_avg"] += float(stats["clipped"]) / num_tokens
        sums["val/ratio"] += float(stats["ratio"]) / num_tokens
        sums["policy/entropy_avg"] += float(masked_sum(entropy_bt.detach(), mask_bt)) / num_tokens
        if not still:
            (loss * scale).backward()  # type: ignore[no-untyped-call]
    return dict(sums)


def value_gradients(
    base: Base,
    roles: RLRoles,
    seen: Experience,
    credit: Credit,
    prompts: Sequence[int],
    config: UpdateConfig,
    checkpointing: Checkpointing = False,
) -> Sums:
    """Fill the value role's gradients with those of one mini-batch's clipped squared error, a mean over tokens."""
    role = roles.value
    assert role is not None and seen.values_BT is not None and credit.returns_BT is not None
    num_tokens = float(seen.mask_BT[seen.rows_of(prompts)].sum())
    sums: Sums = defaultdict(float)
    for own, packed in packs(seen.examples, seen.num_samples, prompts, role.adapter, config.micro_batch_tokens):
        lengths = [seen.examples[row].num_loss_tokens for row in own]
        part = slice(0, max(lengths))
        values_bt = padded(state_values(base, packed, roles, checkpointing=checkpointing), lengths)
        loss, _, stats = value_loss(
            values_bt,
            seen.values_BT[own, part],
            credit.returns_BT[own, part],
            seen.mask_BT[own, part],
            config.cliprange_value,
        )
        _check(loss, own, "value")
        sums["loss/value_avg"] += float(loss.detach()) / num_tokens
        sums["val/clipfrac_avg"] += float(stats["clipped"]) / num_tokens
        sums["val/mean"] += float(stats["value"]) / num_tokens
        (loss / num_tokens).backward()  # type: ignore[no-untyped-call]
    return dict(sums)


def split_evenly(items: Sequence[int], num_parts: int) -> list[list[int]]:
    """Neighbours in parts whose sizes differ by one at most; never more parts than items."""
    parts = min(num_parts, len(items))
    cuts = [len(items) * i // parts for i in range(parts + 1)]
    return [list(items[a:b]) for a, b in pairwise(cuts)]


def _clip(parameters: Mapping[str, nn.Parameter], config: UpdateConfig, role: str) -> float:
    if all(p.grad is None for p in parameters.values()):
        return 0.0
    norm = clip_gradients(list(parameters.values()), config.max_grad_norm)
    if not math.isfinite(norm):
        raise NonFiniteLossError(f"{role} role", f"the gradient's norm is {norm}.", "Lower learning_rate.")
    return norm


def _check(loss: Tensor, rows: Sequence[int], role: str) -> None:
    if not bool(torch.isfinite(loss.detach())):
        raise NonFiniteLossError(
            f"{role} role, answers {', '.join(map(str, rows[:8]))} of the iteration",
            f"the loss is {float(loss.detach())}.",
            "Lower learning_rate, or set kl_estimator to k1: k3 overflows far from the reference.",
        )


def _forget(parameters: Mapping[str, nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.grad = None


def _averages(steps: Sequence[Sums]) -> dict[str, float]:
    """Means over the mini-batches that have the number, and the variance of their mean ratios."""
    names = list(dict.fromkeys(name for sums in steps for name in sums))
    out = {}
    for name in names:
        values = [sums[name] for sums in steps if name in sums]
        out[name] = sum(values) / len(values)
    ratios = [sums["val/ratio"] for sums in steps if "val/ratio" in sums]
    out["val/ratio_var"] = sum((ratio - out["val/ratio"]) ** 2 for ratio in ratios) / len(ratios)
    return out
