"""Files -> raw rows with their place; rows are parsed when asked for, only their offsets are kept.

Local files never touch the network. Text is UTF-8 and nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tunesmith.errors import DataError
from tunesmith.records import Where

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Rows(Protocol):
    """Raw rows of one source: ``path`` names it, an index gives (row, its place) or raises DataError for that row."""

    path: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]: ...


def open_rows(source: str, *, split: str = "train") -> Rows:
    """Open a file, a folder with a file for the split, or a hub data set.

    Raises DataError when there is nothing to read: no such path, empty, not UTF-8, or not what its ending says.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = split_file(path, split)
        if found is None:
            names = ", ".join(f"{n}{s}" for n in SPLIT_NAMES[split] for s in SUFFIXES[:4])
            raise DataError(source, f"the folder has no {split} file.", f"Name it one of: {names}.")
        path = found
    if not path.exists():
        return _hub_rows(source, split)
    if path.suffix not in SUFFIXES:
        raise DataError(source, f"'{path.suffix}' is not a format tunesmith reads.", f"Use {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise DataError(source, "the file is empty.", "Check how it was written.")
    readers = {".jsonl": JsonLines, ".json": JsonList, ".csv": Csv, ".parquet": Parquet, ".txt": Text}
    rows: Rows = readers[path.suffix](path)
    if len(rows) == 0:
        raise DataError(source, "the file holds no row.", "Check how it was written.")
    return rows


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a split in a folder, by its usual names."""
    for name in SPLIT_NAMES[split]:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    return None


def _utf8(data: bytes, path: str, line: int, at: int = 0) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data[: error.start].count(b"\n")
        raise DataError(
            Where(path, line),
            f"is not UTF-8 (byte 0x{data[error.start]:02x} at offset {at + error.start}).",
            f"Convert it, for example: iconv -f latin1 -t utf-8 {Path(path).name}",
        ) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(k for k in keys if keys.count(k) > 1)}' stands twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates)


def _row(value: Any, where: Where) -> tuple[dict[str, Any], Where]:
    """Check that a row is an object of clean text. Raises DataError naming the field."""
    if not isinstance(value, dict):
        raise DataError(where, f"a row must be an object, not {type(value).__name__}.", "Write {...} per row.")
    for name, text in _texts(value, ""):
        if "\x00" in text:
            raise DataError(where.at(name), "the text holds a NUL character.", "Remove it.")
        if _SURROGATE.search(text):
            raise DataError(where.at(name), "the text holds half of a surrogate pair.", "Write the character whole.")
    return value, where


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(str(key), f"{name}.{key}".strip("."))
            yield from _texts(inner, f"{name}.{key}".strip("."))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _texts(inner, f"{name}[{i}]")


def _parse(text: str, where: Where) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        place = Where(where.file, (where.line or 1) + error.lineno - 1)
        raise DataError(
            place, f"is not JSON: {error.msg.lower()} (column {error.colno}).", "Correct the line."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"{error}.", "Keep one of the two.") from None


class JsonLines:
    """One JSON object a line; the file is mapped into memory and a line is parsed when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._stream = path.open("rb")
        self._map = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ)
        begins, ends, lines = [], [], []
        at, line = (3 if self._map[:3] == b"\xef\xbb\xbf" else 0), 0
        while at < len(self._map):
            line += 1
            end = self._map.find(b"\n", at)
            end = len(self._map) if end < 0 else end
            if self._map[at:end].strip():
                begins.append(at)
                ends.append(end)
                lines.append(line)
            at = end + 1
        self._begins, self._ends, self._lines = (np.array(x, np.int64) for x in (begins, ends, lines))

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        begin, end, line = int(self._begins[index]), int(self._ends[index]), int(self._lines[index])
        where = Where(self.path, line)
        return _row(_parse(_utf8(self._map[begin:end], self.path, line, begin), where), where)


