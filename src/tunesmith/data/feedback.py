"""Rows of human feedback -> records: pairs, rankings, ratings, thumbs, flags, edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.data.convertible import ANSWERS, CANDIDATES, CORRECTIONS, FLAGS, FeedbackShape
from tunesmith.data.hh import is_hh, is_hh_prompt, parse_hh, parse_hh_prompt
from tunesmith.data.parse import json_type
from tunesmith.data.ranking import named_candidates, parse_ranking
from tunesmith.data.shape import check_turns, filled_text, merge_turns, read_turns
from tunesmith.records import Edit, Feedback, Flag, Message, Preference, Ranking, Rating, Thumb, Where

_PROMPT_COLUMNS = ("system", "prompt", "instruction", "input", "context")
FEEDBACK_COLUMNS: dict[FeedbackShape, tuple[str, ...]] = {
    "preference": (*_PROMPT_COLUMNS, "chosen", "rejected"),
    "ranking": (*_PROMPT_COLUMNS, "ranking", *CANDIDATES),
    "rating": (*_PROMPT_COLUMNS, *ANSWERS, "rating"),
    "unpaired": (*_PROMPT_COLUMNS, *ANSWERS, "label"),
    "flag": (*_PROMPT_COLUMNS, *ANSWERS, *FLAGS, "reason"),
    "edit": (*_PROMPT_COLUMNS, "original", *CORRECTIONS),
}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(slots=True)
class FeedbackRow:
    """One row read by our column names, faults named by the file's; ``used`` collects the file's names that were."""

    row: Mapping[str, Any]
    where: Where
    row_id: int
    columns: Mapping[str, str]
    merge_same_role: bool
    used: set[str]

    def theirs(self, name: str) -> str:
        """What the file calls our column."""
        return self.columns.get(name, name)

    def has(self, name: str) -> bool:
        """Whether the row has a value of that name; null, which tables put where nothing was said, is none."""
        return self.row.get(self.theirs(name)) is not None

    def at(self, name: str) -> Where:
        """The place of a column."""
        return self.where.at(shown(self.theirs(name)))

    def get(self, name: str) -> Any:
        """A column's value. Raises RowError when the row has none."""
        if not self.has(name):
            raise RowError(self.at(name), "the column is missing or null.", "Fill it in, or name it with --columns.")
        self.used.add(self.theirs(name))
        return self.row[self.theirs(name)]

    def one_of(self, names: tuple[str, ...]) -> str:
        """The name the row uses for a column that has several; the first where it uses none."""
        mapped = [name for name in names if name in self.columns]
        present = mapped or [name for name in names if self.has(name)]
        if len(present) > 1:
            raise RowError(self.at(present[1]), f"'{present[0]}' and '{present[1]}' mean the same.", "Remove one.")
        return present[0] if present else names[0]


def read_feedback(row: FeedbackRow, shape: FeedbackShape) -> Feedback:
    """A row as the record its shape means. Raises RowError naming file:line:field where it does not hold one."""
    return _READERS[shape](row)


def read_prompt(row: FeedbackRow) -> list[Message]:
    """The turns before the answer; an instruction and its input are one turn, as in Alpaca rows. Raises RowError."""
    system = []
    if row.has("system") and row.get("system") != "":
        system = [Message(role="system", content=filled_text(row.get("system"), row.at("system")))]
    if not row.has("prompt") and row.has("instruction"):
        text = filled_text(row.get("instruction"), row.at("instruction"))
        extra = row.one_of(("input", "context"))
        if row.has(extra) and not (isinstance(row.get(extra), str) and not row.get(extra).strip()):
            text += "\n\n" + filled_text(row.get(extra), row.at(extra))
        return [*system, Message(role="user", content=text)]
    value = row.get("prompt")
    if isinstance(value, list):
        turns = read_turns({"prompt": value}, "prompt", row.where, default_train=False)
        return [*system, *_merged(turns, row)]
    if is_hh_prompt(value):
        return [*system, *_merged(parse_hh_prompt(value, row.at("prompt")), row)]
    return [*system, Message(role="user", content=filled_text(value, row.at("prompt")))]


