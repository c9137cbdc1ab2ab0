"""ROUGE-L against the rouge-score library and the textbook recursion; the pool against comparing with all."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.bootstrap.rouge import Pool, lcs_length, rouge_l, tokens_of

# F values of rougeL by rouge-score 0.1.2 without stemming.
GOLDEN = [
    ("Sort the numbers from small to large.", "Sort these numbers from large to small.", 0.571428571429),
    (
        "Write a letter to the landlord about the heating.",
        "Write a letter to the landlord, about the broken heating!",
        0.947368421053,
    ),
    ("Name three rivers", "Which rivers cross three borders?", 0.25),
    ("the cat the dog the cat", "the the the dog cat", 0.727272727273),
    ("a b c d e f g h", "h g f e d c b a", 0.125),
    ("Don't stop: it's 2nd-rate, isn't it?", "Do not stop; it is 2nd rate.", 0.470588235294),
    ("Translate 'hello_world' into Finnish", "Translate hello world into finnish.", 1.0),
    ("one two", "three four", 0.0),
    (
        "Explain why the sky is blue to a child of five",
        "Explain to a child of five why the sky is blue",
        0.545454545455,
    ),
    ("x", "x", 1.0),
    ("", "x", 0.0),
    ("?!", "?!", 0.0),
]
WORDS = st.lists(st.sampled_from("abcd"), max_size=70)
SENTENCES = st.lists(
    st.lists(st.sampled_from(["write", "a", "poem", "list", "the", "of", "numbers", "sort"]), max_size=9).map(" ".join),
    max_size=12,
)


def textbook_lcs(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """The recursion as every textbook has it."""

    @cache
    def length(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if first[i - 1] == second[j - 1]:
            return length(i - 1, j - 1) + 1
        return max(length(i - 1, j), length(i, j - 1))

    return length(len(first), len(second))


@pytest.mark.parametrize(("first", "second", "expected"), GOLDEN)
def test_rouge_l_is_the_librarys(first: str, second: str, expected: float) -> None:
    assert rouge_l(first, second) == pytest.approx(expected, abs=1e-11)
    assert rouge_l(second, first) == pytest.approx(expected, abs=1e-11)


def test_order_matters_to_it_and_not_to_word_overlap() -> None:
    # Control: a bag of words, which the pool's bound is, would call these the same.
    first, second = "a b c d e f g h", "h g f e d c b a"
    assert sorted(tokens_of(first)) == sorted(tokens_of(second))
    assert rouge_l(first, second) < 0.2


@given(WORDS, WORDS)
def test_bits_count_what_the_recursion_counts(first: list[str], second: list[str]) -> None:
    assert lcs_length(first, second) == textbook_lcs(tuple(first), tuple(second))


def test_characters_of_unspaced_scripts_are_tokens() -> None:
    assert tokens_of("Übersetze 你好 ins Deutsche_jetzt") == ["übersetze", "你", "好", "ins", "deutsche", "jetzt"]
    assert rouge_l("翻译这个句子", "翻译那个句子") == pytest.approx(5 / 6)


def nearest_by_force(texts: list[str], text: str) -> tuple[float, str] | None:
    scores = [(rouge_l(other, text), str(i)) for i, other in enumerate(texts)]
    best = max(scores, key=lambda pair: pair[0], default=(0.0, ""))
    return best if best[0] > 0 else None


@settings(max_examples=200)
@given(SENTENCES, st.lists(st.sampled_from(["write", "a", "poem", "the", "numbers", "x"]), max_size=9).map(" ".join))
def test_the_pool_finds_what_comparing_with_all_finds(texts: list[str], text: str) -> None:
    pool = Pool()
    for i, other in enumerate(texts):
        pool.add(str(i), other)
    found = pool.nearest(text)
    assert (None if found is None else (found.score, found.id)) == nearest_by_force(texts, text)


def test_the_pool_compares_with_few() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(2000)]
    pool = Pool()
    texts = [" ".join(rng.choices(words, weights=range(2000, 0, -1), k=12)) for _ in range(1000)]
    for i, text in enumerate(texts):
        pool.add(str(i), text)
    found = pool.nearest(texts[700])
    assert found is not None
    assert (found.score, found.id) == (1.0, "700")
    assert pool.num_compared < 10
