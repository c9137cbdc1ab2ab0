"""Which rows are held out: a function of the seed and of what the rows say, never of their order.

Copies of a row always fall on one side. Rows of one group do too; where copies link two groups, those count as one.
Letters: N rows, K different rows in the order of their hashes, U units, which are never torn apart.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tunesmith.data.check import RowError, shown
from tunesmith.errors import ConfigError
from tunesmith.randomness import derive_seed
from tunesmith.records import Where

Int64 = NDArray[np.int64]
GROUPS_FIRST = "groups go first; the classes are as close to their shares as whole groups allow"


def as_int64(values: array[int]) -> Int64:
    """An array of the standard library as (N,) int64, without a copy."""
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)


class SplitMarks:
    """Seeded hashes of the columns that ``group_by`` and ``stratify_by`` name, one for each row that is used."""

    def __init__(self, group_by: str | None, stratify_by: str | None, seed: int) -> None:
        self._columns = {"split_group": group_by, "split_class": stratify_by}
        self._hashes: dict[str, array[int]] = {name: array("q") for name in self._columns}
        self._seed = seed
        self.class_names: dict[int, str] = {}

    def add(self, row: Mapping[str, Any], where: Where) -> None:
        """Note a row. Raises RowError, before anything is noted, where it lacks a column or holds null there."""
        texts = {}
        for purpose, column in self._columns.items():
            if column is None:
                continue
            key = "group_by" if purpose == "split_group" else "stratify_by"
            if row.get(column) is None:
                place = where.at(shown(column))
                raise RowError(place, f"the column that {key} names is missing or null.", "Fill it in.")
            texts[purpose] = json.dumps(row[column], sort_keys=True, default=str)
        for purpose, text in texts.items():
            hashed = derive_seed(self._seed, purpose, text)
            self._hashes[purpose].append(hashed)
            if purpose == "split_class":
                self.class_names.setdefault(hashed, shown(str(row[str(self._columns[purpose])])))

    @property
    def groups(self) -> Int64 | None:
        """(N,) int64, or None without group_by."""
        return None if self._columns["split_group"] is None else as_int64(self._hashes["split_group"])

    @property
    def classes(self) -> Int64 | None:
        """(N,) int64, or None without stratify_by."""
        return None if self._columns["split_class"] is None else as_int64(self._hashes["split_class"])


def assign_parts(
    keys: Int64, shares: Sequence[float], *, groups: Int64 | None = None, classes: Int64 | None = None
) -> NDArray[np.int8]:
    """(N,) int8: 0 for rows that stay in training, p for those of the p-th share.

    keys, groups, classes: (N,) seeded hashes of what a row says, of its group and of its class. Shares count different
    rows. Without groups and classes the smallest hashes are taken. With classes, every class gives each part its share
    of it rounded up or down, and keeps a row for training. With groups, units are tried in the order of their hashes
    and taken where that brings the part closer to its size, or with classes to its size in every class: best effort,
    since a group is taken whole. Raises ConfigError where a side would stay empty.
    """
    different, index_N = np.unique(keys, return_inverse=True)
    class_K = np.full(len(different), np.iinfo(np.int64).max)
    if classes is not None:
        # Copies of one row that carry several classes count for one of them, whichever order they stand in.
        np.minimum.at(class_K, index_N, classes)
    if groups is not None:
        part_K = _by_groups(different, index_N, groups, class_K, shares)
    else:
        part_K = _by_rows(class_K, shares)
    return part_K[index_N]


def _by_rows(class_K: Int64, shares: Sequence[float]) -> NDArray[np.int8]:
    num_rows = len(class_K)
    if num_rows <= len(shares):
        raise ConfigError(
            "data.validation_share",
            f"there {'is only one different row' if num_rows == 1 else f'are only {num_rows} different rows'}, "
            "which cannot be split.",
            "Add rows, name data.validation, or set validation_share: 0.",
        )
    part_K = np.zeros(num_rows, np.int8)
    _, code_K = np.unique(class_K, return_inverse=True)
    sizes = np.bincount(code_K)
    for part, share in enumerate(shares, 1):
        free = np.bincount(code_K[part_K == 0], minlength=len(sizes))
        # One different row must be left for training and for each part to come.
        room = int(free.sum()) - 1 - (len(shares) - part)
        take = _rows_of_classes((sizes * share).astype(np.float64), free, min(max(1, round(num_rows * share)), room))
        if not take.any():
            raise ConfigError(
                "data.stratify_by", "no class has a row to spare.", "Split without it, or add rows of the rare classes."
            )
        part_K[_first_of_classes(code_K, part_K == 0, take)] = part
    return part_K


def _first_of_classes(code_K: Int64, free_K: NDArray[np.bool_], take: Int64) -> Int64:
    """The first ``take`` free rows of each class, in one pass whatever the number of classes."""
    free = np.flatnonzero(free_K)
    rows = free[np.argsort(code_K[free], kind="stable")]
    codes = code_K[rows]
    place_in_class = np.arange(len(rows)) - np.searchsorted(codes, codes)
    return rows[place_in_class < take[codes]]


def _rows_of_classes(ideal: NDArray[np.float64], free: Int64, num_wanted: int) -> Int64:
    """Rows to take of each class: the ideal numbers rounded down, the largest remainders up (Hamilton's method)."""
    take = np.minimum(np.floor(ideal + 1e-9).astype(np.int64), np.maximum(free - 1, 0))
    missing = num_wanted - int(take.sum())
    for code in np.argsort(-(ideal - take), kind="stable"):
        if missing > 0 and free[code] - take[code] > 1:
            take[code] += 1
            missing -= 1
    while take.sum() > num_wanted:
        take[take.argmax()] -= 1
    return take


def _by_groups(
    different: Int64, index_N: Int64, groups: Int64, class_K: Int64, shares: Sequence[float]
) -> NDArray[np.int8]:
    unit_K, order_U = _units(len(different), index_N, groups)
    num_units = len(order_U)
    if num_units <= len(shares):
        raise ConfigError(
            "data.group_by",
            f"the rows form {num_units} {'group' if num_units == 1 else 'groups'}, too few to split; groups that share "
            "a row count as one.",
            "Group by a finer column, or name data.validation.",
        )
    _, code_K = np.unique(class_K, return_inverse=True)
    sizes = np.bincount(code_K)
    rows_of: list[dict[int, int]] = [{} for _ in range(num_units)]
    for unit, code in zip(unit_K.tolist(), code_K.tolist(), strict=True):
        rows_of[unit][code] = rows_of[unit].get(code, 0) + 1
    part_U = np.zeros(num_units, np.int8)
    for part, share in enumerate(shares, 1):
        target, taken = sizes * share, np.zeros(len(sizes))
        best: tuple[float, int] | None = None
        spare = int((part_U == 0).sum()) - (len(shares) - part) - 1
        for unit in order_U.tolist():
            if part_U[unit] or not spare:
                continue
            # Squared distance to the target in units of each class's own spread, before and after.
            change = sum(
                ((taken[c] + n - target[c]) ** 2 - (taken[c] - target[c]) ** 2) / max(target[c], 1.0)
                for c, n in rows_of[unit].items()
            )
            if best is None or change < best[0]:
                best = (change, unit)
            if change < 0:
                part_U[unit], spare = part, spare - 1
                for c, n in rows_of[unit].items():
                    taken[c] += n
        if not taken.any() and best is not None:
            # Every group is more than twice as large as the part: the least bad one is the part.
            part_U[best[1]] = part
    return part_U[unit_K]


def _units(num_different: int, index_N: Int64, groups: Int64) -> tuple[Int64, Int64]:
    """(K,) unit of each different row, and (U,) the units in the order of their smallest group hash."""
    names, group_N = np.unique(groups, return_inverse=True)
    size = num_different + len(names)
    links = coo_array((np.ones(len(index_N)), (index_N, group_N + num_different)), shape=(size, size))
    num_units, label = connected_components(links, directed=False)
    smallest = np.full(num_units, np.iinfo(np.int64).max)
    np.minimum.at(smallest, label[num_different:], names)
    return label[:num_different].astype(np.int64), np.argsort(smallest, kind="stable")


def class_table(parts: NDArray[np.int8], classes: Int64, names: Mapping[int, str]) -> dict[str, list[int]]:
    """Class -> rows in training and in each part, by name."""
    num_parts = int(parts.max(initial=0)) + 1
    values, code_N = np.unique(classes, return_inverse=True)
    counts = np.zeros((len(values), num_parts), np.int64)
    np.add.at(counts, (code_N, parts), 1)
    table: dict[str, list[int]] = {}
    for value, row in zip(values.tolist(), counts.tolist(), strict=True):
        # Values such as 1 and "1" are classes of their own and look the same.
        before = table.get(names[value], [0] * num_parts)
        table[names[value]] = [a + b for a, b in zip(before, row, strict=True)]
    return dict(sorted(table.items()))
