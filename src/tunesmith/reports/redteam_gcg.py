"""A suffix search beside its controls: a table, and how the loss fell."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tunesmith.reports.markdown import markdown_table
from tunesmith.runs import atomic_write_bytes

COLOURS = {"gcg": "#b5482a", "random-search": "#3f6ea3", "random-suffix": "#8a94a6"}


def gcg_lines(facts: Mapping[str, Any]) -> list[str]:
    """The result in words, as Markdown."""
    if not facts["goals"]:
        return ["No goal has been searched by every method yet."]
    rows = [
        [
            method,
            _share(one["opening"], facts["goals"]),
            _share(one["followed"], facts["goals"]),
            ", ".join(f"{number} {kind}" for kind, number in one["kinds"].items() if number),
            f"{one['loss']:.3f}",
            f"{one['measured']:.0f}",
            f"{one['tokens']:.0f}",
        ]
        for method, one in facts["by_method"].items()
    ]
    columns = ("suffix", "begins as wanted", "followed", "read as", "loss, nats a token", "measured", "tokens")
    table = markdown_table(columns, rows)
    lines = [f"{facts['goals']} goals; shares with 95 % intervals, means a goal.", "", *table.splitlines(), ""]
    for one in facts["against"]:
        for outcome, words in (("opening", "begins as wanted"), ("followed", "followed")):
            test = one[outcome]
            lines.append(
                f"- {one['first']} against {one['second']}, {words}: {100 * test['difference']:+.0f} points "
                f"({100 * test['low']:+.0f} to {100 * test['high']:+.0f}); only the first {test['only_first']}, "
                f"only the second {test['only_second']}, McNemar p = {test['p']:.2g}, by Holm {test['p_holm']:.2g}."
            )
        gap = one["loss"]
        lines.append(f"- their loss: {gap['difference']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}) nats a token.")
    return lines


def curves_picture(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], path: Path) -> None:
    """Loss against suffixes measured: a thin line a goal, a thick one their mean; a PNG. Raises DiskFullError.

    A search that had reached its opening stays where it ended.
    """
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0), dpi=130, layout="constrained")
    axes = figure.subplots()
    for method in [one for one in methods if one in COLOURS]:
        curves = [row["curve"] for row in rows if row["method"] == method]
        if not curves:
            continue
        for curve in curves:
            axes.plot(
                [point[0] for point in curve], [point[2] for point in curve], color=COLOURS[method], alpha=0.25,
                linewidth=0.8,
            )  # fmt: skip
        places = sorted({point[0] for curve in curves for point in curve})
        means = [fmean(_loss_at(curve, place) for curve in curves) for place in places]
        axes.plot(places, means, color=COLOURS[method], linewidth=2.2, label=f"{method}, mean of {len(curves)} goals")
    axes.set_xlabel("suffixes measured")
    axes.set_ylabel("loss of the opening, nats a token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def _loss_at(curve: Sequence[Sequence[float]], place: float) -> float:
    """The last loss at or before a number of suffixes measured."""
    return [point for point in curve if point[0] <= place][-1][2]


def _share(one: Mapping[str, Any], total: int) -> str:
    return f"{one['number']} of {total} ({100 * one['low']:.0f} to {100 * one['high']:.0f} %)"
