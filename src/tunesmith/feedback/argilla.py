"""Argilla's exports -> what somebody said: a record's fields, and the responses to its questions by user.

Two forms are read: nested, as ``rg.Dataset.records.to_json`` and ``to_list`` write it, and flat, as ``to_datasets``
and ``to_list(flatten=True)`` do (github.com/argilla-io/argilla: argilla/src/argilla/records/_io/_generic.py). An
export does not hold the questions' settings, so that what a question asks is told from its answers, or stated; and
the nested form does not say which responses are drafts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tunesmith.data.check import RowError, shown
from tunesmith.data.pairs import LeftOut
from tunesmith.data.parse import json_type
from tunesmith.data.shape import check_turns, filled_text, read_turns
from tunesmith.feedback.judgements import Answer, Compared, Edited, Flagged, Outcome, Ranked, Rated, Thumbed, Value
from tunesmith.feedback.rows import Said
from tunesmith.records import Message, Where

Asked = Literal["ranking", "comparison", "rating", "thumb", "flag", "edit", "skip"]
ASKED: tuple[Asked, ...] = get_args(Asked)
# What a record has besides fields, metadata and vectors, which the flat form puts among them.
_RECORD_KEYS = ("id", "status", "_server_id", "inserted_at", "updated_at", "score")
_PROMPTS = ("prompt", "instruction", "input", "question")
_ANSWER = re.compile(
    r"(?:(?:response|completion|answer|output|generation|candidate)s?(?:[-_ ]?\w+)?|chosen|rejected)", re.IGNORECASE
)
_RESPONSES, _USERS, _STATUS, _SUGGESTION = ".responses", ".responses.users", ".responses.status", ".suggestion"
_UP = {"up", "thumbs up", "thumb up", "good", "like", "👍"}
_DOWN = {"down", "thumbs down", "thumb down", "bad", "dislike", "👎"}
_NO_WINNER: dict[str, Outcome] = {"tie": "tie", "equal": "tie", "both good": "tie", "both bad": "both bad"}
_NO_WINNER |= {"neither": "both bad", "none": "both bad"}
_EDITS, _FLAGS = re.compile(r"correct|edit|rewrit|improv", re.IGNORECASE), re.compile(r"flag|problem", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """What a question asks, and of which field where there are several answers."""

    asked: Asked
    about: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgillaOptions:
    """What the export itself does not say; empty: told from the names of the fields and from the responses."""

    prompt_field: str | None = None
    answer_fields: tuple[str, ...] = ()
    questions: Mapping[str, Question] = field(default_factory=dict)
    suggestions: bool = False
    """Take suggestions, which models made, as judgements of source ``ai``."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """One response to one question."""

    question: str
    value: Any
    status: str | None
    annotator: str | None
    where: Where
    is_ai: bool = False


def is_argilla(row: Mapping[str, Any]) -> bool:
    """Whether a row is a record of Argilla's, told by its columns."""
    nested = isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict | None)
    return (nested and "responses" in row) or any(name.endswith(_RESPONSES) for name in row)


def read_record(
    row: Mapping[str, Any], where: Where, options: ArgillaOptions, left_out: LeftOut, ignored: set[str]
) -> Iterator[Said]:
    """What people said of one record; drafts, suggestions and skipped questions are counted in ``left_out``.

    Raises RowError naming file:line:field for a record without a prompt or an answer, and for a response whose
    question cannot be told.
    """
    fields, replies = _nested(row, where) if isinstance(row.get("fields"), dict) else _flat(row, where)
    kept = [reply for reply in replies if _counts(reply, options, left_out)]
    prompt, answers = _prompt_and_answers(fields, where, options, ignored)
    for reply in kept:
        question = options.questions.get(reply.question) or _infer(reply, list(answers))
        if question.asked == "skip":
            _count(left_out, f"response to '{shown(reply.question)}', which is skipped")
            continue
        names, value = _value(reply, question, answers)
        if isinstance(value, Edited) and _said(value.corrected) == _said(answers[names[0]]):
            _count(left_out, "edit that leaves the answer as it is")
            continue
        yield Said(
            prompt=prompt, answers=tuple(answers[name] for name in names), value=value, where=reply.where,
            annotator=reply.annotator, facts={"source": "ai"} if reply.is_ai else {},
        )  # fmt: skip


def _nested(row: Mapping[str, Any], where: Where) -> tuple[Mapping[str, Any], list[_Reply]]:
    replies = []
    for question, given in (row.get("responses") or {}).items():
        place = where.at(f"responses.{shown(question)}")
        # Tables give every record every question, null where nobody answered it.
        for i, reply in enumerate(given or [] if isinstance(given, list | None) else _fault_list(place, given)):
            here = where.at(f"responses.{shown(question)}[{i}]")
            if not isinstance(reply, dict) or "value" not in reply:
                raise RowError(
                    here, "a response is expected.", 'Export it again; it is {"value": ..., "user_id": ...}.'
                )
            user = reply.get("user_id")
            who = str(user) if user else None
            replies.append(_Reply(question, reply["value"], reply.get("status"), who, here))
    for question, reply in (row.get("suggestions") or {}).items():
        if isinstance(reply, dict) and reply.get("value") is not None:
            here = where.at(f"suggestions.{shown(question)}")
            agent = str(reply.get("agent") or "suggestion")
            replies.append(_Reply(question, reply["value"], None, agent, here, is_ai=True))
    return row["fields"], replies


