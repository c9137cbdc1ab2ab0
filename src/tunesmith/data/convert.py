"""``data convert``: rows of any shape -> rows of a target, whole or not at all, with everything lost said aloud."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.convertible import CONVERTIBLE_SHAPES, EXPORT_COLUMNS
from tunesmith.data.feedback import FEEDBACK_COLUMNS
from tunesmith.data.out import check_output, open_output
from tunesmith.data.pairs import LeftOut
from tunesmith.data.read import Rows, open_rows
from tunesmith.data.shape import FIELD_NAMES, SHAPES
from tunesmith.data.sources import AnyShape, ReadOptions, Source, all_fitting, iter_names, open_source
from tunesmith.data.write import Form, Target, check_reads_back, choose_form, to_row
from tunesmith.errors import ConfigError, DataError

TELL_ROWS = 1000
ALL_SHAPES: tuple[AnyShape, ...] = (*SHAPES, *CONVERTIBLE_SHAPES)
KNOWN_COLUMNS = FIELD_NAMES | set(EXPORT_COLUMNS) | {name for names in FEEDBACK_COLUMNS.values() for name in names}
# The loader's errors speak of a recipe; here the same things are options.
_OPTION_WORDS = {
    "data.merge_same_role: true": "--merge-same-role",
    "set data.on_bad_row: drop": "pass --on-bad-row drop",
    "data.on_bad_row: drop": "--on-bad-row drop",
    "data.columns": "--columns",
    "data.shape: ": "--shape ",
    "data.shape": "--shape",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What was read and written; every row, answer and column that was not carried is counted or named."""

    source: str
    output: str
    target: Target
    shape: AnyShape
    rows_read: int
    rows_written: int
    rows_dropped: dict[str, int] = field(default_factory=dict)
    """Cause -> faulty rows left out, with --on-bad-row drop."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Cause -> messages, answers, pairs or threads that the target has no row for."""
    ignored_columns: list[str] = field(default_factory=list)
    written_columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fault_table: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        names = self.__dataclass_fields__
        return {name: getattr(self, name) for name in names if name != "fault_table"}


def convert(
    source: str,
    output: Path,
    target: Target,
    options: ReadOptions,
    *,
    shape: AnyShape | None = None,
    overwrite: bool = False,
    tell: Callable[[int], None] = lambda num_rows: None,
) -> Converted:
    """Read ``source``, write ``output`` in the format its name ends with.

    Raises DataError with all faulty rows in one table unless they are dropped; the output is then not touched. Memory
    is an index of the rows, never their texts. ``tell`` hears now and then how many rows are written.
    """
    check_output(output, Path(source).expanduser(), target, overwrite=overwrite)
    try:
        rows = open_rows(source)
        check_output(output, Path(rows.path), target, overwrite=overwrite)
        _check_columns(rows, options.columns)
        # Only an export has a side to choose.
        found = shape or ("chat-export" if options.assistants else _detect(rows, options.columns, target))
        if found != "chat-export" and (options.assistants or options.time_format):
            fix = "Leave --assistant and --time-format out."
            raise DataError(rows.path, f"the rows are {found}, which is no chat export.", fix)
        stated = shape is not None or found == "transcript"
        read = open_source(rows, found, options, as_pairs=target == "preference", is_stated=stated)
    except (DataError, ConfigError) as error:
        raise in_option_words(error) from None
    form = choose_form(
        (record for record, _ in read.items({})), target, output.suffix.lower(), has_ranks=read.has_ranks
    )
    num_written, left_out, faults = _write(read, form, output, options, tell)
    dropped = {option_words(cause): count for cause, count in read.dropped.items()}
    # The loader keeps the number of its faulty rows, not their places.
    table = "".join(
        f"  {count} {'row' if count == 1 else 'rows'}: {cause}.\n" for cause, count in dropped.items()
    ) + option_words(faults.table())
    for cause, count in faults.by_cause().items():
        dropped[option_words(cause)] = dropped.get(cause, 0) + count
    return Converted(
        source=source,
        output=str(output),
        target=target,
        shape=read.shape,
        rows_read=read.num_rows,
        rows_written=num_written,
        rows_dropped=dropped,
        left_out=left_out,
        ignored_columns=sorted(read.ignored | ({"ranks"} if read.has_ranks and not form.has_ranks else set())),
        written_columns=form.columns,
        notes=_notes(read, form),
        fault_table=table.rstrip("\n"),
    )


def _write(
    read: Source, form: Form, output: Path, options: ReadOptions, tell: Callable[[int], None]
) -> tuple[int, LeftOut, FaultLog]:
    """Write all rows; raises DataError, and writes none, for faults that are not dropped and for no row at all."""
    left_out: LeftOut = {}
    faults, num_written = read.faults, 0
    if options.drop_bad_rows or not len(faults):
        with open_output(output, form) as write:
            for row in _rows(read, form, left_out, faults):
                write(row)
                num_written += 1
                if num_written % TELL_ROWS == 0:
                    tell(num_written)
            _refuse(read, form, faults, num_written, left_out, options)
    else:
        for _ in _rows(read, form, left_out, faults):
            num_written += 1
        _refuse(read, form, faults, num_written, left_out, options)
    return num_written, left_out, faults


