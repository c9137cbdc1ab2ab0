"""Output files that are whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import DataError, DiskFullError, TunesmithError
from tunesmith.runs import DISK_FULL


@contextmanager
def temporary_sibling(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to ``path`` once the block ends well; after an error nothing is left of it.

    Raises DiskFullError where there is no space left, and DataError for a path that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, TunesmithError):
            raise
        if error.errno in DISK_FULL:
            raise DiskFullError(path, "no space left to write it.", "Free some space.") from None
        reason = (error.strerror or str(error)).lower()
        raise DataError(path, f"cannot be written: {reason}.", "Check the path and its permissions.") from None
    finally:
        temporary.unlink(missing_ok=True)
