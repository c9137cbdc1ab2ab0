"""What a suffix search came to: how often answers began as wanted and did not refuse, against its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tunesmith.stats import bootstrap_paired_difference, exact_mcnemar, holm_adjusted, newcombe_paired_difference
from tunesmith.stats import wilson_interval as wilson

# The request as it is, without a suffix.
NO_SUFFIX = "none"
OUTCOMES = ("opening", "followed")


def suffix_facts(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Plain facts over the goals that every method has a row of.

    rows: of suffixes.jsonl. by_method: shares with 95 % intervals (Wilson), means over goals. against: the first
    searched method against each other one, on the same goals: McNemar's exact test and Newcombe's interval of the
    difference, for both outcomes; bootstrap of the difference in loss; p adjusted by Holm over them all.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {method: {} for method in methods}
    for row in rows:
        if row["method"] in found:
            found[row["method"]][row["goal"]] = row
    goals = [goal for goal in found[methods[0]] if all(goal in found[method] for method in methods)]
    taken = {method: [found[method][goal] for goal in goals] for method in methods}
    searched = [method for method in methods if method != NO_SUFFIX]
    facts: dict[str, Any] = {"goals": len(goals), "methods": list(methods), "by_method": {}, "against": []}
    if not goals:
        return facts
    facts["by_method"] = {method: _of(own) for method, own in taken.items()}
    if not searched:
        return facts
    first = taken[searched[0]]
    for method in [one for one in methods if one != searched[0]]:
        facts["against"].append(_against(searched[0], first, method, taken[method], seed))
    told = [(one, outcome) for one in facts["against"] for outcome in OUTCOMES]
    for (one, outcome), p in zip(told, holm_adjusted([one[outcome]["p"] for one, outcome in told]), strict=True):
        one[outcome]["p_holm"] = p
    return facts


def _of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for outcome in OUTCOMES:
        share = wilson(sum(row[outcome] for row in rows), len(rows))
        out[outcome] = {"number": sum(row[outcome] for row in rows), "value": share.value, "low": share.low,
                        "high": share.high}  # fmt: skip
    for name in ("loss", "measured", "tokens"):
        out[name] = fmean(row[name] for row in rows)
    out["kinds"] = {
        kind: sum(row["kind"] == kind for row in rows) for kind in ("comply", "partly", "refuse", "nonsense")
    }
    return out


def _against(
    name: str, first: Sequence[Mapping[str, Any]], other: str, second: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    out: dict[str, Any] = {"first": name, "second": other}
    for outcome in OUTCOMES:
        mine, theirs = [bool(row[outcome]) for row in first], [bool(row[outcome]) for row in second]
        test, gap = exact_mcnemar(mine, theirs), newcombe_paired_difference(theirs, mine)
        out[outcome] = {"only_first": test.only_first, "only_second": test.only_second, "p": test.p,
                        "difference": gap.value, "low": gap.low, "high": gap.high}  # fmt: skip
    losses = [[row["loss"] for row in rows] for rows in (second, first)]
    gap = bootstrap_paired_difference(losses[0], losses[1], seed)
    out["loss"] = {"difference": gap.value, "low": gap.low, "high": gap.high}
    return out
