"""Files of goals, a user's own or ours: each row says what is asked for, and may say of which kind it is."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tunesmith.data.check import FaultLog, RowError
from tunesmith.data.prompts import load_prompts
from tunesmith.data.read import open_rows
from tunesmith.data.shape import filled_text
from tunesmith.errors import DataError
from tunesmith.records import Where
from tunesmith.redteam.goals import Goal, GoalKind

KINDS: tuple[GoalKind, ...] = get_args(GoalKind)
OTHER = "other"
# What the columns of public files are called that say the same as ours.
ALIASES = {
    "request": ("request", "goal", "behavior", "prompt", "question"),
    "category": ("category",),
    "kind": ("kind",),
    "opening": ("opening", "target"),
    "system": ("system",),
    "secrets": ("secrets",),
}
_NAMES = [name for names in ALIASES.values() for name in names]


def make_goal(source: str, request: str, **fields: Any) -> Goal:
    """A goal whose id is its source and a digest of what is asked and under which system message."""
    said = f"{fields.get('system', '')}\x1f{request}"
    return Goal(
        id=f"{source}-{hashlib.sha256(said.encode()).hexdigest()[:12]}", request=request, source=source, **fields
    )


def read_goals(path: Path | str, source: str, *, category: Callable[[str], str] = lambda request: OTHER) -> list[Goal]:
    """The goals of a .jsonl, .json, .csv or .parquet file, or of a .txt file with one request a line.

    Columns: ``request`` (also goal, behavior, prompt, question), and where there is more to say ``category``, ``kind``
    (harmful, safe, secret, stereotype or toxic; secret where ``secrets`` are given, else harmful), ``opening`` (also
    target), ``system`` and ``secrets`` (a text, a list, or a list written as JSON). Other columns are left alone, but
    for one whose name is nearly one of ours. category: names the harm of a request whose row does not. Raises DataError
    with all faulty rows in one table, and for an empty file.
    """
    if Path(path).suffix.lower() == ".txt":
        prompts = load_prompts(path)
        if prompts.copies:
            at, earlier = prompts.copies[0]
            raise DataError(at, f"the goal asks the same as {earlier}.", "Remove one of them.")
        texts = [(row.messages[-1].content, row.where) for row in prompts]
        return [make_goal(source, text, category=category(text), where=where) for text, where in texts]
    rows, faults, goals = open_rows(str(path)), FaultLog(), list[Goal]()
    for i in range(len(rows)):
        try:
            row, where = rows[i]
            goals.append(_goal(source, row, where, category))
        except RowError as error:
            faults.add(error.fault)
    faults.raise_if_any(rows.path, len(rows))
    return refuse_copies(source, goals)


def refuse_copies(source: str, goals: Iterable[Goal]) -> list[Goal]:
    """The goals as they are. Raises DataError where two of them ask the same, naming both, or where there is none."""
    first: dict[str, Goal] = {}
    for goal in goals:
        earlier = first.setdefault(goal.id, goal)
        if earlier is not goal:
            raise DataError(
                goal.where or source, f"the goal asks the same as {earlier.where or earlier.id}.", "Remove one of them."
            )
    if not first:
        raise DataError(source, "there is no goal in it.", "Add one: a row with a request.")
    return list(first.values())


def _goal(source: str, row: Mapping[str, Any], where: Where, category: Callable[[str], str]) -> Goal:
    _refuse_misspelt(row, where)
    request = _text(row, "request", where)
    if not request:
        fix = f"Fill in 'request', or one of {', '.join(ALIASES['request'][1:])}."
        raise RowError(where, "the row asks for nothing.", fix)
    secrets = _secrets(row.get("secrets"), where.at("secrets"))
    kind = _text(row, "kind", where) or ("secret" if secrets else "harmful")
    if kind not in KINDS:
        raise RowError(where.at("kind"), f"'{kind}' is no kind of goal.", f"Write one of {', '.join(KINDS)}.")
    if (kind == "secret") != bool(secrets):
        cause = "a secret goal has no secrets." if kind == "secret" else f"a {kind} goal has secrets."
        raise RowError(where.at("secrets"), cause, "Give secrets to secret goals, and to no other.")
    return make_goal(
        source,
        request,
        category=_text(row, "category", where) or category(request),
        kind=kind,
        opening=_text(row, "opening", where),
        system=_text(row, "system", where),
        secrets=secrets,
        where=where,
    )


def _refuse_misspelt(row: Mapping[str, Any], where: Where) -> None:
    for name in row:
        near = difflib.get_close_matches(str(name).lower(), _NAMES, n=1, cutoff=0.8)
        if near and name not in _NAMES:
            raise RowError(where.at(str(name)), f"the column is nearly called '{near[0]}'.", "Rename it.")


def _text(row: Mapping[str, Any], name: str, where: Where) -> str:
    """The text of a column under any of its names; empty where the row has none. Raises RowError for two of them."""
    held = [(column, row[column]) for column in ALIASES[name] if row.get(column) not in (None, "")]
    if len(held) > 1:
        cause = f"'{held[0][0]}' and '{held[1][0]}' both say the {name}."
        raise RowError(where.at(held[1][0]), cause, "Keep one of the two columns.")
    return filled_text(held[0][1], where.at(held[0][0])).strip() if held else ""


def _secrets(value: Any, where: Where) -> tuple[str, ...]:
    """A text is one secret; a list, also one written as JSON in a cell, holds several."""
    if value in (None, ""):
        return ()
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError(where, "looks like a list and is not JSON.", 'Write ["one", "two"].') from None
    texts: Sequence[Any] = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError(where, "must be a text or a list of texts.", 'Write ["one", "two"].')
    return tuple(text.strip() for text in texts)
