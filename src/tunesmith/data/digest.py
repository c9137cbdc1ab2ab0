"""The digest of a file whose rows are being read, and of no other that has taken its name since."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tunesmith.errors import DataError

Stamp = tuple[int, int, int]


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells a file from one that replaced it and from itself before a change: inode, bytes, time in ns."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def digest_of(path: Path, opened: Stamp) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises DataError where it is not the file that was opened.

    A mapped file that an editor replaced keeps its old rows: they must not go by the digest of the new ones.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            same = stamp_of(os.fstat(stream.fileno())) == opened
    except OSError:
        same = False
    if not same:
        raise DataError(path, "the file was changed while it was being read.", "Run the command again.")
    return digest
