"""Training rows completed word for word: does the model go on exactly as a row does, once it is given the beginning?

Greedy decoding gives back a continuation exactly when each of its tokens is the likeliest after those before it, so
one reading of the row answers it and nothing need be generated. Source: Carlini et al. 2023, arXiv:2202.07646, whose
continuations have 50 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.evals.after.scores import RowScore
from tunesmith.stats import (
    Interval,
    McNemar,
    exact_mcnemar,
    newcombe_difference,
    wilson_interval,
)

MIN_TOKENS, MAX_TOKENS = 8, 50
MODELS = ("base", "tuned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verbatim:
    """Shares of rows completed exactly from their first half.

    seen_over_unseen: of the tuned model, so that what is merely predictable (fixed forms, echoes of the prompt) counts
    for nothing. against_base: the same seen rows before and after. num_short: rows left out for being too short.
    rows: places of the seen rows that only the tuned model completes.
    """

    num_seen: int
    num_unseen: int
    num_short: int
    seen: dict[str, Interval]
    unseen: dict[str, Interval]
    seen_over_unseen: Interval
    against_base: McNemar
    rows: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; intervals as value, low and high."""
        return asdict(self)


def completed(score: RowScore) -> bool | None:
    """Whether the second half of a row, at most MAX_TOKENS of it, is given back; None for fewer than MIN_TOKENS."""
    tail = score.greedy_T[score.num_tokens // 2 :][:MAX_TOKENS]
    return bool(tail.all()) if len(tail) >= MIN_TOKENS else None


def verbatim(
    base_seen: Sequence[RowScore],
    tuned_seen: Sequence[RowScore],
    base_unseen: Sequence[RowScore],
    tuned_unseen: Sequence[RowScore],
    places: Sequence[str],
) -> Verbatim | None:
    """Completions of seen rows (places: where each stands) and of unseen ones; None where all of a side are short."""
    seen = [
        (completed(base), completed(tuned), place)
        for base, tuned, place in zip(base_seen, tuned_seen, places, strict=True)
    ]
    unseen = [(completed(base), completed(tuned)) for base, tuned in zip(base_unseen, tuned_unseen, strict=True)]
    long_seen = [row for row in seen if row[0] is not None]
    long_unseen = [row for row in unseen if row[0] is not None]
    if not long_seen or not long_unseen:
        return None
    shares = {
        side: {model: wilson_interval(sum(bool(row[i]) for row in rows), len(rows)) for i, model in enumerate(MODELS)}
        for side, rows in (("seen", [row[:2] for row in long_seen]), ("unseen", long_unseen))
    }
    return Verbatim(
        num_seen=len(long_seen),
        num_unseen=len(long_unseen),
        num_short=len(seen) + len(unseen) - len(long_seen) - len(long_unseen),
        seen=shares["seen"],
        unseen=shares["unseen"],
        seen_over_unseen=newcombe_difference(shares["seen"]["tuned"], shares["unseen"]["tuned"]),
        against_base=exact_mcnemar([bool(row[0]) for row in long_seen], [bool(row[1]) for row in long_seen]),
        rows=[place for base, tuned, place in long_seen if tuned and not base],
    )
