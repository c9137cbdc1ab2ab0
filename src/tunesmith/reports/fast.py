"""Fast adaptation as a picture and as a page: quality over rows and over seconds, a curve a method."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report
from tunesmith.runs import atomic_write_bytes

COLOURS = ("#3f6ea3", "#b5482a", "#4c8a5a", "#8a5aa3", "#a3873f", "#5c6678")


def draw_curves(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Exact match where it was asked, else the validation loss: over rows on the left, over seconds on the right."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    exact = all(point["exact"] for point in points)
    key, times = ("exact", 100.0) if exact else ("loss", 1.0)
    base, methods = points[0], list(dict.fromkeys(point["method"] for point in points[1:]))
    figure = Figure(figsize=(8.4, 3.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, across in zip(panels, ("num_rows", "seconds"), strict=True):
        axes.axhline(times * base[key][0], color="#888888", linestyle="--", linewidth=1, label="base")
        for number, method in enumerate(methods):
            own = [point for point in points if point["method"] == method]
            x, y = [point[across] for point in own], [times * point[key][0] for point in own]
            below = [times * (point[key][0] - point[key][1]) for point in own]
            above = [times * (point[key][2] - point[key][0]) for point in own]
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(x, y, yerr=[below, above], color=colour, marker="o", markersize=4, capsize=2, label=method)
        axes.set_xscale("log")
        axes.set_xlabel("training rows" if across == "num_rows" else "seconds of training")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("exact match, %" if exact else "validation loss, nats a token")
    panels[0].legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def write_fast_report(path: Path, points: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], picture: Path) -> None:
    """The one-file page: the picture and a table."""
    report = Report("Quality against rows and seconds", f"{facts['base']}, {facts['task']}")
    report.text(
        f"Every number of rows is seen {facts['passes']:g} times, and the last weights are measured on the same "
        f"{facts['validation rows']} validation rows. 95 % intervals: a bootstrap over rows for the loss, Wilson's for "
        "exact match. Seconds are of the training alone, on the machine named below."
    )
    report.figure(picture, "Quality over training rows and over seconds")
    rows = [
        [p["method"], p["num_rows"], f"{p['seconds']:.1f}", p.get("num_bytes", 0), _limits(p["loss"]),
         _limits(p["exact"], 100) if p["exact"] else "not asked"]
        for p in points
    ]  # fmt: skip
    report.table(["method", "rows", "seconds", "adapter bytes", "loss, nats", "exact, %"], rows, sortable=True)
    report.footer(facts)
    report.write(path)


def _limits(limits: Sequence[float], times: float = 1.0) -> str:
    value, low, high = (times * x for x in limits)
    digits = 0 if times > 1 else 3
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
