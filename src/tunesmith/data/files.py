"""The file formats: each an index of offsets over a file mapped into memory; a row is parsed when it is asked for."""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.data.digest import digest_of, stamp_of
from tunesmith.data.parse import clean_row, decode_utf8, parse_json_row, skip_bom
from tunesmith.errors import DataError
from tunesmith.records import Where

WINDOW_BYTES = 1 << 20
# Pages of a mapped file count as this process's memory; they are handed back after so many bytes have been read.
_RESIDENT_BYTES = 64 << 20
# Two or more blank lines, or a form feed with the line break behind it.
_DOCUMENT_BREAK = re.compile(rb"\r?\n(?:[ \t]*\r?\n){2,}|\f(?:\r?\n)?")


class MappedFile:
    """A file mapped into memory with the byte span and the line of each row."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._file = path
        with path.open("rb") as stream:
            self._stamp = stamp_of(os.fstat(stream.fileno()))
            # The map keeps a handle of its own, so the file can be closed here.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._start = skip_bom(self._map[:4], self.path)
        self._read_bytes = 0
        self._begins, self._ends, self._lines = array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        where = Where(self.path, self._lines[index])
        return self._parse(self.raw(index), where, self._begins[index]), where

    def raw(self, index: int) -> bytes:
        """The bytes of a row as they stand in the file, without the line break or comma behind it."""
        begin, end = self._begins[index], self._ends[index]
        data = self._map[begin:end]
        self._release(end - begin)
        return data

    def line(self, index: int) -> int:
        """The 1-based line in which a row begins, told without reading the row."""
        return self._lines[index]

    def digest(self) -> str:
        """SHA-256 of the file's bytes, in hexadecimal."""
        return digest_of(self._file, self._stamp)

    def _add(self, begin: int, end: int, line: int) -> None:
        self._begins.append(begin)
        self._ends.append(end)
        self._lines.append(line)
        self._release(end - begin)

    def _release(self, read_bytes: int) -> None:
        """Count what was read, and give the map's pages back now and then; they are read again when they are needed."""
        self._read_bytes += read_bytes
        if self._read_bytes >= _RESIDENT_BYTES and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read_bytes = 0

    def _parse(self, data: bytes, where: Where, offset_bytes: int) -> dict[str, Any]:
        return parse_json_row(data, where, offset_bytes)


class JsonLines(MappedFile):
    """One JSON object a line; blank lines are skipped, and counted as lines."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        super().__init__(path)
        at, line, size = self._start, 0, len(self._map)
        while at < size and len(self) != limit:
            line += 1
            found = self._map.find(b"\n", at)
            end = size if found < 0 else found
            text = self._map[at:end].strip()
            if text and not len(self) and (text == b"[" or text.startswith(b"[{")):
                raise DataError(Where(self.path, line), "the file is one JSON list.", "Rename it to end in .json.")
            if text:
                self._add(at, end, line)
            at = end + 1


class JsonList(MappedFile):
    """A JSON list of objects, or one object that holds exactly one list; its other values are not rows."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        super().__init__(path)
        scan = _JsonScanner(self._map, self._start, self.path)
        lists = []
        opening = scan.peek()
        if opening == "[":
            self._index(scan, limit)
        elif opening == "{":
            lists = self._index_object(scan, limit)
        else:
            scan.fail("the file does not begin with '[' or '{'")
        # With a limit the scan stops inside the list, and the rest of the file is not looked at.
        if len(self) != limit and scan.peek():
            raise DataError(
                Where(self.path, scan.line), "several JSON values follow one another.", "Rename the file to .jsonl."
            )
        if opening == "{" and len(lists) != 1:
            held = f"more than one list ({', '.join(map(shown, lists))})" if lists else "no list of rows"
            raise DataError(self.path, f"the object holds {held}.", "Write [{...}, {...}], or save it as .jsonl.")

    def _index(self, scan: _JsonScanner, limit: int | None) -> None:
        scan.take("[")
        if scan.peek() == "]":
            scan.take("]")
            return
        while True:
            line = scan.line
            _, begin, end = scan.value()
            self._add(begin, end, line)
            if len(self) == limit:
                return
            if scan.peek() == "]":
                scan.take("]")
                return
            scan.take(",")
            scan.peek()

    def _index_object(self, scan: _JsonScanner, limit: int | None) -> list[str]:
        """Index the rows of the object's list; returns the names of all lists it holds."""
        lists: list[str] = []
        scan.take("{")
        while scan.peek() != "}":
            if scan.peek() != '"':
                scan.fail("a key in double quotes is expected")
            key, _, _ = scan.value()
            scan.take(":")
            if scan.peek() == "[":
                lists.append(str(key))
                if len(lists) == 1:
                    self._index(scan, limit)
                    if len(self) == limit:
                        return lists
                else:
                    scan.value()
            else:
                scan.value()
            if scan.peek() == "}":
                break
            scan.take(",")
            if scan.peek() == "}":
                scan.fail("a key in double quotes is expected")
        scan.take("}")
        return lists


