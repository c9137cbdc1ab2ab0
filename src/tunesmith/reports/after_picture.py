"""Abilities before and after tuning as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.runs import atomic_write_bytes

BASE, TUNED, CHANCE = "#8a94a6", "#b5482a", "#c3cad6"


def abilities_picture(abilities: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Share right of each kind of question, base above tuned, with 95 % intervals; a PNG. Raises DiskFullError."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    asked = [one for one in abilities if one["unit"] == "right"]
    figure = Figure(figsize=(7.2, 0.6 + 0.55 * len(asked)), dpi=130, layout="constrained")
    axes = figure.subplots()
    for side, colour, shift in (("base", BASE, -0.14), ("tuned", TUNED, 0.14)):
        values = [100 * one[side]["value"] for one in asked]
        reach = [
            [value - 100 * one[side]["low"] for value, one in zip(values, asked, strict=True)],
            [100 * one[side]["high"] - value for value, one in zip(values, asked, strict=True)],
        ]
        places = [i + shift for i in range(len(asked))]
        axes.errorbar(values, places, xerr=reach, fmt="o", markersize=5, color=colour, linewidth=1.4, label=side)
    axes.axvline(25, color=CHANCE, linewidth=1.2, linestyle="--", zorder=0, label="chance")
    axes.set_yticks(range(len(asked)), [f"{one['kind']} ({one['num_items']})" for one in asked])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, % with 95 % interval")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
