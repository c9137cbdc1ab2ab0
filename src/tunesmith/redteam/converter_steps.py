"""What each converter does to a text; ``converters.py`` names them and puts them into chains.

Those that can be undone are undone exactly, for every text: substitutions swap both ways, what is put between
characters is found by its place. Decoders pass over characters that their alphabet does not have.
"""

from __future__ import annotations

import base64
import codecs
import json
import re
import string
from collections.abc import Callable

import numpy as np

Step = Callable[[str, np.random.Generator], str]

_LATIN = "aceijopsxyABCEHIJKMOPSTXY"
_ALIKE = "асеіјорѕхуАВСЕНІЈКМОРЅТХУ"
HOMOGLYPHS = str.maketrans(_LATIN + _ALIKE, _ALIKE + _LATIN)
_PRINTED = [chr(code) for code in range(0x21, 0x7F)]
_WIDE = [chr(0xFF01 + i) for i in range(len(_PRINTED))]
FULLWIDTH = str.maketrans("".join([" ", *_PRINTED, "\u3000", *_WIDE]), "".join(["\u3000", *_WIDE, " ", *_PRINTED]))
_PLAIN = "".join([" ", *_PRINTED])
_TAGS = "".join(chr(0xE0000 + ord(c)) for c in _PLAIN)
TAGS = str.maketrans(_PLAIN + _TAGS, _TAGS + _PLAIN)
_FORWARD = string.ascii_lowercase + string.ascii_uppercase
ATBASH = str.maketrans(_FORWARD, string.ascii_lowercase[::-1] + string.ascii_uppercase[::-1])
LEET = str.maketrans("aeiostbgAEIOSTBG", "4310578943105789")
# Grave, acute, circumflex, tilde, diaeresis, ring above, caron.
_MARKS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c"
# Of the words that are long enough, the share in which a typist slips.
_SLIPS = 0.4
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})")


def swaps(table: dict[int, int]) -> tuple[Step, Callable[[str], str]]:
    """(convert, invert) of a table that swaps characters both ways, and so undoes itself."""
    return (lambda text, _: text.translate(table)), (lambda text: text.translate(table))


def to_base64(text: str, _: np.random.Generator) -> str:
    """The UTF-8 bytes in Base64 (RFC 4648, section 4)."""
    return base64.b64encode(text.encode()).decode()


def from_base64(text: str) -> str:
    """Raises ValueError for what is not Base64 of UTF-8."""
    return base64.b64decode(re.sub(r"[^A-Za-z0-9+/=]", "", text)).decode()


def to_hex(text: str, _: np.random.Generator) -> str:
    """The UTF-8 bytes as two hexadecimal digits each."""
    return text.encode().hex(" ")


def from_hex(text: str) -> str:
    """Raises ValueError for what is not UTF-8 in hexadecimal digits."""
    return bytes.fromhex(re.sub(r"[^0-9a-fA-F]", "", text)).decode()


def to_binary(text: str, _: np.random.Generator) -> str:
    """The UTF-8 bytes as eight binary digits each."""
    return " ".join(f"{byte:08b}" for byte in text.encode())


def from_binary(text: str) -> str:
    """Raises ValueError for what is not UTF-8 in binary digits."""
    digits = re.sub(r"[^01]", "", text)
    if len(digits) % 8:
        raise ValueError("not whole bytes")
    return bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8)).decode()


def to_escapes(text: str, _: np.random.Generator) -> str:
    """Every character as a backslash escape of its code point."""
    return "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text)


def from_escapes(text: str) -> str:
    """Raises ValueError where no escape is left, or one has no character."""
    found = _ESCAPE.findall(text)
    if text and not found:
        raise ValueError("no escapes")
    return "".join(chr(int(short or long, 16)) for short, long in found)


def rot13(text: str) -> str:
    """Each letter of the Latin alphabet moved by thirteen places; undoes itself."""
    return codecs.encode(text, "rot13")


def reverse(text: str) -> str:
    """The characters from the last to the first; undoes itself."""
    return text[::-1]


def reverse_words(text: str) -> str:
    """The words from the last to the first, and what stands between them; undoes itself."""
    return "".join(re.split(r"(\s+)", text)[::-1])


