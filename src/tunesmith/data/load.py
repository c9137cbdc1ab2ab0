"""Sources -> records for training and validation: every row is checked once, and parsed when it is asked for."""

from __future__ import annotations

import difflib
import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from tunesmith.config import Config
from tunesmith.data.check import FaultLog, RowError
from tunesmith.data.columns import check_mapping, ignored_columns, in_their_words, renamed_columns
from tunesmith.data.convertible import judged_as, judged_fault
from tunesmith.data.mixture import Mixture, MixtureRecords, is_mixture, load_mixture
from tunesmith.data.read import Rows, Split, find_split, open_rows
from tunesmith.data.shape import (
    FIELD_NAMES,
    Shape,
    detect_shape,
    fitting_shapes,
    reads_column,
    to_record,
)
from tunesmith.data.split import GROUPS_FIRST, SplitMarks, as_int64, assign_parts
from tunesmith.errors import ConfigError, DataError
from tunesmith.randomness import derive_seed
from tunesmith.records import Conversation, Document, Where


class DataConfig(Config):
    """Where the rows are and how they are read."""

    train: str = Field(min_length=1)
    """A .jsonl, .json, .csv, .parquet or .txt file, a folder with train and validation files, a hub data set, or the
    .yaml file of a mixture of tasks."""
    validation: str | None = Field(None, min_length=1)
    """The same for validation; empty: the folder's own file, else a share of the training rows."""
    validation_share: float = Field(0.1, ge=0, lt=1)
    """Share of the different rows held out where there is no validation source; copies of a row stay together."""
    shape: Literal["auto"] | Shape = "auto"
    """What the columns mean; auto tells it from their names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> theirs, for files that name them differently."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A faulty row stops the job, or is left out and counted by cause."""
    merge_same_role: bool = False
    """Join neighbouring turns of one speaker with a blank line instead of refusing them."""
    group_by: str | None = Field(None, min_length=1)
    """A column of the rows as they stand in the file: rows with one value of it are never torn apart by the split."""
    stratify_by: str | None = Field(None, min_length=1)
    """A column whose values keep their shares on both sides of the split; with group_by as closely as groups allow."""
    limit: int | None = Field(None, ge=1)
    """Only the first rows of the training source, in its order; the rows behind them are not read."""
    validation_limit: int | None = Field(None, ge=1)
    """Only the first rows of the validation set, in its order."""
    cache: bool = True
    """Keep the rows' tokens in the cache folder, for your eyes only, so that the next run need not make them anew."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for ours in columns:
            if ours not in FIELD_NAMES:
                near = difflib.get_close_matches(ours, FIELD_NAMES, n=1)
                hint = f"; did you mean '{near[0]}'" if near else f"; known are {', '.join(sorted(FIELD_NAMES))}"
                raise ValueError(f"'{ours}' is not a column any shape reads{hint}")
        if len(set(columns.values())) < len(columns):
            raise ValueError("two columns are mapped to the same one")
        return columns


@dataclass(frozen=True, slots=True)
class Records(Sequence[Conversation | Document]):
    """Records of the rows that are used, in the source's order; ``row_ids`` (N,) int64 are their numbers there."""

    rows: Rows
    shape: Shape
    columns: Mapping[str, str]
    merge_same_role: bool
    row_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_ids)

    @overload
    def __getitem__(self, i: int) -> Conversation | Document: ...

    @overload
    def __getitem__(self, i: slice) -> Records: ...

    def __getitem__(self, i: int | slice) -> Conversation | Document | Records:
        if isinstance(i, slice):
            return self.take(self.row_ids[i])
        row_id = int(self.row_ids[i])
        row, where = self.rows[row_id]
        return self.record(renamed_columns(row, self.columns, self.shape), where, row_id)

    def take(self, row_ids: NDArray[np.int64]) -> Records:
        """The same source with other rows of it."""
        return Records(self.rows, self.shape, self.columns, self.merge_same_role, row_ids)

    def read(
        self, row: Mapping[str, Any], where: Where, row_id: int, *, alone: bool
    ) -> tuple[Conversation | Document, set[str]]:
        """The record of a raw row, and the columns it has no use for; ``alone`` refuses columns of another shape too.

        Raises RowError.
        """
        renamed = renamed_columns(row, self.columns, self.shape)
        if alone:
            _refuse_other_shape(renamed, self.shape, where)
        record = self.record(renamed, where, row_id)
        return record, ignored_columns(row, renamed, self.columns, self.shape)

    def record(self, renamed: Mapping[str, Any], where: Where, row_id: int) -> Conversation | Document:
        """The record of a row under our column names. Raises RowError that names the columns as the file does."""
        try:
            return to_record(renamed, self.shape, where, row_id, merge_same_role=self.merge_same_role)
        except RowError as error:
            raise in_their_words(error, self.columns) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedData:
    """What was read. ``rows_read`` = ``rows_used`` + all of ``rows_dropped`` + ``rows_beyond_limit``."""

    train: Records | MixtureRecords
    validation: Records | MixtureRecords
    rows_read: int
    rows_dropped: dict[str, int] = field(default_factory=dict)
    """Cause -> number of rows left out because of it; empty unless on_bad_row is drop."""
    rows_beyond_limit: int = 0
    """Held-out rows that validation_limit leaves out of the validation set; they are not trained on either."""
    validation_rows_in_train: int = 0
    """Validation rows that are training rows too, of a mixture in another task: what is measured on them is memory."""
    ignored_columns: list[str] = field(default_factory=list)
    """Columns, and keys of turns, that the shape has no use for."""
    split_note: str = ""
    """What the split could not promise; empty where it kept all it was asked for."""
    digest: str = ""
    """SHA-256 of the source files, in hexadecimal; for several sources, of their digests."""
    mixture: Mixture | None = None
    """Where ``train`` holds the examples of a mixture, which may use a row never or more than once."""

    @property
    def shape(self) -> str:
        return self.train.shape

    @property
    def formats(self) -> list[str]:
        """The endings of the sources' files, which say how their bytes are read."""
        if self.mixture is not None:
            return [Path(task.rows.path).suffix for task in self.mixture.tasks]
        sides = [side.rows.path for side in (self.train, self.validation) if isinstance(side, Records)]
        return [Path(path).suffix for path in sides]

    @property
    def rows_used(self) -> int:
        if self.mixture is not None:
            return sum(len(task.row_ids) for task in self.mixture.tasks) + len(self.validation)
        return len(self.train) + len(self.validation)

    def check_unchanged(self) -> None:
        """Raise DataError where a source file is no longer the one ``digest`` was made of."""
        sources = [part.rows for part in (self.train, self.validation) if isinstance(part, Records)]
        if self.mixture is not None:
            sources += [task.rows for task in self.mixture.tasks]
        for rows in sources:
            rows.digest()

    def summary(self) -> dict[str, Any]:
        """Plain values for the plan and run.json."""
        return {
            "shape": self.shape,
            "rows_read": self.rows_read,
            "rows_used": self.rows_used,
            "rows_train": len(self.train),
            "rows_validation": len(self.validation),
            "rows_dropped": self.rows_dropped,
            "rows_beyond_limit": self.rows_beyond_limit,
            "validation_rows_in_train": self.validation_rows_in_train,
            "ignored_columns": self.ignored_columns,
            "digest": self.digest,
            **({"split_note": self.split_note} if self.split_note else {}),
        }