def _rows(read: Source, form: Form, left_out: LeftOut, faults: FaultLog) -> Iterator[dict[str, Any]]:
    for record, extra in read.items(left_out):
        try:
            row = to_row(record, form)
            own = {name: value for name, value in extra.items() if name in form.columns}
            if own:
                row |= own
                check_reads_back(row, record, form)
        except RowError as error:
            faults.add(error.fault)
            continue
        yield row


def _refuse(
    read: Source, form: Form, faults: FaultLog, num_written: int, left_out: LeftOut, options: ReadOptions
) -> None:
    """Raise DataError where the rows that were written are not what was asked for."""
    if len(faults) and not options.drop_bad_rows:
        if len(faults) == 1:
            try:
                faults.raise_if_any(read.path, read.num_rows)
            except DataError as error:
                raise in_option_words(error) from None
        table = option_words(faults.table())
        raise DataError(
            read.path,
            f"{len(faults)} faults in {read.num_rows} rows; nothing was written.\n{table}\n",
            "Correct the rows, or pass --on-bad-row drop to leave them out and have them counted.",
        )
    if num_written == 0:
        causes = "".join(f"\n  {count}: {cause}" for cause, count in left_out.items())
        table = f"\n{option_words(faults.table())}" if len(faults) else ""
        if form.target == "preference" and read.shape in ("rating", "unpaired", "flag"):
            fix = "A pair needs two answers to one prompt; --to messages keeps the approved answers instead."
        else:
            fix = "Correct the rows, or convert to another format."
        raise DataError(read.path, f"none of its {read.num_rows} rows makes a row of the output.{causes}{table}\n", fix)


def _check_columns(rows: Rows, columns: Mapping[str, str]) -> None:
    for ours in columns:
        if ours not in KNOWN_COLUMNS:
            near = difflib.get_close_matches(ours, KNOWN_COLUMNS, n=1)
            fix = f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(sorted(KNOWN_COLUMNS))}."
            raise DataError(f"--columns {shown(ours)}", "is not a column that any shape reads.", fix)
    missing = set(columns.values())
    seen = set[str]()
    for names in iter_names(rows) if missing else ():
        seen |= names
        missing -= names
        if not missing:
            return
    if missing:
        listed = ", ".join(map(shown, sorted(seen)))
        raise DataError(rows.path, f"no row has the column '{shown(min(missing))}'.", f"The columns are {listed}.")


def _detect(rows: Rows, columns: Mapping[str, str], target: Target) -> AnyShape:
    """The shape that the target asks for, of the first row whose columns fit one. Raises DataError for none or many."""
    first: set[str] | None = None
    unread: RowError | None = None
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
        except RowError as error:
            unread = unread or error
            continue
        first = first or set(row)
        fitting = all_fitting(set(row), columns)
        if not fitting:
            continue
        if rows.path.lower().endswith(".txt") and fitting == ["text"]:
            return "transcript" if target != "text" and row["text"].lstrip().startswith("Human:") else "text"
        wanted = [shape for shape in fitting if shape not in SHAPES or target != "preference"]
        if len(wanted) == 1:
            return wanted[0]
        if not wanted:
            fix = "Give rows with chosen and rejected, a ranking, ratings, edits, or a message tree."
            raise DataError(where, f"the rows are {fitting[0]}: one answer each, nothing to compare.", fix)
        raise DataError(
            where,
            f"the columns ({', '.join(map(shown, sorted(row)))}) fit more than one shape: {' and '.join(wanted)}.",
            f"Say which is meant: --shape {' or --shape '.join(wanted)}.",
        )
    if first is None and unread is not None:
        raise DataError(unread.place, f"no row can be read; the first: {unread.cause}", unread.fix)
    listed = ", ".join(map(shown, sorted(first or ()))) or "none"
    raise DataError(
        rows.path,
        f"the columns ({listed}) fit no known shape.",
        "Map them, for example --columns prompt=question --columns completion=answer; for a chat export name "
        f"--speaker, --time, --thread and --text. The shapes are {', '.join(ALL_SHAPES)}.",
    )


def _notes(read: Source, form: Form) -> list[str]:
    notes = []
    if form.as_messages:
        notes.append("prompts and answers are written as lists of turns, since some row has more than one exchange")
    if form.has_system:
        notes.append("the system turn is written in the column 'system'")
    if form.has_ranks:
        notes.append("the column 'ranks' holds the rank of each assistant turn, 0 being the best; training ignores it")
    if read.shape == "tree" or read.shape == "tree-messages":
        kind = "pair for two ranked answers to one message" if form.target == "preference" else "row a path"
        notes.append(f"one {kind}; paths share their first turns")
    return notes


def option_words(text: str) -> str:
    """A text that names a recipe's settings, as a command's options."""
    for ours, option in _OPTION_WORDS.items():
        text = text.replace(ours, option)
    return text


def in_option_words(error: DataError | ConfigError) -> DataError:
    """The same error, in the words of a command's options."""
    return DataError(option_words(error.place), option_words(error.cause), option_words(error.fix))
