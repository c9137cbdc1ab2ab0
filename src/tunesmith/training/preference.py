"""One optimiser step of a policy that learns from preferences: DPO and IPO from pairs, KTO from single verdicts.

The answers of a prompt are branches of one tree, so the prompt is computed once. Micro-batches are cut by tokens and
summed; the step divides once, by the weight of all of them, so they never change it.
Shape letters: A answers of a pack, P pairs, K answers of one prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tunesmith.config import Config
from tunesmith.errors import NonFiniteLossError
from tunesmith.losses.preference import dpo_loss, kto_loss, kto_reference_point, pair_scores
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.forward import DropoutSeed, forward
from tunesmith.models.roles import Base, Role
from tunesmith.records import Example
from tunesmith.tokens.forest import forest_of, num_forest_tokens
from tunesmith.tokens.pack import micro_batches, pack
from tunesmith.tokens.preference import RenderedGroup
from tunesmith.tokens.unpaired import UnpairedGroup
from tunesmith.training.distribute import World
from tunesmith.training.step import FP16_LOSS_SCALE

Group = RenderedGroup | UnpairedGroup
_SIDES = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
PAIR_METRICS = ("loss", *_SIDES, "rewards/margins", "rewards/accuracies")
KTO_SUMS = ("loss", *_SIDES, "count/chosen", "count/rejected", "num_right", "num_judged")


class PreferenceLossConfig(Config):
    """Which loss, and how far the policy may go from its reference."""

    loss_type: Literal["sigmoid", "ipo", "kto"] = "sigmoid"
    """sigmoid: DPO (arXiv:2305.18290); ipo: its squared form (arXiv:2310.12036), on sums over an answer's tokens; kto:
    single verdicts instead of pairs (arXiv:2402.01306)."""
    beta: float = Field(0.1, gt=0)
    """Strength of the pull to the reference; larger stays closer. IPO's tau."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """sigmoid only: the chance that a pair is the wrong way round (conservative DPO)."""
    desirable_weight: float = Field(1.0, ge=0)
    """kto only: weight of the good answers' loss."""
    undesirable_weight: float = Field(1.0, ge=0)
    """kto only: weight of the bad answers' loss."""

    @model_validator(mode="after")
    def _keys_of_the_loss(self) -> PreferenceLossConfig:
        if self.loss_type != "sigmoid" and self.label_smoothing:
            raise ValueError(f"label_smoothing means nothing for loss_type {self.loss_type}")
        if self.loss_type != "kto" and (self.desirable_weight, self.undesirable_weight) != (1.0, 1.0):
            raise ValueError(f"desirable_weight and undesirable_weight mean nothing for loss_type {self.loss_type}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the frozen reference says of one group: log-probabilities in nats of its K answers, and for KTO of the
    mismatched one."""

    logprobs_K: Tensor
    mismatched: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Who is asked for log-probabilities, and how: everything that one pack after another has in common."""

    base: Base
    role: Role
    micro_batch_tokens: int
    checkpointing: Checkpointing = False
    dropout_seed: DropoutSeed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceResult:
    """Means over the step's pairs (or answers) on all ranks, under TRL's names; tokens as computed, prompts once."""

    metrics: dict[str, float]
    num_tokens: int


def answer_logprobs(model: Model, groups: Sequence[Sequence[Example]]) -> Tensor:
    """Log-probabilities (A,) in nats, fp64, of all answers of all groups in order, the groups sharing one pack."""
    segments, parents, _ = forest_of(groups)
    packed = pack(segments, model.role.adapter, parents)
    logprobs_N, weight_N = forward(
        model.base,
        packed,
        "target_logprobs",
        weight_grad="none" if model.role.adapter is not None else "full",
        dropout_seed=model.dropout_seed,
        checkpointing=model.checkpointing,
    )
    # Prompts carry no loss, so the segments that do are the answers in their order.
    pieces = torch.split(logprobs_N.double() * weight_N, packed.num_loss_tokens_S())
    return torch.stack([piece.sum() for piece in pieces])


def accumulate_preference(
    model: Model,
    config: PreferenceLossConfig,
    groups: Sequence[Group],
    references: Sequence[Reference],
    world: World,
) -> PreferenceResult:
    """Fill ``.grad`` with the gradient of the step's mean loss; the groups are this rank's share of the step.

    Raises NonFiniteLossError naming the rows of the micro-batch whose loss is infinite or not a number.
    """
    total_weight = world.sum(sum(_weight(group) for group in groups))
    scale = FP16_LOSS_SCALE if model.base.dtype == torch.float16 else 1.0
    point = _reference_point(model, groups, references, world) if config.loss_type == "kto" else None
    sums: Counter[str] = Counter()
    for batch, logprobs_A in _packs(model, groups):
        loss, metrics = _loss(config, logprobs_A, batch, groups, references, point)
        if not math.isfinite(value := float(loss.detach())):
            rows = ", ".join(str(groups[i].where) for i in batch)
            raise NonFiniteLossError(
                rows, f"the loss is {value}.", "Lower learning_rate, set dtype: float32, or look at these rows."
            )
        sums.update({"loss": value, **metrics})
        (loss * (scale / total_weight)).backward()  # type: ignore[no-untyped-call]
    world.sum_gradients(list(model.role.parameters.values()))
    if scale != 1.0:
        for parameter in model.role.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / scale)
    num_tokens = int(world.sum(sum(num_forest_tokens(group.examples) for group in groups)))
    return PreferenceResult(metrics=_means(config, sums, total_weight, point, world), num_tokens=num_tokens)


