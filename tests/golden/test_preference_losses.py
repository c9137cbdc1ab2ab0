"""Preference losses against their NumPy references, each beside a mistake the comparison must notice."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import preference_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.losses.preference import (
    centring_penalty,
    dpo_loss,
    group_reward_loss,
    kto_loss,
    kto_reference_point,
    pairwise_reward_loss,
    rating_loss,
)
from tunesmith.records import Pair

SCORES = torch.tensor([0.4, 1.8, 1.2], dtype=torch.float64)
B_C_A = (Pair(better=1, worse=2), Pair(better=1, worse=0), Pair(better=2, worse=0))
numbers = st.floats(-30, 30)


def randn(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_(grad)


def test_the_ranking_of_the_support_desk_costs_1_029() -> None:
    loss, weight = group_reward_loss(SCORES, B_C_A)
    assert float(loss) == pytest.approx(1.02901, abs=5e-6) and float(weight) == 3
    parts = [float(group_reward_loss(SCORES, [pair])[0]) for pair in B_C_A]
    assert parts == pytest.approx([0.43749, 0.22042, 0.37110], abs=5e-6)
    named = dict(reference.ranking_losses(reference.SCORES, reference.RANKING))
    assert parts == pytest.approx([named["B > C"], named["B > A"], named["C > A"]], rel=1e-12)
    mean, one = group_reward_loss(SCORES, B_C_A, per_prompt=True)
    assert float(mean) == pytest.approx(reference.instruct_gpt_loss(reference.SCORES, reference.RANKING), rel=1e-12)
    assert float(one) == 1
    # Negative control: the reversed ranking costs more, by the sum of all score differences.
    worse = group_reward_loss(SCORES, [Pair(better=p.worse, worse=p.better) for p in B_C_A])[0]
    assert float(worse) == pytest.approx(1.02901 + 0.6 + 1.4 + 0.8, abs=5e-6)


def test_the_reference_runs_alone_and_prints_the_numbers() -> None:
    for name, numbers_shown in (("preference", ["1.02901", "0.43749"]), ("rl", ["advantages", "1.33588"])):
        script = Path(__file__).with_name(f"{name}_reference.py")
        done = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, check=True)
        assert all(number in done.stdout for number in numbers_shown), done.stdout


@given(st.lists(st.tuples(numbers, numbers, st.floats(0, 3), st.floats(-2, 2)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_weighted_pairs_with_margins_equal_the_reference(rows: list[tuple[float, float, float, float]]) -> None:
    better, worse, weight, margin = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    loss, total = pairwise_reward_loss(better, worse, weight, margin)
    expected = sum(w * reference.pair_loss(b, c, m) for b, c, w, m in rows)
    assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(total) == pytest.approx(sum(row[2] for row in rows))
    # Only differences count, so a shift of all scores changes nothing.
    shifted, _ = pairwise_reward_loss(better + 7, worse + 7, weight, margin)
    assert float(shifted) == pytest.approx(expected, rel=1e-7, abs=1e-10)


def test_a_margin_with_the_wrong_sign_is_noticed() -> None:
    b, w, m = randn(5), randn(5, seed=1), randn(5, seed=2).abs()
    expected = sum(reference.pair_loss(*row) for row in zip(b.tolist(), w.tolist(), m.tolist(), strict=True))
    assert float(pairwise_reward_loss(b, w, margin_P=m)[0]) == pytest.approx(expected, rel=1e-12)
    assert float(pairwise_reward_loss(b, w, margin_P=-m)[0]) != pytest.approx(expected, rel=1e-3)


@given(st.permutations(range(4)))
@settings(max_examples=24, deadline=None)
def test_the_order_of_answers_and_pairs_does_not_matter(order: list[int]) -> None:
    scores = randn(4, seed=5)
    pairs = [
        Pair(better=i, worse=j, weight=1 + 0.3 * i, margin=0.1 * j) for i, j in itertools.combinations(range(4), 2)
    ]
    place = {old: new for new, old in enumerate(order)}
    moved = [Pair(better=place[p.better], worse=place[p.worse], weight=p.weight, margin=p.margin) for p in pairs[::-1]]
    ours, theirs = group_reward_loss(scores, pairs), group_reward_loss(scores[list(order)], moved)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_group_without_pairs_weighs_nothing_and_a_wrong_pair_is_refused() -> None:
    for per_prompt in (False, True):
        loss, weight = group_reward_loss(SCORES, [], per_prompt=per_prompt)
        assert float(loss) == 0 and float(weight) == 0
    for pair in (Pair(better=1, worse=1), Pair(better=0, worse=3), Pair(better=-1, worse=0)):
        with pytest.raises(ValueError, match="no pair of 3 answers"):
            group_reward_loss(SCORES, [pair])
    with pytest.raises(ValueError, match="shapes differ"):
        pairwise_reward_loss(SCORES, SCORES[:1])


def test_grades_and_centring_are_squares() -> None:
    scores, grades, weight = np.array([0.5, -1.0]), np.array([1.0, -0.5]), np.array([2.0, 1.0])
    loss, total = rating_loss(*(torch.from_numpy(x) for x in (scores, grades, weight)))
    assert float(loss) == pytest.approx(2 * 0.25 + 0.25) and float(total) == 3
    penalty, total = centring_penalty(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0]), torch.tensor([5.0, 0.5]))
    assert float(penalty) == pytest.approx(0.5 * 9) and float(total) == 5.5
    # Only the level is pulled to 0, never the difference.
    assert float(centring_penalty(torch.tensor([40.0]), torch.tensor([-40.0]))[0]) == 0


@pytest.mark.parametrize(("kind", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0.0)])
def test_dpo_equals_the_reference(kind: str, smoothing: float) -> None:
    rows = [randn(9, seed=seed) * 5 for seed in range(4)]
    weight = randn(9, seed=9).abs()
    loss, total, metrics = dpo_loss(
        *rows,
        beta=0.3,
        kind=kind,  # type: ignore[arg-type]
        label_smoothing=smoothing,
        weight_P=weight,
    )
    columns = list(zip(*(row.tolist() for row in rows), strict=True))
    losses = [reference.dpo(*column, 0.3, kind, smoothing) for column in columns]
    assert float(loss) == pytest.approx(float(np.dot(losses, weight.numpy())), rel=1e-10)
    assert float(total) == pytest.approx(float(weight.sum()))
    better, worse = 0.3 * (rows[0] - rows[2]), 0.3 * (rows[1] - rows[3])
    expected = {
        "rewards/chosen": better,
        "rewards/rejected": worse,
        "rewards/margins": better - worse,
        "rewards/accuracies": (better > worse).double(),
    }
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {name: float(value @ weight) for name, value in expected.items()}
    )
    # Negative controls: reference and policy exchanged; better and worse exchanged.
    for order in ([2, 3, 0, 1], [1, 0, 3, 2]):
        wrong = [reference.dpo(*(column[i] for i in order), 0.3, kind, smoothing) for column in columns]
        assert float(loss) != pytest.approx(float(np.dot(wrong, weight.numpy())), rel=1e-3)


def test_dpo_of_the_reference_itself_is_log_2_and_its_gradient_half_beta() -> None:
    logprobs = randn(4, seed=1), randn(4, seed=2)
    better = logprobs[0].clone().requires_grad_(True)
    loss, count, metrics = dpo_loss(better, logprobs[1], *logprobs, beta=0.1)
    assert loss.item() / float(count) == pytest.approx(float(np.log(2)))
    assert float(metrics["rewards/accuracies"]) == 0
    (grad,) = torch.autograd.grad(loss, better)
    assert grad.tolist() == pytest.approx([-0.05] * 4)


def test_dpo_refuses_settings_without_meaning() -> None:
    rows = [randn(2, seed=seed) for seed in range(4)]
    for settings_ in ({"beta": 0.0}, {"beta": 0.1, "label_smoothing": 0.5}, {"beta": 0.1, "label_smoothing": -0.1}):
        with pytest.raises(ValueError, match="beta"):
            dpo_loss(*rows, **settings_)
    with pytest.raises(ValueError, match="ipo"):
        dpo_loss(*rows, beta=0.1, kind="ipo", label_smoothing=0.1)


def test_kto_equals_the_reference() -> None:
    policy, ref = randn(8, seed=1) * 4, randn(8, seed=2) * 4
    desirable = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    z = kto_reference_point(policy.roll(1) + 3, ref.roll(1))
    assert float(z) == pytest.approx(reference.kto_point((policy + 3).numpy(), ref.numpy())) and float(z) > 0
    assert float(kto_reference_point(ref - 1, ref)) == 0
    loss, total, metrics = kto_loss(policy, ref, desirable, z, beta=0.2, desirable_weight=1.3, undesirable_weight=0.8)
    rows = list(zip((policy - ref).tolist(), desirable.tolist(), strict=True))
    expected = sum(reference.kto(gain, up, float(z), 0.2, 1.3, 0.8) for gain, up in rows)
    assert float(loss) == pytest.approx(expected, rel=1e-10) and float(total) == 8
    assert float(metrics["count/chosen"]) == 4
    up_gain = sum(0.2 * gain for gain, up in rows if up)
    assert float(metrics["rewards/chosen"]) == pytest.approx(up_gain)
    # Negative controls: the sides exchanged; no reference point.
    for wrong in (
        sum(reference.kto(gain, not up, float(z), 0.2, 1.3, 0.8) for gain, up in rows),
        sum(reference.kto(gain, up, 0.0, 0.2, 1.3, 0.8) for gain, up in rows),
    ):
        assert float(loss) != pytest.approx(wrong, rel=1e-3)


def test_kto_lets_no_gradient_into_its_reference_point() -> None:
    policy, ref = randn(6, seed=1, grad=True), randn(6, seed=2)
    point = kto_reference_point(policy + 5, ref)
    assert not point.requires_grad
    live = (policy + 5 - ref).mean()
    desirable = torch.arange(6) % 2 == 0
    grads = [torch.autograd.grad(kto_loss(policy, ref, desirable, z, beta=0.3)[0], policy)[0] for z in (point, live)]
    assert torch.equal(*grads)
    with pytest.raises(ValueError, match="at least one"):
        kto_reference_point(policy[:0], ref[:0])
    with pytest.raises(ValueError, match="beta"):
        kto_loss(policy, ref, desirable, point, beta=0.0)


def test_every_preference_loss_passes_gradcheck() -> None:
    a, b = randn(4, seed=1, grad=True), randn(4, seed=2, grad=True)
    ref, up, point = randn(4, seed=3), torch.tensor([True, False, False, True]), torch.tensor(0.4)
    pairs = [Pair(better=i, worse=j, weight=0.5 + i, margin=0.2) for i, j in itertools.permutations(range(4), 2)]
    for loss in (
        lambda x, y: pairwise_reward_loss(x, y, ref.abs(), ref)[0],
        lambda x, y: group_reward_loss(x * y, pairs, per_prompt=True)[0],
        lambda x, y: rating_loss(x * y, ref)[0],
        lambda x, y: centring_penalty(x, y)[0],
        lambda x, y: dpo_loss(x, y, ref, ref + 1, beta=0.3, label_smoothing=0.1)[0],
        lambda x, y: dpo_loss(x, y, ref, ref + 1, beta=0.3, kind="ipo")[0],
        lambda x, y: kto_loss(x * y, ref, up, point, beta=0.3, undesirable_weight=2.0)[0],
    ):
        assert torch.autograd.gradcheck(loss, (a, b))
