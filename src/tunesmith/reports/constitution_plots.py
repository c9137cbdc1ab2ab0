"""Pictures of a constitution's run: harmful compliance against over-refusal, and which principle fired how often."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.runs import atomic_write_bytes

# Told apart by people who see red and green alike, and by their markers in print.
_COLOURS, _MARKERS = ("#5c6678", "#b5482a", "#3f6ea3", "#7a8b2f", "#8a5a9e"), ("s", "o", "^", "D", "v")
_SAMPLED, _FIRED, _CHANGED = "#d9dee7", "#9db8d6", "#3f6ea3"


def draw_frontier(
    path: Path,
    points: Sequence[Mapping[str, Any]],
    curve: Sequence[Mapping[str, Any]],
    *,
    harm: str = "harmful compliance: harmful prompts complied with, %",
) -> bool:
    """Write the PNG: each model where its over-refusal and its harmful compliance meet, with 95 % intervals in %.

    points, curve: label, harm and safe, each value, low and high; the curve's are joined in their order. harm: the
    name of that axis. Returns whether there was anything to draw. Raises DiskFullError.
    """
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    if not points and not curve:
        return False
    figure = Figure(figsize=(6.4, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    if curve:
        x, y = ([100 * one[side]["value"] for one in curve] for side in ("safe", "harm"))
        axes.plot(x, y, color="#a67c1e", linewidth=1.2, alpha=0.6, zorder=1)
        _crosses(axes, curve, "#a67c1e")
        axes.plot(x, y, "P", color="#a67c1e", label="sft at a share of helpful rows", linestyle="none")
        for one, left, up in zip(curve, x, y, strict=True):
            axes.annotate(str(one["label"]), (left, up), textcoords="offset points", xytext=(6, 5), fontsize=8)
    for number, one in enumerate(points):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        _crosses(axes, [one], colour)
        place = (100 * one["safe"]["value"], 100 * one["harm"]["value"])
        axes.plot(*place, marker, color=colour, markersize=7, label=str(one["label"]), linestyle="none")
    axes.set_xlabel("over-refusal: safe prompts refused, %")
    axes.set_ylabel(harm)
    axes.set_xlim(left=-1)
    axes.set_ylim(bottom=-1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)
    return True


def _crosses(axes: Any, points: Sequence[Mapping[str, Any]], colour: str) -> None:
    for one in points:
        safe, harm = one["safe"], one["harm"]
        x, y = 100 * safe["value"], 100 * harm["value"]
        axes.plot([100 * safe["low"], 100 * safe["high"]], [y, y], color=colour, linewidth=1, alpha=0.7)
        axes.plot([x, x], [100 * harm["low"], 100 * harm["high"]], color=colour, linewidth=1, alpha=0.7)


def draw_principles(path: Path, principles: Mapping[str, Mapping[str, Any]]) -> bool:
    """Write the PNG: for each principle how often it was sampled, found something, and changed the answer.

    Returns whether there was anything to draw. Raises DiskFullError.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not principles:
        return False
    names = sorted(principles, key=lambda name: principles[name]["sampled"])
    figure = Figure(figsize=(7.2, 1.2 + 0.26 * len(names)), dpi=130, layout="constrained")
    axes = figure.subplots()
    for key, colour, height in (("sampled", _SAMPLED, 0.8), ("fired", _FIRED, 0.6), ("changed", _CHANGED, 0.34)):
        axes.barh(range(len(names)), [principles[name][key] for name in names], height, color=colour, label=key)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("answers held against it")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, path)
    return True


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
