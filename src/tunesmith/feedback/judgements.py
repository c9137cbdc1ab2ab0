"""What the feedback store holds: prompts, candidate answers, and what people or models said of them.

A judgement's value is typed by its kind: Compared, Thumbed, Rated, Flagged, Edited or Ranked. Ids of prompts and
candidates are digests of what they say, so that the same text is the same row in every store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tunesmith.data.shape import check_turns
from tunesmith.errors import DataError
from tunesmith.records import ROLES, Message, Where

Kind = Literal["comparison", "thumb", "rating", "flag", "edit", "ranking"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Origin = Literal["human", "ai", "import"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)
Outcome = Literal["A", "B", "tie", "both bad"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
RATINGS = (1, 2, 3, 4, 5)
# Further apart, sums of weights lose the small ones to rounding and fits do not converge.
WEIGHTS = (1e-4, 1e4)
Answer = tuple[Message, ...]
# Hexadecimal digits of an id: 128 bits, as the ids of prompts elsewhere.
ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Compared:
    """Two candidates, A shown first: an outcome, or ``p``, the probability that A is the better one; never both."""

    outcome: Outcome | None = None
    p: float | None = None

    def __post_init__(self) -> None:
        _require((self.outcome is None) != (self.p is None), "a comparison has either an outcome or p")
        _require(self.outcome is None or self.outcome in OUTCOMES, f"the outcome is one of {', '.join(OUTCOMES)}")
        _require(self.p is None or 0 <= self.p <= 1, "p is a probability, from 0 to 1")


@dataclass(frozen=True, slots=True)
class Thumbed:
    """A thumb up (True) or down."""

    up: bool


@dataclass(frozen=True, slots=True)
class Rated:
    """A grade from 1 (worst) to 5 (best)."""

    rating: int

    def __post_init__(self) -> None:
        _require(self.rating in RATINGS, "a rating is a whole number from 1 to 5")


@dataclass(frozen=True, slots=True)
class Flagged:
    """Flagged, with the reason, or looked at and not flagged, without one."""

    flagged: bool
    reason: str = ""

    def __post_init__(self) -> None:
        _require(self.flagged == bool(self.reason.strip()), "a flag has a reason, and no flag has none")
        check_text(self.reason)


@dataclass(frozen=True, slots=True)
class Edited:
    """What somebody made of the candidate; it need not be a candidate itself."""

    corrected: Answer

    def __post_init__(self) -> None:
        check_answer(self.corrected)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Tiers of positions in the judgement's candidates, the best first; one tier's candidates are tied."""

    tiers: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        flat = [i for tier in self.tiers for i in tier]
        _require(all(self.tiers) and len(flat) > 1, "a ranking has two candidates or more, and no empty tier")
        _require(sorted(flat) == list(range(len(flat))), "a ranking names every candidate once")


