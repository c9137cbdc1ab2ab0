"""Bytes of one row -> a row of clean text; every fault names the line, and the field where there is one."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.errors import DataError
from tunesmith.records import Where

UTF8_BOM = codecs.BOM_UTF8
# The longer marks first: UTF-32's begins with UTF-16's.
_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class _DuplicateKeyError(ValueError):
    """An object that sets one key twice: JSON allows it, and which value is meant nobody can tell."""


def skip_bom(head: bytes, path: str) -> int:
    """Number of bytes of a UTF-8 byte order mark; raises DataError for a file that says it is UTF-16 or UTF-32."""
    for mark, name in _OTHER_ENCODINGS:
        if head.startswith(mark):
            raise DataError(path, f"the file is {name}.", f"Save it as UTF-8: iconv -f {name} -t UTF-8 old > new.")
    return len(UTF8_BOM) if head.startswith(UTF8_BOM) else 0


def decode_utf8(data: bytes, where: Where, offset_bytes: int) -> str:
    """Text of a piece of a file that starts at ``where`` and ``offset_bytes``. Raises RowError with the bad byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = None if where.line is None else where.line + data.count(b"\n", 0, error.start)
        raise RowError(
            Where(where.file, line),
            "the text is not UTF-8.",
            "Save the file as UTF-8; if it is Windows text: iconv -f WINDOWS-1252 -t UTF-8 old > new.",
            detail=f"byte 0x{data[error.start]:02x} at offset {offset_bytes + error.start}",
        ) from None


def parse_json_row(data: bytes, where: Where, offset_bytes: int) -> dict[str, Any]:
    """The JSON object in a piece of a file that starts at ``where`` and ``offset_bytes``. Raises RowError."""
    if b"\x00" in data:
        _refuse_nul(where)
    text = decode_utf8(data, where, offset_bytes)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        line = None if where.line is None else where.line + error.lineno - 1
        raise RowError(
            Where(where.file, line),
            "the row is not JSON.",
            "Write one valid JSON object; strings take double quotes, line breaks in them are written \\n.",
            detail=f"{error.msg[0].lower()}{error.msg[1:].rstrip(':')}, column {error.colno}",
        ) from None
    except _DuplicateKeyError as error:
        raise RowError(where, "an object has the same key twice.", "Keep one of the two.", detail=str(error)) from None
    except RecursionError:
        raise RowError(where, "the row is nested too deeply to read.", "Flatten it.") from None
    except ValueError:
        # The only other error of the decoder is Python's limit on the digits of a whole number.
        raise RowError(where, "a number has too many digits to read.", "Write it as a string.") from None
    # Without an escape, decoded UTF-8 can hold neither NUL (checked above) nor half a surrogate pair.
    return clean_row(value, where) if "\\u" in text else _require_object(value, where)


def clean_row(value: Any, where: Where) -> dict[str, Any]:
    """A row whose texts, at any depth, hold neither NUL nor half a surrogate pair. Raises RowError naming the field."""
    row = _require_object(value, where)
    for name, text in _texts(row):
        if "\x00" in text:
            _refuse_nul(where.at(shown(name)))
        if _SURROGATE.search(text):
            raise RowError(
                where.at(shown(name)),
                "the text holds half of a surrogate pair.",
                "Write the whole character, or remove it; a text cut in the middle of an emoji does this.",
            )
    return row


def _refuse_nul(where: Where) -> None:
    raise RowError(
        where, "the text holds a NUL character.", "Remove it; where every other byte is NUL, the file is UTF-16."
    )


def _require_object(value: Any, where: Where) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(
            where,
            "the row is not an object.",
            'Write every row as {"column": value, ...}.',
            detail=f"it is {json_type(value)}",
        )
    return value


def json_type(value: Any) -> str:
    """A value's type in the words of JSON, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(f"'{shown(next(key for key in keys if keys.count(key) > 1))}'")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _texts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """All texts of a row with the field they stand in, keys included; no recursion, so depth cannot overflow."""
    stack: list[tuple[str, Any]] = [("", row)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            inner = [(f"{name}.{key}" if name else str(key), key, item) for key, item in value.items()]
            stack += [(path, item) for path, _, item in reversed(inner)]
            stack += [(path, key) for path, key, _ in reversed(inner)]
        elif isinstance(value, list | tuple):
            stack += [(f"{name}[{i}]", item) for i, item in reversed(list(enumerate(value)))]
