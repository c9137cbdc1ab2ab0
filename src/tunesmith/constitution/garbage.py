"""What makes an answer, a critique or a revision of no use, told by its text and by why it ended."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tunesmith.data.bootstrap.filters import FilterConfig, is_repetitive
from tunesmith.feedback.judgements import check_text
from tunesmith.rollout.writer import WriterStop

EMPTY, WITHHELD, NEVER_STOPS, NOT_STORABLE, ECHO = "empty", "withheld", "never stops", "not storable", "echo of"
# A sentence's end: its mark, what closes a quotation, then a blank or the end. "1." at a line's start ends none.
_END = re.compile(r"(?:(?<!\b\d)[.!?…](?:[\"'”’)\]*]{0,3})(?=\s|\Z)|[。！？])")
# So many words of a request in a row are no chance.
_ECHO_WORDS = 5
_LIMITS = FilterConfig()


def whole_sentences(text: str) -> str:
    """What was written before the token limit cut it, up to its last whole sentence; empty where there is none."""
    ends = [found.end() for found in _END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def first_sentences(text: str, most: int) -> str:
    """The first sentences of a text, up to the first that says what one before it said."""
    ends, seen = [found.end() for found in _END.finditer(text)], set[str]()
    begin = 0
    for end in ends[:most]:
        said = fold(text[begin:end])
        if said in seen:
            return text[:begin].strip()
        seen.add(said)
        begin = end
    return text[:begin].strip() if len(ends) >= most else text.strip()


def fault_of(text: str, stop_reason: WriterStop, request: str, others: Mapping[str, str]) -> str | None:
    """Why a text is of no use, None where it is of some.

    It must not be a part of the request, or begin with all of it, nor be one of ``others``, which have names. A text
    that ran to its limit never stops where it says the same over and over, or holds no whole sentence.
    """
    if stop_reason == "content_filter":
        return WITHHELD
    if stop_reason == "length" and (not text.strip() or is_repetitive(text, _LIMITS)):
        return NEVER_STOPS
    if not text.strip():
        return EMPTY
    try:
        check_text(text)
    except ValueError:
        return NOT_STORABLE
    said, asked = fold(text), fold(request)
    long = min(len(said.split()), len(asked.split())) >= _ECHO_WORDS
    if said == asked or (long and (said in asked or said.startswith(f"{asked} "))):
        return f"{ECHO} the request"
    return next((f"{ECHO} {name}" for name, other in others.items() if said == fold(other)), None)


def fold(text: str) -> str:
    """A text for comparing: letters and digits in one case, all between them one blank."""
    return " ".join(re.findall(r"\w+", text.lower())) or text.strip()