Value = Compared | Thumbed | Rated | Flagged | Edited | Ranked
KIND_OF: dict[type[Value], Kind] = {
    Compared: "comparison", Thumbed: "thumb", Rated: "rating", Flagged: "flag", Edited: "edit", Ranked: "ranking",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrompt:
    """The turns before an answer."""

    id: str
    messages: tuple[Message, ...]
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCandidate:
    """An answer to a prompt, and what wrote it, as far as it is known; who wrote a text first is kept."""

    id: str
    prompt_id: str
    answer: Answer
    model: str | None = None
    adapter_digest: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    created: str = ""

    @property
    def text(self) -> str:
        """The answer as one text; turns of an answer over several are joined with a blank line."""
        return "\n\n".join(message.content for message in self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one annotator said of candidates of one prompt; ``candidates`` are ids in the order they were shown.

    asked_again_of: the id of the judgement whose question this one repeats, without the annotator being told.
    provenance: how a model came to it (its judge's digest, the principles it judged by); empty for people.
    created, withdrawn: UTC, ISO 8601; withdrawn is None while the judgement stands.
    """

    id: str
    prompt_id: str
    candidates: tuple[str, ...]
    value: Value
    annotator: str
    source: Origin
    weight: float
    asked_again_of: str | None
    created: str
    withdrawn: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return KIND_OF[type(self.value)]


def check_prompt(messages: Sequence[Message]) -> None:
    """Raise ValueError unless the turns call for an answer: what rows of feedback may have as a prompt."""
    _require(bool(messages) and messages[-1].role in ("user", "tool"), "a prompt ends with the user's turn or a tool's")
    _check_turns([*messages, Message(role="assistant", content="?")])


def check_answer(answer: Sequence[Message]) -> None:
    """Raise ValueError unless the turns are an answer: the assistant's, or several that begin and end with it."""
    _require(bool(answer) and answer[0].role == "assistant", "an answer begins with the assistant's turn")
    _check_turns([Message(role="user", content="?"), *answer])


def _check_turns(messages: list[Message]) -> None:
    for message in messages:
        _require(bool(message.content.strip()), f"the {message.role}'s text is empty")
        check_text(message.content)
    try:
        check_turns(messages, Where("turns"))
    except DataError as error:
        raise ValueError(error.cause.rstrip(".")) from None


def check_text(text: str) -> None:
    """Raise ValueError for a text that no file of rows could hold."""
    _require("\x00" not in text, "the text holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text holds half of a surrogate pair") from None


def answer_of(text: str) -> Answer:
    """A text as the one turn of an answer."""
    return (Message(role="assistant", content=text),)


def prompt_id_of(messages: Sequence[Message]) -> str:
    """The id of a prompt: a digest of its turns; whether a turn would be trained on is no part of it."""
    return digest_of([[message.role, message.content] for message in messages])


def candidate_id_of(prompt_id: str, answer: Sequence[Message]) -> str:
    """The id of an answer to a prompt: a digest of both."""
    return digest_of([prompt_id, turns_to_json(answer)])


def digest_of(value: Any) -> str:
    """The id of a value that JSON can hold."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:ID_DIGITS]


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def turns_to_json(messages: Sequence[Message]) -> list[list[Any]]:
    """``[role, content]`` a turn, and ``false`` behind it where an assistant's turn is kept out of the loss."""
    return [
        [m.role, m.content, *([False] if m.role == "assistant" and not m.train else [])] for m in messages
    ]  # fmt: skip


def turns_from_json(turns: Any, *, train: bool = True) -> tuple[Message, ...]:
    """The turns that ``turns_to_json`` wrote; ``train`` False for a prompt's. Raises ValueError for anything else."""
    _require(isinstance(turns, list) and all(isinstance(t, list) and len(t) in (2, 3) for t in turns), "no turns")
    for role, content, *_ in turns:
        _require(role in ROLES and isinstance(content, str), "a turn has a role and a text")
    # As in rows of feedback, an answer inside a prompt is not trained on.
    return tuple(
        Message(role=role, content=content, train=not rest and (train or role != "assistant"))
        for role, content, *rest in turns
    )


def value_to_json(value: Value) -> dict[str, Any]:
    """A value as the object the store keeps."""
    match value:
        case Compared():
            return {"p": value.p} if value.outcome is None else {"outcome": value.outcome}
        case Thumbed():
            return {"up": value.up}
        case Rated():
            return {"rating": value.rating}
        case Flagged():
            return {"flagged": value.flagged, "reason": value.reason}
        case Edited():
            return {"corrected": turns_to_json(value.corrected)}
        case Ranked():
            # In one tier there is no order.
            return {"tiers": [sorted(tier) for tier in value.tiers]}


def value_from_json(kind: Kind, data: Mapping[str, Any]) -> Value:
    """The value that ``value_to_json`` wrote. Raises ValueError for an object that is none of the kind."""
    try:
        match kind:
            case "comparison":
                return Compared(data.get("outcome"), data.get("p"))
            case "thumb":
                return Thumbed(bool(data["up"]))
            case "rating":
                return Rated(data["rating"])
            case "flag":
                return Flagged(bool(data["flagged"]), data["reason"])
            case "edit":
                return Edited(turns_from_json(data["corrected"]))
            case "ranking":
                return Ranked(tuple(tuple(tier) for tier in data["tiers"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{dict(data)} is no value of a {kind}: {error}") from None


def check_judgement(value: Value, prompt_id: str, candidates: Sequence[str], annotator: str, weight: float) -> None:
    """Raise ValueError unless a value can be said of these candidates."""
    number = {Compared: 2, Ranked: len(candidates)}.get(type(value), 1)
    if isinstance(value, Ranked):
        number = sum(map(len, value.tiers))
    _require(len(candidates) == number, f"a {KIND_OF[type(value)]} is of {number} candidates, not of {len(candidates)}")
    _require(len(set(candidates)) == len(candidates), "two of the candidates are the same answer")
    if isinstance(value, Edited):
        _require(candidate_id_of(prompt_id, value.corrected) != candidates[0], "the correction is the original")
    _require(bool(annotator.strip()), "a judgement names its annotator")
    check_text(annotator)
    low, high = WEIGHTS
    _require(low <= weight <= high, f"a weight is a number from {low:g} to {high:g}")


def _require(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ValueError(otherwise)
