"""The step of a reward model: goldens through all of its code, and identities, each with a control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.models.test_adapter_combinations import awake
from tests.reward.reward_rows import RANKING, group
from tunesmith.errors import NonFiniteLossError
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.forward import hidden_states
from tunesmith.models.heads import add_head
from tunesmith.models.rewards import answer_rewards
from tunesmith.models.roles import Role
from tunesmith.records import Pair
from tunesmith.tokens.pack import pack
from tunesmith.tokens.preference import RenderedGroup
from tunesmith.training.distribute import one_process
from tunesmith.training.reward_step import (
    LossType,
    RewardLoss,
    accumulate_reward_gradients,
    group_rewards,
    mean_reward_loss,
)

# -log sigmoid of the differences 0.6, 0.8 and 1.4 of the scores 1.8, 1.2 and 0.4.
GOLDEN = (0.43748795, 0.37110067, 0.22041741)
GROUPS = [group(0, 4, 6, 3), group(1, 5, 5, 2), group(2, 7, 1, 4), group(3, 2, 3, 9)]


def reward_role(base: Any) -> Role:
    return add_head(base, awake(base, "reward", AdapterConfig(r=4)), seed=3)


def step(
    base: Any,
    role: Role,
    groups: Sequence[RenderedGroup],
    loss: RewardLoss | None = None,
    tokens: int = 10_000,
    **how: Any,
) -> tuple[float, list[torch.Tensor]]:
    for parameter in role.parameters.values():
        parameter.grad = None
    sums = accumulate_reward_gradients(
        base, role, groups, one_process(), loss or RewardLoss(), micro_batch_tokens=tokens, **how
    )
    return sums.loss / sums.weight, [p.grad.clone() for p in role.parameters.values() if p.grad is not None]


def close(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], tolerance: float = 1e-10) -> bool:
    return all(torch.allclose(x, y, rtol=tolerance, atol=tolerance) for x, y in zip(a, b, strict=True))


def give_scores(base: Any, role: Role, one: RenderedGroup, scores: Sequence[float]) -> None:
    """Set the head so that the answers of a group get exactly these scores: w = pinv(H) s."""
    states = [hidden_states(base, pack([example], role.adapter))[-1] for example in one.examples]
    wanted = torch.tensor(scores, dtype=torch.float64)
    assert role.head is not None
    role.head.score.weight.data = (torch.linalg.pinv(torch.stack(states).detach()) @ wanted)[None]


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_golden_of_one_ranking_through_the_whole_step(load: Callable[..., Any], kernels: str) -> None:
    base = load("llama", kernels=kernels)
    role, one = reward_role(base), GROUPS[0]
    give_scores(base, role, one, (1.8, 1.2, 0.4))
    mean, _ = step(base, role, [one])
    assert 3 * mean == pytest.approx(1.02901, abs=5e-6)
    assert mean == pytest.approx(sum(GOLDEN) / 3, abs=1e-8)
    sums = mean_reward_loss(group_rewards(base, role, [one], 10_000), [one], one_process(), RewardLoss())
    assert sums.metrics("eval_") == pytest.approx(
        {"eval_loss": sum(GOLDEN) / 3, "eval_accuracy": 1.0, "eval_margin": 2.8 / 3}, abs=1e-8
    )
    # The control: other scores, another loss.
    give_scores(base, role, one, (1.2, 1.8, 0.4))
    assert 3 * step(base, role, [one])[0] == pytest.approx(1.62901, abs=5e-6)


def test_weights_margins_centring_and_grades_by_hand(load: Callable[..., Any]) -> None:
    base = load("llama")
    role = reward_role(base)
    pairs = (Pair(better=0, worse=1, weight=2.0, margin=0.5), Pair(better=2, worse=1))
    one = replace(GROUPS[0], pairs=pairs, ratings=(5.0, None, 2.0))
    give_scores(base, role, one, (1.8, 1.2, 0.4))
    first, second = math.log1p(math.exp(-0.1)), math.log1p(math.exp(0.8))
    assert step(base, role, [one])[0] == pytest.approx((2 * first + second) / 3)
    centred = RewardLoss(center_coefficient=0.1)
    assert step(base, role, [one], centred)[0] == pytest.approx((2 * first + second + 0.1 * (2 * 9 + 1.6**2)) / 3)
    grades = RewardLoss(kind="rating", mean_grade=3.0)
    assert step(base, role, [one], grades)[0] == pytest.approx((0.2**2 + 1.4**2) / 2)


def test_ranking_counts_prompts_and_pairwise_counts_pairs(load: Callable[..., Any]) -> None:
    base = load("llama")
    role = reward_role(base)
    two = replace(GROUPS[1], examples=GROUPS[1].examples[:2], pairs=RANKING[:1])
    each = [step(base, role, [one])[0] for one in (GROUPS[0], two)]
    both, ranked = (step(base, role, [GROUPS[0], two], RewardLoss(kind=kind))[0] for kind in ("pairwise", "ranking"))
    assert both == pytest.approx((3 * each[0] + each[1]) / 4) and ranked == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gpt2"])
def test_forest_equals_each_answer_alone(load: Callable[..., Any], kind: str) -> None:
    base = load(kind)
    role = reward_role(base)
    together = group_rewards(base, role, GROUPS, 10_000)
    alone = [torch.cat(answer_rewards(base, role, [[e] for e in one.examples])).detach() for one in GROUPS]
    assert close(together, alone)
    # The control: an answer behind another prompt is another answer.
    swapped = replace(GROUPS[0].examples[0], ids=GROUPS[1].examples[0].ids)
    assert not torch.allclose(answer_rewards(base, role, [[swapped]])[0], together[0][:1])


def test_k_ways_are_their_pairs_summed(load: Callable[..., Any]) -> None:
    """One element with three answers = three rows of one pair each, as a plain trainer has them."""
    base = load("llama")
    role, one = reward_role(base), GROUPS[0]
    rows = [
        replace(one, examples=(one.examples[p.better], one.examples[p.worse]), pairs=(Pair(better=0, worse=1),))
        for p in RANKING
    ]
    (loss, gradients), (other, others) = step(base, role, [one]), step(base, role, rows)
    assert loss == pytest.approx(other, abs=1e-12) and close(gradients, others)
    assert not close(gradients, step(base, role, rows[:2])[1], 1e-3)


@pytest.mark.parametrize("loss", [RewardLoss(center_coefficient=0.1), RewardLoss(kind="ranking")])
def test_micro_batches_and_checkpointing_never_change_the_step(load: Callable[..., Any], loss: RewardLoss) -> None:
    base = load("llama")
    role = reward_role(base)
    whole = step(base, role, GROUPS, loss)
    for how in ({"tokens": 1}, {"tokens": 45}, {"checkpointing": True}):
        cut = step(base, role, GROUPS, loss, **how)  # type: ignore[arg-type]
        assert cut[0] == pytest.approx(whole[0], abs=1e-12) and close(cut[1], whole[1])
    assert not close(step(base, role, GROUPS[:3], loss)[1], whole[1], 1e-3)


def test_gradients_are_those_of_finite_differences(load: Callable[..., Any]) -> None:
    base = load("llama")
    role = reward_role(base)
    loss = RewardLoss(center_coefficient=0.05)
    _, gradients = step(base, role, GROUPS[:2], loss)
    for index in (0, len(gradients) // 2, len(gradients) - 1):
        parameter = list(role.parameters.values())[index]
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        slope = float((gradients[index] * direction).sum())
        values = []
        for sign in (1, -1):
            parameter.data += sign * 1e-6 * direction
            values.append(step(base, role, GROUPS[:2], loss)[0])
            parameter.data -= sign * 1e-6 * direction
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("kind", ["pairwise", "ranking", "rating"])
def test_it_learns_and_a_flipped_gradient_does_not(load: Callable[..., Any], kind: LossType) -> None:
    groups = [replace(one, ratings=(5.0, 3.0, 1.0)) for one in GROUPS]
    loss = RewardLoss(kind=kind, mean_grade=3.0 if kind == "rating" else 0.0)
    ends = []
    for sign in (1.0, -1.0):
        base = load("llama")
        role = reward_role(base)
        optimizer = torch.optim.AdamW(role.parameters.values(), lr=0.01)
        begin = step(base, role, groups, loss)[0]
        for _ in range(25):
            step(base, role, groups, loss)
            for parameter in role.parameters.values():
                assert parameter.grad is not None
                parameter.grad.mul_(sign)
            optimizer.step()
        ends.append(step(base, role, groups, loss)[0] / begin)
    assert ends[0] < 0.5 and ends[1] > 1.5


def test_a_loss_that_is_no_number_names_its_rows(load: Callable[..., Any]) -> None:
    base = load("llama")
    role = reward_role(base)
    assert role.head is not None
    role.head.score.weight.data[:] = torch.inf
    with pytest.raises(NonFiniteLossError, match="rows:1"):
        step(base, role, [GROUPS[1]])