def _merged(turns: list[Message], row: FeedbackRow) -> list[Message]:
    return merge_turns(turns, row.where) if row.merge_same_role else turns


def _answer(value: Any, prompt: list[Message], row: FeedbackRow, place: Where) -> tuple[Message, ...]:
    """An answer as turns: a string, or turns, which may repeat the prompt before them."""
    if isinstance(value, str) and is_hh_prompt(row.row.get(row.theirs("prompt"))):
        # As everywhere in a dialogue of one string, white space around a turn is not part of it.
        value = value.strip()
    if not isinstance(value, list):
        answer = [Message(role="assistant", content=filled_text(value, place))]
    else:
        name = place.field or ""
        answer = _merged(read_turns({name: value}, name, row.where), row)
        if _said(answer[: len(prompt)]) == _said(prompt):
            answer = answer[len(prompt) :]
        elif prompt[0].role == "system" and _said(answer[: len(prompt) - 1]) == _said(prompt[1:]):
            answer = answer[len(prompt) - 1 :]
    if not answer or answer[0].role != "assistant":
        fix = "Begin it with the assistant's turn, or with the whole prompt."
        raise RowError(place, "the answer does not begin with the assistant.", fix)
    check_turns([*prompt, *answer], place)
    return tuple(answer)


def _said(turns: list[Message]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns]


def _preference(row: FeedbackRow) -> Preference:
    if row.has("prompt") or row.has("instruction"):
        prompt = read_prompt(row)
        chosen, rejected = (_answer(row.get(name), prompt, row, row.at(name)) for name in ("chosen", "rejected"))
    else:
        sides = [_dialogue(row, name) for name in ("chosen", "rejected")]
        prompt, chosen, rejected = _common_prompt(sides[0], sides[1], row)
    if _said(list(chosen)) == _said(list(rejected)):
        raise RowError(row.at("rejected"), "the chosen and the rejected answer are the same.", "Remove the row.")
    return Preference(prompt=tuple(prompt), chosen=chosen, rejected=rejected, row_id=row.row_id, where=row.where)


def _dialogue(row: FeedbackRow, name: str) -> list[Message]:
    """A whole dialogue that holds its prompt: turns, or a string as in HH-RLHF."""
    value, place = row.get(name), row.at(name)
    if isinstance(value, list):
        turns = read_turns({place.field or "": value}, place.field or "", row.where)
    elif is_hh(value):
        turns = parse_hh(value, place)
    else:
        fix = "Add a column 'prompt', or write whole dialogues: turns, or '\\n\\nHuman: ...\\n\\nAssistant: ...'."
        raise RowError(place, "there is no prompt, and the answer is no dialogue.", fix)
    turns = _merged(turns, row)
    check_turns(turns, place)
    return turns


def _common_prompt(
    chosen: list[Message], rejected: list[Message], row: FeedbackRow
) -> tuple[list[Message], tuple[Message, ...], tuple[Message, ...]]:
    """Split two dialogues where they part: the turns they share are the prompt. Raises RowError for no such place."""
    shared = 0
    for a, b in zip(chosen, rejected, strict=False):
        if (a.role, a.content) != (b.role, b.content):
            break
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise RowError(row.at("rejected"), "the chosen and the rejected answer are the same.", "Remove the row.")
    if shared in (len(chosen), len(rejected)):
        fix = "Let both go on after the turns they share, or remove the row."
        raise RowError(row.where, "one dialogue is the beginning of the other.", fix)
    if shared == 0 or chosen[shared].role != "assistant" or rejected[shared].role != "assistant":
        fix = "Both must answer the same turns; let them part at a turn of the assistant."
        detail = f"turn {shared + 1}"
        raise RowError(row.where, "the two dialogues part before the assistant answers.", fix, detail=detail)
    prompt = [replace(turn, train=False) if turn.role == "assistant" else turn for turn in chosen[:shared]]
    return prompt, tuple(chosen[shared:]), tuple(rejected[shared:])