def _flat(row: Mapping[str, Any], where: Where) -> tuple[Mapping[str, Any], list[_Reply]]:
    replies = []
    for name, values in row.items():
        if name.endswith(_RESPONSES) and values is not None:
            question, place = name.removesuffix(_RESPONSES), where.at(shown(name))
            users, status = row.get(question + _USERS), row.get(question + _STATUS)
            if not isinstance(values, list):
                _fault_list(place, values)
            for listed in (users, status):
                if listed is not None and (not isinstance(listed, list) or len(listed) != len(values)):
                    raise RowError(place, "responses, users and status differ in number.", "Export it again.")
            for i, value in enumerate(values):
                who = str(users[i]) if users and users[i] else None
                replies.append(_Reply(question, value, status[i] if status else None, who, place))
        elif name.endswith(_SUGGESTION) and values is not None:
            question = name.removesuffix(_SUGGESTION)
            agent = str(row.get(f"{name}.agent") or "suggestion")
            replies.append(_Reply(question, values, None, agent, where.at(shown(name)), is_ai=True))
    questions = {reply.question for reply in replies} | {
        n.removesuffix(_RESPONSES) for n in row if n.endswith(_RESPONSES)
    }
    ends = (_RESPONSES, _USERS, _STATUS, _SUGGESTION, f"{_SUGGESTION}.score", f"{_SUGGESTION}.agent")
    parts = {question + end for question in questions for end in ends}
    return {name: value for name, value in row.items() if name not in parts and name not in _RECORD_KEYS}, replies


def _fault_list(place: Where, value: Any) -> list[Any]:
    raise RowError(place, "a list of responses is expected.", "Export it again.", detail=f"it is {json_type(value)}")


def _counts(reply: _Reply, options: ArgillaOptions, left_out: LeftOut) -> bool:
    """Whether a reply is taken; the flat form alone tells drafts, and null stands where a user skipped a question."""
    if reply.is_ai and not options.suggestions:
        _count(left_out, "suggestion of a model")
        return False
    if reply.status not in (None, "submitted"):
        _count(left_out, f"{shown(str(reply.status))} response")
        return False
    if reply.value is None:
        _count(left_out, "response without a value")
        return False
    return True


def _prompt_and_answers(
    fields: Mapping[str, Any], where: Where, options: ArgillaOptions, ignored: set[str]
) -> tuple[tuple[Message, ...], dict[str, Answer]]:
    """The prompt, and name -> answer. Raises RowError."""
    names = [name for name, value in fields.items() if value is not None]
    listed = ", ".join(shown(name) for name in names) or "none"
    prompts = [options.prompt_field] if options.prompt_field else [name for name in _PROMPTS if name in names][:1]
    if not prompts or prompts[0] not in names:
        raise RowError(where, "no field is the prompt.", "Name it with --prompt-field.", detail=f"fields: {listed}")
    prompt = _turns(fields[prompts[0]], where.at(shown(prompts[0])), "user")
    wanted = options.answer_fields or [name for name in names if _ANSWER.fullmatch(name) and name != prompts[0]]
    answers = {name: _turns(fields[name], where.at(shown(name)), "assistant") for name in wanted if name in names}
    if not answers:
        raise RowError(where, "no field is an answer.", "Name them with --answer-field.", detail=f"fields: {listed}")
    for name, answer in answers.items():
        check_turns([*prompt, *answer], where.at(shown(name)))
    ignored |= {name for name in names if name not in answers and name != prompts[0]}
    return prompt, answers


def _turns(value: Any, place: Where, role: Literal["user", "assistant"]) -> tuple[Message, ...]:
    """A text field, or a chat field's turns."""
    if isinstance(value, list):
        name = place.field or ""
        return tuple(read_turns({name: value}, name, place, default_train=role == "assistant"))
    return (Message(role=role, content=filled_text(value, place)),)


