"""A converter changes the letters of a request, not what it wants: encodings, look-alikes, noise, wrappings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

ConverterFamily = Literal["encoding", "obfuscation", "noise", "language", "wrapping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """A text -> text function that a chain can hold.

    convert: (text, rng) -> text. invert: gives the text back exactly, where that can be. hint: what a reader is told so
    that it can decode, put in front of the whole; empty where none is needed.
    """

    name: str
    family: ConverterFamily
    about: str
    convert: Callable[[str, np.random.Generator], str]
    invert: Callable[[str], str] | None = None
    hint: str = ""
    version: int = 1