@dataclass(frozen=True, slots=True)
class _Checked:
    """A source after its pass: keys (N,) int64 are seeded hashes of what the used rows say."""

    records: Records
    keys: NDArray[np.int64]
    marks: SplitMarks
    num_rows: int
    ignored: set[str]


def load_data(config: DataConfig, *, seed: int = 0) -> LoadedData:
    """Open, shape and check the rows for training and validation; ``seed`` picks the rows that are held out.

    The validation set is ``config.validation``, else the validation file of a training folder, else the held-out
    share: the rows with the smallest hashes of (seed, what the row says), so that equal rows fall on one side and the
    order of the file has no say. Raises DataError with the faults of all files in one table unless on_bad_row is
    drop, and ConfigError where the split leaves a side empty. A mixture's rows are held out task by task, by the
    mixture's own seed.
    """
    if is_mixture(config.train):
        return _load_mixture(config)
    faults = FaultLog()
    checked = _check_source(config, config.train, "train", config.limit, faults, seed)
    other_source = config.validation or (config.train if find_split(config.train, "validation") else None)
    other = None
    _check_split_columns(config, other_source)
    if other_source is not None:
        other = _check_source(config, other_source, "validation", config.validation_limit, faults, seed)
    rows_read = checked.num_rows + (other.num_rows if other else 0)
    if config.on_bad_row == "error":
        faults.raise_if_any(" and ".join(c.records.rows.path for c in (checked, other) if c), rows_read)
    for part in (checked, other):
        if part is not None and not len(part.records):
            table = f"all {part.num_rows} rows are faulty.\n{faults.table()}\n"
            raise DataError(part.records.rows.path, table, "Correct the rows.")
    train, validation, beyond_limit = checked.records, checked.records.take(np.zeros(0, np.int64)), 0
    digest = train.rows.digest()
    shared = 0
    if other is not None:
        validation = other.records
        digest = hashlib.sha256(f"{digest} {validation.rows.digest()}".encode()).hexdigest()
        shared = int(np.isin(other.keys, checked.keys).sum())
    elif config.validation_share > 0:
        train, held_out = _hold_out(checked, config)
        validation = held_out[: config.validation_limit]
        beyond_limit = len(held_out) - len(validation)
    return LoadedData(
        train=train,
        validation=validation,
        rows_read=rows_read,
        rows_dropped=faults.by_cause(),
        rows_beyond_limit=beyond_limit,
        validation_rows_in_train=shared,
        ignored_columns=sorted(
            (checked.ignored | (other.ignored if other else set())) - {config.group_by or "", config.stratify_by or ""}
        ),
        split_note=GROUPS_FIRST if config.group_by and config.stratify_by else "",
        digest=digest,
    )


