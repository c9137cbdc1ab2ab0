"""ROUGE, BLEU and chrF: against figures computed by hand, and the corpus figure against sacrebleu's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

from tunesmith.errors import DataError
from tunesmith.evals.overlap import OVERLAP_METRICS, corpus_bleu, overlap, references_of
from tunesmith.evals.task import Item, Reply, Request

SCORE = overlap()


def values(text: str, *references: str) -> dict[str, float]:
    item = Item(id="a", messages=(), target=references[0], metadata={"references": list(references)})
    return dict(
        SCORE(item, Reply(request=Request(item=item, messages=()), text=text, stop_reason="end_of_turn")).values
    )


def test_the_figures_are_those_worked_out_by_hand() -> None:
    got = values("the cat sat on the mat", "the cat lay on the mat")
    # Unigrams 5 of 6 and 6; bigrams 3 of 5 and 5 (the cat, on the, the mat); longest common subsequence 5.
    assert (got["rouge1"], got["rouge2"], got["rougeL"]) == pytest.approx((5 / 6, 3 / 5, 5 / 6))
    # Precisions 5/6, 3/5, 1/4 and no fourgram of 3, which exponential smoothing makes 1/(2*3); no brevity penalty.
    assert got["bleu"] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)


def test_a_short_answer_pays_the_brevity_penalty() -> None:
    got = values("the cat sat on", "the cat sat on the mat")
    assert got["bleu"] == pytest.approx(math.exp(1 - 6 / 4))
    assert got["rouge1"] == pytest.approx(2 * (4 / 4) * (4 / 6) / (4 / 4 + 4 / 6))


def test_chrf_of_two_letters_by_hand() -> None:
    # Letters: 1 of 2 right on both sides; the bigram ab is not ac: F2 is 1/2 and 0 over the two orders that exist.
    assert values("ab", "ac")["chrf"] == pytest.approx(0.25)


def test_the_best_of_several_references_counts() -> None:
    got = values("a red bus stops here", "nothing alike at all", "a red bus stops here")
    assert got == dict.fromkeys(OVERLAP_METRICS, 1.0)
    assert max(values("a red bus stops here", "nothing alike at all").values()) < 0.2


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="ab c.ä\n", max_size=30), st.text(alphabet="ab c.ä\n", min_size=1, max_size=30))
def test_every_value_is_a_share(text: str, reference: str) -> None:
    if not reference.strip():
        return
    got = values(text, reference)
    assert set(got) == set(OVERLAP_METRICS) and all(0 <= value <= 1 for value in got.values())


def test_an_item_without_a_reference_is_an_error() -> None:
    with pytest.raises(DataError, match="item a: no reference text"):
        values("x", " ")


TEXTS = ["the cat sat on the mat .", "a dog barks loudly at night", "red", "he said so and went home again"]
REFERENCES = [["the cat lay on the mat ."], ["a dog barks at night", "the dog barked loudly at night"], ["red"], ["no"]]


def test_the_corpus_figure_is_sacrebleus_and_not_the_mean_of_sentences() -> None:
    from sacrebleu.metrics import BLEU

    streams = [[refs[0] for refs in REFERENCES], [refs[1] if len(refs) > 1 else None for refs in REFERENCES]]
    expected = BLEU().corpus_score(TEXTS, streams).score / 100
    got = corpus_bleu(TEXTS, REFERENCES, seed=0, num_resamples=200)
    assert got.value == pytest.approx(expected, abs=1e-12)
    assert got.low < got.value < got.high
    mean = sum(values(text, *refs)["bleu"] for text, refs in zip(TEXTS, REFERENCES, strict=True)) / 4
    assert abs(mean - expected) > 0.01


def test_the_interval_of_equal_texts_has_no_width_and_of_a_perfect_corpus_is_one() -> None:
    equal = corpus_bleu(TEXTS[:1] * 5, REFERENCES[:1] * 5, seed=0, num_resamples=50)
    assert equal.low == pytest.approx(equal.value) and equal.high == pytest.approx(equal.value)
    perfect = corpus_bleu(TEXTS, [[text] for text in TEXTS], seed=0, num_resamples=50)
    assert (perfect.low, perfect.value, perfect.high) == pytest.approx((1, 1, 1))
    assert corpus_bleu(["x", "y"], [["a"], ["b"]], seed=0, num_resamples=50).value == 0


def test_texts_without_their_references_are_refused() -> None:
    with pytest.raises(ValueError, match="2 texts for 1 lists"):
        corpus_bleu(["a", "b"], [["a"]], seed=0)
    with pytest.raises(ValueError, match="0 texts"):
        corpus_bleu([], [], seed=0)


def test_one_reference_may_be_a_text_and_is_not_its_letters() -> None:
    item = Item(id="a", messages=(), target="t", metadata={"references": "the cat sat"})
    assert references_of(item) == ["the cat sat"]