class JsonList:
    """A JSON list of objects, or an object that holds one list; elements are parsed when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._text = _utf8(path.read_bytes(), self.path, 1).removeprefix("\ufeff")
        match = re.match(r"\s*(?:\{\s*\"[^\"]*\"\s*:\s*)?\[", self._text)
        if match is None:
            raise DataError(self.path, "is not a list of rows.", "Write [{...}, {...}], or save it as .jsonl.")
        spans, lines = [], []
        at, line, counted = match.end(), 1, 0
        skip = re.compile(r"[\s,]*")
        while True:
            at = skip.match(self._text, at).end()  # type: ignore[union-attr]
            line, counted = line + self._text.count("\n", counted, at), at
            if at >= len(self._text):
                raise DataError(Where(self.path, line), "the list does not end.", "The file may be cut off; write it anew.")
            if self._text[at] == "]":
                break
            try:
                _, end = _DECODER.raw_decode(self._text, at)
            except json.JSONDecodeError as error:
                raise DataError(
                    Where(self.path, error.lineno), f"is not JSON: {error.msg.lower()} (column {error.colno}).", "Correct it."
                ) from None
            except ValueError as error:
                raise DataError(Where(self.path, line), f"{error}.", "Keep one of the two.") from None
            spans.append((at, end))
            lines.append(line)
            at = end
        self._spans = np.array(spans, np.int64).reshape(-1, 2)
        self._lines = np.array(lines, np.int64)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        begin, end = (int(x) for x in self._spans[index])
        where = Where(self.path, int(self._lines[index]))
        return _row(_parse(self._text[begin:end], where), where)


class Csv:
    """Comma-separated rows under a header line; quoted fields may hold line breaks."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._data = path.read_bytes()
        _utf8(self._data, self.path, 1)
        self._header: list[str] = []
        spans, lines = [], []
        position, consumed_line = 0, 0

        def feed() -> Iterator[str]:
            nonlocal position
            for raw in io.BytesIO(self._data):
                position += len(raw)
                yield raw.decode("utf-8")

        reader = csv.reader(feed(), strict=True)
        begin = 0
        try:
            for cells in reader:
                line, consumed_line = consumed_line + 1, reader.line_num
                if not self._header:
                    self._header = [name.removeprefix("\ufeff") for name in cells]
                elif cells:
                    spans.append((begin, position))
                    lines.append(line)
                begin = position
        except csv.Error as error:
            raise DataError(Where(self.path, reader.line_num), f"is not CSV: {error}.", "Check the quotes.") from None
        if len(set(self._header)) < len(self._header):
            raise DataError(Where(self.path, 1), "two columns have one name.", "Rename one.")
        self._spans = np.array(spans, np.int64).reshape(-1, 2)
        self._lines = np.array(lines, np.int64)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        begin, end = (int(x) for x in self._spans[index])
        where = Where(self.path, int(self._lines[index]))
        cells = next(csv.reader(io.StringIO(self._data[begin:end].decode("utf-8"), newline="")))
        if len(cells) != len(self._header):
            raise DataError(where, f"has {len(cells)} cells under {len(self._header)} columns.", "Quote commas.")
        return _row(dict(zip(self._header, cells, strict=True)), where)


class Parquet:
    """A parquet file, mapped into memory; the line of a row is its 1-based number."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        self.path = str(path)
        try:
            self._table = parquet.read_table(path, memory_map=True)
        except pyarrow.ArrowInvalid as error:
            raise DataError(self.path, f"is not parquet: {error}.", "Check how it was written.") from None

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        return _row(self._table.slice(index, 1).to_pylist()[0], Where(self.path, index + 1))


class Text:
    """Raw text: documents stand apart by at least one blank line; each becomes the field ``text``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        text = _utf8(path.read_bytes(), self.path, 1).removeprefix("\ufeff").replace("\r\n", "\n")
        self._rows: list[tuple[str, int]] = []
        line, at = 1, 0
        for match in re.finditer(r"\n[ \t]*\n\s*|\Z", text):
            if (piece := text[at : match.start()]).strip():
                self._rows.append((piece, line))
            line, at = line + text.count("\n", at, match.end()), match.end()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        text, line = self._rows[index]
        return _row({"text": text}, Where(self.path, line))


class _HubRows:
    def __init__(self, name: str, table: Any) -> None:
        self.path, self._table = name, table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        return _row(dict(self._table[index]), Where(self.path, index + 1))


def _hub_rows(source: str, split: str) -> Rows:
    looks_local = Path(source).suffix in SUFFIXES or source.startswith(("/", ".", "~")) or source.count("/") > 1
    if looks_local:
        raise DataError(source, "no such file.", "Check the path.")
    import datasets

    try:
        return _HubRows(source, datasets.load_dataset(source, split=split))
    except (OSError, ValueError) as error:
        # datasets raises a ConnectionError (an OSError) without network and a DatasetNotFoundError for a wrong name.
        line = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            source, f"no such file or folder, and as a hub data set: {line}.", "Check the path, or the network."
        ) from None