@torch.no_grad()
def mean_preference(
    model: Model,
    config: PreferenceLossConfig,
    groups: Sequence[Group],
    references: Sequence[Reference],
    world: World,
) -> dict[str, float]:
    """The step's metrics over other groups, without gradients; each rank takes every world.size-th group.

    Besides: how many pairs (or answers) there are, as ``num_judged``, and how many of them are right.
    """
    mine = range(world.rank, len(groups), world.size)
    own, own_references = [groups[i] for i in mine], [references[i] for i in mine]
    total_weight = world.sum(sum(_weight(group) for group in own))
    point = _reference_point(model, own, own_references, world) if config.loss_type == "kto" else None
    sums: Counter[str] = Counter()
    for batch, logprobs_A in _packs(model, own):
        loss, metrics = _loss(config, logprobs_A, batch, own, own_references, point)
        sums.update({"loss": float(loss), **metrics})
    counts = {name: world.sum(sums[name]) for name in ("num_right", "num_judged")}
    return {**_means(config, sums, total_weight, point, world), **counts}


def _packs(model: Model, groups: Sequence[Group]) -> Iterator[tuple[list[int], Tensor]]:
    """(the groups of a micro-batch, their answers' log-probabilities), one pack after the other."""
    lengths = [num_forest_tokens(group.examples) for group in groups]
    for batch in micro_batches(lengths, model.micro_batch_tokens):
        yield batch, answer_logprobs(model, [groups[i].examples for i in batch])


def _weight(group: Group) -> float:
    """What a group counts in its step: its pairs' weights, or its judged answers."""
    if isinstance(group, RenderedGroup):
        return sum(pair.weight for pair in group.pairs)
    return float(len(group.examples))


