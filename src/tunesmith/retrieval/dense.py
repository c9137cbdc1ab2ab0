"""Passages by meaning: cosine of sentence vectors.

Letters: N texts, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# Texts -> (N, D) vectors of length 1.
Encode = Callable[[Sequence[str]], NDArray[np.float32]]


class Dense:
    """An index of texts, asked by the cosine between vectors. Raises ValueError without texts."""

    def __init__(self, texts: Sequence[str], encode: Encode) -> None:
        if not texts:
            raise ValueError("there is nothing to search in")
        self._encode, self._vectors_ND = encode, encode(texts)

    def nearest(self, question: str, k: int) -> list[int]:
        """Places of the k nearest texts, the nearest first; equals stand in the order of the index."""
        cosine_N = self._vectors_ND @ self._encode([question])[0]
        return [int(i) for i in np.argsort(-cosine_N, kind="stable")[:k]]
