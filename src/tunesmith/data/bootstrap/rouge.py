"""ROUGE-L between instructions, and a pool that finds the nearest one exactly without comparing with all of them.

ROUGE-L is the F value of the longest common subsequence of two token sequences (Lin 2004, section 3):
2 * LCS / (length of one + length of the other). Shape letter: N texts of the pool.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Scripts written without spaces: a whole clause would be one token, so every character is one.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def tokens_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits, of any script; for ASCII text the tokens of the rouge-score library."""
    return _TOKEN.findall(text.lower())


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, one machine word of bits at a time (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << i
    every = (1 << len(first)) - 1
    # A cleared bit i says: the best match grows by one where ``first`` is read up to token i.
    row = every
    for token in second:
        hits = row & places.get(token, 0)
        row = ((row + hits) | (row - hits)) & every
    return len(first) - row.bit_count()


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F of two texts in [0, 1]; 0 where either has no token."""
    return _f_value(tokens_of(first), tokens_of(second))


def _f_value(first: Sequence[str], second: Sequence[str]) -> float:
    return 2 * lcs_length(first, second) / (len(first) + len(second)) if first and second else 0.0


@dataclass(frozen=True, slots=True)
class Nearest:
    """The text of a pool that is most like another one: ROUGE-L F, and the id it was added under."""

    score: float
    id: str


class Pool:
    """Texts that new ones are compared with; ``nearest`` is exact.

    The tokens two texts share, however ordered, bound their common subsequence from above. Texts are visited from the
    highest bound down, until no bound can beat what was found.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._tokens: list[list[str]] = []
        self._num_tokens = array("q")
        # Token -> the texts that hold it, and how often each does.
        self._places: dict[str, tuple[array[int], array[int]]] = {}
        self.num_compared = 0

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, name: str, text: str) -> None:
        """Put a text into the pool."""
        tokens = tokens_of(text)
        for token, count in Counter(tokens).items():
            texts, counts = self._places.setdefault(token, (array("q"), array("q")))
            texts.append(len(self._ids))
            counts.append(count)
        self._ids.append(name)
        self._tokens.append(tokens)
        self._num_tokens.append(len(tokens))

    def nearest(self, text: str) -> Nearest | None:
        """The most similar text, the earliest added of equals; None where no text shares a token."""
        tokens = tokens_of(text)
        shared_N = np.zeros(len(self), np.int64)
        for token, count in Counter(tokens).items():
            if token in self._places:
                texts, counts = map(_as_numbers, self._places[token])
                shared_N[texts] += np.minimum(counts, count)
        bound_N = 2 * shared_N / np.maximum(1, len(tokens) + _as_numbers(self._num_tokens))
        best, best_index = 0.0, -1
        for index in map(int, np.argsort(-bound_N, kind="stable")):
            if bound_N[index] == 0 or bound_N[index] < best:
                break
            self.num_compared += 1
            score = _f_value(tokens, self._tokens[index])
            if score > best or (score == best and index < best_index):
                best, best_index = score, index
        return Nearest(best, self._ids[best_index]) if best_index >= 0 else None


def _as_numbers(part: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(part, np.int64) if part else np.zeros(0, np.int64)
