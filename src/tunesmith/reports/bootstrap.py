"""The page and the picture about rows a model wrote: yield by stage and reason, likeness to the seeds, examples."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report
from tunesmith.runs import atomic_write_bytes

REPORT_FILE, PICTURE_FILE = "report.html", "diversity.png"
_NEW = "#3f6ea3"
_NUM_EXAMPLES = 5


def write_report(
    folder: Path, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]]
) -> None:
    """Write report.html and diversity.png into a folder; ``facts`` is what report.json holds."""
    diversity = facts["diversity"]
    draw_diversity(folder / PICTURE_FILE, diversity)
    report = Report("Rows a model wrote", f"{facts['rows']} of {facts['wanted']} rows, scheme {facts['scheme']}")
    report.heading("Yield")
    report.text(
        "Every answer is either a row or in rejected.jsonl with its reason. One answer may hold several instances, so "
        "reasons of a stage can add up to more than its answers."
    )
    report.table(
        ["stage", "answers", "turned down", "reasons"],
        [
            [stage, held["answers"], sum(held["rejected"].values()), _counts(held["rejected"])]
            for stage, held in facts["yield"].items()
        ],
    )
    report.heading("Kinds")
    report.table(["fact", "value"], [[key.replace("_", " "), value] for key, value in facts["kinds"].items()])
    report.heading("Diversity")
    report.figure(
        folder / PICTURE_FILE, "Left: ROUGE-L of each new instruction to its nearest seed. Right: first words."
    )
    report.table(["first words", "new instructions"], list(diversity["first_words"].items())[:12])
    words = diversity["num_words"]
    report.table(
        ["words", "least", "median", "90 %", "most"],
        [
            [name.replace("_", " "), *(held.get(key, "-") for key in ("min", "median", "p90", "max"))]
            for name, held in words.items()
        ],
    )
    distinct = diversity["distinct"]
    report.text(f"Over {distinct['num_instructions']} instructions of each, drawn by the seed:")
    report.table(
        ["distinct share of", "new", "seeds"],
        [[f"{n}-word groups", distinct[f"new_{n}"], distinct[f"seeds_{n}"]] for n in (1, 2, 3)],
    )
    report.heading("Rows, as they came")
    for row in rows[:_NUM_EXAMPLES]:
        report.example({name: row[name] for name in ("instruction", "input", "output") if row[name]})
    report.heading("Turned down, as they came")
    for row in rejected[:_NUM_EXAMPLES]:
        report.example({f"{row['stage']}: {row['reason']}": row["answer"]})
    report.footer({key: facts[key] for key in ("machine", "date", "seconds")} | {"writer": facts["writer"]["model"]})
    report.write(folder / REPORT_FILE)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def draw_diversity(path: Path, diversity: Mapping[str, Any]) -> None:
    """Histogram of ROUGE-L to the nearest seed beside the commonest first words, as a PNG. Raises DiskFullError."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = diversity["rouge_l_to_nearest_seed"]["counts"]
    width = diversity["rouge_l_to_nearest_seed"]["bin_width"]
    left.bar([i * width for i in range(len(counts))], counts, width=width, align="edge", color=_NEW, edgecolor="white")
    left.set_xlim(0, 1)
    left.set_xlabel("ROUGE-L F to the nearest seed")
    left.set_ylabel("new instructions")
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    common = list(diversity["first_words"].items())[:12][::-1]
    # A model's words may hold dollar signs, which would otherwise be read as formulas.
    right.barh([name[:28].replace("$", r"\$") or "-" for name, _ in common], [n for _, n in common], color=_NEW)
    right.set_xlabel("new instructions")
    right.set_title(f"{diversity['num_first_words']} different beginnings", fontsize=10, loc="left")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.tick_params(axis="y", labelsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # The font lacks many scripts; the page has the same words in a table.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
