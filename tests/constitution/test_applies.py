"""Which principles a prompt falls under, and how they are drawn: against counts, refits and probabilities."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tunesmith.constitution.applies import Applicability, Vectors, fit_nearer, left_out_right, sample_principles
from tunesmith.constitution.principles import Applies, Constitution, Principle
from tunesmith.errors import MissingExtraError
from tunesmith.records import Message


def rule(name: str, weight: float = 1.0, **applies: Any) -> Principle:
    return Principle(
        id=name, text=f"About {name}.", category="c", critique_request="Is the answer wrong?",
        revision_request="Write it again.", weight=weight, applies=Applies(**applies),
    )  # fmt: skip


def constitution(*rules: Principle) -> Constitution:
    return Constitution(name="n", version="1", principles=rules)


class Words:
    """An encoder whose vectors count words, and which remembers what it was asked."""

    def __init__(self) -> None:
        self.asked = list[list[str]]()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        vectors = np.full((len(texts), 512), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, zlib.crc32(word.encode()) % 512] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


LIKE, UNLIKE = ("red apple", "green apple", "apple pie"), ("red car", "green car", "car race", "old car")


def test_each_way_narrows_down_and_both_narrow_further() -> None:
    rules = constitution(
        rule("always"), rule("pattern", pattern=r"\bpie\b"), rule("examples", like=LIKE, unlike=UNLIKE),
        rule("both", pattern=r"\bpie\b", like=LIKE, unlike=UNLIKE),
    )  # fmt: skip
    texts = ["An APPLE PIE", "an apple tree", "a car race", "pie in the car"]
    found = Applicability(rules, Words()).applying([user(text) for text in texts])
    assert [[one.id for one in row] for row in found] == [
        ["always", "pattern", "examples", "both"],
        ["always", "examples"],
        ["always"],
        ["always", "pattern"],
    ]


def test_only_what_the_user_says_is_read() -> None:
    applicability = Applicability(constitution(rule("a", pattern="bomb")))
    turns = [
        Message(role="system", content="bomb"),
        Message(role="user", content="Hello"),
        Message(role="assistant", content="bomb"),
        Message(role="user", content="Bye"),
    ]
    assert applicability.applying([turns]) == [()]
    assert len(applicability.applying([[*turns, Message(role="user", content="A Bomb")]])[0]) == 1
    assert applicability.applying([]) == []


def test_a_text_is_encoded_once_and_no_encoder_is_loaded_for_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words()
    applicability = Applicability(constitution(rule("a", like=LIKE, unlike=UNLIKE)), words)
    applicability.of_texts(["x", "y", "x", "red apple"])
    applicability.of_texts(["y", "z"])
    asked = [text for call in words.asked for text in call]
    assert len(asked) == len(set(asked)) and len(words.asked) == 3
    monkeypatch.setattr(
        "tunesmith.constitution.applies.SentenceEncoder", lambda **_: pytest.fail("the encoder was loaded")
    )
    Applicability(constitution(rule("a"), rule("b", pattern="x"))).of_texts(["x"])


def test_a_pattern_without_end_counts_as_found_and_is_told() -> None:
    applicability = Applicability(constitution(rule("slow", pattern=r"(a+)+$")), seconds=0.05)
    assert [len(row) for row in applicability.of_texts(["a" * 2000 + "!", "b"])] == [1, 0]
    (note,) = applicability.notes()
    assert note.startswith("slow: ") and "in 1 prompts" in note
    # Control: a pattern that ends says nothing.
    quick = Applicability(constitution(rule("quick", pattern="a+$")), seconds=0.05)
    assert [len(row) for row in quick.of_texts(["a" * 2000 + "!"])] == [0] and quick.notes() == []


def test_texts_the_encoder_cut_are_told() -> None:
    class Cutting:
        num_cut = 2

    vectors = Vectors(Words())
    assert vectors.num_cut == 0
    applicability = Applicability(constitution(rule("a")))
    applicability.vectors._encoder = Cutting()  # type: ignore[assignment]
    assert "2 texts are longer" in applicability.notes()[0]


def by_primal(like: NDArray[np.float64], unlike: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """The slope by weighted least squares over the D directions: the other way to the same plane."""
    weights = np.r_[np.full(len(like), 1 / len(like)), np.full(len(unlike), 1 / len(unlike))]
    targets = np.r_[np.ones(len(like)), -np.ones(len(unlike))]
    around = np.r_[like, unlike] - (like.mean(0) + unlike.mean(0)) / 2
    left = around.T @ (around * weights[:, None]) + ridge * np.eye(like.shape[1])
    return np.asarray(np.linalg.solve(left, around.T @ (weights * targets)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9), st.floats(0.05, 2))
def test_the_plane_is_the_weighted_least_squares_one(seed: int, num_like: int, num_unlike: int, ridge: float) -> None:
    drawn = np.random.default_rng(seed)
    like, unlike = drawn.normal(size=(num_like, 5)), drawn.normal(size=(num_unlike, 5))
    plane = fit_nearer(like, unlike, ridge)
    np.testing.assert_allclose(plane.slope_D, by_primal(like, unlike, ridge), rtol=1e-6, atol=1e-8)
    # Copies of one side change nothing: each side weighs the same, however many prompts it has.
    np.testing.assert_allclose(
        fit_nearer(np.r_[like, like], unlike, ridge).slope_D, plane.slope_D, rtol=1e-6, atol=1e-8
    )
    # Sides changed about: the same plane seen from behind.
    np.testing.assert_allclose(fit_nearer(unlike, like, ridge).slope_D, -plane.slope_D, rtol=1e-6, atol=1e-8)


def test_leaving_one_out_tells_a_learnable_side_from_noise() -> None:
    drawn = np.random.default_rng(0)
    apart = drawn.normal(size=(8, 4)).astype(np.float32) + 5, drawn.normal(size=(8, 4)).astype(np.float32) - 5
    assert all(left_out_right(*apart)[0]) and all(left_out_right(*apart)[1])
    # Each prompt's twin stands on the other side: without it, it is told wrong.
    points = (np.eye(6) * 3).astype(np.float32)
    like, unlike = left_out_right(points, points + np.float32(0.01))
    assert not any(like) and not any(unlike)
    assert left_out_right(points[:1], points[1:])[0] == [False]


WEIGHTS = st.lists(st.floats(0, 10).map(lambda w: 0.0 if w < 0.01 else w), min_size=0, max_size=8)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.integers(0, 10), st.integers(0, 1000), st.one_of(st.integers(0, 99), st.text(max_size=5)))
def test_a_draw_holds_no_rule_twice_and_none_of_weight_0(
    weights: list[float], n: int, seed: int, key: int | str
) -> None:
    rules = [rule(f"r{i}", weight) for i, weight in enumerate(weights)]
    drawn = sample_principles(rules, n, seed, key)
    positive = [one for one in rules if one.weight > 0]
    assert len(drawn) == min(n, len(positive)) and len({one.id for one in drawn}) == len(drawn)
    assert all(one in positive for one in drawn)
    assert drawn == sample_principles(rules, n, seed, key) == sample_principles(rules[::-1], n, seed, key)
    # Fewer are the first of more, and a rule that goes leaves the others as they stood.
    assert sample_principles(rules, max(n - 1, 0), seed, key) == drawn[: max(n - 1, 0)]
    if drawn:
        rest = [one for one in rules if one != drawn[0]]
        assert sample_principles(rest, n - 1, seed, key) == drawn[1:]


def test_draws_follow_the_weights() -> None:
    rules = [rule("one", 1), rule("two", 2), rule("five", 5)]
    draws = [sample_principles(rules, 2, 0, key) for key in range(4000)]
    first = Counter(drawn[0].id for drawn in draws)
    pair = Counter((drawn[0].id, drawn[1].id) for drawn in draws)
    for name, expected in (("one", 1 / 8), ("two", 2 / 8), ("five", 5 / 8)):
        # Four standard errors.
        assert abs(first[name] / 4000 - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5
    # Without replacement: P(five, then two) = 5/8 * 2/3.
    assert abs(pair["five", "two"] / 4000 - 5 / 12) < 4 * (5 / 12 * 7 / 12 / 4000) ** 0.5
    # Another seed and another key draw otherwise.
    assert draws != [sample_principles(rules, 2, 1, key) for key in range(4000)]
    with pytest.raises(ValueError, match="-1 principles"):
        sample_principles(rules, -1, 0, 0)


def test_without_the_encoder_it_is_said_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.models.sentence_encoder.encoder_folder", lambda: None)
    with pytest.raises(MissingExtraError, match="a principle with examples of prompts needs"):
        Applicability(constitution(rule("a", like=LIKE, unlike=UNLIKE)))
