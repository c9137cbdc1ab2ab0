"""Rankings written ``B > C > A``, ties as ``=``: the text and the candidates it names -> tiers."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.data.parse import json_type
from tunesmith.records import Where


def parse_ranking(text: Any, names: Iterable[str], where: Where) -> tuple[tuple[str, ...], ...]:
    """Tiers of names, the best first; names joined by ``=`` share a tier.

    Raises RowError unless the ranking holds every one of ``names`` exactly once and no other.
    """
    if not isinstance(text, str):
        raise RowError(where, "a ranking is expected.", "Write it as 'B > C > A'.", detail=f"it is {json_type(text)}")
    tiers = tuple(tuple(name.strip() for name in tier.split("=")) for tier in text.split(">"))
    known, seen = list(names), set[str]()
    for name in (name for tier in tiers for name in tier):
        if not name:
            raise RowError(where, "the ranking has a gap.", "Write it as 'B > C > A', ties as 'B = C > A'.")
        if name not in known:
            fix = "Name only candidates of the row; a list of candidates is named A, B, C in its order."
            raise RowError(where, "the ranking names an unknown candidate.", fix, detail=f"'{shown(name)}'")
        if name in seen:
            fix = "Keep one of its places."
            raise RowError(where, "the ranking names a candidate twice.", fix, detail=f"'{shown(name)}'")
        seen.add(name)
    missing = [name for name in known if name not in seen]
    if missing:
        listed = ", ".join(f"'{shown(name)}'" for name in missing)
        fix = "Give every candidate its place, or remove it from the candidates."
        raise RowError(where, "the ranking leaves a candidate out.", fix, detail=listed)
    return tiers


def named_candidates(value: Any, where: Where) -> Mapping[str, Any]:
    """Name -> answer, from an object, or from a list whose items are called A, B, C in its order. Raises RowError."""
    if isinstance(value, list):
        letters = string.ascii_uppercase
        if len(value) > len(letters):
            fix = 'Name them: {"candidates": {"a1": ..., "a2": ...}}.'
            raise RowError(where, f"a list holds more than {len(letters)} candidates.", fix)
        value = dict(zip(letters, value, strict=False))
    if not isinstance(value, dict):
        fix = 'Write {"A": "...", "B": "..."}, or a list of answers.'
        raise RowError(where, "candidates are expected.", fix, detail=f"it is {json_type(value)}")
    # Tables put null where a row has no candidate of a name that others have.
    named = {str(name): answer for name, answer in value.items() if answer is not None}
    if len(named) < 2:
        raise RowError(where, "fewer than two candidates cannot be ranked.", "Add one, or remove the row.")
    return named
