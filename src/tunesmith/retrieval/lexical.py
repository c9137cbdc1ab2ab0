"""Passages by the words they share with a question: BM25, through the bm25s library; no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.errors import MissingExtraError

# Robertson's usual saturation and length normalisation.
K1, B = 1.5, 0.75
# A question in words -> places of the k nearest texts, the nearest first.
Search = Callable[[str, int], list[int]]


@dataclass(frozen=True, slots=True)
class Hit:
    """Place of a text in the index, and its score."""

    index: int
    score: float


class Lexical:
    """An index of texts, asked by BM25 (Robertson and Zaragoza 2009) as Lucene writes it: idf = ln(1 + (N-n+½)/(n+½)).

    Raises MissingExtraError without bm25s, ValueError without texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError:
            fix = "Run: pip install 'tunesmith[eval]'"
            raise MissingExtraError("bm25s", "BM25 retrieval needs this library.", fix) from None
        if not texts:
            raise ValueError("there is nothing to search in")
        corpus = [words(text) for text in texts]
        self.size = len(corpus)
        self._known = {word for text in corpus for word in text}
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B, dtype="float64")
        if self._known:
            self._index.index(corpus, show_progress=False)

    def search(self, question: str, k: int) -> list[Hit]:
        """The k best texts, best first; texts of one score, those without a shared word too, stand in index order."""
        asked = [word for word in words(question) if word in self._known]
        scores_N = np.asarray(self._index.get_scores(asked)) if asked else np.zeros(self.size)
        best = np.argsort(-scores_N, kind="stable")[:k]
        return [Hit(int(i), float(scores_N[i])) for i in best]

    def nearest(self, question: str, k: int) -> list[int]:
        """``search``, places alone."""
        return [hit.index for hit in self.search(question, k)]


def words(text: str) -> list[str]:
    """A text's words in small letters, Unicode form NFKC; order ids and numbers are words too."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
