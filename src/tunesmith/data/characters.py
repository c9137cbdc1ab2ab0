"""Scripts, and characters that a reader cannot see, that a tool left behind, or that came out of a wrong decoding."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

CONTROL = "control characters"
INVISIBLE = "invisible characters (zero width, soft hyphen)"
BIDI = "characters that turn the direction of text"
REPLACEMENT = "replacement characters (text lost in a decoding)"
MOJIBAKE = "UTF-8 read as Windows-1252 (such as Ã© for é)"
MIXED_SCRIPT = "words that mix Latin with Cyrillic or Greek letters"
PRIVATE = "characters that Unicode gives no meaning"
LINE_BREAKS = "line breaks that not every tool takes for one (U+0085, U+2028, U+2029)"
ODD_KINDS = (CONTROL, INVISIBLE, BIDI, REPLACEMENT, MOJIBAKE, MIXED_SCRIPT, PRIVATE, LINE_BREAKS)

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# A joiner (U+200D, U+200C) makes emoji and the letters of several scripts, so it is no sign of anything.
_ODD = (
    (CONTROL, re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")),
    (INVISIBLE, re.compile("[\u00ad\u180e\u200b\u2060-\u2064\ufeff]")),
    (BIDI, re.compile("[\u202a-\u202e\u2066-\u2069]")),
    (REPLACEMENT, re.compile("\ufffd")),
    (
        MIXED_SCRIPT,
        re.compile(
            "[A-Za-z][\u0370-\u03ff\u0400-\u04ff]+[A-Za-z]|[\u0370-\u03ff\u0400-\u04ff][A-Za-z]+[\u0370-\u04ff]"
        ),
    ),
    (PRIVATE, re.compile("[\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]")),
    (LINE_BREAKS, re.compile("[\x85\u2028\u2029]")),
)
# The first byte of a longer UTF-8 character, as Windows-1252 shows it, and what that encoding makes of the others.
_LEAD = "[\u00c2-\u00f4]"
_REST = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
_SUSPECT = re.compile(f"{_LEAD}{_REST}{{1,3}}")


def odd_characters(text: str) -> list[str]:
    """The kinds (of ODD_KINDS) that a text holds."""
    if text.isascii():
        # Most texts: one look, and none at all where every character prints.
        return [] if text.isprintable() or not _CONTROL.search(text) else [CONTROL]
    kinds = [kind for kind, pattern in _ODD if pattern.search(text)]
    return [*kinds, MOJIBAKE] if _is_mojibake(text) else kinds


def _is_mojibake(text: str) -> bool:
    """Whether some characters, written back as Windows-1252, are one UTF-8 character."""
    for match in _SUSPECT.finditer(text):
        try:
            if len(match[0].encode("cp1252").decode("utf-8")) == 1:
                return True
        except UnicodeError:
            continue
    return False


def scripts_of(text: str) -> set[str]:
    """The scripts of the letters in a text, such as Latin, Cyrillic and Cjk, after the names of its characters."""
    if text.isascii():
        return {"Latin"} if not text.isdigit() and any(map(str.isalpha, text)) else set()
    return {script for script in map(_script, set(text)) if script}


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    """The first word of the name of a letter: Unicode names letters after their script."""
    if not character.isalpha():
        return ""
    word = unicodedata.name(character, "").partition(" ")[0]
    # Names such as FULLWIDTH LATIN, MICRO SIGN or FEMININE ORDINAL do not begin with a script.
    plain = {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "MICRO": "GREEK", "FEMININE": "LATIN", "MASCULINE": "LATIN"}
    return plain.get(word, word).partition("-")[0].capitalize() if word not in ("MODIFIER", "MATHEMATICAL") else ""
