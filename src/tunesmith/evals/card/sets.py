"""Rows of the public sets that the card reads by itself, beside the suites."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.suite import SuiteConfig, data_file
from tunesmith.randomness import permutation


def read_set(config: SuiteConfig, name: str, published: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a .jsonl file. Raises DataError naming file:line for a row that is not JSON or lacks a column."""
    path = data_file(config, name, published)
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise DataError(f"{path}:{number}", "is not JSON.", f"Take the file from {published}.") from None
        if missing := [column for column in columns if not isinstance(row, dict) or column not in row]:
            raise DataError(f"{path}:{number}:{missing[0]}", "the column is missing.", f"Take it from {published}.")
        rows.append(row)
    if not rows:
        raise DataError(path, "has no rows.", f"Take the file from {published}.")
    return rows


def some_groups(groups: Sequence[Sequence[Any]], num_items: int, seed: int, purpose: str) -> list[Any]:
    """The items of whole groups, the first of a seeded shuffle, as many as fit into ``num_items`` and at least one."""
    chosen: list[Any] = []
    for place in permutation(len(groups), seed, purpose):
        if chosen and len(chosen) + len(groups[place]) > num_items:
            break
        chosen += groups[place]
    return chosen