def _ranking(row: FeedbackRow) -> Ranking:
    prompt, name = read_prompt(row), row.one_of(CANDIDATES)
    named = named_candidates(row.get(name), row.at(name))
    answers = {
        key: _answer(value, prompt, row, row.at(name).at(f"{row.at(name).field}.{shown(str(key))}"))
        for key, value in named.items()
    }
    tiers = parse_ranking(row.get("ranking"), answers, row.at("ranking"))
    return Ranking(prompt=tuple(prompt), candidates=answers, tiers=tiers, row_id=row.row_id, where=row.where)


def _prompt_and_answer(row: FeedbackRow) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    prompt, name = read_prompt(row), row.one_of(ANSWERS)
    return tuple(prompt), _answer(row.get(name), prompt, row, row.at(name))


def _rating(row: FeedbackRow) -> Rating:
    prompt, answer = _prompt_and_answer(row)
    value, place = row.get("rating"), row.at("rating")
    text = value.strip() if isinstance(value, str) else str(value)
    number = text.removesuffix(".0")
    if isinstance(value, bool) or not number.lstrip("-").isdecimal():
        detail = f"'{shown(value)}'" if isinstance(value, str) else f"it is {json_type(value)}"
        raise RowError(place, "the rating is no whole number.", "Write 1, 2, 3, 4 or 5.", detail=detail)
    if number not in ("1", "2", "3", "4", "5"):
        fix = "Write 1 (worst) to 5 (best); rescale the file if it grades otherwise."
        raise RowError(place, "the rating is out of range.", fix, detail=shown(text))
    return Rating(prompt=prompt, completion=answer, rating=int(number), row_id=row.row_id, where=row.where)


def _thumb(row: FeedbackRow) -> Thumb:
    prompt, answer = _prompt_and_answer(row)
    up = _truth(row, "label")
    return Thumb(prompt=prompt, completion=answer, up=up, row_id=row.row_id, where=row.where)


def _flag(row: FeedbackRow) -> Flag:
    prompt, answer = _prompt_and_answer(row)
    name = row.one_of(FLAGS)
    reason = row.get("reason") if row.has("reason") else ""
    if not isinstance(reason, str):
        raise RowError(row.at("reason"), "text is expected.", "Write it as a string.", detail=json_type(reason))
    # Without a column that says so, a reason is what makes a flag.
    flagged = _truth(row, name) if row.has(name) else bool(reason.strip())
    if flagged and not reason.strip():
        raise RowError(row.at("reason"), "a flag has no reason.", "Say why the answer was flagged.")
    if reason.strip() and not flagged:
        raise RowError(row.at("reason"), "there is a reason, but no flag.", "Set the flag, or empty the reason.")
    return Flag(prompt=prompt, completion=answer, flagged=flagged, reason=reason, row_id=row.row_id, where=row.where)


def _truth(row: FeedbackRow, name: str) -> bool:
    value = row.get(name)
    found = _TRUTH.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    if found is None:
        detail = f"'{shown(value)}'" if isinstance(value, str) else f"it is {json_type(value)}"
        raise RowError(row.at(name), "true or false is expected.", "Write true or false, or 1 or 0.", detail=detail)
    return found


def _edit(row: FeedbackRow) -> Edit:
    prompt, name = read_prompt(row), row.one_of(CORRECTIONS)
    original = _answer(row.get("original"), prompt, row, row.at("original"))
    corrected = _answer(row.get(name), prompt, row, row.at(name))
    if _said(list(original)) == _said(list(corrected)):
        raise RowError(row.at(name), "the correction is the original.", "Remove the row.")
    return Edit(prompt=tuple(prompt), original=original, corrected=corrected, row_id=row.row_id, where=row.where)


_READERS: dict[FeedbackShape, Callable[[FeedbackRow], Feedback]] = {
    "preference": _preference,
    "ranking": _ranking,
    "rating": _rating,
    "unpaired": _thumb,
    "flag": _flag,
    "edit": _edit,
}