def _load_mixture(config: DataConfig) -> LoadedData:
    for key in ("validation", "shape", "columns", "merge_same_role", "group_by", "stratify_by"):
        if getattr(config, key) != DataConfig.model_fields[key].get_default(call_default_factory=True):
            raise ConfigError(
                f"data.{key}", "means nothing for a mixture, whose tasks say it themselves.", "Remove it here."
            )
    mixture = load_mixture(
        Path(config.train).expanduser(),
        validation_share=config.validation_share,
        drop_faulty=config.on_bad_row == "drop",
    )
    validation = mixture.validation[: config.validation_limit]
    return LoadedData(
        train=mixture.train[: config.limit],
        validation=validation,
        rows_read=mixture.rows_read,
        rows_dropped=mixture.rows_dropped,
        rows_beyond_limit=len(mixture.validation) - len(validation),
        validation_rows_in_train=mixture.validation_rows_in_train,
        digest=mixture.digest,
        mixture=mixture,
    )


def _check_source(
    config: DataConfig, source: str, split: Split, limit: int | None, faults: FaultLog, seed: int
) -> _Checked:
    """One pass over the rows of a source: collect the faults, the rows that are used, and their keys."""
    rows = open_rows(source, split=split, limit=limit)
    shape = shape_of(rows, config)
    records = Records(rows, shape, config.columns, config.merge_same_role, np.zeros(0, np.int64))
    good, keys, seen, ignored = array("q"), array("q"), set[str](), set[str]()
    marks = SplitMarks(*((config.group_by, config.stratify_by) if split == "train" else (None, None)), seed)
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            seen.update(row)
            record, unused = records.read(row, where, row_id, alone=config.shape == "auto")
            marks.add(row, where)
        except RowError as error:
            faults.add(error.fault)
            continue
        good.append(row_id)
        keys.append(content_key(record, seed))
        ignored |= unused
    if seen:
        check_mapping(config.columns, seen, rows.path)
    return _Checked(records.take(as_int64(good)), as_int64(keys), marks, len(rows), ignored)


