"""Sources -> records for training and validation, checked once, parsed when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.check import FaultLog
from tunesmith.data.read import Rows, open_rows, split_file
from tunesmith.data.shape import USED_COLUMNS, Shape, detect_shape, to_record
from tunesmith.errors import ConfigError, DataError
from tunesmith.randomness import derive_seed
from tunesmith.records import Conversation, Document, Where


class DataConfig(Config):
    """Where the rows are and how they are read."""

    train: str
    """A .jsonl, .json, .csv, .parquet or .txt file, a folder with train and validation files, or a hub data set."""
    validation: str | None = None
    """The same for validation; empty: the folder's own file, else a share of the training rows."""
    validation_share: float = Field(0.1, ge=0, lt=1)
    """Share of the rows held out when there is no validation source; copies of a row never cross the split."""
    shape: Literal["auto"] | Shape = "auto"
    """What the columns mean; auto tells it from their names."""
    columns: dict[str, str] = {}
    """Our column name -> theirs, for files that name them differently."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A faulty row stops the job, or is left out and counted by cause."""
    merge_same_role: bool = False
    """Join neighbouring turns of one speaker with a blank line instead of refusing them."""
    limit: int | None = Field(None, ge=1)
    """Only the first rows of the training source, in its order."""
    validation_limit: int | None = Field(None, ge=1)
    """Only the first rows of the validation set."""


@dataclass(slots=True)
class Source:
    """A sequence of records over raw rows; ``index`` lists the rows that are used."""

    rows: Rows
    shape: str
    columns: Mapping[str, str]
    merge_same_role: bool
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Conversation | Document:
        return self.record(int(self.index[i]))

    def __iter__(self) -> Iterator[Conversation | Document]:
        return (self[i] for i in range(len(self)))

    def record(self, row_id: int) -> Conversation | Document:
        """The record of a row of the file. Raises DataError when it is faulty."""
        row, where = self.rows[row_id]
        renamed = _renamed(row, self.columns, where)
        return to_record(renamed, self.shape, where, row_id, merge_same_role=self.merge_same_role)


@dataclass(slots=True, kw_only=True)
class LoadedData:
    """What was read: records, counts, and a digest of the rows."""

    train: Source
    validation: Source | list[Conversation | Document]
    rows_read: int
    dropped: dict[str, int] = field(default_factory=dict)
    ignored_columns: list[str] = field(default_factory=list)
    digest: str = ""

    @property
    def rows_dropped(self) -> int:
        return sum(self.dropped.values())

    def summary(self) -> dict[str, Any]:
        """For run.json and the plan."""
        return {
            "shape": self.train.shape,
            "rows_read": self.rows_read,
            "rows_train": len(self.train),
            "rows_validation": len(self.validation),
            "rows_dropped": self.dropped,
            "ignored_columns": self.ignored_columns,
            "digest": self.digest,
        }


def load_data(config: DataConfig, *, seed: int) -> LoadedData:
    """Open, shape and check the training and validation rows; seed keys the held-out share.

    Raises DataError with all faults of the files in one table, unless on_bad_row is drop.
    """
    train, dropped, ignored, digest = _open(config, config.train, "train", config.limit)
    read = len(train) + sum(dropped.values())
    validation_source = config.validation
    if validation_source is None and Path(config.train).is_dir() and split_file(Path(config.train), "validation"):
        validation_source = config.train
    validation: Source | list[Conversation | Document] = []
    if validation_source is not None:
        validation, more, _, other = _open(config, validation_source, "validation", config.validation_limit)
        dropped = {cause: dropped.get(cause, 0) + more.get(cause, 0) for cause in {**dropped, **more}}
        read += len(validation) + sum(more.values())
        digest = hashlib.sha256((digest + other).encode()).hexdigest()
    elif config.validation_share > 0:
        train, validation = _hold_out(train, config, seed)
    if len(train) == 0:
        raise DataError(config.train, "no row is left to train on.", "Look at the faults, or lower validation_share.")
    return LoadedData(
        train=train, validation=validation, rows_read=read, dropped=dropped, ignored_columns=ignored, digest=digest
    )


def _open(
    config: DataConfig, source: str, split: str, limit: int | None
) -> tuple[Source, dict[str, int], list[str], str]:
    """One pass over the rows: tell the shape, collect the faults, digest what is used."""
    rows = open_rows(source, split=split)
    size = min(len(rows), limit or len(rows))
    shape = config.shape if config.shape != "auto" else _detect(rows, size, config)
    out = Source(rows, shape, config.columns, config.merge_same_role, np.arange(size))
    faults, good, seen, digest = FaultLog(rows.path), [], set[str](), hashlib.sha256()
    for row_id in range(size):
        try:
            row, where = rows[row_id]
            row = _renamed(row, config.columns, where)
            seen |= set(row)
            if config.shape == "auto":
                _same_shape(row, shape, where)
            out.record(row_id)
        except DataError as error:
            faults.add(error)
            continue
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        good.append(row_id)
    if config.on_bad_row == "error":
        faults.raise_if_any(size)
    out.index = np.array(good, np.int64)
    return out, faults.by_cause(), sorted(seen - USED_COLUMNS[shape]), digest.hexdigest()


def _detect(rows: Rows, size: int, config: DataConfig) -> str:
    first: DataError | None = None
    for row_id in range(size):
        try:
            row, where = rows[row_id]
        except DataError as error:
            first = first or error
            continue
        return detect_shape(_renamed(row, config.columns, where), where)
    assert first is not None
    raise first


def _same_shape(row: Mapping[str, Any], shape: str, where: Where) -> None:
    try:
        found = detect_shape(row, where)
    except DataError:
        # A row that lacks a column is reported as that, not as a shape of its own.
        return
    if found != shape:
        raise DataError(
            where, f"has the shape {found}, the rows before it {shape}.", "Put each shape into a file of its own."
        )


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str], where: Where) -> dict[str, Any]:
    """Apply data.columns; a column that is mapped away takes its old name with it."""
    if not columns:
        return dict(row)
    for ours, theirs in columns.items():
        if theirs not in row:
            raise DataError(where.at(theirs), f"data.columns maps '{ours}' to it, but the row lacks it.", "Check it.")
    rest = {key: value for key, value in row.items() if key not in columns.values() and key not in columns}
    return {**{ours: row[theirs] for ours, theirs in columns.items()}, **rest}


def _hold_out(train: Source, config: DataConfig, seed: int) -> tuple[Source, Source]:
    """Split by a hash of the row's content, so that copies stay together and a new row moves no other."""
    keys = []
    for row_id in train.index:
        row, _ = train.rows[int(row_id)]
        keys.append(derive_seed(seed, "validation_split", json.dumps(row, sort_keys=True, default=str)))
    order = sorted(set(keys))
    held = set(order[: round(len(order) * config.validation_share)])
    if not held or len(held) == len(order):
        raise ConfigError(
            "data.validation_share",
            f"{config.validation_share} of {len(order)} different rows leaves one side empty.",
            "Add rows, name data.validation, or set validation_share: 0.",
        )
    mask = np.array([key in held for key in keys])
    valid_index = train.index[mask][: config.validation_limit]
    valid = Source(train.rows, train.shape, train.columns, train.merge_same_role, valid_index)
    return Source(train.rows, train.shape, train.columns, train.merge_same_role, train.index[~mask]), valid
