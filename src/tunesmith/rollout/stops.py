"""Texts that end an answer."""

from __future__ import annotations

from collections.abc import Sequence


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first of ``stops``; None where there is none in it."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else None


def half_stop(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of a text that may be the beginning of a stop."""
    return max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
        default=0,
    )
