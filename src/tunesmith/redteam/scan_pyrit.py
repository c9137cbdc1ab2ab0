"""PyRIT's memory as records: pieces of messages, the scores of pieces, and results of attacks, in any order.

A piece has a conversation_id, a score a score_value, a result an objective and an outcome; docs/redteam-interop.md has
the lines that write them. A score may also stand inside its piece, as older versions export it, or inside the result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith.redteam.attack import Family
from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judgement import Case
from tunesmith.redteam.scan_records import Record, Told, count, judged, last_asked, made_attempt

# A word in the name of PyRIT's attack -> how it works; others are direct, or multi-turn where the user speaks twice.
_FAMILIES: Mapping[str, Family] = {
    "crescendo": "multi-turn",
    "redteaming": "search",
    "treeofattacks": "search",
    "tap": "search",
    "pair": "search",
    "roleplay": "persona",
    "skeletonkey": "persona",
    "manyshot": "shots",
    "flip": "splitting",
    "chunked": "splitting",
    "contextcompliance": "multi-turn",
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_STOPS = {"stop": "end_of_turn", "length": "length"}
# From this value on a scale from 0 to 1 a scorer says yes.
_HIT = 0.5
# PyRIT's scorers of refusals say true where an answer declines: that is no success, and its opposite is none either.
_REFUSALS = re.compile(r"\w*Refusal\w*")


def read_pyrit(records: Sequence[Record], left_out: dict[str, int]) -> Iterator[Attempt]:
    """Each conversation in which a scorer or an attack judged an answer, an attempt of ours."""
    conversations: dict[str, list[Record]] = {}
    results: dict[str, Mapping[str, Any]] = {}
    scores: dict[str, list[Mapping[str, Any]]] = {}
    for one in records:
        row = one.row
        if "objective" in row and "outcome" in row:
            results[str(row.get("conversation_id"))] = row
            if isinstance(last := row.get("last_score"), Mapping):
                scores.setdefault(str(last.get("message_piece_id")), []).append(last)
        elif "score_value" in row:
            scores.setdefault(str(row.get("message_piece_id") or row.get("prompt_request_response_id")), []).append(row)
        elif "conversation_id" in row:
            conversations.setdefault(str(row["conversation_id"]), []).append(one)
        else:
            raise DataError(one.where, "is none of PyRIT's pieces, scores and results.", "Export it again.")
    times: Counter[tuple[object, ...]] = Counter()
    for name, pieces in conversations.items():
        try:
            attempt = _conversation(pieces, results.get(name, {}), scores, left_out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            cause = f"cannot be read as PyRIT's message ({type(error).__name__}: {error})."
            raise DataError(pieces[0].where, cause, "Report it with PyRIT's version.") from None
        if attempt is None:
            count(left_out, "conversations that nobody scored")
            continue
        # Conversations that began alike are draws of one attempt.
        alike = attempt.goal.id, attempt.attack, attempt.converters, attempt.request
        yield replace(attempt, index=times[alike])
        times[alike] += 1


def _conversation(
    pieces: Sequence[Record],
    result: Mapping[str, Any],
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    left_out: dict[str, int],
) -> Attempt | None:
    ordered = sorted(pieces, key=lambda one: int(one.row.get("sequence", 0)))
    first = next((one.row for one in ordered if one.row["role"] == "user"), ordered[0].row)
    goal = Goal(
        id=f"pyrit/{result.get('objective') or first['original_value']}",
        request=str(result.get("objective") or first["original_value"]),
        category=_category(result, [score for one in ordered for score in _scores_of(one.row, scores)]),
        source="PyRIT",
        where=pieces[0].where,
    )
    messages: list[Message] = []
    tries: list[Try] = []
    scorers: set[str] = set()
    answers = [one for one in ordered if one.row["role"] == "assistant"]
    for one in ordered:
        row = one.row
        if row["role"] not in _ROLES or row.get("converted_value_data_type", "text") not in ("text", "error"):
            count(left_out, f"pieces of role {row['role']} and kind {row.get('converted_value_data_type')}")
            continue
        if row["role"] == "assistant" and messages:
            verdicts = dict(_verdicts(_scores_of(row, scores)))
            if not verdicts and one is answers[-1] and result.get("outcome") in ("success", "failure"):
                verdicts = {"attack's outcome": float(result["outcome"] == "success")}
            if verdicts:
                scorers |= set(verdicts)
                worst, answer = max(verdicts.values()), str(row["converted_value"])
                case = Case(goal=goal, prompt=last_asked(messages), answer=answer)
                said = judged(case, worst >= _HIT, worst, {"pyrit": verdicts})
                tries.append(Try(messages=tuple(messages), answer=answer, stop_reason=_stop(row), judgement=said))
        messages.append(Message(role=_ROLES[row["role"]], content=str(row["converted_value"])))  # type: ignore[arg-type]
    if not tries:
        return None
    made_by = _part(result.get("atomic_attack_identifier"), "attack") or result.get("attack_identifier")
    attack = _class_name(made_by or first.get("attack_identifier"), "PromptSendingAttack")
    converters = tuple(f"pyrit/{_class_name(one, 'Converter')}" for one in first.get("converter_identifiers") or ())
    told = Told(
        goal=goal,
        attack=f"pyrit/{attack}",
        family=_family(attack, sum(one.role == "user" for one in tries[-1].messages)),
        converters=converters,
    )
    judge = {"judge": "PyRIT", "scorers": "+".join(sorted(scorers))}
    details = {"tool": "PyRIT", "conversation": pieces[0].row["conversation_id"], "outcome": result.get("outcome")}
    return made_attempt(told, tuple(tries), _target(result, answers[-1].row), judge, details)


def _stop(row: Mapping[str, Any]) -> str:
    """Why an answer ended, as far as its piece says."""
    if row.get("response_error") == "blocked":
        return "content_filter"
    return _STOPS.get(str((row.get("prompt_metadata") or {}).get("finish_reason")), "unknown")


def _scores_of(
    row: Mapping[str, Any], scores: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Sequence[Mapping[str, Any]]:
    """Those that stand in a piece, and those that name it."""
    return [*(row.get("scores") or ()), *scores.get(str(row.get("id")), ())]


def _verdicts(scores: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """(scorer, value from 0 to 1) of the scores that have one and tell of success."""
    for score in scores:
        name = _class_name(score.get("scorer_class_identifier"), "Scorer")
        if _REFUSALS.fullmatch(name):
            continue
        value = score.get("score_value")
        if value is None or score.get("score_type") not in ("true_false", "float_scale"):
            continue
        number = float(str(value).lower() == "true") if score["score_type"] == "true_false" else float(value)
        yield name, number


def _class_name(identifier: Any, otherwise: str) -> str:
    """The class an identifier names; older versions spell the key in another way."""
    if not isinstance(identifier, Mapping):
        return otherwise
    return str(identifier.get("class_name") or identifier.get("__type__") or otherwise)


def _family(attack: str, num_turns: int) -> Family:
    plain = re.sub(r"[^a-z]", "", attack.lower())
    found = next((family for word, family in _FAMILIES.items() if word in plain), None)
    return found or ("multi-turn" if num_turns > 1 else "direct")


def _category(result: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> str:
    named = result.get("targeted_harm_categories") or next(
        (s["score_category"] for s in scores if s.get("score_category")), ()
    )
    return str(named if isinstance(named, str) else next(iter(named), "other"))


def _target(result: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, str]:
    """The model and its address; older versions name the target at each piece."""
    found = _part(result.get("atomic_attack_identifier"), "objective_target") or answer.get("prompt_target_identifier")
    known = {**(found or {}), **((found or {}).get("params") or {})}
    return {
        "model": str(known.get("model_name") or known.get("underlying_model_name") or "unknown"),
        "endpoint": str(known.get("endpoint") or "unknown"),
    }


def _part(identifier: Any, name: str) -> Mapping[str, Any] | None:
    """The component of that name which an identifier is made of, however deep."""
    if not isinstance(identifier, Mapping):
        return None
    parts = {**(identifier.get("children") or {}), **identifier}
    if isinstance(parts.get(name), Mapping):
        return dict(parts[name])
    return next((found for part in parts.values() if (found := _part(part, name)) is not None), None)
