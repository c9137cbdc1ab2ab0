"""Attempts as the lines of attempts.jsonl, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError
from tunesmith.records import Message
from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judgement import Judgement
from tunesmith.rollout.results import ResultsFile

ATTEMPTS_FILE = "attempts.jsonl"


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """One line; ``answer`` and ``stop_reason`` repeat the best try's, as every file of results has them.

    Where the goal stands in the user's files is left out: a file that was moved holds the same goals.
    """
    best = attempt.best
    return {
        "key": attempt.key,
        "answer": "" if best is None else best.answer,
        "stop_reason": "none" if best is None else best.stop_reason,
        "success": attempt.success,
        "goal": goal_row(attempt.goal),
        "attack": attempt.attack,
        "family": attempt.family,
        "converters": list(attempt.converters),
        "index": attempt.index,
        "seed": attempt.seed,
        "request": attempt.request,
        "tries": [_try_row(one) for one in attempt.tries],
        "target": dict(attempt.target),
        "judge": dict(attempt.judge),
        "skipped": attempt.skipped,
        "details": dict(attempt.details or {}),
    }


def read_attempt(row: Mapping[str, Any]) -> Attempt:
    """The attempt of a line. Raises KeyError, TypeError, ValueError for what is not one."""
    return Attempt(
        key=row["key"],
        goal=Goal(**{**row["goal"], "secrets": tuple(row["goal"]["secrets"])}),
        attack=row["attack"],
        family=row["family"],
        converters=tuple(row["converters"]),
        index=row["index"],
        seed=row["seed"],
        request=row["request"],
        tries=tuple(_read_try(one) for one in row["tries"]),
        target=row["target"],
        judge=row["judge"],
        skipped=row["skipped"],
        details=row["details"],
    )


def load_attempts(path: Path) -> list[Attempt]:
    """All attempts of a file, in its order. Raises RunError for a file without any, or a line that is no attempt."""
    results = ResultsFile(path)
    attempts = []
    for number, row in enumerate(results.rows(), 1):
        try:
            attempts.append(read_attempt(row))
        except (KeyError, TypeError, ValueError) as error:
            cause = f"is not a red-team attempt ({type(error).__name__}: {error})."
            raise RunError(f"{path}:{number}", cause, f"Name the {ATTEMPTS_FILE} of a red-team run.") from None
    if not attempts:
        raise RunError(path, "holds no attempts.", f"Name the {ATTEMPTS_FILE} of a red-team run.")
    return attempts


def judgement_row(judgement: Judgement) -> dict[str, Any]:
    """A judgement as JSON holds it."""
    return {**asdict(judgement), "details": dict(judgement.details)}


def read_judgement(row: Mapping[str, Any]) -> Judgement:
    """The judgement of ``judgement_row``."""
    return Judgement(**row)


def goal_row(goal: Goal) -> dict[str, Any]:
    """All of a goal but where it stands."""
    row = asdict(goal)
    del row["where"]
    return {**row, "secrets": list(goal.secrets)}


def message_rows(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as chat rows."""
    return [{"role": one.role, "content": one.content} for one in messages]


def _try_row(one: Try) -> dict[str, Any]:
    return {
        "messages": message_rows(one.messages),
        "answer": one.answer,
        "stop_reason": one.stop_reason,
        "judgement": judgement_row(one.judgement),
    }


def _read_try(row: Mapping[str, Any]) -> Try:
    return Try(
        messages=tuple(Message(role=one["role"], content=one["content"]) for one in row["messages"]),
        answer=row["answer"],
        stop_reason=row["stop_reason"],
        judgement=read_judgement(row["judgement"]),
    )
