"""ROUGE-L between instructions, and a pool that finds the nearest one exactly without comparing with all of them.

ROUGE-L is the F value of the longest common subsequence of two token sequences (Lin 2004, section 3):
2 * LCS / (length of one + length of the other).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
        self._places: dict[str, list[tuple[int, int]]] = {}
        self.num_compared = 0

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, name: str, text: str) -> None:
        """Put a text into the pool."""
        tokens = tokens_of(text)
        for token, count in Counter(tokens).items():
            self._places.setdefault(token, []).append((len(self._ids), count))
        self._ids.append(name)
        self._tokens.append(tokens)

    def nearest(self, text: str) -> Nearest | None:
        """The most similar text, the earliest added of equals; None where no text shares a token."""
        tokens = tokens_of(text)
        shared: dict[int, int] = {}
        for token, count in Counter(tokens).items():
            for index, other in self._places.get(token, ()):
                shared[index] = shared.get(index, 0) + min(count, other)
        bounds = sorted(
            ((-2 * overlap / (len(tokens) + len(self._tokens[index])), index) for index, overlap in shared.items())
        )
        best, best_index = 0.0, -1
        for negative_bound, index in bounds:
            if -negative_bound < best:
                break
            self.num_compared += 1
            score = _f_value(tokens, self._tokens[index])
            if score > best or (score == best and index < best_index):
                best, best_index = score, index
        return Nearest(best, self._ids[best_index]) if best_index >= 0 else None
