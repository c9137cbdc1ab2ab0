"""Sources -> raw rows with their place: a file, a folder with a file a split, or a data set of the hub.

Rows are parsed when they are asked for; a source keeps their offsets only. Local files never touch the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from tunesmith.data.check import shown
from tunesmith.data.files import Csv, JsonLines, JsonList, Parquet, Text
from tunesmith.data.parse import clean_row
from tunesmith.errors import DataError
from tunesmith.records import Where

Split = Literal["train", "validation", "test"]
SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


class Rows(Protocol):
    """Raw rows of one source, in its order; an index gives (row, its place) or raises RowError for that row."""

    path: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]: ...

    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        ...


_READERS: dict[str, Callable[[Path, int | None], Rows]] = {
    ".jsonl": JsonLines,
    ".json": JsonList,
    ".csv": Csv,
    ".parquet": Parquet,
    ".txt": Text,
}
SUFFIXES = tuple(_READERS)


def open_rows(source: str, *, split: Split = "train", limit: int | None = None) -> Rows:
    """Open a file, the split's file in a folder, or the split of a hub data set; ``limit`` keeps the first rows.

    A name that is no local path, has no known ending and at most one slash is asked of the hub, through ``datasets``.
    Raises DataError when there is nothing to read: no such path, empty, another format or encoding than it says.
    """
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            path = _file_of_folder(path, source, split)
        if not path.exists():
            return _hub_rows(source, split, limit)
        return _open_file(path, limit)
    except OSError as error:
        if isinstance(error, DataError):
            raise
        reason = (error.strerror or str(error)).lower()
        raise DataError(str(path), f"cannot be read: {reason}.", "Check the path and its permissions.") from None


def find_split(source: str, split: Split) -> Path | None:
    """The split's file if ``source`` is a folder that has one. Raises DataError when several files claim the split."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return None
    found = [
        folder / f"{name}{suffix}"
        for name in SPLIT_NAMES[split]
        for suffix in SUFFIXES
        if (folder / f"{name}{suffix}").is_file()
    ]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(source, f"several files claim the {split} split: {names}.", "Keep one, or name the file.")
    return found[0] if found else None


def _file_of_folder(folder: Path, source: str, split: Split) -> Path:
    found = find_split(source, split)
    if found is None:
        held = ", ".join(sorted(shown(path.name) for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            source,
            f"the folder has no {split} file; it holds {held}.",
            f"Name a file, or call it {' or '.join(SPLIT_NAMES[split])} with {', '.join(SUFFIXES)}.",
        )
    return found


def _open_file(path: Path, limit: int | None) -> Rows:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(str(path), "is not a regular file.", "Write the rows to a file first.")
    if suffix not in _READERS:
        raise DataError(
            str(path),
            f"'{shown(path.suffix)}' is not a format that can be read.",
            f"Use {', '.join(SUFFIXES)}; unpack a compressed file first.",
        )
    if path.stat().st_size == 0:
        raise DataError(str(path), "the file is empty.", "Check how it was written.")
    rows = _READERS[suffix](path, limit)
    if len(rows) == 0:
        raise DataError(str(path), "the file holds no row.", "Check how it was written.")
    return rows


class HubRows:
    """A split of a hub data set; a row's line is its 1-based number."""

    def __init__(self, name: str, table: Any, limit: int | None) -> None:
        self.path = name
        self._table = table
        self._num_rows = len(table) if limit is None else min(limit, len(table))

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Where]:
        where = Where(self.path, index + 1)
        return clean_row(dict(self._table[index]), where), where

    def digest(self) -> str:
        """SHA-256 of the rows as JSON: the files of a hub data set may change without its rows doing so."""
        total = hashlib.sha256()
        for index in range(len(self)):
            total.update(json.dumps(self._table[index], sort_keys=True, default=str).encode())
        return total.hexdigest()


def _hub_rows(source: str, split: Split, limit: int | None) -> Rows:
    looks_local = Path(source).suffix.lower() in SUFFIXES or source.startswith(("/", ".", "~")) or source.count("/") > 1
    if looks_local or not source.strip():
        raise DataError(source or "data.train", "no such file or folder.", "Check the path.")
    offline = _is_offline()
    if not offline:
        _require_hub(source)
    import datasets

    try:
        table = datasets.load_dataset(source, split=split)
    # The network layer raises errors of several libraries, by version; whichever it is, the data set is not there.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            source,
            f"is no local file or folder, and no data set could be loaded ({shown(lines[0].rstrip('.'), most=160)}).",
            "Check the spelling, or unset HF_HUB_OFFLINE to ask the hub." if offline else "Check the spelling.",
        ) from error
    if len(table) == 0:
        raise DataError(source, f"the {split} split holds no row.", "Choose another data set.")
    return HubRows(source, table, limit)


def _is_offline() -> bool:
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def _require_hub(source: str) -> None:
    """Raise DataError at once where the hub's name does not resolve; the hub's client would retry for half a minute."""
    if urllib.request.getproxies():
        # Behind a proxy names are resolved elsewhere.
        return
    host = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        raise DataError(
            source,
            f"is no local file or folder, and the hub ({host}) cannot be reached.",
            "Check the spelling; without a network, name a local file, or set HF_HUB_OFFLINE=1 for a data set that "
            "was loaded here before.",
        ) from None
