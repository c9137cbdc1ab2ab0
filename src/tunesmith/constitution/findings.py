"""Findings about a constitution: how bad, of which rule, at which line, why, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.data.check import shown
from tunesmith.records import Where

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about one rule, or about two: error, warning or note, its place, the cause and the fix."""

    severity: Severity
    kind: str
    principle: str
    where: Where
    cause: str
    fix: str

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {name: getattr(self, name) for name in ("severity", "kind", "principle", "cause", "fix")} | {
            "place": str(self.where)
        }


@dataclass(slots=True)
class Findings:
    """Findings as they are made, each with its line."""

    path: Path
    constitution: Constitution
    lines: dict[str, int]
    found: list[Finding] = field(default_factory=list)

    def add(self, severity: Severity, kind: str, principle: Principle, key: str, cause: str, fix: str) -> None:
        """Note something about a key of a principle, "" for the principle as a whole."""
        where = Where(self.path.name, self.line(principle, key), f"{principle.id}.{key}" if key else principle.id)
        self.found.append(
            Finding(severity=severity, kind=kind, principle=principle.id, where=where, cause=cause, fix=fix)
        )

    def line(self, principle: Principle, key: str = "") -> int | None:
        """The line of a key, or of the nearest key around it."""
        names = ["principles", str(self.constitution.principles.index(principle)), *filter(None, key.split("."))]
        while names and ".".join(names) not in self.lines:
            names.pop()
        return self.lines.get(".".join(names))


def quoted(text: str, most: int = 60) -> str:
    """A text in quotes on one line, cut if it is long, without characters a terminal would act on."""
    return f"'{shown(' '.join(text.split()), most=most)}'"


def plain(text: str) -> str:
    """Words alone, in small letters: what is compared to find the same said twice."""
    return " ".join(re.findall(r"\w+", text.lower()))
