"""What a check found, in lines and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.constitution.check import Checked, SampleReport, Scope
from tunesmith.constitution.findings import SEVERITIES, Finding, quoted
from tunesmith.data.check import shown

PLACES_SHOWN, DIGEST_SHOWN = 3, 12
ALWAYS = "always"


def as_dict(checked: Checked) -> dict[str, Any]:
    """For --json."""
    one = checked.constitution
    out: dict[str, Any] = {
        "file": str(checked.path), "name": one.name, "version": one.version, "digest": one.digest,
        "num_principles": len(one.principles), "findings": [found.as_dict() for found in checked.findings],
        "num": checked.num, "principles": [_scope_dict(scope) for scope in checked.scopes],
    }  # fmt: skip
    if (sample := checked.sample) is not None:
        reached = [{name: getattr(row, name) for name in row.__slots__} for row in sample.reached]
        out["sample"] = {name: getattr(sample, name) for name in sample.__slots__} | {"reached": reached}
    return out


def describe(checked: Checked) -> list[str]:
    """The rules as a table, what was found, and what the sample says."""
    one = checked.constitution
    categories = len({rule.category for rule in one.principles})
    lines = [
        f"{shown(one.name)} {shown(one.version)}: {many(len(one.principles), 'principle')} in "
        f"{many(categories, 'category', 'categories')}, digest {one.digest[:DIGEST_SHOWN]}",
        f"{checked.path}",
        "",
        *_table(
            ("principle", "category", "weight", "applies by", "left out", "demonstrations"),
            [_scope_row(scope) for scope in checked.scopes],
        ),
        "",
    ]
    if any(scope.accuracy for scope in checked.scopes):
        lines += [
            "left out: of its prompts under like / unlike, told right by a classifier fitted without it.",
            "",
        ]
    if checked.sample is not None:
        lines += [*_describe_sample(checked.sample, checked.scopes), ""]
    groups = dict[tuple[str, str, str, str], list[Finding]]()
    for found in checked.findings:
        groups.setdefault((found.severity, found.kind, found.cause, found.fix), []).append(found)
    for (severity, _, cause, fix), members in groups.items():
        more = len(members) - PLACES_SHOWN
        lines += [f"{severity}: {member.where}" for member in members[:PLACES_SHOWN]]
        lines += [f"    and {more} more"] * (more > 0)
        lines.append(f"    {cause} {fix}")
    counts = ", ".join(many(checked.num[severity], severity) for severity in SEVERITIES)
    return [*lines, f"{counts}."]


def many(number: int, word: str, plural: str = "") -> str:
    """A number with its noun."""
    return f"{number} {word if number == 1 else plural or word + 's'}"


def how_it_applies(scope: Scope) -> str:
    """always, pattern, examples, or both."""
    applies = scope.principle.applies
    ways = ["pattern"] * (applies.pattern is not None) + ["examples"] * bool(applies.like)
    return " and ".join(ways) or ALWAYS


def _scope_row(scope: Scope) -> tuple[str, ...]:
    one = scope.principle
    left_out = "" if scope.accuracy is None else f"{scope.accuracy[0]:.0%} / {scope.accuracy[1]:.0%}"
    return one.id, shown(one.category), f"{one.weight:g}", how_it_applies(scope), left_out, str(len(one.examples))


def _scope_dict(scope: Scope) -> dict[str, Any]:
    one = scope.principle
    return {
        "id": one.id, "category": one.category, "weight": one.weight, "line": scope.line,
        "applies_by": how_it_applies(scope), "num_demonstrations": scope.num_demonstrations,
        "left_out": None if scope.accuracy is None else {"like": scope.accuracy[0], "unlike": scope.accuracy[1]},
    }  # fmt: skip


def _describe_sample(sample: SampleReport, scopes: Sequence[Scope]) -> list[str]:
    always = {scope.principle.id for scope in scopes if how_it_applies(scope) == ALWAYS}
    rows = list[tuple[str, ...]]()
    for one in sample.reached:
        example = quoted(one.examples[0], 48) if one.examples and one.principle not in always else ""
        rows.append((one.principle, f"{one.num_prompts / sample.num_prompts:.0%}", f"{one.drawn:.0%}", example))
    lines = [f"{many(sample.num_prompts, 'prompt')} of {sample.source}:", ""]
    lines += _table(("principle", "applies", "drawn first", "for example"), rows)
    shares = [f"{shown(name)} {number / sample.num_prompts:.0%}" for name, number in sample.narrowed.items()]
    lines += ["", f"By rules that do not always apply: {', '.join(shares) or 'none'}."]
    lines += [f"{many(sample.num_unreached, 'prompt')} reached by no rule."]
    lines += [f"    {quoted(text)}" for text in sample.unreached]
    return [*lines, *sample.notes]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
