"""Files of human feedback -> preference groups for training and validation, one a prompt, split by prompt."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from tunesmith.config import Config
from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.columns import check_mapping
from tunesmith.data.convertible import FEEDBACK_SHAPES, FeedbackShape, convertible_shapes
from tunesmith.data.feedback import FEEDBACK_COLUMNS, FeedbackRow, read_feedback
from tunesmith.data.pairs import LeftOut, prompt_key
from tunesmith.data.preference_groups import Contradictions, Grouping, find_contradictions
from tunesmith.data.read import Rows, Split, find_split, open_rows
from tunesmith.data.sources import our_names
from tunesmith.data.split import assign_parts
from tunesmith.errors import DataError
from tunesmith.randomness import derive_seed
from tunesmith.records import PreferenceGroup, Where

# What a training method can use of a group: pairs, an answer's own grade, or either.
Needs = Literal["pairs", "grades", "any"]
# Columns that rows stating pairs may have beside those of their shape.
PAIR_COLUMNS = ("weight", "margin")
_STATES_PAIRS: tuple[FeedbackShape, ...] = ("preference", "ranking", "edit")
_KNOWN_COLUMNS = {name for names in FEEDBACK_COLUMNS.values() for name in names} | set(PAIR_COLUMNS)


class PreferenceDataConfig(Config):
    """Where the judged answers are and how they are read."""

    train: str = Field(min_length=1)
    """A .jsonl, .json, .csv or .parquet file of pairs, rankings, ratings, thumbs, flags or edits, a folder with train
    and validation files, or a hub data set."""
    validation: str | None = Field(None, min_length=1)
    """The same for validation; empty: the folder's own file, else a share of the training prompts. A prompt that it
    holds is left out of training."""
    validation_share: float = Field(0.1, ge=0, lt=1)
    """Share of the prompts held out where there is no validation source; all rows of a prompt stay together, and so do
    dialogues that begin alike."""
    shape: Literal["auto"] | FeedbackShape = "auto"
    """What the columns mean; auto tells it from their names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> theirs, for files that name them differently."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A faulty row, such as one whose two answers are the same, stops the job, or is left out and counted by cause."""
    merge_same_role: bool = False
    """Join neighbouring turns of one speaker with a blank line instead of refusing them."""
    min_gap: float = Field(1.0, gt=0, le=4)
    """Two ratings closer than this make no pair."""
    rating_margin: float = Field(0.25, ge=0)
    """Margin of a pair of rated answers, for each grade they are apart: 0.25 asks for 1 between grades 1 and 5."""
    limit: int | None = Field(None, ge=1)
    """Only the first rows of the training source, in its order; the rows behind them are not read."""
    validation_limit: int | None = Field(None, ge=1)
    """Only the first prompts of the validation set, in its order."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for ours in columns:
            if ours not in _KNOWN_COLUMNS:
                near = difflib.get_close_matches(ours, _KNOWN_COLUMNS, n=1)
                hint = f"; did you mean '{near[0]}'" if near else f"; known are {', '.join(sorted(_KNOWN_COLUMNS))}"
                raise ValueError(f"'{ours}' is not a column that any kind of feedback has{hint}")
        if len(set(columns.values())) < len(columns):
            raise ValueError("two columns are mapped to the same one")
        return columns


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPreferences:
    """What was read; ``rows_read`` = rows in groups + all of ``rows_dropped``."""

    train: Sequence[PreferenceGroup]
    validation: Sequence[PreferenceGroup]
    shape: FeedbackShape
    rows_read: int
    rows_dropped: dict[str, int] = field(default_factory=dict)
    """Cause -> faulty rows left out; empty unless on_bad_row is drop."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Cause -> pairs that were not made, and prompts that training cannot use."""
    contradictions: Contradictions
    ignored_columns: list[str] = field(default_factory=list)
    split_note: str = ""
    """What the split could not promise; empty where it kept all."""
    digest: str = ""
    """SHA-256 of the source files, in hexadecimal; for two sources, of their digests."""

    def summary(self) -> dict[str, Any]:
        """Plain values for run.json."""
        sides = {"train": self.train, "validation": self.validation}
        return {
            "shape": self.shape,
            "rows_read": self.rows_read,
            "rows_dropped": self.rows_dropped,
            "left_out": self.left_out,
            **{f"prompts_{name}": len(groups) for name, groups in sides.items()},
            **{f"pairs_{name}": sum(len(group.pairs) for group in groups) for name, groups in sides.items()},
            "conflicts": self.contradictions.conflicts,
            "cycles": self.contradictions.cycles,
            "contradiction_places": list(self.contradictions.places),
            "ignored_columns": self.ignored_columns,
            "digest": self.digest,
            **({"split_note": self.split_note} if self.split_note else {}),
        }


