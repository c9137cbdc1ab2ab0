"""Labelled rows that a tiny model can learn from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ENDINGS = {"late": "is late", "bill": "was paid", "other": "thanks"}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parcel_rows(first: int, last: int) -> list[dict[str, Any]]:
    """Three classes, told by how a text ends."""
    return [
        {"id": f"r{i}-{label}", "text": f"parcel {i} {ending}", "label": label}
        for i in range(first, last)
        for label, ending in ENDINGS.items()
    ]
