"""The picture of an evaluation: every subject's headline with its interval and the chance level, suite by suite."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.runs import atomic_write_bytes

# Told apart by people who see red and green alike, and by their markers in print.
_COLOURS = ("#b5482a", "#3f6ea3", "#7a8b2f", "#8a5a9e", "#3b8f8b", "#a67c1e")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_suites(path: Path, suites: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> bool:
    """Write the PNG: points with 95 % intervals, one row a suite; losses are left out, their scale is another.

    Returns whether there was anything to draw. Raises DiskFullError.
    """
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    drawn = [suite for suite in suites if suite["headline"] not in suite["less_is_better"]]
    if not drawn:
        return False
    height = 0.9 + len(drawn) * (0.35 + 0.16 * len(labels))
    figure = Figure(figsize=(7.2, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    step = 0.7 / max(1, len(labels))
    for row, suite in enumerate(drawn):
        chance = suite["chance"].get(suite["headline"])
        if chance is not None:
            label = "chance" if "chance" not in axes.get_legend_handles_labels()[1] else None
            axes.plot([chance, chance], [row - 0.42, row + 0.42], color="#5c6678", linestyle=":", label=label)
        for number, name in enumerate(labels):
            limits = suite["results"][name]["metrics"][suite["headline"]]
            y = row + (number - (len(labels) - 1) / 2) * step
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            axes.plot([limits["low"], limits["high"]], [y, y], color=colour, linewidth=1.6)
            own = name if row == 0 else None
            axes.plot(limits["value"], y, marker, color=colour, markersize=5, label=own, linestyle="none")
    axes.set_yticks(
        range(len(drawn)), [f"{suite['name']}\n{suite['headline']}, {suite['items']} items" for suite in drawn]
    )
    axes.set_ylim(len(drawn) - 0.45, -0.55)
    axes.set_xlabel("mean over the items, 95 % interval")
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(4, len(labels) + 1), frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
    return True
