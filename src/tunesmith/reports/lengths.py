"""How long rows are: bars for a terminal and a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.runs import atomic_write_bytes

BAR_CHARACTERS = 40
MAX_BINS = 12
_BLOCKS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Rows by length: bin i holds the lengths from edges[i] to below edges[i + 1]; the last bin is open."""

    unit: str
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    quantiles: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"unit": self.unit, "edges": self.edges, "counts": self.counts, **self.quantiles}


def histogram(lengths: NDArray[Any], unit: str) -> Histogram:
    """Bins of a round width that hold 99 % of the rows, and one for the rest; lengths (N,), whole numbers."""
    if not len(lengths):
        return Histogram(unit, (0,), (0,), {})
    names = {"min": 0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1}
    quantiles = {name: int(np.quantile(lengths, share, method="nearest")) for name, share in names.items()}
    rough = max(1, quantiles["p99"] / (MAX_BINS - 1))
    power = 10 ** math.floor(math.log10(rough))
    width = math.ceil(next(step * power for step in (1, 2, 5, 10) if step * power >= rough))
    first = quantiles["min"] // width
    edges = tuple(width * i for i in range(first, max(quantiles["p99"] // width, first) + 1))
    inner = np.searchsorted(np.array(edges), lengths, side="right") - 1
    if quantiles["max"] >= edges[-1] + width:
        edges = (*edges, edges[-1] + width)
        inner = np.searchsorted(np.array(edges), lengths, side="right") - 1
    return Histogram(unit, edges, tuple(int(n) for n in np.bincount(inner, minlength=len(edges))), quantiles)


def bars(shape: Histogram) -> list[str]:
    """One line a bin: from which length on, how many rows, and a bar."""
    longest = max(shape.counts)
    label = max(len(str(edge)) for edge in shape.edges)
    number = len(str(longest))
    lines = []
    for i, (edge, count) in enumerate(zip(shape.edges, shape.counts, strict=True)):
        eighths = round(8 * BAR_CHARACTERS * count / longest) if longest else 0
        eighths = max(eighths, 1 if count else 0)
        bar = "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")
        more = "+" if i == len(shape.edges) - 1 else " "
        lines.append(f"{edge:>{label}}{more} {count:>{number}} {bar}".rstrip())
    return lines


def length_picture(lengths: NDArray[Any], unit: str, path: Path, *, marks: Sequence[tuple[str, int]] = ()) -> None:
    """A histogram as a PNG with the median, the 90th percentile and further marks (label, length) as lines.

    Rows beyond the 99.5th percentile are counted in the title instead of drawn. Raises DiskFullError.
    """
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    end = int(np.quantile(lengths, 0.995, method="higher")) if len(lengths) else 1
    drawn = lengths[lengths <= end]
    # Whole bars of whole numbers: a width that is no whole number would leave gaps in the picture.
    width = max(1, math.ceil((end + 1) / 60))
    axes.hist(drawn, bins=list(range(0, end + width + 1, width)), color="#3f6ea3")
    shown = [("median", int(np.median(lengths))), ("90 %", int(np.quantile(lengths, 0.9)))] if len(lengths) else []
    for (name, value), style in zip([*shown, *marks], ("-", "--", ":", ":"), strict=False):
        if value <= 1.5 * end:
            axes.axvline(value, color="#b5482a", linestyle=style, linewidth=1.2, label=f"{name}: {value}")
    beyond = len(lengths) - len(drawn)
    title = f"{len(lengths)} rows" + (f", {beyond} longer than {end} not drawn" if beyond else "")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"{unit} a row")
    axes.set_ylabel("rows")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if shown:
        axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
