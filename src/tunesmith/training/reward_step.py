"""One optimiser step of a reward model: prompts with all their answers, summed over micro-batches, divided once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tunesmith.errors import NonFiniteLossError
from tunesmith.losses.preference import centring_penalty, group_reward_loss, pair_scores, rating_loss
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.forward import DropoutSeed
from tunesmith.models.rewards import answer_rewards
from tunesmith.models.roles import Base, Role
from tunesmith.tokens.forest import num_forest_tokens
from tunesmith.tokens.pack import micro_batches
from tunesmith.tokens.preference import RenderedGroup
from tunesmith.training.distribute import World
from tunesmith.training.step import FP16_LOSS_SCALE

LossType = Literal["pairwise", "ranking", "rating"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardLoss:
    """What one prompt adds to the step's sum, and with which weight.

    pairwise: every pair counts alike; ranking: every prompt does; rating: squared distance to the grades, from which
    ``mean_grade`` is taken off because the head has no bias.
    """

    kind: LossType = "pairwise"
    center_coefficient: float = 0.0
    mean_grade: float = 0.0

    def weight(self, group: RenderedGroup) -> float:
        """The weight of one prompt; known before any forward pass."""
        if self.kind == "rating":
            return float(sum(rating is not None for rating in group.ratings))
        return sum(pair.weight for pair in group.pairs) / self._parts(group)

    def sum(self, rewards_K: Tensor, group: RenderedGroup) -> Tensor:
        """The loss of one prompt times its weight, a scalar."""
        if self.kind == "rating":
            graded = [(i, rating) for i, rating in enumerate(group.ratings) if rating is not None]
            index, targets = zip(*graded, strict=True)
            target_N = torch.tensor(targets, dtype=rewards_K.dtype, device=rewards_K.device) - self.mean_grade
            return rating_loss(rewards_K[list(index)], target_N)[0]
        total, _ = group_reward_loss(rewards_K, group.pairs, per_prompt=self.kind == "ranking")
        if self.center_coefficient:
            better_P, worse_P, weight_P, _ = pair_scores(rewards_K, group.pairs)
            penalty, _ = centring_penalty(better_P, worse_P, weight_P)
            total = total + self.center_coefficient * penalty / self._parts(group)
        return total

    def _parts(self, group: RenderedGroup) -> int:
        return max(1, len(group.pairs)) if self.kind == "ranking" else 1


@dataclass(slots=True)
class RewardSums:
    """Sums over prompts: of the loss, its weight, the pairs, those scored the right way round, and their margins."""

    loss: float = 0.0
    weight: float = 0.0
    pairs: float = 0.0
    right: float = 0.0
    margin: float = 0.0
    tokens: float = 0.0

    def add(self, loss: RewardLoss, rewards_K: Tensor, group: RenderedGroup) -> None:
        """Note one prompt; a pair with equal rewards is half right."""
        self.weight += loss.weight(group)
        self.tokens += num_forest_tokens(group.examples)
        rewards = rewards_K.detach().double().tolist()
        for pair in group.pairs:
            margin = rewards[pair.better] - rewards[pair.worse]
            self.pairs += 1
            self.right += 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
            self.margin += margin

    def over(self, world: World) -> RewardSums:
        """The same sums over all ranks."""
        return RewardSums(*(world.sum(getattr(self, name)) for name in self.__slots__))

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """loss: mean a pair, prompt or grade; accuracy and margin: means over pairs, left out where there is none."""
        out = {f"{prefix}loss": self.loss / max(self.weight, 1e-12)}
        if self.pairs:
            out |= {f"{prefix}accuracy": self.right / self.pairs, f"{prefix}margin": self.margin / self.pairs}
        return out


def accumulate_reward_gradients(
    base: Base,
    role: Role,
    groups: Sequence[RenderedGroup],
    world: World,
    loss: RewardLoss,
    *,
    micro_batch_tokens: int,
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
) -> RewardSums:
    """Fill ``.grad`` with the gradient of the step's mean loss; groups are this rank's share of the step.

    How prompts are packed never changes the step. Raises NonFiniteLossError naming the rows of the micro-batch whose
    loss is infinite or not a number.
    """
    total_weight = world.sum(sum(loss.weight(group) for group in groups))
    scale = FP16_LOSS_SCALE if base.dtype == torch.float16 else 1.0
    sums = RewardSums()
    for batch in micro_batches([num_forest_tokens(group.examples) for group in groups], micro_batch_tokens):
        mine = [groups[i] for i in batch]
        rewards = answer_rewards(
            base, role, [group.examples for group in mine], dropout_seed=dropout_seed, checkpointing=checkpointing
        )
        part = torch.stack([loss.sum(rewards_K, group) for rewards_K, group in zip(rewards, mine, strict=True)]).sum()
        value = float(part.detach())
        if not math.isfinite(value):
            rows = ", ".join(str(group.where) for group in mine)
            fix = "Lower learning_rate, set dtype: float32, or look at these rows."
            raise NonFiniteLossError(rows, f"the loss is {value}.", fix)
        (part * (scale / total_weight)).backward()  # type: ignore[no-untyped-call]
        sums.loss += value
        for rewards_K, group in zip(rewards, mine, strict=True):
            sums.add(loss, rewards_K, group)
    world.sum_gradients(list(role.parameters.values()))
    if scale != 1.0:
        for parameter in role.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / scale)
    return sums.over(world)


@torch.no_grad()
def group_rewards(base: Base, role: Role, groups: Sequence[RenderedGroup], micro_batch_tokens: int) -> list[Tensor]:
    """Raw rewards (K,) of each group, dropout off, in the order of the groups."""
    out: dict[int, Tensor] = {}
    for batch in micro_batches([num_forest_tokens(group.examples) for group in groups], micro_batch_tokens):
        rewards = answer_rewards(base, role, [groups[i].examples for i in batch])
        out.update(zip(batch, rewards, strict=True))
    return [out[i] for i in range(len(groups))]


@torch.no_grad()
def mean_reward_loss(
    rewards: Sequence[Tensor], groups: Sequence[RenderedGroup], world: World, loss: RewardLoss
) -> RewardSums:
    """The sums over all ranks of this rank's groups, whose rewards ``group_rewards`` gave."""
    sums = RewardSums()
    for rewards_K, group in zip(rewards, groups, strict=True):
        sums.loss += float(loss.sum(rewards_K, group))
        sums.add(loss, rewards_K, group)
    return sums.over(world)
