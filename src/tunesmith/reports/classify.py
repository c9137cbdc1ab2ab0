"""The page about a classifier: accuracy beside simpler ways, every class, what is mistaken for what, calibration."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report
from tunesmith.runs import atomic_write_bytes, atomic_write_text

REPORT_FILE, FACTS_FILE, PICTURE_FILE = "report.html", "report.json", "classify.png"
# More classes than these make no picture that can be read; the table of mistakes stays.
MOST_CLASSES_DRAWN = 30
MISTAKES_SHOWN = 15
_MODEL = "#3f6ea3"


def write_classify_report(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write report.html, report.json and, where rows were held out, classify.png. Raises DiskFullError."""
    atomic_write_text(folder / FACTS_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    report = Report("A classifier", f"{facts['base']}, {facts['adapter']}, weights of step {facts['best_step']}")
    held = facts.get("held_out")
    if held is None:
        report.text("No rows were held out, so nothing can be said of this model. Set data.validation_share.")
    else:
        _accuracy(report, facts, held)
        _classes(report, held)
        _mistakes(report, folder, held)
    _rows(report, facts)
    report.footer({"seed": facts["seed"], "steps": facts["num_steps"], "data": facts["data"]["digest"][:16]})
    report.write(folder / REPORT_FILE)


def _accuracy(report: Report, facts: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    report.heading(f"Accuracy on {facts['measured_on']} rows")
    chosen = (
        "They also chose the step whose weights were kept, so the figures are a little optimistic."
        if facts["measured_on"] == "validation"
        else "They chose nothing."
    )
    report.text(
        f"{held['rows']} rows that were not trained on. {chosen} Intervals are 95 %: Wilson's for shares, the "
        "bootstrap over rows for F1 and log loss."
    )
    rows = [["the classifier", *_share(held["accuracy"]), _number(held["macro_f1"]), "", "", ""]]
    for name, other in held["others"].items():
        split = f"{other['rows_only_model']} : {other['rows_only_other']}"
        ahead = f"{100 * other['difference'][0]:.1f} points {_limits(other['difference'])}"
        rows.append(
            [name, *_share(other["accuracy"]), _number(other["macro_f1"]), ahead, split, f"{other['p']:.2g}"]
        )  # fmt: skip
    report.table(["who", "right", "95 %", "macro-F1", "classifier ahead by", "only it : only the other", "p"], rows)
    report.text("p: exact McNemar test on the same rows, of which only those matter on which one of the two is right.")
    for warning in held["warnings"]:
        report.text(f"Warning: {warning}")
    report.text(f"Log loss {_number(held['log_loss'])} nats.")


def _classes(report: Report, held: Mapping[str, Any]) -> None:
    report.heading("Every class")
    report.text(
        "Precision: of the rows said to be the class, those that are. Recall: of its rows, those that are found."
    )
    report.table(
        ["class", "rows", "said", "precision", "recall", "F1"],
        [
            [c["label"], c["rows"], c["said"], *(_both(c[key]) for key in ("precision", "recall", "f1"))]
            for c in held["classes"]
        ],
        sortable=True,
    )


def _mistakes(report: Report, folder: Path, held: Mapping[str, Any]) -> None:
    labels, table = [c["label"] for c in held["classes"]], held["confusion"]
    draw_classifier(folder / PICTURE_FILE, held)
    report.heading("Mistakes and calibration")
    report.text(
        f"Expected calibration error {held['ece']:.3f}; a perfectly calibrated model would show "
        f"{held['ece_if_calibrated']:.3f} on as many rows, by chance alone."
    )
    drawn = len(labels) <= MOST_CLASSES_DRAWN
    picture = "Left: rows of each class (down) by what they are said to be (across). Right: h" if drawn else "H"
    report.figure(
        folder / PICTURE_FILE,
        f"{picture}ow often the classifier is right against how sure it is, in bins of equal mass.",
    )
    wrong = sorted(
        ((count, i, j) for i, row in enumerate(table) for j, count in enumerate(row) if count and i != j),
        key=lambda mistake: (-mistake[0], *mistake[1:]),
    )
    if wrong:
        shown = wrong[:MISTAKES_SHOWN]
        report.table(["rows", "are", "said to be"], [[count, labels[i], labels[j]] for count, i, j in shown])
        if len(wrong) > len(shown):
            report.text(f"{len(wrong) - len(shown)} rarer mistakes are in {FACTS_FILE}.")


def _rows(report: Report, facts: Mapping[str, Any]) -> None:
    data = facts["data"]
    report.heading("Rows")
    report.table(
        ["fact", "value"],
        [
            ["rows read", data["rows_read"]],
            *([cause, count] for cause, count in data["rows_dropped"].items()),
            *([f"rows in {side}", data[f"rows_{side}"]] for side in ("train", "validation", "test")),
            *([f"{side} rows whose text is a training text", n] for side, n in data["seen_in_training"].items()),
            ["training texts under two labels or more", data["contradictions"]],
            *([f"{name.replace('_', ' ')} ({side})", value] for side, made in data["rendered"].items()
              for name, value in made.items() if value and name != "num_texts"),
        ],
    )  # fmt: skip
    if data["contradiction_places"]:
        report.text("Texts under a second label stand at " + ", ".join(data["contradiction_places"]) + ".")


def _share(interval: Sequence[float]) -> list[str]:
    value, low, high = (100 * x for x in interval)
    return [f"{value:.1f} %", f"{low:.1f} to {high:.1f}"]


def _limits(interval: Sequence[float]) -> str:
    return f"[{100 * interval[1]:.1f}, {100 * interval[2]:.1f}]"


def _both(interval: Sequence[float] | None) -> str:
    return "none" if interval is None else f"{100 * interval[0]:.1f} % {_limits(interval)}"


def _number(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} [{interval[1]:.3f}, {interval[2]:.3f}]"


def draw_classifier(path: Path, held: Mapping[str, Any]) -> None:
    """The confusion matrix, where it can be read, beside the calibration curve, as a PNG. Raises DiskFullError."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    labels = [c["label"] for c in held["classes"]]
    drawn = len(labels) <= MOST_CLASSES_DRAWN
    side = max(3.8, 0.42 * len(labels) + 2.2) if drawn else 3.8
    figure = Figure(figsize=(side + 4.6, side) if drawn else (4.6, 3.8), dpi=120, layout="constrained")
    if drawn:
        left, right = figure.subplots(1, 2, width_ratios=(side, 4.2))
        _draw_confusion(left, held["confusion"], labels)
    else:
        right = figure.subplots()
    right.plot([0, 1], [0, 1], color="#9aa4b5", linewidth=1, label="calibrated")
    bins = held["calibration"]
    right.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color=_MODEL, label="classifier")
    right.set_xlim(-0.02, 1.02)
    right.set_ylim(-0.02, 1.02)
    right.set_box_aspect(1)
    right.set_xlabel("probability of the class it says")
    right.set_ylabel("share of rows it is right on")
    right.spines[["top", "right"]].set_visible(False)
    right.grid(alpha=0.25)
    right.set_axisbelow(True)
    right.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def _draw_confusion(axes: Any, table: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """Shades are shares of a true class, numbers are rows."""
    shares = [[count / max(1, sum(row)) for count in row] for row in table]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    # Text of a row is shown as it is: a dollar sign in a label opens no formula.
    short = [(label if len(label) <= 24 else f"{label[:23]}…").replace("$", r"\$") for label in labels]
    axes.set_xticks(range(len(labels)), short, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), short, fontsize=8)
    axes.set_xlabel("said to be")
    axes.set_ylabel("is")
    for i, row in enumerate(table):
        for j, count in enumerate(row):
            if count:
                colour = "white" if shares[i][j] > 0.55 else "#1d2330"
                axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