def shape_of(rows: Rows, config: DataConfig) -> Shape:
    """The stated shape, or that of the first row whose columns fit one; rows that fit none are checked against it."""
    if config.shape != "auto":
        for ours in config.columns:
            if not reads_column(config.shape, ours):
                raise ConfigError(
                    f"data.columns.{ours}", f"the shape {config.shape} has no such column.", "Remove it from the map."
                )
        return config.shape
    first_error: DataError | None = None
    seen = set[str]()
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
        except RowError:
            continue
        seen.update(row)
        names = renamed_columns(row, config.columns, None)
        fitting = fitting_shapes(names)
        if fitting:
            shape = detect_shape(renamed_columns(row, config.columns, fitting[0]), where)
            _refuse_judged(names, shape, where)
            return shape
        if first_error is None:
            try:
                detect_shape(names, where)
            except DataError as error:
                first_error = error
    if first_error is not None:
        check_mapping(config.columns, seen, rows.path)
        raise first_error
    # No row can be read at all, so every one of them is a fault already and its shape is never asked for.
    return "messages"


def _refuse_other_shape(renamed: Mapping[str, Any], shape: Shape, where: Where) -> None:
    fitting = fitting_shapes(renamed)
    # A row that fits none lacks a column, and is reported as that.
    if fitting and fitting != [shape]:
        raise RowError(
            where,
            "the row has another shape than the rows before it.",
            "Put each shape into a file of its own, or set data.shape.",
            detail=f"{' and '.join(fitting)}, not {shape}",
        )
    _refuse_judged(renamed, shape, where)


def _refuse_judged(renamed: Mapping[str, Any], shape: Shape, where: Where) -> None:
    """Raise RowError for an answer with a thumb, a flag or a rating: nobody said that bad ones are to be learnt."""
    if shape in ("prompt-completion", "alpaca") and (judged := judged_as(renamed)) is not None:
        raise judged_fault(*judged, shape, where)


def content_key(record: Conversation | Document, seed: int) -> int:
    """The seeded hash of what a record says: equal for copies of a row, and its place in the split."""
    return derive_seed(seed, "validation_split", _content(record))


def _content(record: Conversation | Document) -> str:
    """What a record says, without the ids and notes around it, by which copies of one row may differ."""
    if isinstance(record, Document):
        return json.dumps(record.text)
    return json.dumps([[message.role, message.content] for message in record.messages])


def _hold_out(checked: _Checked, config: DataConfig) -> tuple[Records, Records]:
    """(training, held-out) records; at least one different row, or group, on each side."""
    marks, records = checked.marks, checked.records
    part = assign_parts(checked.keys, [config.validation_share], groups=marks.groups, classes=marks.classes)
    return records.take(records.row_ids[part == 0]), records.take(records.row_ids[part == 1])


def _check_split_columns(config: DataConfig, other_source: str | None) -> None:
    """Raise ConfigError where a column is to steer a split that does not take place."""
    for key, column in (("group_by", config.group_by), ("stratify_by", config.stratify_by)):
        if column is not None and (other_source is not None or config.validation_share == 0):
            why = "validation_share is 0" if other_source is None else f"the validation rows come from {other_source}"
            raise ConfigError(f"data.{key}", f"{why}, so nothing is split here.", "Remove the key.")
