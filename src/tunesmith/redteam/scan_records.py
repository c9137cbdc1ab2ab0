"""What the readers of garak's and PyRIT's results share: records, verdicts, attempts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.check import shown
from tunesmith.errors import DataError
from tunesmith.feedback.judgements import digest_of
from tunesmith.records import Message, Where
from tunesmith.redteam.attack import Family
from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judgement import Case, Judgement
from tunesmith.redteam.judges import read_kind


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a file, and where it stands."""

    where: Where
    row: Mapping[str, Any]


def records(path: Path) -> Iterator[Record]:
    """The objects of a .jsonl file, or of a .json file that holds a list of them. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(path, "no such file.", "Check the path.") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise DataError(path, "is no text file in UTF-8.", "Name a .jsonl or .json file.") from None
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise DataError(path, f"is not JSON ({error}).", "Export it again.") from None
        numbered = list(enumerate(rows, 1))
    else:
        numbered = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    numbered.append((number, json.loads(line)))
                except ValueError as error:
                    raise DataError(Where(str(path), number), f"is not JSON ({error}).", "Export it again.") from None
    for number, row in numbered:
        if not isinstance(row, dict):
            raise DataError(Where(str(path), number), f"'{shown(str(row))}' is no JSON object.", "Export it again.")
        yield Record(Where(str(path), number), row)


def count(left_out: dict[str, int], reason: str) -> None:
    """One more record that is no judged answer."""
    left_out[reason] = left_out.get(reason, 0) + 1


def words_in(content: Any) -> str:
    """The words of a message, which may be a bare text or a mapping."""
    return content if isinstance(content, str) else str(content["text"] or "")


def last_asked(messages: Sequence[Message]) -> str:
    """What the user said last; empty where nobody asked."""
    return next((one.content for one in reversed(messages) if one.role == "user"), "")


def judged(case: Case, hit: bool, score: float, details: Mapping[str, Any]) -> Judgement:
    """Their verdict with our reading of the answer's kind."""
    kind, reason = read_kind(case)
    said = {**details, "nonsense": reason} if reason else dict(details)
    return Judgement(kind=kind, success=hit and kind != "nonsense", score=min(max(score, 0.0), 1.0), details=said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a scanner tells of an attempt before its answers."""

    goal: Goal
    attack: str
    family: Family
    index: int = 0
    seed: int = 0
    converters: tuple[str, ...] = ()


def made_attempt(
    told: Told,
    tries: tuple[Try, ...],
    target: Mapping[str, str],
    judge: Mapping[str, str],
    details: Mapping[str, Any],
) -> Attempt:
    """An attempt whose key is a digest of what was told, so that a file read twice is the same attempts."""
    known = [told.goal.id, told.attack, told.converters, told.index, dict(target), dict(judge), dict(details)]
    said = [[*((m.role, m.content) for m in one.messages), one.answer] for one in tries]
    return Attempt(
        key=digest_of([known, said]),
        goal=told.goal,
        attack=told.attack,
        family=told.family,
        converters=told.converters,
        index=told.index,
        seed=told.seed,
        request=last_asked(tries[-1].messages),
        tries=tries,
        target={**target, "model_digest": hashlib.sha256(json.dumps(dict(target)).encode()).hexdigest()},
        judge=judge,
        details=details,
    )
