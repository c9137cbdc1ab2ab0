"""Rows as a model sees them: which tokens are in the loss, which steer the model, where lines break.

Nothing a row says reaches a terminal as a command: what does not print is written as its code.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.data.check import RowError
from tunesmith.data.load import DataConfig, Records, shape_of
from tunesmith.data.read import open_rows
from tunesmith.errors import DataError
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.records import Document, Example
from tunesmith.tokens.render import RenderConfig, render
from tunesmith.tokens.template import chat_format

# What stands around tokens where there is no colour; a text that holds one of these shows it as its code.
LOSS_MARKS, CONTROL_MARKS = ("⟪", "⟫"), ("⟦", "⟧")
_LEGEND = (("in the loss", LOSS_MARKS), ("control token", CONTROL_MARKS))
_MARKS = frozenset("".join((*LOSS_MARKS, *CONTROL_MARKS)) + "↵")
_IN_LOSS, _CONTROL, _END = "\x1b[32m", "\x1b[1;35m", "\x1b[0m"
_ANY_LENGTH = 1 << 40


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens of one kind and their text."""

    ids: tuple[int, ...]
    text: str
    in_loss: bool
    is_control: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """One row: its place, and the runs of each of its examples; fault: why it cannot be shown."""

    where: str
    row_id: int
    examples: tuple[tuple[Run, ...], ...] = ()
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        runs = [
            [{"text": r.text, "in_loss": r.in_loss, "control": r.is_control, "ids": list(r.ids)} for r in example]
            for example in self.examples
        ]
        return {"place": self.where, "row": self.row_id + 1, "fault": self.fault, "examples": runs}


def show_rows(config: DataConfig, model: str, *, num_rows: int, first: int = 0) -> list[ShownRow]:
    """Rows from the ``first`` (0-based) on, rendered as in training, whatever their length.

    Raises DataError where the source has no such row; a faulty row is shown with its fault.
    """
    rows = open_rows(config.train)
    if first >= len(rows):
        raise DataError(rows.path, f"there is no row {first + 1}.", f"The last one is row {len(rows)}.")
    base = load_tokenizer(model)
    records = Records(rows, shape_of(rows, config), config.columns, config.merge_same_role, np.zeros(0, np.int64))
    out = []
    for row_id in range(first, min(first + num_rows, len(rows))):
        place = f"{rows.path}, row {row_id + 1}"
        try:
            row, where = rows[row_id]
            place = str(where)
            record, _ = records.read(row, where, row_id, alone=config.shape == "auto")
            limit = base.context_tokens if isinstance(record, Document) else _ANY_LENGTH
            examples = render(record, base.tokenizer, RenderConfig(), max_tokens=limit)
        except DataError as error:
            where_text = str(error.fault.where) if isinstance(error, RowError) else place
            out.append(ShownRow(where=where_text, row_id=row_id, fault=f"{error.cause} Fix: {error.fix}"))
            continue
        runs = tuple(tuple(runs_of(example, base.tokenizer)) for example in examples)
        out.append(ShownRow(where=place, row_id=row_id, examples=runs))
    return out


def runs_of(example: Example, tokenizer: Any) -> list[Run]:
    """The tokens of an example as runs of one kind; every control token is a run of its own."""
    control = set(chat_format(tokenizer).control_ids.values()) | set(tokenizer.all_special_ids)
    runs = []
    # A control token's number keeps it apart from its neighbours.
    kinds = [
        (w > 0, i + 1 if t in control else 0)
        for i, (t, w) in enumerate(zip(example.ids, example.loss_weight, strict=True))
    ]
    tokens = zip(example.ids.tolist(), kinds, strict=True)
    for (in_loss, number), group in itertools.groupby(tokens, key=lambda pair: pair[1]):
        ids = tuple(int(token) for token, _ in group)
        text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        runs.append(Run(ids, str(text), bool(in_loss), number > 0))
    return runs


def visible(text: str) -> str:
    """Text in which line breaks show, and whatever does not print is its code, escapes of a terminal among it."""
    out = []
    for c in text:
        if c == "\n":
            out.append("↵\n")
        elif c in _MARKS or not c.isprintable():
            out.append(c.encode("unicode_escape").decode("ascii") if c not in _MARKS else f"\\u{ord(c):04x}")
        else:
            out.append(c)
    return "".join(out)


def describe(rows: Sequence[ShownRow], *, colour: bool) -> list[str]:
    """The rows for a reader: coloured, or with marks around what is in the loss and around control tokens."""
    if colour:
        legend = f"{_IN_LOSS}in the loss{_END}, {_CONTROL}control token{_END}, ↵ line break"
    else:
        loss, control = (f"{begin}{what}{end}" for what, (begin, end) in _LEGEND)
        legend = f"{loss}, {control}, ↵ line break"
    lines = [legend]
    for row in rows:
        if row.fault is not None:
            lines += ["", visible(f"row {row.row_id + 1}, {row.where}: {row.fault}")]
        for number, runs in enumerate(row.examples, 1):
            tokens = sum(len(run.ids) for run in runs)
            in_loss = sum(len(run.ids) for run in runs if run.in_loss)
            which = f", example {number} of {len(row.examples)}" if len(row.examples) > 1 else ""
            head = f"row {row.row_id + 1}, {row.where}{which}: {tokens} tokens, {in_loss} in the loss"
            body = "".join(_coloured(run) for run in runs) if colour else _marked(runs)
            lines += ["", visible(head), body]
    return lines


def _coloured(run: Run) -> str:
    style = (_CONTROL if run.is_control else "") + (_IN_LOSS if run.in_loss and not run.is_control else "")
    # A control token in the loss keeps its colour and is underlined.
    style += "\x1b[4m" if run.is_control and run.in_loss else ""
    return f"{style}{visible(run.text)}{_END}" if style else visible(run.text)


def _marked(runs: Sequence[Run]) -> str:
    out = []
    for in_loss, group in itertools.groupby(runs, key=lambda run: run.in_loss):
        pieces = [
            f"{CONTROL_MARKS[0]}{visible(run.text)}{CONTROL_MARKS[1]}" if run.is_control else visible(run.text)
            for run in group
        ]
        out.append(f"{LOSS_MARKS[0]}{''.join(pieces)}{LOSS_MARKS[1]}" if in_loss else "".join(pieces))
    return "".join(out)
