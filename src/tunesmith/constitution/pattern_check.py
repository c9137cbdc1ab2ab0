"""What can be told of a pattern by trying it: a text it matches, that there is none, or that it takes for ever."""

from __future__ import annotations

import re
import string
import warnings
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.data.patterns import SECONDS, bounded_search, compile_pattern
from tunesmith.errors import DataError

# Characters that stand for those a class may hold, beside all of ASCII that prints and those the pattern names.
_OTHERS = "\t\néßœıαЖאع中あ한ไ٣€😀\u00a0\u2028"
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})")
# What the search for a text cannot see through: a look at what comes or came, a class by property or name.
_OPAQUE = re.compile(r"\(\?<?[=!][^)]|\\[bBpPN]|\[:")
_MAX_TRIES, _PROBE_CHARACTERS = 20_000, 2_000
# Texts of all kinds: what is found in each of them narrows nothing down.
_ANYTHING = ("", "a", "7", " ", "-", "Why?", "two\nlines", "中")


@dataclass(frozen=True, slots=True)
class PatternFacts:
    """matches: "some" text, "nothing" (no text can hold it), "everything", "unknown", or "disputed".

    witness: a text it matches; where that is disputed, Python's re says otherwise. slow_on: a text on which its search
    finds no end in time, shortened; empty where none was found.
    """

    matches: Literal["some", "nothing", "everything", "unknown", "disputed"]
    witness: str = ""
    slow_on: str = ""


def pattern_facts(pattern: str, seconds: float = SECONDS) -> PatternFacts:
    """Try a pattern, case ignored. Raises DataError where it cannot be read.

    "nothing" is said only where a search over texts of the pattern's own characters, all of ASCII and a few of other
    scripts ended without a match, and nothing in the pattern looks at what stands around it.
    """
    if slow_on := _slow_on(pattern, seconds):
        return PatternFacts("unknown", slow_on=slow_on)
    searched = compile_pattern(pattern, "pattern", ignore_case=True)
    if all(bounded_search(searched, text, seconds=seconds)[0] for text in _ANYTHING):
        return PatternFacts("everything")
    # A text around a match can help it only where the pattern looks at it.
    opaque = _OPAQUE.search(pattern) is not None
    for form in (f"(?:{pattern})", *([f"(?s:.?)(?:{pattern})(?s:.?)"] if opaque else [])):
        try:
            whole = compile_pattern(form, "pattern", ignore_case=True)
        except DataError:
            # Flags that must stand at the begin of a pattern.
            return PatternFacts("unknown")
        text, finished = _grown(whole, _letters(pattern), seconds)
        if text is not None:
            return PatternFacts("some" if _found_by_re(pattern, text) else "disputed", witness=text)
        if not finished:
            return PatternFacts("unknown")
    return PatternFacts("unknown" if opaque else "nothing")


def _found_by_re(pattern: str, text: str) -> bool:
    """Whether Python's re agrees; what it cannot read it does not dispute. The text is short, the pattern not slow."""
    try:
        with warnings.catch_warnings():
            # Of signs in a class that may mean a set some day, as [a&&b].
            warnings.simplefilter("ignore", FutureWarning)
            return re.search(pattern, text, re.IGNORECASE) is not None
    except re.error:
        return True


def _letters(pattern: str) -> list[str]:
    """Characters to grow a text from, those of the pattern first; of the others a letter's small form only."""
    named = [chr(int(next(filter(None, found.groups())), 16)) for found in _ESCAPE.finditer(pattern)]
    own = dict.fromkeys([*pattern, *named])
    others = dict.fromkeys((string.printable + _OTHERS).lower())
    return [*own, *(one for one in others if one not in own and one.upper() not in own)]


def _grown(whole: Any, letters: list[str], seconds: float) -> tuple[str | None, bool]:
    """A text that is matched from end to end, and whether all were tried: depth first, along what can still match."""
    stack, tries = [""], 0
    while stack:
        text = stack.pop()
        try:
            if whole.fullmatch(text, timeout=seconds):
                return text, True
            following = list[str]()
            for letter in letters:
                tries += 1
                if whole.fullmatch(text + letter, partial=True, timeout=seconds):
                    following.append(text + letter)
        except TimeoutError:
            return None, False
        if tries > _MAX_TRIES:
            return None, False
        stack += _least_used(following, text)
    return None, True


def _least_used(following: list[str], text: str) -> list[str]:
    """For a stack: last the text whose new character the old text holds least often, so that a repeat is left soon."""
    return sorted(following, key=lambda grown: text.count(grown[-1]))[::-1]


def _slow_on(pattern: str, seconds: float) -> str:
    """Part of a text on which the search finds no end, of those that patterns with nested repeats stumble over.

    A run of each character and each word of the pattern, and of the usual ones, with an end that does not fit.
    """
    searched = compile_pattern(pattern, "pattern", ignore_case=True)
    characters = [one for one in dict.fromkeys(pattern) if one.isalnum() or one in " -_.,;'@/"]
    pieces = [*dict.fromkeys([*characters, "a", "0", " ", "aA", "a ", "ab", "word, ", *re.findall(r"\w{2,}", pattern)])]
    for piece in pieces:
        text = piece * (_PROBE_CHARACTERS // len(piece)) + "\x00!"
        # Twice: a busy machine is not a slow pattern.
        if all(bounded_search(searched, text, len(text), seconds)[1] for _ in range(2)):
            return f"{piece * 3}..."
    return ""
