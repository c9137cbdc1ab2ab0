"""Texts that share long runs of words: the runs of a few texts are held as hashes, any number of others streams by.

Source of the sizes: 13 words as in Brown et al. 2020, arXiv:2005.14165, appendix C; 8 words, and how much of an item
they cover, as in Chowdhery et al. 2022, arXiv:2204.02311, section 8. Shape letters: W words, G different runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.duplicates import WORD
from tunesmith.randomness import generator

SIZES = (13, 8)
# So many places of rows, and of items, are kept to show.
PLACES_KEPT = 20
UInt64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TextSet:
    """A named set of texts, such as the items of an evaluation: (id, text) each."""

    name: str
    items: Sequence[tuple[str, str]]


@dataclass(slots=True, kw_only=True)
class Overlap:
    """What one set shares with the rows that streamed by, in runs of ``size`` words.

    num_short: items with fewer words, of which nothing can be said. num_common: runs left out because they are the
    set's own boilerplate. num_covered: items of whose runs the rows hold 70 % or more. rows: places of rows that share
    a run, the first ones; items: (id, share of its runs that the rows hold, first row, the words) by falling share.
    """

    name: str
    size: int
    num_items: int
    num_short: int
    num_common: int
    num_shared: int = 0
    num_covered: int = 0
    num_rows: int = 0
    rows: list[str] = field(default_factory=list)
    items: list[tuple[str, float, str, str]] = field(default_factory=list)


def words_of(text: str) -> list[str]:
    """Words without case and punctuation; of scripts that put no space between words, characters."""
    return [str(word) for word in WORD.findall(text.casefold())]


def find_overlaps(
    sets: Sequence[TextSet], rows: Iterable[tuple[str, str]], progress: Callable[[int], None] = lambda _: None
) -> list[Overlap]:
    """Runs of 13 and of 8 words that each set shares with rows of (place, text); memory is that of the sets alone.

    A run that stands in many items of a set is its boilerplate (instructions, templates, options) and is left out,
    however often the rows have it; the limit is a fifth of the items, at least 2 and at most 10. Two different runs
    have one hash with probability 2^-64 a pair.
    """
    indices = [_Index(sets, size) for size in SIZES]
    for number, (place, text) in enumerate(rows, 1):
        words = words_of(text)
        hashes = _word_hashes(words)
        for index in indices:
            index.look_up(words, hashes, place)
        progress(number)
    return [overlap for of_size in zip(*(index.overlaps() for index in indices), strict=True) for overlap in of_size]


class _Index:
    """The runs of all sets in one sorted table, and what has been found of them."""

    def __init__(self, sets: Sequence[TextSet], size: int) -> None:
        self.size = size
        # Row number of each set's first item among all items.
        self.first = np.cumsum([0, *(len(one.items) for one in sets)])
        self.ids = [item_id for one in sets for item_id, _ in one.items]
        self.out: list[Overlap] = []
        keys, owners = [], []
        for one, first in zip(sets, self.first, strict=False):
            own_keys, own_owners, overlap = _runs_of(one, size)
            keys.append(own_keys)
            owners.append(own_owners + first)
            self.out.append(overlap)
        all_keys = np.concatenate([*keys, np.zeros(0, np.uint64)])
        order = np.argsort(all_keys, kind="stable")
        self.owner_K = np.concatenate([*owners, np.zeros(0, np.int64)])[order]
        self.keys_G, self.start_G = np.unique(all_keys[order], return_index=True)
        self.end_G = np.append(self.start_G[1:], len(order))
        self.found_G = np.zeros(len(self.keys_G), bool)
        self.first_found: dict[int, tuple[str, str]] = {}

    def look_up(self, words: Sequence[str], hashes: UInt64, place: str) -> None:
        """Note the runs of one row that some item has too."""
        runs = _runs(hashes, self.size)
        if not len(runs) or not len(self.keys_G):
            return
        at = np.minimum(np.searchsorted(self.keys_G, runs), len(self.keys_G) - 1)
        hits = np.flatnonzero(self.keys_G[at] == runs)
        if not len(hits):
            return
        touched: set[int] = set()
        for word, g in zip(hits.tolist(), at[hits].tolist(), strict=True):
            owners = self.owner_K[self.start_G[g] : self.end_G[g]].tolist()
            touched.update(owners)
            if not self.found_G[g]:
                self.found_G[g] = True
                for owner in owners:
                    self.first_found.setdefault(owner, (place, " ".join(words[word : word + self.size])))
        for number in np.unique(np.searchsorted(self.first, list(touched), side="right") - 1).tolist():
            self.out[number].num_rows += 1
            if len(self.out[number].rows) < PLACES_KEPT:
                self.out[number].rows.append(place)

    def overlaps(self) -> list[Overlap]:
        """What was found, one Overlap a set."""
        found_K = np.repeat(self.found_G, self.end_G - self.start_G)
        share_I = np.bincount(self.owner_K, weights=found_K, minlength=len(self.ids)) / np.maximum(
            np.bincount(self.owner_K, minlength=len(self.ids)), 1
        )
        for overlap, first, end in zip(self.out, self.first, self.first[1:], strict=False):
            shared = [first + i for i in np.flatnonzero(share_I[first:end]).tolist()]
            overlap.num_shared = len(shared)
            overlap.num_covered = int((share_I[first:end] >= 0.7).sum())
            shared.sort(key=lambda i: -share_I[i])
            overlap.items = [(self.ids[i], float(share_I[i]), *self.first_found[int(i)]) for i in shared[:PLACES_KEPT]]
        return self.out


def _runs_of(one: TextSet, size: int) -> tuple[UInt64, NDArray[np.int64], Overlap]:
    """(runs, the number of the item each stands in) without repeats in one item and without boilerplate."""
    each = [np.unique(_runs(_word_hashes(words_of(text)), size)) for _, text in one.items]
    keys = np.concatenate([*each, np.zeros(0, np.uint64)])
    owners = np.repeat(np.arange(len(each)), [len(runs) for runs in each]).astype(np.int64)
    limit = max(2, min(10, len(each) // 5))
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    kept = (counts <= limit)[which] if len(keys) else np.zeros(0, bool)
    overlap = Overlap(
        name=one.name,
        size=size,
        num_items=len(each),
        num_short=sum(not len(runs) for runs in each),
        num_common=int((counts > limit).sum()),
    )
    return keys[kept], owners[kept], overlap


def _runs(hashes_W: UInt64, size: int) -> UInt64:
    """A hash of each run of ``size`` words, (W - size + 1,): the sum of its words' times a factor of their place."""
    if len(hashes_W) < size:
        return np.zeros(0, np.uint64)
    count = len(hashes_W) - size + 1
    out = np.zeros(count, np.uint64)
    for place, factor in enumerate(_factors(size)):
        out += hashes_W[place : place + count] * factor
    return out


@lru_cache
def _factors(size: int) -> UInt64:
    return generator(0, "word_runs").integers(2**63, size=size, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _word_hashes(words: Sequence[str]) -> UInt64:
    return np.fromiter((_word_hash(word) for word in words), np.uint64, len(words))


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
