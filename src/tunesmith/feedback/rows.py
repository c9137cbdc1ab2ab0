"""One judgement as a row of a file, both ways: our feedback shapes, with what they cannot say in ``judgement``."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.data.convertible import FeedbackShape
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.hh import is_hh_prompt
from tunesmith.data.parse import json_type
from tunesmith.feedback.judgements import (
    ORIGINS,
    Answer,
    Compared,
    Edited,
    Flagged,
    Judgement,
    Ranked,
    Rated,
    Thumbed,
    Value,
    value_from_json,
    value_to_json,
)
from tunesmith.records import Edit, Feedback, Flag, Message, Preference, Ranking, Rating, Where

# Beside the columns of a shape: who said it, how much it counts (which training reads too), and the rest.
OWN_COLUMNS = ("annotator", "weight", "judgement")
_FACTS = ("id", "source", "asked_again_of", "created", "withdrawn", "provenance")
_OBJECTS = ("value", "provenance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A judgement as a file holds it: texts in place of ids. None: the file does not say."""

    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]
    value: Value
    where: Where
    annotator: str | None = None
    weight: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """id, source, asked_again_of, created, withdrawn, provenance, as the store exports them."""


def read_said(row: FeedbackRow, shape: FeedbackShape) -> Said:
    """A row as what somebody said. Raises RowError naming file:line:field."""
    record = read_feedback(row, shape)
    facts = _facts(row)
    answers, value = _answers_and_value(record)
    if "value" in facts:
        answers, value = _comparison(answers, facts["value"], row)
    annotator = row.get("annotator") if row.has("annotator") and row.get("annotator") != "" else None
    if annotator is not None and not (isinstance(annotator, str | int) and not isinstance(annotator, bool)):
        raise RowError(row.at("annotator"), "a name is expected.", "Write it as a string.", detail=json_type(annotator))
    return Said(
        prompt=record.prompt, answers=answers, value=value, where=record.where,
        annotator=None if annotator is None else str(annotator), weight=_weight(row),
        facts={name: fact for name, fact in facts.items() if name != "value"},
    )  # fmt: skip


def _answers_and_value(record: Feedback) -> tuple[tuple[Answer, ...], Value]:
    if isinstance(record, Preference):
        return (record.chosen, record.rejected), Compared("A")
    if isinstance(record, Ranking):
        names = list(record.candidates)
        tiers = tuple(tuple(sorted(names.index(name) for name in tier)) for tier in record.tiers)
        return tuple(record.candidates.values()), Ranked(tiers)
    if isinstance(record, Edit):
        return (record.original,), Edited(record.corrected)
    if isinstance(record, Rating):
        return (record.completion,), Rated(record.rating)
    if isinstance(record, Flag):
        return (record.completion,), Flagged(record.flagged, record.reason)
    return (record.completion,), Thumbed(record.up)


def _comparison(answers: tuple[Answer, ...], data: Any, row: FeedbackRow) -> tuple[tuple[Answer, ...], Value]:
    """A comparison whose row is a pair, or a tie of two: ``data`` says what was said, in the order of showing."""
    place = row.at("judgement").at("judgement.value")
    fix = 'Write {"outcome": "A"}, "B", "tie" or "both bad", or {"p": 0.8}; or remove it.'
    try:
        value = value_from_json("comparison", data if isinstance(data, dict) else {})
    except ValueError as error:
        raise RowError(place, "the value is none of a comparison.", fix, detail=str(error)) from None
    assert isinstance(value, Compared)
    is_pair, likes_a = row.has("chosen"), value.outcome == "A" or (value.p is not None and value.p > 0.5)
    likes_b = value.outcome == "B" or (value.p is not None and value.p < 0.5)
    if len(answers) != 2 or is_pair != (likes_a or likes_b):
        raise RowError(place, "the value contradicts the row.", fix)
    return (answers[::-1] if is_pair and likes_b else answers), value


