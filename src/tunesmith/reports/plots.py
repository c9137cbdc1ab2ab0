"""Pictures people would rather look at."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tunesmith.runs import atomic_write_bytes

TRAINING, TREND, VALIDATION = "#c3d3e4", "#3f6ea3", "#b5482a"
# Fewer points than this are read as they are; more need a trend line to be read at all.
TREND_FROM_POINTS = 20


def loss_curve(
    metrics: Sequence[Mapping[str, Any]], path: Path, *, best_step: int = 0, unit: str = "nats a token"
) -> None:
    """Training and validation loss over steps as a PNG; the step whose weights were kept is marked.

    metrics: lines of metrics.jsonl; unit: of their losses. The training loss of many steps also gets its mean over a
    tenth of them. Raises DiskFullError.
    """
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    train = [(row["step"], row["loss"]) for row in metrics if "loss" in row]
    valid = [(row["step"], row["eval_loss"]) for row in metrics if "eval_loss" in row]
    figure = Figure(figsize=(7.2, 4.0), dpi=130, layout="constrained")
    axes = figure.subplots()
    if train:
        steps, losses = zip(*train, strict=True)
        many = len(train) >= TREND_FROM_POINTS
        axes.plot(steps, losses, color=TRAINING if many else TREND, linewidth=1.0, label="training, each step")
        if many:
            axes.plot(
                steps, _centred_mean(losses, len(train) // 20), color=TREND, label="training, mean of nearby steps"
            )
    if valid:
        axes.plot(*zip(*valid, strict=True), color=VALIDATION, marker="o", markersize=4, label="validation")
    kept = [point for point in valid if point[0] == best_step]
    if kept and best_step > 0:
        kept_label = f"kept: step {kept[-1][0]}, {kept[-1][1]:.3f}"
        axes.plot(*kept[-1], "o", markersize=11, markerfacecolor="none", color=VALIDATION, label=kept_label)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(f"loss, {unit}")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if train or valid:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "no loss was logged", ha="center", va="center", transform=axes.transAxes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def _centred_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean of each value with as many neighbours on both sides, at most ``reach``: it neither lags nor leads."""
    out = []
    for i in range(len(values)):
        near = min(reach, i, len(values) - 1 - i)
        out.append(fmean(values[i - near : i + near + 1]))
    return out
