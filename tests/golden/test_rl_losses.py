"""Advantages, KL estimators and clipped losses against their NumPy references, each beside a mistake it must notice."""

from __future__ import annotations

import numpy as np
import pytest
import rl_reference as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.losses.advantages import (
    adapted_kl_coefficient,
    answer_rewards,
    clip_scores,
    gae,
    grpo_advantages,
    kl_estimate,
    last_tokens,
    penalise_missing_end,
    rloo_advantages,
    spread,
    token_rewards,
)
from tunesmith.losses.masked import blank, masked_mean, masked_row_sums, masked_sum, masked_variance, whiten
from tunesmith.losses.ppo import answer_weights, entropy_bonus, kl_loss, policy_loss, value_loss

# Answers of 4, 1, 3 and 2 tokens; the third begins late and has a hole, as when a tool's turn stands in between.
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 1, 0, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.float64)
JUNK = float("nan")


def randn(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def padded(seed: int) -> Tensor:
    """Values with NaN wherever no token is: nothing may read them."""
    return torch.where(MASK != 0, randn(4, 5, seed=seed), JUNK)


def close(ours: Tensor, theirs: np.ndarray, tolerance: float = 1e-11) -> bool:
    return bool(np.allclose(ours.numpy(), theirs, rtol=tolerance, atol=tolerance))


def test_means_and_variances_take_the_masked_positions_only() -> None:
    x, chosen = padded(1), randn(4, 5, seed=1)[MASK != 0].numpy()
    assert float(masked_sum(x, MASK)) == pytest.approx(chosen.sum())
    assert float(masked_mean(x, MASK)) == pytest.approx(chosen.mean())
    assert float(masked_variance(x, MASK)) == pytest.approx(chosen.var())
    assert masked_row_sums(x, MASK).sum().item() == pytest.approx(chosen.sum())
    # A mask may carry weights.
    assert float(masked_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))) == 2
    for reduce in (masked_mean, masked_variance, whiten):
        with pytest.raises(ValueError, match="nothing to average"):
            reduce(x, torch.zeros_like(MASK))
    assert float(masked_sum(x, torch.zeros_like(MASK))) == 0
    with pytest.raises(ValueError, match="shapes differ"):
        masked_sum(x, MASK[:, :1])


def test_no_gradient_comes_through_padding() -> None:
    x = padded(1).requires_grad_(True)
    (grad,) = torch.autograd.grad(blank(x, MASK).exp().sum(), x)
    assert bool((grad[MASK == 0] == 0).all()) and bool(grad.isfinite().all())


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_equals_the_reference_and_a_reversed_flag_is_noticed(shift_mean: bool) -> None:
    x = padded(2) + 3
    ours = whiten(x, MASK, shift_mean)
    assert close(ours, reference.whiten(x.numpy(), MASK.numpy(), shift_mean))
    assert not close(ours, reference.whiten(x.numpy(), MASK.numpy(), not shift_mean), 1e-3)
    mean = float(masked_mean(ours, MASK))
    assert mean == pytest.approx(0 if shift_mean else float(masked_mean(x, MASK)))
    assert float(masked_variance(ours, MASK)) == pytest.approx(1, abs=1e-7)


def test_whitening_of_equal_values_gives_0_not_noise() -> None:
    same = torch.full((64, 3), 1234.567)
    ones = torch.ones_like(same)
    assert float(whiten(same, ones).abs().max()) < 1e-3
    torch.testing.assert_close(whiten(same, ones, shift_mean=False), same)
    assert whiten(torch.tensor([5.0]), torch.tensor([1.0])).tolist() == [0.0]


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimators_equal_schulmans(kind: str) -> None:
    logp, ref = -randn(50, seed=1).abs(), -randn(50, seed=2).abs()
    ours = kl_estimate(logp, ref, kind)  # type: ignore[arg-type]
    rows = list(zip(logp.tolist(), ref.tolist(), strict=True))
    assert close(ours, np.array([reference.kl(*row, kind) for row in rows]))
    # Negative control: policy and reference exchanged (k2 is the same by its form, and only k2).
    exchanged = np.array([reference.kl(*row[::-1], kind) for row in rows])
    assert close(ours, exchanged, 1e-6) == (kind == "k2")


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    policy, other = torch.softmax(randn(7, seed=1), 0), torch.softmax(1.5 * randn(7, seed=2), 0)
    exact = float((policy * (policy / other).log()).sum())
    expected = {
        kind: float((policy * kl_estimate(policy.log(), other.log(), kind)).sum())  # type: ignore[arg-type]
        for kind in ("k1", "k2", "k3")
    }
    assert expected["k1"] == pytest.approx(exact) and expected["k3"] == pytest.approx(exact)
    assert abs(expected["k2"] - exact) > 0.05
    same = kl_estimate(policy.log(), policy.log(), "k3")
    assert same.tolist() == [0.0] * 7
    with pytest.raises(ValueError, match="none of k1"):
        kl_estimate(policy, other, "k4")  # type: ignore[arg-type]