def _facts(row: FeedbackRow) -> dict[str, Any]:
    if not row.has("judgement"):
        return {}
    facts, place = row.get("judgement"), row.at("judgement")
    if not isinstance(facts, dict):
        raise RowError(place, "an object is expected.", "Remove the column, or rename it.", detail=json_type(facts))
    facts = {name: fact for name, fact in facts.items() if fact is not None}
    for name, fact in facts.items():
        here = place.at(f"judgement.{shown(name)}")
        if name not in (*_FACTS, "value"):
            raise RowError(here, "unknown key.", f"The keys are {', '.join(_FACTS)} and value.")
        if name == "provenance" and not isinstance(fact, dict):
            raise RowError(here, "an object is expected.", "Write it as an object.", detail=json_type(fact))
        if name not in _OBJECTS and (not isinstance(fact, str) or not fact):
            raise RowError(here, "text is expected.", "Write it as a string.", detail=json_type(fact))
    if facts.get("source", "human") not in ORIGINS:
        raise RowError(place.at("judgement.source"), "the source is unknown.", f"Write {', '.join(ORIGINS)}.")
    return facts


def _weight(row: FeedbackRow) -> float:
    if not row.has("weight") or row.get("weight") == "":
        return 1.0
    value = row.get("weight")
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise RowError(row.at("weight"), "the weight is no number above 0.", "Correct it.", detail=shown(str(value)))
    return weight


def shape_of(judgement: Judgement) -> FeedbackShape:
    """The shape whose row says a judgement; a comparison without a winner is a tie of two."""
    value = judgement.value
    match value:
        case Compared():
            return "preference" if value.outcome in ("A", "B") or value.p not in (None, 0.5) else "ranking"
        case Ranked():
            return "ranking"
        case Rated():
            return "rating"
        case Thumbed():
            return "unpaired"
        case Flagged():
            return "flag"
        case Edited():
            return "edit"


def to_row(judgement: Judgement, prompt: Sequence[Message], answers: Sequence[Answer]) -> dict[str, Any]:
    """A judgement as the row that ``read_said`` reads; ``answers`` are its candidates' in their order."""
    value = judgement.value
    facts = {name: getattr(judgement, name) for name in _FACTS}
    said: dict[str, Any] = {"prompt": prompt_to_row(prompt)}
    match value:
        case Compared():
            facts["value"] = value_to_json(value)
            texts = [answer_to_row(answer) for answer in answers]
            if shape_of(judgement) == "ranking":
                said |= {"candidates": dict(zip("AB", texts, strict=True)), "ranking": "A = B"}
            else:
                likes_a = value.outcome == "A" or (value.p is not None and value.p > 0.5)
                said |= dict(zip(("chosen", "rejected"), texts if likes_a else texts[::-1], strict=True))
        case Ranked():
            names = _names(len(answers))
            said["candidates"] = {name: answer_to_row(answer) for name, answer in zip(names, answers, strict=True)}
            said["ranking"] = " > ".join(" = ".join(names[i] for i in tier) for tier in value.tiers)
        case Rated():
            said |= {"completion": answer_to_row(answers[0]), "rating": value.rating}
        case Thumbed():
            said |= {"completion": answer_to_row(answers[0]), "label": value.up}
        case Flagged():
            said |= {"completion": answer_to_row(answers[0]), "flagged": value.flagged, "reason": value.reason}
        case Edited():
            said["original"] = answer_to_row(answers[0])
            said["corrected"] = answer_to_row(value.corrected)
    facts = {name: fact for name, fact in facts.items() if fact is not None and fact != {}}
    return {**said, "annotator": judgement.annotator, "weight": judgement.weight, "judgement": facts}


def _names(number: int) -> list[str]:
    letters = string.ascii_uppercase
    return list(letters[:number]) if number <= len(letters) else [f"a{i + 1}" for i in range(number)]


def prompt_to_row(prompt: Sequence[Message]) -> str | list[dict[str, str]]:
    """A prompt as a text where it is one user's turn that no reader takes for a dialogue; else its turns."""
    if len(prompt) == 1 and not is_hh_prompt(prompt[0].content):
        return prompt[0].content
    return [{"role": message.role, "content": message.content} for message in prompt]


def answer_to_row(answer: Answer) -> str | list[dict[str, Any]]:
    """An answer as a text where it is one trained turn, else its turns."""
    if len(answer) == 1 and answer[0].train:
        return answer[0].content
    return [
        {"role": m.role, "content": m.content, **({} if m.train or m.role != "assistant" else {"train": False})}
        for m in answer
    ]
