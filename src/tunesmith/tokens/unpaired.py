"""Answers judged alone (a thumb, a flag) grouped by prompt, and the mismatched answers KTO measures its drift on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.errors import DataError
from tunesmith.randomness import permutation
from tunesmith.records import Example, Where
from tunesmith.tokens.preference import RenderedGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedGroup:
    """K answers to one prompt, each good or bad, and another prompt's answer behind this one's prompt."""

    examples: tuple[Example, ...]
    desirable: tuple[bool, ...]
    mismatched: Example
    row_id: int
    where: Where


def unpair(
    groups: Sequence[RenderedGroup], seed: int, *, max_tokens: int, place: str
) -> tuple[list[UnpairedGroup], int]:
    """(groups, answers left out because their verdicts are even): a grade above 0.5 is good, one below bad.

    Answers known by pairs instead count as good or bad where every pair of theirs agrees. The answer of another prompt
    is picked by ``seed`` alone, each prompt's once, and cut where it would pass ``max_tokens``. Raises DataError for
    fewer than two prompts, of which none could be mismatched.
    """
    judged = [
        (group, verdicts)
        for group, verdicts in ((group, _verdicts(group)) for group in groups)
        if any(verdict is not None for verdict in verdicts)
    ]
    left_out = sum(len(group.examples) for group in groups) - sum(v is not None for _, vs in judged for v in vs)
    if len(judged) < 2:
        raise DataError(
            place,
            f"{len(judged)} prompts with a judged answer; KTO compares with answers to another prompt.",
            "Give at least two prompts with a verdict each.",
        )
    order = permutation(len(judged), seed, "kto_mismatch")
    # Each prompt gets the answers of the one behind it in a random circle, never its own.
    donor = {order[i - 1]: order[i] for i in range(len(order))}
    out = []
    for i, (group, verdicts) in enumerate(judged):
        kept = [k for k, verdict in enumerate(verdicts) if verdict is not None]
        out.append(
            UnpairedGroup(
                examples=tuple(group.examples[k] for k in kept),
                desirable=tuple(bool(verdicts[k]) for k in kept),
                mismatched=_mismatch(group.examples[kept[0]], judged[donor[i]][0].examples[0], max_tokens),
                row_id=group.row_id,
                where=group.where,
            )
        )
    return out, left_out


def _verdicts(group: RenderedGroup) -> list[bool | None]:
    """For each answer whether it is good, None where verdicts are absent or even."""
    if group.ratings:
        return [None if grade is None or grade == 0.5 else grade > 0.5 for grade in group.ratings]
    better, worse = {pair.better for pair in group.pairs}, {pair.worse for pair in group.pairs}
    return [None if (k in better) == (k in worse) else k in better for k in range(len(group.examples))]


def _mismatch(own: Example, other: Example, max_tokens: int) -> Example:
    """One example's prompt with another's answer, from its first token in the loss to its last."""
    begin = int(np.flatnonzero(own.loss_weight)[0])
    trained = np.flatnonzero(other.loss_weight)
    answer = slice(int(trained[0]), int(trained[-1]) + 1)
    weight = np.concatenate([np.zeros(begin, np.float32), other.loss_weight[answer]])
    ids = np.concatenate([own.ids[:begin], other.ids[answer]])
    return replace(own, ids=ids[:max_tokens], loss_weight=weight[:max_tokens])
