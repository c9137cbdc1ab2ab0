"""Pictures people would rather look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def loss_curve(metrics: Sequence[Mapping[str, Any]], path: Path, *, best_step: int = 0) -> None:
    """Training and validation loss (nats a token) over steps as a PNG; the step whose weights were kept is marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [(row["step"], row["loss"]) for row in metrics if "loss" in row]
    valid = [(row["step"], row["eval_loss"]) for row in metrics if "eval_loss" in row]
    figure, axes = plt.subplots(figsize=(7.2, 4.0), dpi=130)
    if train:
        axes.plot(*zip(*train, strict=True), color="#9bb7d4", linewidth=1.2, label="training, each step")
    if valid:
        axes.plot(*zip(*valid, strict=True), color="#b5482a", marker="o", markersize=4, label="validation")
        kept = [point for point in valid if point[0] == best_step]
        if kept:
            axes.plot(*kept[-1], "o", markersize=10, markerfacecolor="none", color="#b5482a", label="kept")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss, nats a token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