def _infer(reply: _Reply, answers: list[str]) -> Question:
    """What a question asks, from a response to it. Raises RowError where that is not clear."""
    value, name = reply.value, reply.question
    about = _about(name, answers)
    if _ranked_names(value) and set(_ranked_names(value)) <= set(answers):
        return Question("ranking")
    if isinstance(value, int | float) and not isinstance(value, bool) and about:
        return Question("rating", about)
    if isinstance(value, str):
        text = _plain(value)
        if len(answers) == 2 and (value in answers or text in _NO_WINNER):
            return Question("comparison")
        if about and text in _UP | _DOWN:
            return Question("thumb", about)
        if about and _EDITS.search(name):
            return Question("edit", about)
    if isinstance(value, str | list) and about and _FLAGS.search(name):
        return Question("flag", about)
    fix = f"Say what it asks: --question {shown(name)}=KIND or =KIND:FIELD, KIND being one of {', '.join(ASKED)}."
    raise RowError(
        reply.where, f"what the question '{shown(name)}' asks cannot be told.", fix, detail=shown(str(value))
    )


def _about(question: str, answers: list[str]) -> str | None:
    """The only answer, or the one with the longest name that the question's name holds."""
    if len(answers) == 1:
        return answers[0]
    held = [
        name for name in answers if re.search(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z0-9])", question.lower())
    ]
    return max(held, key=len) if held else None


def _value(reply: _Reply, question: Question, answers: Mapping[str, Answer]) -> tuple[list[str], Value]:
    """The names of the answers that a response is about, and what it says of them. Raises RowError."""
    if question.asked == "ranking":
        return _ranking(reply, list(answers))
    if question.asked == "comparison":
        return _comparison(reply, list(answers))
    about = question.about or _about(reply.question, list(answers))
    if about is None or about not in answers:
        fix = f"Say of which with --question {shown(reply.question)}={question.asked}:FIELD."
        raise RowError(reply.where, "the question is about none of the record's answers.", fix)
    value, text = reply.value, _plain(reply.value)
    if question.asked == "rating":
        if isinstance(value, bool) or not isinstance(value, int | float) or value not in (1, 2, 3, 4, 5):
            fix = "Grades are 1 (worst) to 5 (best); rescale the file if it grades otherwise."
            raise RowError(reply.where, "the rating is out of range.", fix, detail=shown(str(value)))
        return [about], Rated(int(value))
    if question.asked == "thumb":
        if text not in _UP | _DOWN:
            fix = f"Up is written {', '.join(sorted(_UP))}; down {', '.join(sorted(_DOWN))}."
            raise RowError(reply.where, "the response is no thumb.", fix, detail=shown(str(value)))
        return [about], Thumbed(text in _UP)
    if question.asked == "flag":
        reasons = [str(reason) for reason in (value if isinstance(value, list) else [value]) if str(reason).strip()]
        return [about], Flagged(bool(reasons), "; ".join(reasons))
    return [about], Edited(_turns(value, reply.where, "assistant"))


def _ranked_names(value: Any) -> list[str]:
    """The names in a ranking: a list of them, or of objects that hold one; empty for anything else."""
    if not isinstance(value, list) or len(value) < 2:
        return []
    names = [item.get("value") if isinstance(item, dict) else item for item in value]
    return [name for name in names if isinstance(name, str)] if all(isinstance(name, str) for name in names) else []


def _ranking(reply: _Reply, answers: list[str]) -> tuple[list[str], Value]:
    """A list from the best to the worst; objects of a value and a rank, as Argilla's server keeps them, may tie."""
    names, place = _ranked_names(reply.value), reply.where
    for name in names:
        if name not in answers:
            fix = "Name the record's answers with --answer-field."
            raise RowError(place, "the ranking names an unknown candidate.", fix, detail=f"'{shown(name)}'")
    if len(names) < 2 or len(set(names)) < len(names):
        raise RowError(place, "the ranking does not name two answers or more, each once.", "Correct the response.")
    ranks: list[Any] = [
        item.get("rank") if isinstance(item, dict) and item.get("rank") is not None else i
        for i, item in enumerate(reply.value)
    ]
    if not all(isinstance(rank, int | float) for rank in ranks):
        raise RowError(place, "a rank is no number.", "Correct the response.")
    ordered = [name for name in answers if name in names]
    rank_of = dict(zip(names, ranks, strict=True))
    tiers = tuple(tuple(i for i, name in enumerate(ordered) if rank_of[name] == rank) for rank in sorted(set(ranks)))
    return ordered, Ranked(tiers)


def _comparison(reply: _Reply, answers: list[str]) -> tuple[list[str], Value]:
    text = _plain(reply.value)
    if len(answers) != 2 or (reply.value not in answers and text not in _NO_WINNER):
        fix = f"A comparison has two answers, and names one of them or says {', '.join(_NO_WINNER)}."
        raise RowError(reply.where, "the response is no comparison.", fix, detail=shown(str(reply.value)))
    if text in _NO_WINNER:
        return answers, Compared(_NO_WINNER[text])
    return answers, Compared("A" if reply.value == answers[0] else "B")


def _plain(value: Any) -> str:
    return re.sub(r"[-_ ]+", " ", str(value).strip().lower())


def _said(answer: Answer) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in answer]


def _count(left_out: LeftOut, cause: str) -> None:
    left_out[cause] = left_out.get(cause, 0) + 1
