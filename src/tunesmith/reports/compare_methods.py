"""The page of ``compare-methods``: a table, and quality against trained parameters."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report
from tunesmith.runs import atomic_write_bytes

COLUMNS = (
    "method", "learning rate", "trained parameters", "% of all", "file MB", "tokens/s", "peak GB", "test loss, 95 %",
    "difference, 95 %",
)  # fmt: skip
TASK_COLUMNS = ("task right, 95 %", "difference, 95 %")


def write_page(folder: Path, table: Sequence[Mapping[str, Any]], facts: Mapping[str, object]) -> None:
    """comparison.png and report.html."""
    picture = folder / "comparison.png"
    draw(table, picture)
    report = Report("Methods of tuning, on the same rows and steps", f"{facts['base']}, {facts['test rows']} test rows")
    report.table(columns(table), [cells(row) for row in table], sortable=True)
    report.text(
        "Each method was trained at each of its learning rates in a process of its own; the rate was chosen by "
        "validation loss, and the test rows were read once. Loss is in nats a token. Intervals resample the test rows, "
        "differences the same rows of both methods; they do not tell what another seed of the training would change. "
        "Tokens a second are those of the training, its evaluations counted in; peak is the process's highest memory."
    )
    report.figure(picture, "Loss on the test rows against the number of trained parameters; bars are 95 % intervals.")
    report.heading("Learning rates tried")
    tried = [
        (row["method"], rate, "diverged" if loss is None else f"{loss:.4f}")
        for row in table
        for rate, loss in row["tried"].items()
    ]
    report.table(("method", "learning rate", "validation loss"), tried)
    report.footer(facts)
    report.write(folder / "report.html")


def columns(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the columns; the task's only where there was one."""
    return [*COLUMNS, *(TASK_COLUMNS if any("task" in row for row in table) else ())]


def cells(row: Mapping[str, Any]) -> list[str]:
    """One method's row as text."""
    change, rate = row.get("test_loss_minus"), row["tokens_per_second"]
    out = [
        row["method"],
        f"{row['learning_rate']:g}",
        f"{row['trainable_parameters']}",
        f"{100 * row['trainable_share']:.3f}",
        f"{row['file_bytes'] / 1e6:.2f}",
        "went on" if rate is None else f"{rate:.0f}",
        f"{row['peak_bytes'] / 1e9:.2f}",
        _shown(row["test_loss"], "{:.4f}"),
        "" if change is None else _shown(change["difference"], "{:+.4f}"),
    ]
    if "task" in row:
        share = [100 * value for value in row["task"]]
        minus = row.get("task_minus")
        out += [_shown(share, "{:.1f}"), "" if minus is None else _shown([100 * v for v in minus], "{:+.1f}")]
    return out


def _shown(limits: Sequence[float], form: str) -> str:
    value, low, high = (form.format(one) for one in limits)
    return f"{value} [{low}, {high}]"


def draw(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss on the test rows against trained parameters as a PNG. Raises DiskFullError."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for row in table:
        value, low, high = row["test_loss"]
        errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar([row["trainable_parameters"]], [value], yerr=errors, fmt="o", color="#3f6ea3", capsize=4)
        axes.annotate(row["method"], (row["trainable_parameters"], value), xytext=(7, 5), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("trained parameters")
    axes.set_ylabel("loss on the test rows, nats a token")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def describe(result: Mapping[str, Any], recipe: str) -> list[str]:
    """What the command says at its end."""
    if result.get("interrupted"):
        return ["stopped; nothing is lost.", f"next:  tunesmith compare-methods {recipe}"]
    table = result["methods"]
    rows = [columns(table), *(cells(row) for row in table)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, f"wrote {result['report']}, comparison.json, comparison.png", f"next:  open {result['report']}"]
