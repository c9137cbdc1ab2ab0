"""What can be told of a constitution before a model reads it: each rule by itself, rules beside each other, a sample.

Only form is looked at. What a rule means, and whether it is right, no program can say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunesmith.config import key_lines
from tunesmith.constitution.applies import Applicability, left_out_right
from tunesmith.constitution.check_one import look_at
from tunesmith.constitution.check_pairs import look_at_pairs
from tunesmith.constitution.findings import SEVERITIES, Finding, Findings, Severity, quoted
from tunesmith.constitution.principles import Constitution, Principle, find_constitution, load_constitution
from tunesmith.data.prompts import PromptRow
from tunesmith.retrieval.dense import Encode

# Of the prompts a rule reaches and of those no rule reaches so many are shown.
SHOWN = 3
# A classifier that tells fewer of its own prompts right, each left out once, than this (half would be chance).
WEAK = 0.7
CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One rule in numbers. ``accuracy``: of its classifier, (like, unlike) told right with each left out once."""

    principle: Principle
    line: int
    accuracy: tuple[float, float] | None
    num_demonstrations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One rule on a sample: prompts it applies to, the share of first draws it gets, some of those prompts."""

    principle: str
    num_prompts: int
    drawn: float
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReport:
    """A sample of prompts under a constitution; unreached: the first of the prompts that no rule applies to.

    narrowed: category -> prompts that one of its rules applies to which does not always apply.
    """

    source: str
    num_prompts: int
    reached: tuple[Reached, ...]
    narrowed: Mapping[str, int]
    num_unreached: int
    unreached: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """All that a check found; findings: the worst first, then in the order of the file."""

    path: Path
    constitution: Constitution
    scopes: tuple[Scope, ...]
    findings: tuple[Finding, ...]
    sample: SampleReport | None = None

    @property
    def num(self) -> dict[str, int]:
        """Severity -> findings."""
        return {one: sum(found.severity == one for found in self.findings) for one in SEVERITIES}


def check_constitution(
    name_or_path: str | Path,
    *,
    encode: Encode | None = None,
    count_tokens: CountTokens | None = None,
    context_tokens: int = 2048,
    sample: Sequence[PromptRow] | None = None,
    sample_name: str = "",
) -> Checked:
    """Read a constitution and look for what is wrong with its form.

    count_tokens: the tokens of a text, about a quarter of its bytes where it is None; context_tokens: of the model that
    is to criticise. Raises ConfigError for a file that cannot be read, MissingExtraError where a rule has examples of
    prompts and the sentence encoder is not installed.
    """
    path = find_constitution(name_or_path)
    constitution = load_constitution(name_or_path)
    findings = Findings(path, constitution, key_lines(path))
    applicability = Applicability(constitution, encode)
    for one in constitution.principles:
        look_at(one, findings, count_tokens or _about, context_tokens)
    look_at_pairs(constitution, applicability, findings)
    _look_at_reach(constitution, applicability, findings)
    scopes = tuple(_scope(one, applicability, findings) for one in constitution.principles)
    report = None if sample is None else _look_at_sample(sample, sample_name, applicability, findings)
    order = {name: place for place, name in enumerate(SEVERITIES)}
    ordered = sorted(findings.found, key=lambda one: (order[one.severity], one.where.line or 0))
    return Checked(path=path, constitution=constitution, scopes=scopes, findings=tuple(ordered), sample=report)


def _about(text: str) -> int:
    return math.ceil(len(text.encode()) / 4)


def _look_at_reach(constitution: Constitution, applicability: Applicability, findings: Findings) -> None:
    """Rules that are never drawn, or miss their own prompts."""
    if not any(one.weight for one in constitution.principles):
        first = constitution.principles[0]
        findings.add("error", "never-drawn", first, "weight", "all weights are 0: no rule is ever drawn.", "Raise one.")
    for one in constitution.principles:
        shots_found = applicability.of_texts([shot.prompt for shot in one.examples])
        for number, (shot, found) in enumerate(zip(one.examples, shots_found, strict=True)):
            if one not in found:
                # Where it finds no fault, a prompt it is not for may be meant.
                findings.add(
                    "warning" if shot.fault else "note", "demonstration-outside", one, f"examples.{number}",
                    f"the rule does not apply to the prompt of its own demonstration, {quoted(shot.prompt)}.",
                    "Widen `applies`, or take another prompt.",
                )  # fmt: skip
        for side, wanted, word in (("like", True, "does not apply to"), ("unlike", False, "applies to")):
            texts = one.applies.like if wanted else one.applies.unlike
            missed = [
                text
                for text, found in zip(texts, applicability.of_texts(texts), strict=True)
                if (one in found) is not wanted
            ]
            if missed and wanted and len(missed) == len(texts):
                findings.add(
                    "error", "unreachable", one, "applies", "it applies to none of the prompts it is said to be for.",
                    "Let the pattern and the prompts of `like` agree.",
                )  # fmt: skip
            elif missed:
                severity: Severity = "warning" if len(missed) > len(texts) / 4 else "note"
                findings.add(
                    severity, "own-prompts", one, f"applies.{side}",
                    f"it {word} {len(missed)} of {len(texts)} prompts under `{side}`, as {quoted(missed[0])}.",
                    "Add prompts near that one, or let the pattern say it." if wanted else "Add prompts near that one.",
                )  # fmt: skip


def _scope(one: Principle, applicability: Applicability, findings: Findings) -> Scope:
    accuracy = None
    if one.applies.like:
        vectors = applicability.vectors
        like, unlike = left_out_right(vectors.of(one.applies.like), vectors.of(one.applies.unlike))
        accuracy = float(np.mean(like)), float(np.mean(unlike))
        if sum(accuracy) / 2 < WEAK:
            findings.add(
                "warning", "weak-classifier", one, "applies",
                f"with each prompt left out once, its classifier tells {accuracy[0]:.0%} of `like` and "
                f"{accuracy[1]:.0%} of `unlike` right: it will miss others.", "Add prompts, or use a pattern.",
            )  # fmt: skip
    line = findings.line(one) or 0
    return Scope(principle=one, line=line, accuracy=accuracy, num_demonstrations=len(one.examples))


def _look_at_sample(
    sample: Sequence[PromptRow], name: str, applicability: Applicability, findings: Findings
) -> SampleReport:
    applying = applicability.applying([row.messages for row in sample])
    reached = []
    for one in applicability.constitution.principles:
        mine = [place for place, found in enumerate(applying) if one in found]
        drawn = sum(one.weight / total for place in mine if (total := sum(other.weight for other in applying[place])))
        # Those that few rules apply to say the most about this one.
        telling = sorted(mine, key=lambda place: len(applying[place]))[:SHOWN]
        examples = tuple(sample[place].messages[-1].content for place in telling)
        share = drawn / max(len(sample), 1)
        reached.append(Reached(principle=one.id, num_prompts=len(mine), drawn=share, examples=examples))
        if not mine:
            findings.add(
                "note", "not-in-sample", one, "applies", f"it applies to none of {len(sample)} prompts of the sample.",
                "Nothing, if the sample holds no prompt it is for.",
            )  # fmt: skip
    narrowed = Counter(
        category
        for found in applying
        for category in {one.category for one in found if one.applies.pattern is not None or one.applies.like}
    )
    without = [place for place, found in enumerate(applying) if not any(one.weight for one in found)]
    return SampleReport(
        source=name,
        num_prompts=len(sample),
        reached=tuple(reached),
        narrowed=dict(sorted(narrowed.items())),
        num_unreached=len(without),
        unreached=tuple(sample[place].messages[-1].content for place in without[:SHOWN]),
        notes=tuple(applicability.notes()),
    )
