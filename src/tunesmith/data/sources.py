"""Any rows we can read -> conversations or preferences, with what was faulty, unused or left out counted."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import build_config
from tunesmith.data.chats import ChatOptions, find_export_columns, index_chats, read_threads
from tunesmith.data.check import FaultLog, RowError
from tunesmith.data.convertible import (
    EXPORT_COLUMNS,
    FEEDBACK_SHAPES,
    ConvertibleShape,
    FeedbackShape,
    convertible_shapes,
)
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.load import DataConfig, Records, load_data
from tunesmith.data.pairs import LeftOut, approved, groups_of, pairs_between, pairs_within, prompt_key
from tunesmith.data.read import Rows
from tunesmith.data.shape import SHAPES, Shape, fitting_shapes
from tunesmith.data.trees import MESSAGE_KEYS, Tree, read_messages, read_tree, unread_keys
from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Edit, Feedback, Flag, Preference, Ranking, Rating, Thumb, Where

AnyShape = Literal[Shape, ConvertibleShape]
Extra = Mapping[str, Any]
# A record with what its row carries beyond it.
Item = tuple[Conversation | Document | Preference, Extra]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How the rows are read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column name -> theirs."""
    merge_same_role: bool = False
    drop_bad_rows: bool = False
    assistants: tuple[str, ...] = ()
    """Speakers of a chat export who are the assistant."""
    time_format: str | None = None
    """How the times of a chat export are written, as strptime takes it; empty: ISO 8601 or Unix seconds."""
    separator: str = "\n"
    """What joins neighbouring messages of one side in a chat export."""
    min_rating: int = 4
    """The lowest rating whose answer becomes a conversation."""
    min_gap: int = 1
    """The least difference of two ratings that makes a pair."""


@dataclass(slots=True, kw_only=True)
class Source:
    """Rows that were looked at once: what they are, what is wrong with some, and how to go through the others."""

    path: str
    shape: AnyShape
    num_rows: int
    items: Callable[[LeftOut], Iterator[Item]] = field(default=lambda left_out: iter(()))
    faults: FaultLog = field(default_factory=FaultLog)
    dropped: dict[str, int] = field(default_factory=dict)
    """Cause -> rows, where the loader has counted them already."""
    ignored: set[str] = field(default_factory=set)
    has_ranks: bool = False


def plain_source(rows: Rows, shape: Shape, options: ReadOptions, *, is_stated: bool) -> Source:
    """Rows that ``sft`` reads, through its own loader. Raises DataError for faulty rows unless they are dropped."""
    settings = {
        # The file itself: a folder's validation file is no part of this.
        "train": rows.path,
        "validation_share": 0,
        "shape": shape if is_stated else "auto",
        "columns": dict(options.columns),
        "on_bad_row": "drop" if options.drop_bad_rows else "error",
        "merge_same_role": options.merge_same_role,
    }
    data = load_data(build_config(DataConfig, settings, place="data"))

    records = data.train
    assert isinstance(records, Records), "rows of a file are never a mixture's"

    def items(left_out: LeftOut) -> Iterator[Item]:
        for i in range(len(records)):
            yield records[i], _alpaca_cells(records, i)

    return Source(
        path=rows.path,
        shape=records.shape,
        num_rows=data.rows_read,
        items=items,
        dropped=data.rows_dropped,
        ignored=set(data.ignored_columns),
    )


def _alpaca_cells(records: Records, i: int) -> Extra:
    """Instruction and input apart, which the record joins, so that Alpaca rows stay what they are."""
    if records.shape != "alpaca":
        return {}
    row, _ = records.rows[int(records.row_ids[i])]
    names = (records.columns.get("input", "input"), records.columns.get("context", "context"))
    extra = next((row[name] for name in names if row.get(name) is not None), "")
    return {"instruction": row[records.columns.get("instruction", "instruction")], "input": extra}


def feedback_source(rows: Rows, shape: FeedbackShape, options: ReadOptions, *, as_pairs: bool, auto: bool) -> Source:
    """Human feedback: pairs, or the conversations whose answers people approved."""
    source = Source(path=rows.path, shape=shape, num_rows=len(rows))
    good, keys = array("q"), bytearray()
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            if auto:
                refuse_other_shape(row, shape, options.columns, where)
            record = _feedback(row, where, row_id, shape, options, source.ignored)
        except RowError as error:
            source.faults.add(error.fault)
            continue
        good.append(row_id)
        if as_pairs and isinstance(record, Rating | Thumb | Flag):
            keys += prompt_key(record.prompt)
    row_ids = np.frombuffer(good, np.int64) if good else np.zeros(0, np.int64)

    def read(ids: NDArray[np.int64]) -> Iterator[Feedback]:
        for row_id in ids:
            row, where = rows[int(row_id)]
            yield _feedback(row, where, int(row_id), shape, options, set())

    def pairs(left_out: LeftOut) -> Iterator[Item]:
        for group in groups_of(bytes(keys), row_ids):
            singles = [record for record in read(group) if isinstance(record, Rating | Thumb | Flag)]
            yield from ((pair, {}) for pair in pairs_between(singles, options.min_gap, left_out))

    def items(left_out: LeftOut) -> Iterator[Item]:
        for record in read(row_ids):
            found = _records_of(record, options, left_out, as_pairs=as_pairs)
            yield from ((item, {}) for item in found)

    source.items = pairs if keys else items
    return source


def _records_of(
    record: Feedback, options: ReadOptions, left_out: LeftOut, *, as_pairs: bool
) -> Iterator[Conversation | Preference]:
    if not as_pairs:
        return approved(record, options.min_rating, left_out)
    assert isinstance(record, Preference | Ranking | Edit)
    return pairs_within(record, left_out)


