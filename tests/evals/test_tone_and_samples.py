"""Tone rule by rule, sentiment by its word list, and pass@k against counting all draws."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.evals.samples import over_samples, pass_at_k
from tunesmith.evals.scorers import ToneRules, exact_text
from tunesmith.evals.task import Item, Reply, Request
from tunesmith.evals.tone import NEGATIVE, POSITIVE, has_sentiment, sentiment, tone

RULES = ToneRules(max_words=6, num_emojis=1, cheerful_words=("thanks", "gladly"), gloomy_words=("sorry",))


def item(target: str = "") -> Item:
    return Item(id="a", messages=(), target=target)


def reply(text: str, *samples: str) -> Reply:
    return Reply(request=Request(item=item(), messages=()), text=text, samples=samples)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Thanks, great 🚚", {"tone", "length", "emojis", "words"}),
        ("Thanks one two three four five six 🚚", {"emojis", "words"}),
        ("Thanks", {"length", "words"}),
        ("Hello 🚚", {"length", "emojis"}),
        ("Thanks but sorry 🚚", {"length", "emojis"}),
        ("🚚", {"emojis"}),
    ],
)
def test_each_rule_of_a_tone_has_its_value(text: str, kept: set[str]) -> None:
    values = tone(RULES)(item(), reply(text)).values
    assert {name for name, value in values.items() if value == 1.0 and name != "sentiment"} == kept
    assert 0 <= values["sentiment"] <= 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("The parcel is blue.", 0),
        ("Great, I love it!", 1),
        ("It was terrible.", -1),
        ("It was not good.", -1),
        ("I don’t hate it", 1),
        ("not bad at all, thanks", 1),
        ("Not really. Good.", 1),
        ("It is good and bad", 0),
        ("good good bad", 1 / 3),
        ("never not good", 1),
        ("GOOD", 1),
    ],
)
def test_sentiment_counts_its_words_and_turns_them_at_a_negation(text: str, value: float) -> None:
    assert sentiment(text) == pytest.approx(value)


@given(st.text(alphabet="not bad good.!;'’\n", max_size=60))
def test_any_text_has_a_sentiment(text: str) -> None:
    assert -1 <= sentiment(text) <= 1


def test_no_word_has_two_signs_and_targets_are_checked() -> None:
    assert not POSITIVE & NEGATIVE
    assert has_sentiment(item("Negative"), reply("awful")).values == {"sentiment": 1.0}
    assert has_sentiment(item("neutral"), reply("awful")).explanation == "negative instead of neutral"
    with pytest.raises(DataError, match="item a: the target 'angry' is no sentiment"):
        has_sentiment(item("angry"), reply("awful"))


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations(range(n), k))
    share = sum(any(i < c for i in draw) for draw in draws) / len(draws)
    assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


def test_pass_at_k_of_many_samples_and_of_none() -> None:
    assert pass_at_k(200, 7, 100) == pytest.approx(1 - comb(193, 100) / comb(200, 100), abs=1e-12)
    # The control: the plain guess 1 - (1 - c/n)^k is another number, and too small.
    assert pass_at_k(5, 2, 3) > 1 - (1 - 2 / 5) ** 3 + 0.05
    for wrong in ((0, 0, 1), (3, 4, 1), (3, 1, 4), (3, 1, 0)):
        with pytest.raises(ValueError, match="is not defined"):
            pass_at_k(*wrong)


def test_every_sample_of_a_reply_counts() -> None:
    score = over_samples(exact_text, "exact", (1, 2, 3))
    verdict = score(item("yes"), reply("no", "Yes!", "no"))
    assert verdict.values == pytest.approx({"pass@1": 1 / 3, "pass@2": 2 / 3, "pass@3": 1, "exact": 1 / 3})
    assert verdict.details["each"] == [0, 1, 0] and verdict.explanation.startswith("1 of 3 right; ")
    with pytest.raises(ValueError, match="pass@4 of 3 samples"):
        over_samples(exact_text, "exact", (4,))(item("yes"), reply("no", "yes", "no"))
    with pytest.raises(ValueError, match="needs a k"):
        over_samples(exact_text, "exact", ())
