"""What the parts of a job took, kept in a file: a job that goes on knows what its first half cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import RunError
from tunesmith.runs import atomic_write_text


class Ledger:
    """Seconds by part. Raises RunError for a file that holds something else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        if path.exists():
            try:
                self.seconds = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
            except (ValueError, TypeError, AttributeError):
                raise RunError(path, "is not a record of times.", "Delete it; times are then measured again.") from None

    @contextmanager
    def watch(self, name: str, *, anew: bool = False) -> Iterator[None]:
        """Add the time of a block to a part's, also where the block does not come to its end; anew: instead of it."""
        if anew:
            self.seconds.pop(name, None)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a part's."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path, json.dumps(self.seconds, indent=1) + "\n")

    def minutes(self, *names: str) -> float:
        """What parts took together."""
        return sum(self.seconds.get(name, 0.0) for name in names) / 60