def test_which_estimator_pulls_the_right_way_as_a_loss() -> None:
    """Mean gradient over the policy's own samples: k2 that of KL(pi || ref), k3 that of KL(ref || pi), k1 none."""
    logits = randn(6, seed=1, grad=True)
    ref = torch.log_softmax(randn(6, seed=2), 0)
    logp = torch.log_softmax(logits, 0)
    policy = logp.exp()

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    means = {
        kind: gradient((policy.detach() * kl_estimate(logp, ref, kind)).sum())  # type: ignore[arg-type]
        for kind in ("k1", "k2", "k3")
    }
    forward, backward = gradient((policy * (logp - ref)).sum()), gradient((ref.exp() * (ref - logp)).sum())
    torch.testing.assert_close(means["k2"], forward)
    torch.testing.assert_close(means["k3"], backward)
    torch.testing.assert_close(means["k1"], torch.zeros_like(logits))
    assert not torch.allclose(means["k3"], forward, atol=1e-2)
    with pytest.raises(ValueError, match="pulls nowhere"):
        kl_loss(logp, ref, torch.ones_like(ref), "k1")
    loss, count = kl_loss(padded(1), padded(2), MASK, "k3")
    assert float(loss) == pytest.approx(float(kl_estimate(padded(1), padded(2), "k3").nansum())) and float(count) == 10


def test_the_score_stands_on_the_end_token_alone() -> None:
    score, kl = randn(4, seed=3), padded(4)
    rewards = token_rewards(score, kl, MASK, 0.3)
    assert close(rewards, reference.token_rewards(score.numpy(), kl.numpy(), MASK.numpy(), 0.3))
    assert last_tokens(MASK).tolist() == [3, 0, 4, 1]
    # What RLOO and GRPO take as the reward of an answer is the sum of what PPO takes as those of its tokens.
    torch.testing.assert_close(rewards.sum(1), answer_rewards(score, kl, MASK, 0.3))
    # Negative controls: the KL added instead of subtracted; the score one token early.
    assert not close(rewards, reference.token_rewards(score.numpy(), kl.numpy(), MASK.numpy(), -0.3), 1e-3)
    assert not close(rewards.roll(-1, 1), reference.token_rewards(score.numpy(), kl.numpy(), MASK.numpy(), 0.3), 1e-3)
    with pytest.raises(ValueError, match="has no token"):
        token_rewards(score, kl, MASK * torch.tensor([[1.0], [0.0], [1.0], [1.0]], dtype=torch.float64), 0.3)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_equals_the_sum_of_its_paper(gamma: float, lam: float) -> None:
    rewards, values = padded(5), padded(6)
    advantages, returns = gae(rewards, values, MASK, gamma, lam)
    theirs = reference.gae_as_a_sum(rewards.numpy(), values.numpy(), MASK.numpy(), gamma, lam)
    assert close(advantages, theirs[0]) and close(returns, np.nan_to_num(theirs[1]) * MASK.numpy())
    # Negative control: values of the state after the token instead of before it, one step off.
    late = reference.gae_as_a_sum(rewards.numpy(), np.roll(values.numpy(), 1, 1), MASK.numpy(), gamma, lam)
    assert not close(advantages, late[0], 1e-3)


def test_gae_has_its_two_known_ends() -> None:
    rewards, values, mask = randn(2, 4, seed=1), randn(2, 4, seed=2), torch.ones(2, 4, dtype=torch.float64)
    togo = rewards.flip(1).cumsum(1).flip(1)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(returns, togo)
    torch.testing.assert_close(advantages, togo - values)
    after = torch.cat((values[:, 1:], torch.zeros(2, 1, dtype=torch.float64)), 1)
    torch.testing.assert_close(gae(rewards, values, mask, 0.9, 0.0)[0], rewards + 0.9 * after - values)


