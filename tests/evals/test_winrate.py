"""Win rates and divergences against numbers worked out by hand, scipy and simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tunesmith.evals.winrate import divergence, win_rate
from tunesmith.stats import wilson_interval


def column(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def test_wins_ties_and_losses_are_counted_and_a_tie_is_a_half() -> None:
    first, second = column(3, 1, 2, 5, 0), column(1, 1, 4, 0, -1)
    result = win_rate(first, second, seed=0)
    assert (result.wins, result.ties, result.losses) == (3, 1, 1)
    assert result.rate.value == pytest.approx(3.5 / 5)
    assert result.difference.value == pytest.approx((2 + 0 - 2 + 5 + 1) / 5)
    assert result.p == pytest.approx(scipy_stats.binomtest(3, 4).pvalue)
    mirrored = win_rate(second, first, seed=0)
    assert mirrored.rate.value == pytest.approx(1 - result.rate.value)
    assert mirrored.difference.value == pytest.approx(-result.difference.value)
    assert json.loads(json.dumps(result.as_dict()))["rate"]["value"] == result.rate.value


def test_without_ties_and_with_one_answer_a_prompt_it_is_wilsons_interval() -> None:
    first, second = column(*range(20)), column(*([5.5] * 20))
    assert win_rate(first, second, seed=0).rate == wilson_interval(14, 20)
    everything = win_rate(first + 100, second, seed=0)
    assert everything.rate.value == 1.0 and 0.8 < everything.rate.low < 1


def test_two_equal_models_tie_everywhere() -> None:
    scores = np.arange(12.0).reshape(6, 2)
    result = win_rate(scores, scores, seed=0)
    assert result.rate.value == 0.5 and (result.wins, result.ties, result.losses) == (0, 12, 0)
    assert result.difference.low == result.difference.high == 0 and result.p == 1.0


def test_answers_to_one_prompt_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(0)
    first, second = column(*rng.normal(0.5, 1, 30)), column(*rng.normal(0, 1, 30))
    once, often = win_rate(first, second, seed=0), win_rate(first.repeat(8, 1), second.repeat(8, 1), seed=0)
    assert often.rate.value == pytest.approx(once.rate.value)
    assert often.rate.high - often.rate.low == pytest.approx(once.rate.high - once.rate.low, rel=0.05)
    assert often.difference == once.difference and often.p == once.p
    # Control: 240 prompts would have told more.
    many = win_rate(first.repeat(8, 0), second.repeat(8, 0), seed=0)
    assert many.rate.high - many.rate.low < 0.5 * (once.rate.high - once.rate.low)


def test_the_intervals_hold_what_they_promise() -> None:
    """300 worlds in which the first model's answer is scored 0.3 higher on average, two answers a prompt."""
    truth = float(scipy_stats.norm.cdf(0.3 / np.sqrt(2 * 1.0**2)))
    rng = np.random.default_rng(1)
    held_rate = held_difference = 0
    for world in range(300):
        ease = rng.normal(size=(40, 1))  # The prompt's own, which both models share.
        first, second = (ease + shift + rng.normal(size=(40, 2)) for shift in (0.3, 0.0))
        result = win_rate(first, second, seed=world)
        held_rate += result.rate.low <= truth <= result.rate.high
        held_difference += result.difference.low <= 0.3 <= result.difference.high
    assert 0.91 <= held_rate / 300 <= 0.99
    assert 0.91 <= held_difference / 300 <= 0.99


@pytest.mark.parametrize("shapes", [((3, 1), (4, 1)), ((3,), (3,)), ((0, 2), (0, 2)), ((3, 2), (3, 1))])
def test_scores_that_do_not_belong_together_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        win_rate(np.zeros(shapes[0]), np.zeros(shapes[1]), seed=0)


def test_divergence_is_the_kl_of_a_model_it_is_known_for() -> None:
    """Answers of tokens drawn from p; KL(p || q) a token is known, and so is that of the whole answer."""
    rng = np.random.default_rng(0)
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    kl = float((p * np.log(p / q)).sum())
    lengths = rng.integers(3, 9, 6000)
    answers = [np.log(p / q)[rng.choice(3, size=n, p=p)] for n in lengths]
    result = divergence(answers, list(range(6000)), seed=0)
    assert result.token == pytest.approx(kl, rel=0.05)
    assert result.sequence.low < kl * lengths.mean() < result.sequence.high
    # Control: answers of q would tell the other divergence, with the other sign.
    wrong = divergence([np.log(p / q)[rng.choice(3, size=n, p=q)] for n in lengths], list(range(6000)), seed=0)
    assert wrong.token < 0
    same = divergence([np.zeros(4)] * 3, [0, 0, 1], seed=0)
    assert same.token == 0 and same.sequence.low == same.sequence.high == 0
