"""Files of texts with a label -> labelled texts for training, validation and test, and the classes they may have."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from tunesmith.config import Config
from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.parse import json_type
from tunesmith.data.read import Rows, Split, find_split, open_rows
from tunesmith.data.split import GROUPS_FIRST, SplitMarks, as_int64, assign_parts
from tunesmith.errors import ConfigError, DataError
from tunesmith.randomness import derive_seed
from tunesmith.records import Labelled, Where

TEXT, LABEL = "text", "label"
SPLITS: tuple[Split, ...] = get_args(Split)
PLACES_SHOWN = 5


class LabelledDataConfig(Config):
    """Where the labelled texts are and how they are read."""

    train: str = Field(min_length=1)
    """A .jsonl, .json, .csv or .parquet file with the columns text and label, a folder with train, validation and test
    files, or a hub data set."""
    validation: str | None = Field(None, min_length=1)
    """The same for validation; empty: the folder's own file, else a share of the training rows."""
    test: str | None = Field(None, min_length=1)
    """Rows the report measures on, which choose nothing; empty: the folder's own file, else the validation rows."""
    validation_share: float = Field(0.1, ge=0, lt=1)
    """Share of the different texts held out where there is no validation source, of every class its own share; copies
    of a text stay together."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name (text, label) -> theirs, for files that name them differently."""
    labels: list[str] = Field(default_factory=list)
    """The classes in their order; empty: those of the training rows, numbers by their size, words by the alphabet."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A faulty row, such as one without a label, stops the job, or is left out and counted by cause."""
    group_by: str | None = Field(None, min_length=1)
    """A column of the rows as they stand in the file: rows with one value of it are never torn apart by the split."""
    limit: int | None = Field(None, ge=1)
    """Only the first rows of the training source, in its order; the rows behind them are not read."""
    validation_limit: int | None = Field(None, ge=1)
    """Only the first rows of the validation set, in its order."""
    test_limit: int | None = Field(None, ge=1)
    """Only the first rows of the test source, in its order."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(columns) - {TEXT, LABEL}):
            raise ValueError(f"'{unknown[0]}' is not a column that is read; known are {TEXT} and {LABEL}")
        if len(set(columns.values())) < len(columns):
            raise ValueError("two columns are mapped to the same one")
        return columns

    @field_validator("labels", mode="before")
    @classmethod
    def _as_texts(cls, labels: Any) -> Any:
        if not isinstance(labels, list):
            return labels
        if any(isinstance(label, bool) for label in labels):
            raise ValueError("to YAML yes and no mean true and false; put them into quotes")
        texts = [str(label) if isinstance(label, int) else label for label in labels]
        if labels and (len(texts) < 2 or len(set(map(str, texts))) < len(texts)):
            raise ValueError("two or more different classes are expected")
        return texts


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedLabelled:
    """What was read; ``rows_read`` = all rows of the three sides + ``rows_dropped`` + ``rows_beyond_limit``."""

    labels: tuple[str, ...]
    """The classes, in the order of the classifier's outputs."""
    train: list[Labelled]
    validation: list[Labelled]
    test: list[Labelled]
    rows_read: int
    rows_dropped: dict[str, int] = field(default_factory=dict)
    """Cause -> faulty rows left out; empty unless on_bad_row is drop."""
    rows_beyond_limit: int = 0
    """Held-out rows that validation_limit leaves out; they are not trained on either."""
    seen_in_training: dict[str, int] = field(default_factory=dict)
    """validation, test -> rows whose text is a training text too: what is measured on them is memory."""
    contradictions: int = 0
    """Training texts that stand there under two labels or more."""
    contradiction_places: list[str] = field(default_factory=list)
    ignored_columns: list[str] = field(default_factory=list)
    split_note: str = ""
    digest: str = ""
    """SHA-256 of the source files, in hexadecimal; of several sources, of their digests."""

    def sides(self) -> dict[str, list[Labelled]]:
        """train, validation, test -> their rows."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def summary(self) -> dict[str, Any]:
        """Plain values for run.json and the report; rows_by_class: of training, validation and test."""
        counts = [Counter(row.label for row in rows) for rows in self.sides().values()]
        return {
            "labels": list(self.labels),
            "rows_read": self.rows_read,
            **{f"rows_{side}": len(rows) for side, rows in self.sides().items()},
            "rows_by_class": {label: [count[label] for count in counts] for label in self.labels},
            "rows_dropped": self.rows_dropped,
            "rows_beyond_limit": self.rows_beyond_limit,
            "seen_in_training": self.seen_in_training,
            "contradictions": self.contradictions,
            "contradiction_places": self.contradiction_places,
            "ignored_columns": self.ignored_columns,
            "digest": self.digest,
            **({"split_note": self.split_note} if self.split_note else {}),
        }


@dataclass(frozen=True, slots=True)
class _Side:
    """A source after its pass, and what the split goes by."""

    rows: Rows
    labelled: list[Labelled]
    marks: SplitMarks
    columns: set[str]


def load_labelled(config: LabelledDataConfig, *, seed: int = 0) -> LoadedLabelled:
    """Read and check the rows; ``seed`` picks the texts that are held out, class by class.

    Raises DataError with the faults of all files in one table unless on_bad_row is drop, for a label that only rows
    outside training have (always), and where less than two classes are to be told apart.
    """
    faults = FaultLog()
    sources = _sources(config)
    limits = {"train": config.limit, "validation": config.validation_limit, "test": config.test_limit}
    _check_group_by(config, sources)
    read = {side: _read_side(config, source, side, limits[side], faults, seed) for side, source in sources.items()}
    rows_read = sum(len(side.rows) for side in read.values())
    if config.on_bad_row == "error":
        faults.raise_if_any(" and ".join(side.rows.path for side in read.values()), rows_read)
    for side in read.values():
        if not side.labelled:
            table = f"none of its {len(side.rows)} rows is usable.\n{faults.table()}\n"
            raise DataError(side.rows.path, table, "Correct the rows.")
    train, sides = read["train"].labelled, {name: side.labelled for name, side in read.items()}
    beyond_limit = 0
    if "validation" not in sides and config.validation_share > 0:
        train, held_out = _hold_out(read["train"], config, seed)
        sides["validation"] = held_out[: config.validation_limit]
        beyond_limit = len(held_out) - len(sides["validation"])
    sides["train"] = train
    labels = _classes(config, train, read["train"].rows.path)
    for name in SPLITS[1:]:
        _refuse_unknown(sides.get(name, []), labels, name)
    conflicts = _contradictions(train)
    known = {row.text for row in train}
    columns = {config.columns.get(name, name) for name in (TEXT, LABEL)} | {config.group_by or ""}
    digests = [side.rows.digest() for side in read.values()]
    return LoadedLabelled(
        labels=labels,
        train=train,
        validation=sides.get("validation", []),
        test=sides.get("test", []),
        rows_read=rows_read,
        rows_dropped=faults.by_cause(),
        rows_beyond_limit=beyond_limit,
        seen_in_training={name: sum(row.text in known for row in sides.get(name, [])) for name in SPLITS[1:]},
        contradictions=len(conflicts),
        contradiction_places=conflicts[:PLACES_SHOWN],
        ignored_columns=sorted(set.union(*(side.columns for side in read.values())) - columns),
        split_note=GROUPS_FIRST if config.group_by else "",
        digest=digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest(),
    )


def read_text(row: Mapping[str, Any], where: Where, columns: Mapping[str, str]) -> str:
    """The text of a raw row. Raises RowError naming the column as the file does."""
    name = columns.get(TEXT, TEXT)
    value, place = _cell(row, name, TEXT, where), where.at(shown(name))
    if not isinstance(value, str):
        raise RowError(place, "the text is no string.", "Write it in quotes.", detail=f"it is {json_type(value)}")
    if not value.strip():
        raise RowError(place, "the text is empty.", "Fill it in, or remove the row.")
    return value


def read_label(row: Mapping[str, Any], where: Where, columns: Mapping[str, str]) -> str:
    """The label of a raw row as text: 3 and 3.0 are '3', true is 'true'. Raises RowError naming its column."""
    name = columns.get(LABEL, LABEL)
    value, place = _cell(row, name, LABEL, where), where.at(shown(name))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        detail = f"it is {json_type(value)}"
        raise RowError(place, "the label is neither a word nor a number.", "Correct it.", detail=detail)
    if not value.strip():
        raise RowError(place, "the label is empty.", "Fill it in, or remove the row.")
    if value != value.strip():
        fix = "Remove it; with it the label is a class of its own."
        raise RowError(place, "the label has white space around it.", fix, detail=shown(repr(value)))
    return value


def _cell(row: Mapping[str, Any], name: str, ours: str, where: Where) -> Any:
    if name in row and row[name] is not None:
        return row[name]
    if name in row:
        raise RowError(where.at(shown(name)), f"the {ours} is empty.", "Fill it in, or remove the row.")
    near = difflib.get_close_matches(name, row, n=1)
    have = f"did you mean '{shown(near[0])}'" if near else f"the columns are {', '.join(map(shown, row))}"
    fix = f"Name it, as in data.columns.{ours}: THEIRS."
    raise RowError(where, f"there is no column for the {ours}.", fix, detail=f"'{shown(name)}' is none; {have}")


def _sources(config: LabelledDataConfig) -> dict[Split, str]:
    """Side -> where its rows come from; a folder may bring files for all three."""
    stated: dict[Split, str | None] = {"train": config.train, "validation": config.validation, "test": config.test}
    return {
        side: source or config.train
        for side, source in stated.items()
        if source is not None or find_split(config.train, side) is not None
    }


def _check_group_by(config: LabelledDataConfig, sources: Mapping[Split, str]) -> None:
    if config.group_by is not None and ("validation" in sources or config.validation_share == 0):
        why = "the validation rows have a source of their own" if "validation" in sources else "validation_share is 0"
        raise ConfigError("data.group_by", f"{why}, so nothing is split here.", "Remove the key.")


def _read_side(
    config: LabelledDataConfig, source: str, side: Split, limit: int | None, faults: FaultLog, seed: int
) -> _Side:
    rows = open_rows(source, split=side, limit=limit)
    group_by = config.group_by if side == "train" else None
    marks = SplitMarks(group_by, None, seed)
    out, columns = list[Labelled](), set[str]()
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            columns.update(row)
            text, label = read_text(row, where, config.columns), read_label(row, where, config.columns)
            if config.labels and label not in config.labels:
                detail, place = f"'{shown(label)}'", where.at(shown(config.columns.get(LABEL, LABEL)))
                raise RowError(
                    place, "the label is not among data.labels.", "Add it there, or correct it.", detail=detail
                )
            marks.add(row, where)
        except RowError as error:
            faults.add(error.fault)
            continue
        out.append(Labelled(text=text, label=label, row_id=row_id, where=where))
    return _Side(rows, out, marks, columns)


def _hold_out(side: _Side, config: LabelledDataConfig, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(training, held-out) rows: of every class its share, and at least one text of each stays in training."""
    keys = as_int64(array("q", (derive_seed(seed, "validation_split", json.dumps(row.text)) for row in side.labelled)))
    classes = as_int64(array("q", (derive_seed(seed, "split_class", row.label) for row in side.labelled)))
    part = assign_parts(keys, [config.validation_share], groups=side.marks.groups, classes=classes)
    kept, held_out = ([row for row, p in zip(side.labelled, part, strict=True) if p == which] for which in (0, 1))
    return kept, held_out