@dataclass(frozen=True, slots=True)
class _Checked:
    """A source after its pass."""

    rows: Rows
    shape: FeedbackShape
    groups: list[PreferenceGroup]
    ignored: set[str]


def load_preferences(config: PreferenceDataConfig, seed: int = 0, *, needs: Needs = "pairs") -> LoadedPreferences:
    """Read, check and group the rows; ``seed`` picks the prompts that are held out.

    Held out are the prompts with the smallest hashes of (seed, what they say), so that the order of the file has no
    say. needs: groups without a pair, or without a grade, are left out and counted. Raises DataError with the faults
    of all files in one table unless on_bad_row is drop, and where nothing usable is left on the training side.
    """
    faults, left_out = FaultLog(), dict[str, int]()
    train = _check_source(config, config.train, "train", config.limit, faults, left_out)
    other_source = config.validation or (config.train if find_split(config.train, "validation") else None)
    other = None
    if other_source is not None:
        other = _check_source(config, other_source, "validation", None, faults, left_out)
    sources = [source for source in (train, other) if source is not None]
    rows_read = sum(len(source.rows) for source in sources)
    if config.on_bad_row == "error":
        faults.raise_if_any(" and ".join(source.rows.path for source in sources), rows_read)
    contradictions = find_contradictions([group for source in sources for group in source.groups])
    usable = [_usable(source, needs, left_out, faults) for source in sources]
    note, digest = "", train.rows.digest()
    if other is not None:
        held_out = usable[1]
        digest = hashlib.sha256(f"{digest} {other.rows.digest()}".encode()).hexdigest()
        kept = _without(usable[0], held_out, left_out)
    elif config.validation_share > 0:
        kept, held_out, note = _hold_out(usable[0], config.validation_share, seed)
    else:
        kept, held_out = usable[0], []
    if not kept:
        raise DataError(train.rows.path, "no prompt is left to train on.", "Add rows, or hold out other prompts.")
    return LoadedPreferences(
        train=kept,
        validation=held_out[: config.validation_limit],
        shape=train.shape,
        rows_read=rows_read,
        rows_dropped=faults.by_cause(),
        left_out=left_out,
        contradictions=contradictions,
        ignored_columns=sorted(set.union(*(source.ignored for source in sources))),
        split_note=note,
        digest=digest,
    )


def _check_source(
    config: PreferenceDataConfig, source: str, split: Split, limit: int | None, faults: FaultLog, left_out: LeftOut
) -> _Checked:
    """One pass over the rows of a source; what is wrong with some goes into ``faults``."""
    rows = open_rows(source, split=split, limit=limit)
    shape = _shape_of(rows, config)
    grouping = Grouping(min_gap=config.min_gap, rating_margin=config.rating_margin, left_out=left_out)
    seen, ignored = set[str](), set[str]()
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            seen.update(row)
            if config.shape == "auto":
                _refuse_other_shape(set(row), shape, config, where)
            reader = FeedbackRow(row, where, row_id, config.columns, config.merge_same_role, set())
            record = read_feedback(reader, shape)
            numbers = {name: _number(reader, name) for name in PAIR_COLUMNS if shape in _STATES_PAIRS}
        except RowError as error:
            faults.add(error.fault)
            continue
        grouping.add(record, **{name: value for name, value in numbers.items() if value is not None})
        ignored |= {name for name in row if name not in reader.used and row[name] not in (None, "")}
    if seen:
        check_mapping(config.columns, seen, rows.path)
    return _Checked(rows, shape, grouping.groups(of_ratings=shape == "rating"), ignored)


def _shape_of(rows: Rows, config: PreferenceDataConfig) -> FeedbackShape:
    """The stated shape, or that of the first row whose columns fit one. Raises DataError for none or several."""
    if config.shape != "auto":
        return config.shape
    names: list[str] | None = None
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
        except RowError:
            continue
        fitting = _fitting(set(row), config)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            cause = f"the columns ({', '.join(map(shown, sorted(row)))}) fit more than one kind of feedback"
            way_out = f"Say which is meant with data.shape: {' or '.join(fitting)}."
            raise DataError(where, f"{cause}: {' and '.join(fitting)}.", way_out)
        names = names or sorted(row)
    if names is None:
        # No row can be read at all, so every one of them is a fault already.
        return "preference"
    raise DataError(
        rows.path,
        f"the columns ({', '.join(map(shown, names)) or 'none'}) hold no feedback.",
        "Give pairs (prompt, chosen, rejected), rankings (prompt, candidates, ranking), ratings (prompt, completion, "
        "rating), thumbs (prompt, completion, label), flags or edits, or map the columns with data.columns.",
    )


