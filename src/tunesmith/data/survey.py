"""One pass over the rows of a source: faults, lengths, scripts, odd characters, personal data, labels.

Rows are taken in chunks whose results are joined in the order of the file, so the result does not depend on how many
processes share the work. Memory grows by some tens of bytes a row, whatever the rows hold.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import re
import signal
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.data.characters import odd_characters, scripts_of
from tunesmith.data.check import PLACES_SHOWN, FaultLog, RowError, shown
from tunesmith.data.load import DataConfig, Records, content_key, shape_of
from tunesmith.data.pii import Found, column_value, find_pii, kind_of_column
from tunesmith.data.read import Rows, Split, open_rows
from tunesmith.data.shape import Shape
from tunesmith.errors import DataError
from tunesmith.randomness import derive_seed
from tunesmith.records import Conversation, Document, Where

CHUNK_ROWS = 20_000
# Fewer rows than this are read sooner than further processes start.
PARALLEL_FROM_ROWS = 60_000
MAX_CLASSES, MAX_CLASS_CHARACTERS = 200, 60
LAST_ANSWER = "the last answer"
_INDEX = re.compile(r"\[\d+\]")
# Finds names in a text, see data/names.py.
NameFinder = Callable[[str], list[Found]]


@dataclass(slots=True)
class Tally:
    """How often something was met, in how many rows, and where first."""

    count: int = 0
    num_rows: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, count: int, place: str) -> None:
        """Note one row."""
        self.count += count
        self.num_rows += 1
        if len(self.places) < PLACES_SHOWN:
            self.places.append(place)

    def join(self, later: Tally) -> None:
        """Add what was met further back in the file."""
        self.count += later.count
        self.num_rows += later.num_rows
        self.places += later.places[: PLACES_SHOWN - len(self.places)]


@dataclass(slots=True)
class Survey:
    """What a pass found. ``row_ids`` are the rows without fault; keys, words and characters run along with them."""

    num_rows: int = 0
    faults: FaultLog = field(default_factory=FaultLog)
    bad_row_ids: array[int] = field(default_factory=lambda: array("q"))
    row_ids: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    words: array[int] = field(default_factory=lambda: array("i"))
    characters: array[int] = field(default_factory=lambda: array("i"))
    scripts: Counter[str] = field(default_factory=Counter)
    odd: dict[str, Tally] = field(default_factory=dict)
    pii: dict[str, Tally] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    labels: dict[str, Counter[str] | None] = field(default_factory=dict)
    """Column -> value -> rows; None for a column that holds something else than few short values."""

    def join(self, later: Survey) -> None:
        """Add the rows that follow."""
        self.num_rows += later.num_rows
        self.faults.join(later.faults)
        for name in ("bad_row_ids", "row_ids", "keys", "words", "characters"):
            getattr(self, name).extend(getattr(later, name))
        self.scripts.update(later.scripts)
        self.ignored |= later.ignored
        for mine, theirs in ((self.odd, later.odd), (self.pii, later.pii)):
            for kind, tally in theirs.items():
                mine.setdefault(kind, Tally()).join(tally)
        for column, counts in later.labels.items():
            if counts is None:
                self.labels[column] = None
            else:
                for value, count in counts.items():
                    _count_label(self.labels, column, value, count)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a source is read. shape None: no shape fits its columns, so only texts are looked at."""

    config: DataConfig
    source: str
    split: Split
    shape: Shape | None
    seed: int = 0

    def open(self) -> Rows:
        """The rows, as a process of its own opens them."""
        return open_rows(self.source, split=self.split, limit=self.config.limit if self.split == "train" else None)


def make_plan(config: DataConfig, source: str, split: Split, seed: int) -> tuple[Plan, Rows, str | None]:
    """The plan for a source, its rows, and why no shape fits, if none does. Raises DataError if it cannot be read."""
    rows = Plan(config, source, split, None, seed).open()
    shape, reason = None, None
    try:
        shape = shape_of(rows, config)
    except DataError as error:
        if config.shape != "auto" or config.columns:
            raise
        reason = error.cause
    return Plan(config, source, split, shape, seed), rows, reason