def _classes(config: LabelledDataConfig, train: Sequence[Labelled], path: str) -> tuple[str, ...]:
    found = {row.label for row in train}
    if missing := [label for label in config.labels if label not in found]:
        cause = f"no training row has the label '{shown(missing[0])}'."
        raise DataError("data.labels", cause, "Add rows of it, or take it out of the list.")
    if len(found) < 2:
        raise DataError(path, f"all rows to train on have the label '{shown(*found)}'.", "Add rows of another class.")
    return tuple(config.labels) or tuple(sorted(found, key=_by_size if all(map(_is_number, found)) else str))


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _by_size(label: str) -> tuple[float, str]:
    return float(label), label


def _refuse_unknown(rows: Sequence[Labelled], labels: Sequence[str], side: str) -> None:
    """Raise DataError for rows whose class was never trained on: whatever is said of them is wrong."""
    unknown = [row for row in rows if row.label not in labels]
    if unknown:
        first = "".join(f"\n  {row.where}: '{shown(row.label)}'" for row in unknown[:PLACES_SHOWN])
        more = f"\n  and {len(unknown) - PLACES_SHOWN} more" if len(unknown) > PLACES_SHOWN else ""
        cause = f"{len(unknown)} {side} rows have a label that no training row has:{first}{more}\n"
        raise DataError(unknown[0].where, cause, "Add training rows of it, or take these rows out.")


def _contradictions(train: Sequence[Labelled]) -> list[str]:
    """Places of the training texts that stand there under another label before."""
    first: dict[str, str] = {}
    places: dict[str, str] = {}
    for row in train:
        if first.setdefault(row.text, row.label) != row.label:
            places.setdefault(row.text, str(row.where))
    return list(places.values())