def _fitting(names: set[str], config: PreferenceDataConfig) -> list[FeedbackShape]:
    found = convertible_shapes(our_names(names, config.columns))
    return [shape for shape in FEEDBACK_SHAPES if shape in found]


def _refuse_other_shape(names: set[str], shape: FeedbackShape, config: PreferenceDataConfig, where: Where) -> None:
    fitting = _fitting(names, config)
    # A row that fits none lacks a column, and is reported as that.
    if fitting and shape not in fitting:
        fix = "Put each kind of feedback into a file of its own, or set data.shape."
        detail = f"{' and '.join(fitting)}, not {shape}"
        raise RowError(where, "the row is another kind of feedback than the rows before it.", fix, detail=detail)


def _number(reader: FeedbackRow, name: str) -> float | None:
    """A row's weight, above 0, or margin, at least 0; None where it has none."""
    if not reader.has(name) or reader.get(name) == "":
        return None
    value, place = reader.get(name), reader.at(name)
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not math.isfinite(number) or number < 0 or (name == "weight" and number == 0):
        least = "above 0" if name == "weight" else "of at least 0"
        raise RowError(place, f"the {name} is no number {least}.", "Correct it.", detail=shown(str(value)))
    return number


def _usable(source: _Checked, needs: Needs, left_out: LeftOut, faults: FaultLog) -> list[PreferenceGroup]:
    kept = [
        group for group in source.groups if (group.pairs and needs != "grades") or (group.ratings and needs != "pairs")
    ]
    missing = {"pairs": "pair", "grades": "grade", "any": "pair or grade"}[needs]
    if len(kept) < len(source.groups):
        cause = f"prompt without a {missing}"
        left_out[cause] = left_out.get(cause, 0) + len(source.groups) - len(kept)
    if not kept:
        told = "".join(f"\n  {count}: {cause}" for cause, count in left_out.items())
        table = f"\n{faults.table()}" if len(faults) else ""
        cause = f"none of its {len(source.rows)} rows makes a {missing} of answers.{told}{table}"
        raise DataError(source.rows.path, cause, "A pair needs two answers to one prompt; correct or add rows.")
    return kept


def _without(
    train: list[PreferenceGroup], held_out: Sequence[PreferenceGroup], left_out: LeftOut
) -> list[PreferenceGroup]:
    """The training groups whose prompt the validation source does not hold."""
    measured = {prompt_key(group.prompt) for group in held_out}
    kept = [group for group in train if prompt_key(group.prompt) not in measured]
    if len(kept) < len(train):
        cause = "training prompt that the validation source holds too"
        left_out[cause] = left_out.get(cause, 0) + len(train) - len(kept)
    return kept


def _hold_out(
    groups: list[PreferenceGroup], share: float, seed: int
) -> tuple[list[PreferenceGroup], list[PreferenceGroup], str]:
    """(training, held-out, note): dialogues with one opening stay on one side, for an answer may return as a prompt."""
    keys = np.array([derive_seed(seed, "validation_split", _text(group)) for group in groups], np.int64)
    opening = np.array([derive_seed(seed, "split_group", _opening(group)) for group in groups], np.int64)
    note = ""
    if len(np.unique(opening)) == 1 and len(groups) > 1:
        note = "all dialogues begin with the same turns; they were split by their whole prompts"
        part = assign_parts(keys, [share])
    else:
        part = assign_parts(keys, [share], groups=opening if len(np.unique(opening)) < len(groups) else None)
    train = [group for group, side in zip(groups, part, strict=True) if side == 0]
    return train, [group for group, side in zip(groups, part, strict=True) if side == 1], note


def _text(group: PreferenceGroup) -> str:
    return json.dumps([[message.role, message.content] for message in group.prompt])


def _opening(group: PreferenceGroup) -> str:
    """The turns up to what the user says first."""
    roles = [message.role for message in group.prompt]
    first = group.prompt[: roles.index("user") + 1] if "user" in roles else group.prompt
    return json.dumps([[message.role, message.content] for message in first])
