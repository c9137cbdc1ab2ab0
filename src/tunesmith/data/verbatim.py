"""Rows back onto disk: byte for byte as they stood in their source, where its format allows that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tunesmith.data.files import Csv, JsonList, MappedFile, Parquet, Text
from tunesmith.data.read import Rows
from tunesmith.data.whole import temporary_sibling
from tunesmith.errors import DataError
from tunesmith.records import Where


class RowWriter(Protocol):
    """Takes rows of one source by their numbers, in rising order."""

    def write(self, index: int) -> None:
        """Add one row."""
        ...


def suffix_of(rows: Rows) -> str:
    """The ending of a file that can hold the rows of a source unchanged; the hub's rows become .jsonl."""
    return Path(rows.path).suffix.lower() if isinstance(rows, MappedFile | Parquet) else ".jsonl"


def check_target(path: Path, source: str, suffix: str, *, makes_folder: bool = False) -> None:
    """Raise DataError where a file must not be written: it has the wrong ending, is the source, or has no folder."""
    if path.suffix.lower() != suffix:
        raise DataError(path, f"rows of {source} are written as {suffix}.", f"Name a file that ends in {suffix}.")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise DataError(path, "is the file that is read.", "Name another file to write to.")
    if not makes_folder and not path.absolute().parent.is_dir():
        raise DataError(path, "its folder does not exist.", f"Make it: mkdir -p {path.absolute().parent}")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose file appears under its name only once everything was written; after an error nothing is left."""
    with temporary_sibling(path) as temporary, temporary.open("xb") as stream:
        yield stream


def json_line(row: Any) -> bytes:
    """A row as one line of JSON in UTF-8; dates and the like, which tables hold, become text."""
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8") + b"\n"


class _Bytes:
    """Rows of a file as they stand in it, with what its format puts around and between them."""

    def __init__(self, rows: MappedFile, stream: BinaryIO) -> None:
        self._rows, self._stream, self._count = rows, stream, 0
        self._between, self._end = b"\n", b"\n"
        if isinstance(rows, Csv):
            # The span of a CSV row reaches over its line break; the header's does too.
            self._between = self._end = b""
            stream.write(rows.header_bytes)
        elif isinstance(rows, JsonList):
            self._between, self._end = b",\n", b"\n]\n"
            stream.write(b"[\n")
        elif isinstance(rows, Text):
            self._between, self._end = b"\f\n", b""

    def write(self, index: int) -> None:
        data = self._rows.raw(index)
        if isinstance(self._rows, Csv) and not data.endswith(b"\n"):
            data += b"\n"
        self._stream.write(self._between * (self._count > 0) + data)
        self._count += 1

    def close(self) -> None:
        self._stream.write(self._end if self._count or isinstance(self._rows, JsonList) else b"")


class _Lines:
    """Rows of a hub data set as JSON lines."""

    def __init__(self, rows: Rows, stream: BinaryIO) -> None:
        self._rows, self._stream = rows, stream

    def write(self, index: int) -> None:
        self._stream.write(json_line(self._rows[index][0]))

    def close(self) -> None:
        self._stream.flush()


class _Table:
    """Rows of a parquet file, row group by row group, under the schema they came with."""

    def __init__(self, rows: Parquet, stream: BinaryIO) -> None:
        from pyarrow import parquet

        self._rows = rows
        self._writer = parquet.ParquetWriter(stream, rows.schema)
        self._group: Any = None
        self._taken: list[int] = []

    def write(self, index: int) -> None:
        group, at = self._rows.group_of(index)
        if self._group is not None and self._group is not group:
            self._flush()
        self._group = group
        self._taken.append(at)

    def _flush(self) -> None:
        if self._taken:
            self._writer.write_table(self._group.take(self._taken))
            self._taken = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


@contextmanager
def open_writer(rows: Rows, path: Path) -> Iterator[RowWriter]:
    """A writer of rows of ``rows``; the file at ``path`` is whole or not there."""
    with whole_file(path) as stream:
        writer: _Bytes | _Lines | _Table
        if isinstance(rows, MappedFile):
            writer = _Bytes(rows, stream)
        elif isinstance(rows, Parquet):
            writer = _Table(rows, stream)
        else:
            writer = _Lines(rows, stream)
        yield writer
        writer.close()


def raw_text(rows: Rows, index: int) -> str:
    """A row as it stands in its file, for people; bytes that are no UTF-8 are written as \\xNN, tables as JSON."""
    if isinstance(rows, MappedFile):
        return rows.raw(index).decode("utf-8", "backslashreplace").rstrip("\r\n")
    return json_line(rows[index][0]).decode("utf-8").rstrip("\n")


def place_of(rows: Rows, index: int) -> Where:
    """File and line of a row, without reading it."""
    return Where(rows.path, rows.line(index) if isinstance(rows, MappedFile) else index + 1)