def _loss(
    config: PreferenceLossConfig,
    logprobs_A: Tensor,
    batch: Sequence[int],
    groups: Sequence[Group],
    references: Sequence[Reference],
    point: Tensor | None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss sum and metric sums of one pack."""
    reference_A = torch.cat([references[i].logprobs_K for i in batch]).to(logprobs_A.device)
    if point is not None:
        return _kto(config, logprobs_A, reference_A, [groups[i] for i in batch], point)
    sizes = [len(groups[i].examples) for i in batch]
    parts: list[list[Tensor]] = []
    for i, policy_K, reference_K in zip(
        batch, torch.split(logprobs_A, sizes), torch.split(reference_A, sizes), strict=True
    ):
        group = groups[i]
        assert isinstance(group, RenderedGroup)
        better_P, worse_P, weight_P, _ = pair_scores(policy_K, group.pairs)
        parts.append([better_P, worse_P, *pair_scores(reference_K, group.pairs)[:2], weight_P])
    better_P, worse_P, reference_better_P, reference_worse_P, weight_P = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    assert config.loss_type != "kto"
    loss, _, means = dpo_loss(
        better_P,
        worse_P,
        reference_better_P,
        reference_worse_P,
        beta=config.beta,
        kind=config.loss_type,
        label_smoothing=config.label_smoothing,
        weight_P=weight_P,
    )
    right_P = (better_P - reference_better_P) > (worse_P - reference_worse_P)
    return loss, {
        **{name: float(value) for name, value in means.items()},
        "logps/chosen": float((better_P.detach() * weight_P).sum()),
        "logps/rejected": float((worse_P.detach() * weight_P).sum()),
        "num_right": float(right_P.sum()),
        "num_judged": float(len(right_P)),
    }


def _kto(
    config: PreferenceLossConfig,
    logprobs_A: Tensor,
    reference_A: Tensor,
    groups: Sequence[Group],
    point: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    flags = [flag for group in groups if isinstance(group, UnpairedGroup) for flag in group.desirable]
    desirable_A = torch.tensor(flags, device=logprobs_A.device)
    loss, _, sums = kto_loss(
        logprobs_A,
        reference_A,
        desirable_A,
        point,
        beta=config.beta,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
    )
    policy_A = logprobs_A.detach()
    # Right is a good answer above the reference point and a bad one below it.
    right_A = ((policy_A - reference_A - point) > 0) == desirable_A
    return loss, {
        **{name: float(value) for name, value in sums.items()},
        "logps/chosen": float(policy_A[desirable_A].sum()),
        "logps/rejected": float(policy_A[~desirable_A].sum()),
        "num_right": float(right_A.sum()),
        "num_judged": float(len(right_A)),
    }


@torch.no_grad()
def _reference_point(
    model: Model,
    groups: Sequence[Group],
    references: Sequence[Reference],
    world: World,
) -> Tensor:
    """KTO's z_0 of this step: how far the policy has drifted on answers that do not belong to their prompts."""
    mismatched = [group.mismatched for group in groups if isinstance(group, UnpairedGroup)]
    drift_sum = 0.0
    for batch in micro_batches([example.num_tokens for example in mismatched], model.micro_batch_tokens):
        policy_A = answer_logprobs(model, [[mismatched[i]] for i in batch])
        known = [references[i].mismatched for i in batch]
        drift_sum += float((policy_A - torch.tensor(known, dtype=torch.float64, device=policy_A.device)).sum())
    mean = torch.tensor([world.sum(drift_sum) / world.sum(float(len(mismatched)))], dtype=torch.float64)
    return kto_reference_point(mean, torch.zeros_like(mean)).to(model.base.device)


def _means(
    config: PreferenceLossConfig, sums: Counter[str], total_weight: float, point: Tensor | None, world: World
) -> dict[str, float]:
    """Sums over all ranks, each over what it is a sum of."""
    # By name, not by what is there: a rank without a group in this step sums as well.
    if config.loss_type != "kto":
        return {name: world.sum(sums[name]) / total_weight for name in PAIR_METRICS}
    total = {name: world.sum(sums[name]) for name in KTO_SUMS}
    means = {"loss": total["loss"] / total_weight, "rewards/accuracies": total["num_right"] / total["num_judged"]}
    for side in ("chosen", "rejected"):
        # A step may hold answers of one side only.
        if count := total[f"count/{side}"]:
            means |= {name: total[name] / count for name in (f"rewards/{side}", f"logps/{side}")}
    if total["count/chosen"] and total["count/rejected"]:
        means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
    assert point is not None
    return {**means, "kl": float(point)}
