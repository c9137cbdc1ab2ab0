"""A picture of how finely tokenizers cut the same text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.runs import atomic_write_bytes

BARS = {"tokens_a_word": ("#3f6ea3", "tokens a word (fewer is shorter)"), "bytes_a_token": ("#b5482a", "bytes a token")}


def fertility_bars(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Two panels of bars as a PNG, one bar a tokenizer in the order given.

    rows: name, tokens_a_word, bytes_a_token, num_unknown of each. Raises DiskFullError.
    """
    from matplotlib.figure import Figure

    names = [
        f"{row['name']}\n({row['num_unknown']} unknown)" if row["num_unknown"] else str(row["name"]) for row in rows
    ]
    # A name may hold a dollar sign, which is not meant as mathematics.
    names = [name.replace("$", r"\$") for name in names]
    figure = Figure(figsize=(8.0, 1.2 + 0.45 * len(rows)), dpi=130, layout="constrained")
    for axes, (key, (colour, label)) in zip(figure.subplots(1, 2, sharey=True), BARS.items(), strict=True):
        values = [float(row[key]) for row in rows]
        bars = axes.barh(names, values, color=colour, height=0.6)
        axes.bar_label(bars, labels=[f"{value:.2f}" for value in values], padding=3, fontsize=9)
        axes.set_xlim(0, max([*values, 1e-9]) * 1.18)
        axes.set_xlabel(label)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    # Both panels share one axis of names, which was turned over twice.
    figure.axes[0].invert_yaxis()
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
