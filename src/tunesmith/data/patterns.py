"""Regular expressions with a limit on text and time: some of them take for ever on some texts."""

from __future__ import annotations

from collections import deque
from typing import Any

import regex  # type: ignore[import-untyped]

from tunesmith.errors import DataError

MAX_CHARACTERS, SECONDS = 20_000, 0.2


def compile_pattern(pattern: str, place: str, *, ignore_case: bool = False) -> Any:
    """A pattern in the syntax of Python's re, ready to search. Raises DataError for one that cannot be read."""
    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error as error:
        raise DataError(place, f"is no regular expression: {error}.", "Correct it.") from None


def bounded_search(
    pattern: Any,
    text: str,
    max_characters: int = MAX_CHARACTERS,
    seconds: float = SECONDS,
    *,
    whole: bool = False,
    last: bool = False,
) -> tuple[Any, str]:
    """The first match of a compiled pattern or None, and why there was no search to an end.

    whole: the match is the text from end to end; last: of several matches the last.
    """
    if len(text) > max_characters:
        return None, f"{len(text)} characters, more than the {max_characters} a pattern is tried on"
    try:
        if whole:
            return pattern.fullmatch(text, timeout=seconds), ""
        if not last:
            return pattern.search(text, timeout=seconds), ""
        matches = deque(pattern.finditer(text, timeout=seconds), maxlen=1)
        return (matches[0] if matches else None), ""
    except TimeoutError:
        return None, f"the pattern found no end within {seconds} s"
