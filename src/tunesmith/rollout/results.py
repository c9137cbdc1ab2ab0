"""The results file: one answer a line, appended and never rewritten, so that a stopped job goes on."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.errors import DiskFullError, RunError


class ResultsFile:
    """Answers by key, as they lie in a .jsonl file; what is appended is on the disk when ``append`` returns.

    A last line torn by a killed writer is left out with a warning and cut away by the next append. Raises RunError
    naming file:line for any other line that is not a result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows, self._num_good_bytes, self._num_torn_bytes = _read(path)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        return self._rows[key]

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The answer of a key, or None where there is none."""
        return self._rows.get(key)

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """All answers, in the order in which they were first given."""
        return self._rows.values()

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, each with key, answer and stop_reason. Raises DiskFullError, RunError."""
        # ASCII only: a line stays one line whatever the model said (U+2028), and lone surrogates survive.
        data = "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as stream:
                self._cut_torn_line(stream)
                stream.write(data)
        except RunError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DiskFullError(self.path, "no space left to write it.", "Free some space.") from None
            raise RunError(self.path, f"cannot be written: {error.strerror}.", "Choose another path.") from None
        self._rows.update({row["key"]: dict(row) for row in rows})

    def _cut_torn_line(self, stream: BinaryIO) -> None:
        if not self._num_torn_bytes:
            return
        if stream.tell() != self._num_good_bytes + self._num_torn_bytes:
            raise RunError(self.path, "is written by another process.", "Wait for it or choose another path.")
        stream.truncate(self._num_good_bytes)
        self._num_torn_bytes = 0


def _read(path: Path) -> tuple[dict[str, dict[str, Any]], int, int]:
    """Rows by key, the number of bytes whole lines take, and the number of bytes of a torn last line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}, 0, 0
    except OSError as error:
        raise RunError(path, f"cannot be read: {error.strerror}.", "Name a .jsonl file.") from None
    rows: dict[str, dict[str, Any]] = {}
    lines, num_bytes = data.splitlines(keepends=True), 0
    for number, line in enumerate(lines, 1):
        row = _parse(line)
        if row is not None and line.endswith(b"\n"):
            rows[row["key"]] = row
            num_bytes += len(line)
        elif number == len(lines):
            message = f"{path}:{number}: the last line was cut off; its item is answered again."
            warnings.warn(message, stacklevel=4)
        else:
            raise RunError(f"{path}:{number}", "is not a result.", "Remove the line.")
    return rows, num_bytes, len(data) - num_bytes


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    needed = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("key", "answer", "stop_reason"))
    return row if needed else None
