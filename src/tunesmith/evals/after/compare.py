"""Both sides' replies and what was read off the rows -> the parts of after_training.json, each with its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from tunesmith.evals.after.bias import amplification
from tunesmith.evals.after.echo import compare_echoes
from tunesmith.evals.after.exposure import compare_exposures
from tunesmith.evals.after.gap import seen_against_unseen
from tunesmith.evals.after.retained import compare_retained
from tunesmith.evals.after.rows import RowFacts
from tunesmith.evals.after.sides import Asked, Side
from tunesmith.evals.after.verbatim import verbatim


def compare_sides(asked: Asked, rows: RowFacts, before: Side, after: Side, seed: int) -> dict[str, Any]:
    """Plain values; a part that could not be measured is None."""
    gap, kept = None, None
    if asked.seen and asked.unseen:
        scores = (before.seen, after.seen, before.unseen, after.unseen)
        gap = seen_against_unseen(*scores, seed)
        kept = verbatim(*scores, [str(row.where) for row in asked.seen])
    echo = compare_echoes(rows.secrets, before.echoes, after.echoes) if asked.secrets else None
    canaries = compare_exposures(asked.canaries, before.exposures, after.exposures, seed) if asked.canaries else None
    return {
        "retained": [ability.as_dict() for ability in compare_retained(before.retained, after.retained, seed)],
        "gap": None if gap is None else gap.as_dict(),
        "verbatim": None if kept is None else kept.as_dict(),
        "overlaps": [asdict(overlap) for overlap in rows.overlaps],
        "pii": {
            "trained": dict(rows.secrets.trained),
            "told": dict(rows.secrets.told),
            "echo": None if echo is None else echo.as_dict(),
        },
        "bias": amplification(rows.pronouns, before.male, after.male, seed).as_dict(),
        "canaries": None if canaries is None else canaries.as_dict(),
        "rows": {"read": rows.num_rows, "all": rows.num_all},
    }


def losses_on_the_way(metrics: Sequence[Mapping[str, Any]], kept_step: int) -> dict[str, float] | None:
    """What metrics.jsonl says of the weights that were kept, in nats a token; None where nothing was evaluated.

    train_loss: mean over the steps since the evaluation before, each measured before its own update, so that it lags
    behind eval_loss: the gap between the two understates how much was learnt by heart.
    """
    evaluated = [line["step"] for line in metrics if "eval_loss" in line]
    if kept_step not in evaluated:
        return None
    earlier = max((step for step in evaluated if step < kept_step), default=0)
    train = [line["loss"] for line in metrics if "loss" in line and earlier < line["step"] <= kept_step]
    valid = next(line["eval_loss"] for line in metrics if line["step"] == kept_step and "eval_loss" in line)
    return {"step": kept_step, "train_loss": fmean(train), "eval_loss": valid} if train else None
