"""Digests of big files that are not read twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tunesmith.runtime import cache_folder


def files_digest(files: Sequence[Path]) -> str:
    """SHA-256 (hex) over files: of one file its own, of several that of their digests in the order given.

    A file whose path, size in bytes and modification time are known is not read again.
    """
    digests = [_file_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    path = file.resolve()
    stat = path.stat()
    facts = {"path": str(path), "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    side_file = cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    try:
        known = json.loads(side_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if isinstance(known, dict) and all(known.get(key) == value for key, value in facts.items()):
        return str(known["sha256"])
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    # A cache that cannot be written costs time, not correctness: the digest is computed anew next time.
    with contextlib.suppress(OSError):
        _write_whole(side_file, json.dumps({**facts, "sha256": digest}))
    return digest


def _write_whole(path: Path, text: str) -> None:
    """Other processes see the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
