"""What the labeller shows: plain text, every character of a model's answer that could act on the terminal spelt out."""

from __future__ import annotations

import string
from collections.abc import Iterator

from tunesmith.feedback.judgements import KINDS, Kind
from tunesmith.feedback.queue import Item

REASONS = {"1": "rude", "2": "wrong", "3": "harmful", "4": "off topic", "5": "not readable"}
KEYS: dict[Kind, str] = {
    "comparison": "a  A is better    b  B is better    t  tie    x  both bad",
    "thumb": "y  thumb up    n  thumb down",
    "rating": "1 (worst) to 5 (best)",
    "flag": "n  fine    " + "    ".join(f"{key}  {reason}" for key, reason in REASONS.items()) + "    f  type a reason",
    "edit": "e  rewrite it    (leave a good answer with s)",
    "ranking": "type the letters, best first, such as B > C = A, then Enter",
}
COMMON_KEYS = "u  undo    s  skip    q  quit    ?  help"
assert set(KEYS) == set(KINDS)


def visible(text: str) -> str:
    """Text with every control and format character as its escape (\\x1b, \\u202e), line breaks kept."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def screen(item: Item, kind: Kind, progress: str, message: str = "") -> str:
    """One question as text: progress, prompt, candidates, keys, and what was wrong with the last key."""
    lines = [progress, ""]
    for turn in item.prompt.messages:
        lines += [f"[{turn.role}]", *_indented(turn.content), ""]
    letters = _names(len(item.candidates))
    for letter, candidate in zip(letters, item.candidates, strict=True):
        lines += [f"[{letter}]" if len(item.candidates) > 1 else "[answer]", *_indented(candidate.text), ""]
    lines += [KEYS[kind], COMMON_KEYS]
    return "\n".join([*lines, *([message] if message else [])]) + "\n"


def _names(number: int) -> Iterator[str]:
    return iter(string.ascii_uppercase[:number])


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in visible(text).split("\n")]
