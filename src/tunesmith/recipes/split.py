"""One file of rows -> training, validation and test files with the same rows, byte for byte."""

from __future__ import annotations

import shlex
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.check import FaultLog, RowError
from tunesmith.data.load import DataConfig
from tunesmith.data.shape import Shape
from tunesmith.data.split import GROUPS_FIRST, SplitMarks, as_int64, assign_parts, class_table
from tunesmith.data.survey import make_plan, read_content, records_of
from tunesmith.data.verbatim import open_writer, suffix_of
from tunesmith.errors import ConfigError, DataError

_OTHER_FIX = {
    "data.group_by": ", or group by a finer column",
    "data.stratify_by": ", or split without --stratify-by",
}


class SplitConfig(Config):
    """What ``tunesmith data split`` does."""

    file: str
    """A file, or a hub data set."""
    output_dir: str
    """Where train, validation and test files are written."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the different rows that go into the validation file; the same rows as data.validation_share takes."""
    test: float = Field(0.1, ge=0, lt=1)
    """Share of the different rows that go into the test file."""
    group_by: str | None = Field(None, min_length=1)
    """A column: rows with one value of it are never torn apart."""
    stratify_by: str | None = Field(None, min_length=1)
    """A column whose values keep their shares in every file."""
    shape: Literal["auto"] | Shape = "auto"
    """What the columns mean; auto tells it from their names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> theirs."""
    seed: int = Field(0, ge=0)
    """Picks the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """Files with their numbers of rows; classes: name -> rows in each file; groups: number of different ones."""

    files: dict[str, int]
    classes: dict[str, list[int]]
    num_groups: int | None
    seed: int
    is_best_effort: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {name: getattr(self, name) for name in self.__slots__}


def split_rows(config: SplitConfig) -> SplitReport:
    """Split a source into files. Raises DataError for faulty rows and where a file is there already."""
    if not 0 < config.validation + config.test < 1:
        raise ConfigError("validation and test", "leave nothing to split or no row for training.", "Try 0.1 each.")
    data = DataConfig(train=config.file, shape=config.shape, columns=config.columns)
    plan, rows, _ = make_plan(data, config.file, "train", config.seed)
    records, faults = records_of(plan, rows), FaultLog()
    marks, keys = SplitMarks(config.group_by, config.stratify_by, config.seed), array("q")
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            key, _, _, _ = read_content(plan, records, row, where, row_id)
            marks.add(row, where)
        except RowError as error:
            faults.add(error.fault)
            continue
        keys.append(key)
    if len(faults):
        fix = f"Leave them out: tunesmith data check {shlex.quote(config.file)} --fix passing{suffix_of(rows)}."
        raise DataError(rows.path, f"{len(faults)} of {len(rows)} rows are faulty.\n{faults.table()}\n", fix)
    shares = {name: share for name, share in (("validation", config.validation), ("test", config.test)) if share}
    try:
        part = assign_parts(as_int64(keys), list(shares.values()), groups=marks.groups, classes=marks.classes)
    except ConfigError as error:
        # It speaks of a recipe's keys, which this command has not.
        fix = f"Add rows, ask for fewer files (--validation 0 or --test 0){_OTHER_FIX.get(error.place, '')}."
        raise ConfigError(rows.path, error.cause, fix) from None
    folder = Path(config.output_dir)
    paths = [folder / f"{name}{suffix_of(rows)}" for name in ("train", *shares)]
    _check_free(folder, paths)
    files = {}
    for number, path in enumerate(paths):
        chosen: NDArray[np.int64] = np.flatnonzero(part == number)
        with open_writer(rows, path) as writer:
            for row_id in chosen.tolist():
                writer.write(row_id)
        files[str(path)] = len(chosen)
    groups, classes = marks.groups, marks.classes
    return SplitReport(
        files=files,
        classes={} if classes is None else class_table(part, classes, marks.class_names),
        num_groups=None if groups is None else len(np.unique(groups)),
        seed=config.seed,
        is_best_effort=groups is not None and classes is not None,
    )


def _check_free(folder: Path, paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            raise DataError(path, "is there already.", "Name another folder, or remove it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(folder, f"cannot be made: {(error.strerror or '').lower()}.", "Name another folder.") from None


def describe(report: SplitReport, config: SplitConfig) -> list[str]:
    """What was written, and how the classes fell."""
    total = sum(report.files.values())
    lines = [f"wrote {path}: {count} rows ({100 * count / total:.1f} %)" for path, count in report.files.items()]
    if report.num_groups is not None:
        lines.append(f"{report.num_groups} groups of '{config.group_by}', none in two files")
    if report.classes:
        names = [Path(path).stem for path in report.files]
        effort = f" ({GROUPS_FIRST})" if report.is_best_effort else ""
        lines.append(f"rows of each '{config.stratify_by}' in {', '.join(names)}{effort}:")
        lines += [f"  {name}: {' '.join(map(str, counts))}" for name, counts in report.classes.items()]
    return [*lines, f"next:  tunesmith data check {shlex.quote(config.output_dir)}"]
