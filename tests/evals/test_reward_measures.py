"""What the report of a reward model says of made-up rewards whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.reward.reward_rows import group
from tunesmith.evals.reward import Pairs, longer_wins, measure_reward, pairs_of
from tunesmith.records import Pair


def pairs(margin: Any, gap: Any, prompt: Any = None) -> Pairs:
    margin_P, gap_P = np.asarray(margin, float), np.asarray(gap, float)
    prompt_P = np.arange(len(margin_P)) if prompt is None else np.asarray(prompt)
    return Pairs(better_P=margin_P, worse_P=np.zeros(len(margin_P)), gap_P=gap_P, prompt_P=prompt_P)


def test_pairs_carry_rewards_and_the_gap_in_answer_tokens() -> None:
    one, two = group(0, 4, 6, 3), group(1, 2, 9, pairs=(Pair(better=1, worse=0),))
    found = pairs_of([one, two], [np.array([3.0, 2.0, 1.0]), np.array([0.5, 1.5])])
    assert found.better_P.tolist() == [3, 2, 3, 1.5] and found.worse_P.tolist() == [2, 1, 1, 0.5]
    assert found.gap_P.tolist() == [-2, 3, 1, 7] and found.prompt_P.tolist() == [0, 0, 0, 1]
    assert longer_wins([one, two]) and not longer_wins([group(0, 1, 4, pairs=(Pair(better=0, worse=1),))])


def test_a_model_that_only_measures_length_is_told_so() -> None:
    rng = np.random.default_rng(0)
    gap = rng.integers(-20, 21, 300)
    gap = gap[gap != 0]
    ruler = measure_reward(pairs(0.1 * gap, gap), longer=True, seed=0)
    assert ruler["accuracy"] == ruler["length_only"]["accuracy"] and ruler["length_only"]["p"] == 1.0
    assert any("not shown to be better than taking the longer answer" in text for text in ruler["warnings"])
    assert any(
        "length bias: right more often where the better answer is the longer one" in t for t in ruler["warnings"]
    )
    # The control: one that is right whatever the length.
    knows = measure_reward(pairs(np.where(rng.random(len(gap)) < 0.9, 1.0, -1.0), gap), longer=True, seed=0)
    assert knows["warnings"] == [] and knows["length_only"]["difference"][1] > 0.2
    assert knows["length_only"]["p"] < 1e-6


def test_accuracy_counts_ties_by_half_and_bins_hold_all_pairs() -> None:
    facts = measure_reward(pairs([1, -1, 0, 2], [1, 0, -3, 2], prompt=[0, 0, 1, 2]), longer=True, seed=0)
    assert facts["accuracy"][0] == 0.625 and (facts["pairs"], facts["prompts"]) == (4, 3)
    assert facts["length_only"]["accuracy"][0] == 0.625
    for key in ("by_margin", "by_length_gap", "calibration"):
        assert sum(b["pairs"] for b in facts[key]) == 4
    assert sum(facts["scores"]["chosen"]) == sum(facts["scores"]["rejected"]) == 4
    assert facts["length_bias"]["right_of_better_longer"] == [2, 2]
    assert facts["length_bias"]["right_of_better_shorter"] == [0, 1]


def test_a_model_as_sure_as_it_is_right_is_calibrated_and_one_too_sure_is_not() -> None:
    rng = np.random.default_rng(1)
    margin = rng.normal(0, 1.5, 4000)
    outcome = np.where(rng.random(4000) < 1 / (1 + np.exp(-np.abs(margin))), np.abs(margin), -np.abs(margin))
    gap = rng.integers(-5, 6, 4000)
    honest = measure_reward(pairs(outcome, gap), longer=False, seed=0)
    assert honest["ece"] == pytest.approx(honest["ece_if_calibrated"], abs=0.012)
    sure = measure_reward(pairs(3 * outcome, gap), longer=False, seed=0)
    assert sure["ece"] > 0.1 and sure["accuracy"] == honest["accuracy"]
    rising = [b["accuracy"][0] for b in honest["by_margin"]]
    assert rising == sorted(rising) and honest["length_only"]["takes"] == "the shorter answer"


def test_a_handful_of_prompts_is_no_evidence_against_length() -> None:
    two = measure_reward(pairs([1, 1], [-1, -1]), longer=True, seed=0)
    # Right twice where length is wrong twice: p = 0.5, whatever an interval over two equal numbers may say.
    assert two["length_only"]["difference"][0] == 1.0 and two["length_only"]["p"] == 0.5
    assert two["length_only"]["difference"][1] < 0.5
    assert any("not shown to be better" in text for text in two["warnings"])
    # The control: the same on twelve prompts.
    assert measure_reward(pairs([1] * 12, [-1] * 12), longer=True, seed=0)["warnings"] == []


def test_copies_of_a_pair_are_no_evidence_of_a_length_bias() -> None:
    margin, gap = [1, 1, 1, 1, -1], [1, 1, 1, -1, -1]
    once = measure_reward(pairs(margin, gap), longer=True, seed=0)
    copied = measure_reward(pairs(margin * 40, gap * 40, prompt=list(range(5)) * 40), longer=True, seed=0)
    assert copied["length_bias"]["difference"] == pytest.approx(once["length_bias"]["difference"], abs=0.15)
    assert not any("length bias" in text for text in copied["warnings"])
    # The control: 200 prompts say it.
    apart = measure_reward(pairs(margin * 40, gap * 40), longer=True, seed=0)
    assert any("length bias" in text for text in apart["warnings"])