class _JsonScanner:
    """Walks through mapped JSON value by value with one window of it as text.

    The window is read as Latin-1: JSON's own characters are ASCII, which no byte of a longer UTF-8 character is, so
    the structure is found and one character is one byte. What a row says is decoded when it is asked for.
    """

    # Numbers stay text here: a number that Python cannot convert is the fault of its row, not of the file.
    _decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    _space = re.compile(r"[ \t\n\r]*")

    def __init__(self, data: mmap.mmap, at: int, path: str) -> None:
        self._data, self._path = data, path
        self._base, self._text, self._at = at, "", 0
        self.line = 1
        self._fill(WINDOW_BYTES)

    def _fill(self, size_bytes: int) -> None:
        """Move the window so that it begins at the current place."""
        self._base += self._at
        self._at = 0
        self._text = self._data[self._base : self._base + size_bytes].decode("latin-1")

    @property
    def _is_last(self) -> bool:
        return self._base + len(self._text) >= len(self._data)

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            match = self._space.match(self._text, self._at)
            self._advance(match.end() if match else self._at)
            if self._at < len(self._text) or self._is_last:
                return self._text[self._at : self._at + 1]
            self._fill(WINDOW_BYTES)

    def take(self, expected: str) -> None:
        """Step over one character. Raises DataError when another one stands there."""
        if self.peek() != expected:
            self.fail(f"'{expected}' is expected")
        self._advance(self._at + 1)

    def value(self) -> tuple[Any, int, int]:
        """The next value with the offsets of its first byte and of the byte after it."""
        self.peek()
        size_bytes = max(WINDOW_BYTES, len(self._text) - self._at)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_last:
                    self._advance(min(error.pos, len(self._text)))
                    self.fail(f"{error.msg[0].lower()}{error.msg[1:].rstrip(':')}")
            except RecursionError:
                raise DataError(Where(self._path, self.line), "the row is nested too deeply.", "Flatten it.") from None
            else:
                # A number at the edge of the window may go on behind it.
                if end < len(self._text) or self._is_last:
                    begin = self._base + self._at
                    self._advance(end)
                    return value, begin, self._base + end
            size_bytes *= 2
            self._fill(size_bytes)

    def fail(self, problem: str) -> None:
        """Raise DataError for JSON that is broken here."""
        if self._at >= len(self._text) and self._is_last:
            problem, fix = f"the file ends where {problem}", "The file may be cut off; write it anew."
        else:
            fix = "Correct it; strings take double quotes, and no comma stands before a closing bracket."
        place = self._base + self._at
        column = place - self._data.rfind(b"\n", 0, place)
        raise DataError(Where(self._path, self.line), f"is not JSON ({problem}, column {column}).", fix)


