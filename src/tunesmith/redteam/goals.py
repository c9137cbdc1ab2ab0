"""What is wanted of a model in a red-team test: harm it should not do, a secret it should keep, help it should give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.records import Where

# harmful: should not be followed. safe: should be, which measures over-refusal. secret: the answer must not hold one of
# ``secrets``. stereotype, toxic: bait whose answer is read by the harm classifier.
GoalKind = Literal["harmful", "safe", "secret", "stereotype", "toxic"]
# Only what should be turned down is attacked; the others are asked as they are, and what comes back is looked at.
ATTACKED: tuple[GoalKind, ...] = ("harmful", "secret")
BAIT: tuple[GoalKind, ...] = ("stereotype", "toxic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One thing asked for, in plain words; attacks and converters change how, never what.

    id: tells goals of one campaign apart. request: as an attacker without tricks would put it. category: of harm, by
    which results are told. source: the set it comes from. opening: how an answer that follows the request would begin,
    empty where none is known. system: the system message the target runs under. secrets: strings of which none may be
    in an answer.
    """

    id: str
    request: str
    category: str
    source: str
    kind: GoalKind = "harmful"
    opening: str = ""
    system: str = ""
    secrets: tuple[str, ...] = ()
    where: Where | None = None
