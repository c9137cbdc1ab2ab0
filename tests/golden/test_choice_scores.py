"""Choice and reading scores against a second implementation that shares no code with ours."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.choice_reference import BY_HAND, choice_scores, reading
from tunesmith.evals.choice import choice_scorer
from tunesmith.evals.reading import READING_RATIOS, perplexity, reading_scorer
from tunesmith.evals.task import Item, Reply, Request
from tunesmith.records import Likelihood, Verdict
from tunesmith.stats import Interval


def scored(item: Item, logprobs: list[float], tokens: int = 3, scorer=choice_scorer) -> Verdict:  # type: ignore[no-untyped-def]
    likelihoods = tuple(Likelihood(logprob=value, num_tokens=tokens, greedy=False) for value in logprobs)
    return scorer()(item, Reply(request=Request(item=item, messages=()), likelihoods=likelihoods))


def test_the_example_by_hand() -> None:
    choices, logprobs, gold, expected = BY_HAND
    verdict = scored(Item(id="x", messages=(), target=choices[gold], choices=tuple(choices)), logprobs)
    assert dict(verdict.values) == pytest.approx(expected, abs=5e-7)
    assert choice_scores(logprobs, choices, {gold}) == pytest.approx(expected, abs=5e-7)


def test_random_questions_agree_and_a_wrong_length_does_not() -> None:
    rng = np.random.default_rng(0)
    letters, differing = "abcdé好🙂 ", 0
    for number in range(200):
        size = int(rng.integers(2, 7))
        choices = [f"x{''.join(rng.choice(list(letters), rng.integers(0, 12)))}{i}" for i in range(size)]
        logprobs = (-rng.exponential(9.0, size)).tolist()
        gold = {int(i) for i in rng.choice(size, rng.integers(1, size + 1), replace=False)}
        item = Item(
            id=str(number), messages=(), target="", choices=tuple(choices), metadata={"gold_places": sorted(gold)}
        )
        values = scored(item, logprobs).values
        assert dict(values) == pytest.approx(choice_scores(logprobs, choices, gold), abs=1e-12)
        differing += dict(values) != pytest.approx(
            choice_scores(logprobs, [c + "!" * i for i, c in enumerate(choices)], gold)
        )
    assert differing > 10, "the control must notice other lengths"


def test_bits_a_byte_are_sums_over_sums() -> None:
    texts = [("plain words", -20.0, 4), ("naïve 好", -31.5, 9), ("🙂", -12.25, 3)]
    verdicts = [
        scored(Item(id=text, messages=(), target=text), [nats], tokens, reading_scorer) for text, nats, tokens in texts
    ]
    for metric, (over, under) in READING_RATIOS.items():
        total = sum(v.values[over] for v in verdicts) / sum(v.values[under] for v in verdicts)
        assert total == pytest.approx(reading(texts)[metric], rel=1e-12)
        each = [reading([text])[metric] for text in texts]
        assert [v.values[metric] for v in verdicts] == pytest.approx(each, rel=1e-12)
        assert np.mean(each) != pytest.approx(total), "a mean of ratios is another number"


def test_perplexity_is_exp_of_nats() -> None:
    assert perplexity(Interval(0.0, -1.0, 1.0)) == Interval(1.0, pytest.approx(1 / np.e), pytest.approx(np.e))  # type: ignore[arg-type]