def _feedback(
    row: Mapping[str, Any], where: Where, row_id: int, shape: FeedbackShape, options: ReadOptions, ignored: set[str]
) -> Feedback:
    reader = FeedbackRow(row, where, row_id, options.columns, options.merge_same_role, set())
    record = read_feedback(reader, shape)
    ignored |= {name for name in row if name not in reader.used and row[name] not in (None, "")}
    return record


def tree_source(rows: Rows, shape: Literal["tree", "tree-messages"], *, as_pairs: bool) -> Source:
    """Message trees: a conversation for each last answer, or the pairs of ranked answers to one message."""
    source = Source(path=rows.path, shape=shape, num_rows=len(rows), has_ranks=not as_pairs)
    groups = _trees_of_messages(rows, source) if shape == "tree-messages" else [[i] for i in range(len(rows))]

    def read(ids: Sequence[int]) -> Tree:
        row, where = rows[ids[0]]
        if shape == "tree-messages":
            return read_messages((rows[i] for i in ids), ids[0], where)
        tree = read_tree(row, where, ids[0])
        source.ignored |= unread_keys(row)
        return tree

    good = []
    for ids in groups:
        try:
            read(ids)
        except RowError as error:
            source.faults.add(error.fault)
            continue
        good.append(ids)

    def items(left_out: LeftOut) -> Iterator[Item]:
        for ids in good:
            yield from _items_of(read(ids), left_out, as_pairs=as_pairs)

    source.items = items
    return source


def _items_of(tree: Tree, left_out: LeftOut, *, as_pairs: bool) -> Iterator[Item]:
    if as_pairs:
        if tree.num_unranked:
            cause = "answer without a rank"
            left_out[cause] = left_out.get(cause, 0) + tree.num_unranked
        for ranking in tree.rankings():
            yield from ((pair, {}) for pair in pairs_within(ranking, left_out))
        return
    for cause, count in tree.left_out.items():
        left_out[cause] = left_out.get(cause, 0) + count
    for conversation, ranks in tree.paths():
        yield conversation, {"ranks": ranks}


def _trees_of_messages(rows: Rows, source: Source) -> list[array[int]]:
    """The rows of each tree, in the file's order; a row without a tree's id is a fault."""
    groups: dict[str, array[int]] = {}
    for row_id in range(len(rows)):
        try:
            row, where = rows[row_id]
            name = row.get("message_tree_id")
            if not isinstance(name, str) or not name:
                raise RowError(where.at("message_tree_id"), "a message has no tree.", "Name the tree it is part of.")
        except RowError as error:
            source.faults.add(error.fault)
            continue
        source.ignored |= set(row) - MESSAGE_KEYS
        groups.setdefault(name, array("q")).append(row_id)
    return list(groups.values())


def chat_source(rows: Rows, options: ReadOptions) -> Source:
    """A chat export: a conversation a thread. Raises DataError for a missing column or an unknown assistant."""
    names = next(iter_names(rows), set())
    columns = find_export_columns(names, options.columns, rows.path)
    chat = ChatOptions(
        assistants=options.assistants,
        columns=columns,
        time_format=options.time_format,
        separator=options.separator,
    )
    source = Source(path=rows.path, shape="chat-export", num_rows=len(rows))
    index = index_chats(rows, chat, source.faults)
    source.ignored = names - set(columns.values())

    def items(left_out: LeftOut) -> Iterator[Item]:
        for conversation in read_threads(rows, index, chat, left_out):
            yield conversation, {}

    source.items = items
    return source


def iter_names(rows: Rows) -> Iterator[set[str]]:
    """The column names of each row that can be read."""
    for row_id in range(len(rows)):
        try:
            row, _ = rows[row_id]
        except RowError:
            continue
        yield set(row)


def our_names(names: set[str], columns: Mapping[str, str]) -> set[str]:
    """A row's columns as we call them."""
    taken = set(columns.values())
    return {name for name in names if name not in taken} | {o for o, theirs in columns.items() if theirs in names}


def all_fitting(names: set[str], columns: Mapping[str, str]) -> list[AnyShape]:
    """Every shape that columns fit, plain ones first."""
    ours = our_names(names, columns)
    export = {name for name in EXPORT_COLUMNS if name in columns}
    return [*fitting_shapes(ours), *convertible_shapes(ours | export)]


def refuse_other_shape(row: Mapping[str, Any], shape: AnyShape, columns: Mapping[str, str], where: Where) -> None:
    """Raise RowError for a row that fits other shapes only; one that fits none lacks a column, and is told so later."""
    fitting = all_fitting(set(row), columns)
    if fitting and shape not in fitting:
        raise RowError(
            where,
            "the row has another shape than the rows before it.",
            "Put each shape into a file of its own, or say which with --shape.",
            detail=f"{' and '.join(fitting)}, not {shape}",
        )


def open_source(rows: Rows, shape: AnyShape, options: ReadOptions, *, as_pairs: bool, is_stated: bool) -> Source:
    """The reader of a shape. Raises DataError for a map of columns whose names are fixed."""
    if shape in SHAPES:
        return plain_source(rows, shape, options, is_stated=is_stated)
    if shape in FEEDBACK_SHAPES:
        return feedback_source(rows, shape, options, as_pairs=as_pairs, auto=not is_stated)
    if shape == "chat-export":
        return chat_source(rows, options)
    if options.columns:
        fix = "Rename the columns in the file, or leave --columns out."
        raise DataError(rows.path, "the columns of message trees have the names OpenAssistant gives them.", fix)
    return tree_source(rows, "tree" if shape == "tree" else "tree-messages", as_pairs=as_pairs)
