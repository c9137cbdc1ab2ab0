"""Columns of human feedback, message trees and chat exports: what ``data convert`` reads and ``sft`` does not."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from tunesmith.data.check import RowError, shown
from tunesmith.errors import DataError
from tunesmith.records import Where

FeedbackShape = Literal["preference", "ranking", "rating", "unpaired", "flag", "edit"]
ConvertibleShape = Literal[FeedbackShape, "tree", "tree-messages", "chat-export"]
FEEDBACK_SHAPES: tuple[FeedbackShape, ...] = get_args(FeedbackShape)
CONVERTIBLE_SHAPES: tuple[ConvertibleShape, ...] = get_args(ConvertibleShape)

PROMPTS = ("prompt", "instruction")
ANSWERS = ("completion", "response", "output")
CANDIDATES = ("candidates", "completions")
CORRECTIONS = ("corrected", "edited")
FLAGS = ("flagged", "flag")
# The columns of a chat export, by the names that programs give them.
EXPORT_COLUMNS: dict[str, tuple[str, ...]] = {
    "speaker": ("speaker", "sender", "author", "from", "name"),
    "time": ("time", "timestamp", "sent_at", "created_at", "date"),
    "thread": ("thread", "thread_id", "conversation_id", "chat_id", "ticket_id"),
    "text": ("text", "message", "body", "content"),
}
# A shape fits where every group has one of its names among the columns.
_SIGNS: dict[ConvertibleShape, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen",), ("rejected",)),
    "ranking": (PROMPTS, CANDIDATES, ("ranking",)),
    "rating": (PROMPTS, ANSWERS, ("rating",)),
    "unpaired": (PROMPTS, ANSWERS, ("label",)),
    "flag": (PROMPTS, ANSWERS, (*FLAGS, "reason")),
    "edit": (PROMPTS, ("original",), CORRECTIONS),
    "tree": (("message_tree_id",), ("prompt",)),
    "tree-messages": (("message_tree_id",), ("message_id",), ("parent_id",), ("text",), ("role",)),
    "chat-export": tuple(EXPORT_COLUMNS.values()),
}
_WORDS: dict[ConvertibleShape, str] = {
    "preference": "pairs of a chosen and a rejected answer",
    "ranking": "rankings of answers",
    "rating": "rated answers",
    "unpaired": "answers with a thumb up or down",
    "flag": "flagged answers",
    "edit": "answers with their corrections",
    "tree": "message trees",
    "tree-messages": "the messages of message trees",
    "chat-export": "an export of chats",
}

# What data/feedback.py takes for a thumb or a flag, and for a rating.
_TRUTHS = ("true", "false", "1", "0")
_RATINGS = ("1", "2", "3", "4", "5")
_JUDGED: dict[str, tuple[FeedbackShape, tuple[str, ...]]] = {
    "label": ("unpaired", _TRUTHS),
    "rating": ("rating", _RATINGS),
    **dict.fromkeys(FLAGS, ("flag", _TRUTHS)),
}


def convertible_shapes(columns: Iterable[str]) -> list[ConvertibleShape]:
    """All shapes of feedback, trees and exports that rows with these columns may have."""
    have = set(columns)
    return [shape for shape, groups in _SIGNS.items() if all(have & set(group) for group in groups)]


def refuse_convertible(columns: Iterable[str], place: Where) -> None:
    """Raise DataError with the command that makes trainable rows of these, if there is one."""
    fitting = convertible_shapes(columns)
    if not fitting:
        return
    side = " --assistant NAME" if fitting == ["chat-export"] else ""
    source = shlex.quote(shown(place.file, most=len(place.file)))
    raise DataError(
        place,
        f"the rows are {' or '.join(_WORDS[shape] for shape in fitting)}, which training does not read as they are.",
        f"Run `tunesmith data convert {source} rows.jsonl --to messages{side}` and train on its rows.",
    )


def judged_as(row: Mapping[str, Any]) -> tuple[str, FeedbackShape] | None:
    """The column of a prompt-and-answer row that says how good the answer is, and the shape that reads it.

    None without such a column: ``label`` or ``flagged`` that is true or false, ``rating`` from 1 to 5. A label that is
    anything else names a class.
    """
    for name, (shape, values) in _JUDGED.items():
        if name in row and shape in convertible_shapes(row):
            text = str(row[name]).strip().lower().removesuffix(".0")
            if text in values:
                return name, shape
    return None


def judged_fault(name: str, shape: FeedbackShape, plain: str, place: Where) -> RowError:
    """What to say of a row whose answer was judged, where ``plain`` would train on it whatever the verdict was."""
    source = shlex.quote(shown(place.file, most=len(place.file)))
    return RowError(
        place.at(name),
        f"the rows are {_WORDS[shape]}, of which the bad ones would be trained on too.",
        f"Keep the good ones: `tunesmith data convert {source} rows.jsonl --to messages --shape {shape}`; to train on "
        f"all answers alike, set data.shape: {plain}.",
    )