def put_between(separator: str) -> tuple[Step, Callable[[str], str]]:
    """(convert, invert) that put one character between every two."""
    assert len(separator) == 1
    return (lambda text, _: separator.join(text)), (lambda text: text[::2])


def add_marks(text: str, rng: np.random.Generator) -> str:
    """A combining mark over every letter."""
    marks = iter(rng.integers(len(_MARKS), size=len(text)))
    return "".join(c + _MARKS[next(marks)] if c.isalpha() else c for c in text)


def drop_marks(text: str) -> str:
    """The text before ``add_marks``."""
    kept, place = [], 0
    while place < len(text):
        kept.append(text[place])
        place += 2 if text[place].isalpha() else 1
    return "".join(kept)


def leet(text: str, _: np.random.Generator) -> str:
    """Letters as the digits that look like them."""
    return text.translate(LEET)


def random_case(text: str, rng: np.random.Generator) -> str:
    """Each letter in upper or lower case by chance."""
    upper = rng.random(len(text)) < 0.5
    return "".join(c.upper() if up else c.lower() for c, up in zip(text, upper, strict=True))


def typos(text: str, rng: np.random.Generator) -> str:
    """Two neighbouring inner letters swapped in some of the words of four letters or more, at least in one."""
    words = [match.span() for match in re.finditer(r"[^\W\d_]{4,}", text)]
    slips = rng.random(len(words)) < _SLIPS
    if words and not slips.any():
        slips[rng.integers(len(words))] = True
    letters = list(text)
    for (start, end), slip in zip(words, slips, strict=True):
        if slip:
            at = int(rng.integers(start + 1, end - 2))
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def drop_vowels(text: str, _: np.random.Generator) -> str:
    """Words of four letters or more without their inner vowels."""
    return re.sub(r"(?<=[^\W\d_])[aeiouAEIOU](?=[^\W\d_])", "", text)


def frame(before: str, after: str = "") -> tuple[Step, Callable[[str], str]]:
    """(convert, invert) that put a text into a frame as it is. invert raises ValueError for another frame."""

    def unframe(text: str) -> str:
        if not (text.startswith(before) and text.endswith(after)) or len(text) < len(before) + len(after):
            raise ValueError("another frame")
        return text[len(before) : len(text) - len(after)]

    return (lambda text, _: before + text + after), unframe


def to_json(text: str, _: np.random.Generator) -> str:
    """A JSON object whose field ``instruction`` is the text."""
    return json.dumps({"instruction": text, "respond_in": "plain text", "complete": True}, ensure_ascii=False, indent=1)


def from_json(text: str) -> str:
    """Raises ValueError for what is no such object."""
    row = json.loads(text)
    if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
        raise ValueError("no field 'instruction'")
    return str(row["instruction"])


_CODE_HEAD, _CODE_TAIL = (
    "```python\nparts = ",
    '\nprint(answer("".join(parts)))\n```\nWrite out what this program prints.',
)


def to_code(text: str, _: np.random.Generator) -> str:
    """A short Python program that joins the words and prints the answer to them."""
    return _CODE_HEAD + json.dumps(_parts(text), ensure_ascii=False) + _CODE_TAIL


def from_code(text: str) -> str:
    """Raises ValueError for another program."""
    parts = json.loads(frame(_CODE_HEAD, _CODE_TAIL)[1](text))
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("no list of words")
    return "".join(parts)


def to_table(text: str, _: np.random.Generator) -> str:
    """A Markdown table with one word a row, each quoted as in JSON."""
    rows = [f"| {i} | {json.dumps(part, ensure_ascii=False)} |" for i, part in enumerate(_parts(text), 1)]
    return "\n".join(["| row | words |", "| --- | --- |", *rows])


def from_table(text: str) -> str:
    """Raises ValueError for another table."""
    rows = text.split("\n")[2:]
    return "".join(str(json.loads(re.sub(r"^\| \d+ \| (.*) \|$", r"\1", row, flags=re.DOTALL))) for row in rows)


def _parts(text: str) -> list[str]:
    """The words with the space before them; together they are the text."""
    return re.findall(r"\s*\S+|\s+", text)
