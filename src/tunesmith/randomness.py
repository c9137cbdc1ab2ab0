"""Randomness as a function of (seed, purpose, keys), never of a stream.

Packing, the number of ranks and a resume may change the order in which draws happen; a value that depends
only on its keys cannot notice.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *keys: int | str) -> int:
    """A 63-bit seed that depends on nothing but its arguments (BLAKE2b of their text form)."""
    text = "\x1f".join([str(seed), purpose, *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """A NumPy generator seeded by ``derive_seed``."""
    return np.random.default_rng(derive_seed(seed, purpose, *keys))


def permutation(num_items: int, seed: int, purpose: str, *keys: int | str) -> list[int]:
    """The order of ``num_items`` items for one purpose, e.g. the rows of one epoch."""
    return [int(i) for i in generator(seed, purpose, *keys).permutation(num_items)]