@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_padding_and_the_order_of_answers_do_not_matter(rows: list[list[float]], before: int, after: int) -> None:
    def tensors(answers: list[list[float]], left: int, right: int) -> tuple[Tensor, Tensor]:
        width = max(len(answer) for answer in answers)
        fill = [[JUNK] * left + a + [JUNK] * (width - len(a) + right) for a in answers]
        x = torch.tensor(fill, dtype=torch.float64)
        return x, (~x.isnan()).double()

    def everything(x: Tensor, mask: Tensor) -> list[list[float]]:
        """What each answer's tokens get from every function of tokens, row by row."""
        rewards = token_rewards(masked_row_sums(x, mask), x, mask, 0.1)
        advantages, returns = gae(rewards, x, mask)
        per_token = [rewards, advantages, returns, whiten(x, mask), whiten(x, mask, False), answer_weights(mask)[0]]
        seen = [[*(y[b][mask[b] != 0] for y in per_token)] for b in range(len(x))]
        return [torch.cat(parts).tolist() for parts in seen]

    plain = everything(*tensors(rows, 0, 0))
    for ours, theirs in zip(everything(*tensors(rows, before, after)), plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)
    for ours, theirs in zip(everything(*tensors(rows[::-1], 0, 0)), plain[::-1], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@given(st.integers(2, 5), st.floats(-100, 100), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_baselines_equal_the_reference_and_ignore_a_shift(num_answers: int, shift: float, seed: int) -> None:
    scores = randn(3, num_answers, seed=seed)
    assert close(rloo_advantages(scores), reference.rloo(scores.numpy()))
    torch.testing.assert_close(rloo_advantages(scores + shift), rloo_advantages(scores), rtol=1e-9, atol=1e-11)
    # Leaving one out is K / (K - 1) of the deviation from the mean of all.
    centred = grpo_advantages(scores, "none")
    torch.testing.assert_close(rloo_advantages(scores), centred * num_answers / (num_answers - 1))
    for scale in ("none", "group_std", "batch_std"):
        ours = grpo_advantages(scores, scale)  # type: ignore[arg-type]
        assert close(ours, reference.grpo(scores.numpy(), scale))
        torch.testing.assert_close(ours, grpo_advantages(scores + shift, scale), rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
    assert not close(grpo_advantages(scores), reference.grpo(scores.numpy(), "none"), 1e-3)


def test_baselines_of_equal_scores_are_0_and_of_one_answer_an_error() -> None:
    same = torch.full((2, 4), 0.1)
    for advantages in (rloo_advantages(same), grpo_advantages(same), grpo_advantages(same, "batch_std")):
        assert float(advantages.abs().max()) < 1e-3
    for baseline in (rloo_advantages, grpo_advantages):
        with pytest.raises(ValueError, match="two answers"):
            baseline(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="none of none"):
        grpo_advantages(same, "mean")  # type: ignore[arg-type]
    torch.testing.assert_close(spread(torch.tensor([1.0, 2.0]), MASK[:2].float()).sum(1), torch.tensor([4.0, 2.0]))


def test_weights_of_tokens_say_what_an_answer_counts() -> None:
    token, total = answer_weights(MASK)
    assert torch.equal(token, MASK) and float(total) == 10
    answer, total = answer_weights(MASK, "answer")
    assert answer.sum(1).tolist() == pytest.approx([1] * 4) and float(total) == 4
    length, total = answer_weights(MASK, "length", max_tokens=8)
    assert length.sum(1).tolist() == [0.5, 0.125, 0.375, 0.25] and float(total) == 4
    for bad in ({"per": "length"}, {"per": "row"}):
        with pytest.raises(ValueError, match="weights"):
            answer_weights(MASK, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no token"):
        answer_weights(torch.zeros(1, 3))


@pytest.mark.parametrize("clip_high", [None, 0.5])
def test_policy_loss_equals_the_reference_and_a_flipped_sign_is_noticed(clip_high: float | None) -> None:
    new, old, advantages = padded(1), padded(1) + 0.6 * padded(5), padded(4)
    loss, count, stats = policy_loss(new, old, advantages, MASK, 0.2, clip_high)
    arrays = [x.numpy() for x in (new, old, advantages, MASK)]
    expected, held = reference.policy_loss(*arrays, 0.2, clip_high or 0.2)
    assert float(loss) == pytest.approx(expected, rel=1e-11) and float(count) == 10
    assert float(stats["clipped"]) == held and 0 < held < 10
    log_ratio = (new - old)[MASK != 0]
    assert float(stats["approx_kl"]) == pytest.approx(float(0.5 * log_ratio.square().sum()))
    assert float(stats["ratio"]) == pytest.approx(float(log_ratio.exp().sum()))
    assert float(stats["ratio_square"]) == pytest.approx(float((2 * log_ratio).exp().sum()))
    arrays[2] = -arrays[2]
    assert float(loss) != pytest.approx(reference.policy_loss(*arrays, 0.2, clip_high or 0.2)[0], rel=1e-3)


def test_at_ratio_1_the_policy_loss_is_the_policy_gradient() -> None:
    logprobs, advantages = randn(4, 5, seed=1, grad=True), padded(2)
    loss, _, stats = policy_loss(logprobs, logprobs.detach(), advantages, MASK)
    (grad,) = torch.autograd.grad(loss, logprobs)
    assert torch.equal(grad, torch.where(MASK != 0, -advantages, 0.0))
    assert stats["ratio"] == 10 and stats["approx_kl"] == 0 and stats["clipped"] == 0


def test_the_clip_holds_a_token_still_on_one_side_only() -> None:
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    logprobs = ratio.log().requires_grad_(True)
    loss, _, stats = policy_loss(logprobs, torch.zeros(1, 4, dtype=torch.float64), advantages, torch.ones(1, 4))
    (grad,) = torch.autograd.grad(loss, logprobs)
    assert grad.tolist() == [[0.0, 1.5, -0.5, 0.0]] and stats["clipped"] == 2
    with pytest.raises(ValueError, match="clip"):
        policy_loss(logprobs, logprobs, advantages, torch.ones(1, 4), 0.0)


def test_value_loss_equals_the_reference() -> None:
    values, old, returns = padded(1), padded(1) + 0.4 * padded(2), padded(3)
    arrays = [x.numpy() for x in (values, old, returns, MASK)]
    loss, count, stats = value_loss(values, old, returns, MASK, 0.2)
    assert float(loss) == pytest.approx(reference.value_loss(*arrays, 0.2), rel=1e-11) and float(count) == 10
    free = float(value_loss(values, old, returns, MASK, None)[0])
    assert free == pytest.approx(reference.value_loss(*arrays, 1e9)) and float(loss) > free
    assert float(stats["error"]) == pytest.approx(2 * free) and 0 < float(stats["clipped"]) < 10
    assert float(stats["value"]) == pytest.approx(float(values.nansum()))
    # Negative control: old values and returns exchanged.
    assert float(loss) != pytest.approx(reference.value_loss(arrays[0], arrays[2], arrays[1], arrays[3], 0.2), rel=1e-3)
    with pytest.raises(ValueError, match="value clip"):
        value_loss(values, old, returns, MASK, 0.0)


def test_every_loss_over_tokens_passes_gradcheck() -> None:
    x, other, third = randn(4, 5, seed=1, grad=True), randn(4, 5, seed=2), randn(4, 5, seed=3)
    for loss in (
        lambda y: policy_loss(y, other, third, MASK)[0],
        lambda y: value_loss(y, other, third, MASK, 0.5)[0],
        lambda y: entropy_bonus(y.exp(), MASK)[0],
        lambda y: kl_loss(y, other, MASK, "k2")[0] + kl_loss(y, other, MASK, "k3")[0],
        lambda y: masked_variance(y, MASK) + masked_mean(y * y, MASK),
        lambda y: whiten(y, MASK),
    ):
        assert torch.autograd.gradcheck(loss, (x,))


def test_only_the_new_policy_and_the_new_values_get_a_gradient() -> None:
    rows = [randn(4, 5, seed=seed, grad=True) for seed in range(3)]
    for loss in (policy_loss(*rows, MASK)[0], value_loss(*rows, MASK)[0]):
        grads = torch.autograd.grad(loss, rows, allow_unused=True)
        assert grads[0] is not None and grads[1] is None and grads[2] is None
    for advantage in (gae(rows[0], rows[1], MASK)[0], rloo_advantages(rows[0]), grpo_advantages(rows[0])):
        assert not advantage.requires_grad


def test_the_kl_coefficient_follows_the_kl_in_small_steps() -> None:
    assert adapted_kl_coefficient(0.1, 6.0, 6.0) == 0.1
    assert adapted_kl_coefficient(0.1, 6.6, 6.0) == pytest.approx(0.101)
    assert adapted_kl_coefficient(0.1, 600.0, 6.0) == pytest.approx(0.102)
    assert adapted_kl_coefficient(0.1, -3.0, 6.0) == pytest.approx(0.098)
    for bad in ((0.1, 1.0, 0.0, 0.1), (0.1, 1.0, 6.0, 0.0)):
        with pytest.raises(ValueError, match="above 0"):
            adapted_kl_coefficient(*bad)


def test_scores_are_clipped_and_an_endless_answer_pays() -> None:
    score = torch.tensor([-9.0, 0.5, 9.0])
    assert clip_scores(score, 5.0).tolist() == [-5.0, 0.5, 5.0]
    assert penalise_missing_end(score, torch.tensor([True, False, False]), 1.0).tolist() == [-9.0, -0.5, 8.0]
    with pytest.raises(ValueError, match="above 0"):
        clip_scores(score, 0.0)