def survey(
    plan: Plan,
    rows: Rows,
    *,
    num_workers: int = 1,
    find_names: NameFinder | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Survey:
    """The whole pass; more than one worker means so many further processes. progress is told the rows done."""
    chunks = [(begin, min(begin + CHUNK_ROWS, len(rows))) for begin in range(0, len(rows), CHUNK_ROWS)]
    total = Survey()
    for part in _parts(plan, rows, chunks, num_workers, find_names):
        total.join(part)
        progress(total.num_rows)
    return total


def _parts(
    plan: Plan, rows: Rows, chunks: list[tuple[int, int]], num_workers: int, find_names: NameFinder | None
) -> Iterator[Survey]:
    if num_workers <= 1 or len(rows) < PARALLEL_FROM_ROWS or find_names is not None:
        reader = _Reader(plan, rows, find_names)
        yield from (reader.scan(*chunk) for chunk in chunks)
        return
    # Not forked: threads that a library has started would be missing in the child, their locks held.
    with multiprocessing.get_context("spawn").Pool(num_workers, _start_worker, (plan,)) as pool:
        yield from pool.imap(_scan_chunk, chunks)


_reader: _Reader | None = None


def _start_worker(plan: Plan) -> None:
    global _reader
    # Ctrl-C is for the process that the user started; it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _reader = _Reader(plan, plan.open(), None)


def _scan_chunk(chunk: tuple[int, int]) -> Survey:
    assert _reader is not None
    return _reader.scan(*chunk)


def read_content(
    plan: Plan, records: Records | None, row: Mapping[str, Any], where: Where, row_id: int
) -> tuple[int, list[str] | None, set[str], str | None]:
    """(key of what the row says, the texts it says, columns without use, last answer). Raises RowError.

    The texts are None where the shape is unknown, or is none of a conversation or a text.
    """
    ignored: set[str] = set()
    if records is not None:
        record, ignored = records.read(row, where, row_id, alone=plan.config.shape == "auto")
        if isinstance(record, Document):
            return content_key(record, plan.seed), [record.text], ignored, None
        if isinstance(record, Conversation):
            texts = [message.content for message in record.messages]
            return content_key(record, plan.seed), texts, ignored, texts[-1]
    whole = json.dumps(row, sort_keys=True, default=str)
    return derive_seed(plan.seed, "validation_split", whole), None, ignored, None


def records_of(plan: Plan, rows: Rows) -> Records | None:
    """The records of a source whose shape is known."""
    if plan.shape is None:
        return None
    return Records(rows, plan.shape, plan.config.columns, plan.config.merge_same_role, np.zeros(0, np.int64))


class _Reader:
    """Reads rows and notes what it finds."""

    def __init__(self, plan: Plan, rows: Rows, find_names: NameFinder | None) -> None:
        self._plan, self._rows, self._find_names = plan, rows, find_names
        self._records = records_of(plan, rows)

    def scan(self, begin: int, end: int) -> Survey:
        """What the rows from ``begin`` to before ``end`` hold; never raises for a faulty row."""
        out = Survey(num_rows=end - begin)
        for row_id in range(begin, end):
            try:
                row, where = self._rows[row_id]
                self._look(out, row, where)
                key, said, ignored, answer = read_content(self._plan, self._records, row, where, row_id)
            except RowError as error:
                out.faults.add(error.fault)
                out.bad_row_ids.append(row_id)
                continue
            texts = said if said is not None else [str(value) for _, value in text_fields(row)]
            out.row_ids.append(row_id)
            out.keys.append(key)
            out.words.append(sum([len(text.split()) for text in texts]))
            out.characters.append(sum(map(len, texts)))
            out.ignored |= ignored
            for column, value in row.items():
                if value is not None and value != "":
                    _count_label(out.labels, column, value)
            if answer is not None and self._plan.shape in ("messages", "sharegpt", "transcript"):
                _count_label(out.labels, LAST_ANSWER, answer)
        return out

    def _look(self, out: Survey, row: Mapping[str, Any], where: Where) -> None:
        """Note what the texts of one row hold, whether it has faults or not."""
        scripts: set[str] = set()
        odd: dict[str, str] = {}
        pii: dict[str, tuple[int, str]] = {}
        for name, value in text_fields(row):
            for found in pii_of(name, value, self._find_names):
                count, first = pii.get(found.kind, (0, name))
                pii[found.kind] = (count + 1, first)
            if isinstance(value, str):
                scripts |= scripts_of(value)
                for kind in odd_characters(value):
                    odd.setdefault(kind, name)
        out.scripts.update(scripts)
        for kind, name in odd.items():
            out.odd.setdefault(kind, Tally()).add(1, str(where.at(shown(name))))
        for kind, (count, name) in pii.items():
            out.pii.setdefault(kind, Tally()).add(count, str(where.at(shown(name))))


def pii_of(name: str, value: str | int, find_names: NameFinder | None = None) -> list[Found]:
    """Personal data in one field; a column whose name tells what it holds counts as a whole."""
    kind = _kind_of_path(name)
    if kind is not None:
        text = column_value(value)
        return [] if text is None else [Found(kind, 0, len(text))]
    if not isinstance(value, str):
        return []
    found = find_pii(value)
    if find_names is not None:
        taken = list(found)
        found += [n for n in find_names(value) if all(n.end <= f.begin or n.begin >= f.end for f in taken)]
        found.sort(key=lambda piece: piece.begin)
    return found


@functools.lru_cache(maxsize=4096)
def _kind_of_path(name: str) -> str | None:
    return kind_of_column(_INDEX.sub("", name).rpartition(".")[2])


def text_fields(row: Mapping[str, Any]) -> list[tuple[str, str | int]]:
    """(field, text) of every string in a row at any depth, and whole numbers in columns that hold personal data."""
    out: list[tuple[str, str | int]] = []
    stack: list[tuple[str, Any]] = list(row.items())[::-1]
    while stack:
        name, value = stack.pop()
        if isinstance(value, str):
            out.append((name, value))
        elif isinstance(value, Mapping):
            stack += [(f"{name}.{key}", item) for key, item in list(value.items())[::-1]]
        elif isinstance(value, list | tuple):
            stack += [(f"{name}[{i}]", item) for i, item in reversed(list(enumerate(value)))]
        elif isinstance(value, int) and not isinstance(value, bool) and _kind_of_path(name) is not None:
            out.append((name, value))
    return out


def _count_label(labels: dict[str, Counter[str] | None], column: str, value: Any, count: int = 1) -> None:
    """Count a value of a column, until the column turns out to hold more than a few short values."""
    if column not in labels:
        labels[column] = Counter()
    counts = labels[column]
    if counts is None:
        return
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, int) else None
    if text is None or len(text) > MAX_CLASS_CHARACTERS:
        labels[column] = None
        return
    counts[text] += count
    if len(counts) > MAX_CLASSES:
        labels[column] = None