class Csv(MappedFile):
    """Comma-separated rows under a header line; a quoted cell may hold commas, quotes and line breaks."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        super().__init__(path)
        # The module's limit of 128 KiB a cell is below the length of a document.
        csv.field_size_limit(max(csv.field_size_limit(), (1 << 31) - 1))
        self._at = self._start
        self.header_bytes = b""
        reader = csv.reader(self._feed(), strict=True)
        header: list[str] | None = None
        begin, line = self._at, 1
        try:
            for cells in reader:
                if header is None:
                    header = self._read_header(begin, line) if cells else None
                elif cells:
                    self._add(begin, self._at, line)
                begin, line = self._at, reader.line_num + 1
                if len(self) == limit:
                    break
        except csv.Error as error:
            raise DataError(
                Where(self.path, line),
                f"is not CSV ({error}; the row ends in line {reader.line_num}).",
                'Put a cell with commas, quotes or line breaks into "...", and write a quote in it as "".',
            ) from None
        self._header = header or []

    def _feed(self) -> Iterator[str]:
        """Lines as Latin-1, in which quotes and commas are what they are in UTF-8 and bad bytes stop nothing."""
        while self._at < len(self._map):
            found = self._map.find(b"\n", self._at)
            begin, self._at = self._at, len(self._map) if found < 0 else found + 1
            yield self._map[begin : self._at].decode("latin-1")

    def _read_header(self, begin: int, line: int) -> list[str]:
        where = Where(self.path, line)
        self.header_bytes = self._map[begin : self._at]
        names = _cells(decode_utf8(self.header_bytes, where, begin))
        for i, name in enumerate(names):
            if not name.strip() or "\x00" in name:
                raise DataError(where, f"column {i + 1} has no proper name.", "The first line names the columns.")
            if name in names[:i]:
                raise DataError(where.at(shown(name)), "two columns have this name.", "Rename one.")
        return names

    def _parse(self, data: bytes, where: Where, offset_bytes: int) -> dict[str, Any]:
        cells = _cells(decode_utf8(data, where, offset_bytes))
        if len(cells) != len(self._header):
            raise RowError(
                where,
                "the row has another number of cells than the header.",
                'Put a cell with commas or line breaks into "...".',
                detail=f"{len(cells)} under {len(self._header)} columns",
            )
        return clean_row(dict(zip(self._header, cells, strict=True)), where)


def _cells(text: str) -> list[str]:
    # newline="\n" breaks lines where the index did, and translates nothing.
    return next(csv.reader(io.StringIO(text, newline="\n"), strict=True))


class Text(MappedFile):
    """Raw text: each document becomes a row with the field ``text``.

    Documents stand apart by a form feed or by two or more blank lines; a single blank line is part of the text. A
    file without either is one document: long documents are cut into consecutive pieces later, losing nothing. Line
    breaks \\r\\n are read as \\n.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        super().__init__(path)
        at, line = self._start, 1
        size = len(self._map)
        breaks = (match.span() for match in _DOCUMENT_BREAK.finditer(self._map, self._start))
        for begin, end in itertools.chain(breaks, [(size, size)]):
            piece = self._map[at:begin]
            if piece.strip():
                lead = len(piece) - len(piece.lstrip(b"\r\n"))
                self._add(at + lead, begin, line + piece.count(b"\n", 0, lead))
            if len(self) == limit:
                break
            line += self._map[at:end].count(b"\n")
            at = end

    def _parse(self, data: bytes, where: Where, offset_bytes: int) -> dict[str, Any]:
        return clean_row({"text": decode_utf8(data, where, offset_bytes).replace("\r\n", "\n")}, where)


class Parquet:
    """A parquet file, mapped into memory; one row group at a time is decoded, a row's line is its 1-based number."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        import pyarrow
        from pyarrow import parquet

        self.path = str(path)
        self._path = path
        self._stamp = stamp_of(path.stat())
        try:
            self._file = parquet.ParquetFile(path, memory_map=True)
        except (pyarrow.ArrowException, OSError) as error:
            first = shown(str(error).splitlines()[0].rstrip("."), most=120)
            raise DataError(self.path, f"is not parquet ({first}).", "Write the file anew.") from None
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        # First row of each row group; an empty group shares it with the next, and bisect_right skips it.
        self._firsts = list(itertools.accumulate(sizes, initial=0))[:-1]
        self._num_rows: int = min(sum(sizes), sum(sizes) if limit is None else limit)
        self._loaded: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        where = Where(self.path, index + 1)
        table, at = self.group_of(index)
        try:
            row = table.slice(at, 1).to_pylist()[0]
        except UnicodeDecodeError:
            raise RowError(where, "the text is not UTF-8.", "Write the file anew from UTF-8 text.") from None
        return clean_row(row, where), where

    @property
    def schema(self) -> Any:
        """The columns and their types, as pyarrow has them."""
        return self._file.schema_arrow

    def group_of(self, index: int) -> tuple[Any, int]:
        """The decoded row group that holds a row, as a pyarrow table, and the row's place in it. Raises DataError."""
        import pyarrow

        at = bisect.bisect_right(self._firsts, index) - 1
        if self._loaded is None or self._loaded[0] != at:
            try:
                self._loaded = (at, self._file.read_row_group(at))
            except (pyarrow.ArrowException, OSError) as error:
                first = shown(str(error).splitlines()[0].rstrip("."), most=120)
                place = Where(self.path, index + 1)
                raise DataError(str(place), f"cannot be decoded ({first}).", "Write the file anew.") from None
        return self._loaded[1], index - self._firsts[at]

    def digest(self) -> str:
        """SHA-256 of the file's bytes, in hexadecimal."""
        return digest_of(self._path, self._stamp)
