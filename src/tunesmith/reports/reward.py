"""The page about a reward model: accuracy, calibration, what length has to do with it, scores."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report
from tunesmith.runs import atomic_write_bytes, atomic_write_text

REPORT_FILE, FACTS_FILE, PICTURE_FILE = "report.html", "report.json", "reward.png"
_CHOSEN, _REJECTED = "#3f6ea3", "#b5482a"


def write_reward_report(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write report.html, report.json and, where pairs were held out, reward.png. Raises DiskFullError."""
    atomic_write_text(folder / FACTS_FILE, json.dumps(facts, indent=2) + "\n")
    data = facts["data"]
    report = Report(
        "A reward model", f"{facts['base']}, loss {facts['loss_type']}, weights of step {facts['best_step']}"
    )
    held = facts.get("held_out")
    grades = facts.get("grades")
    if grades is not None:
        report.heading("Grades of held-out answers")
        report.text(
            f"Over {grades['answers']} answers the predicted grade is off by {grades['rmse']:.2f} (root mean square); "
            f"always saying the mean grade of the training answers is off by {grades['rmse_of_mean']:.2f}."
        )
    if held is not None:
        _held_out(report, folder, held)
    elif grades is None:
        report.text("No pairs were held out, so nothing can be said of this model. Set data.validation_share.")
    report.heading("Rows")
    left = {**data["rows_dropped"], **data["left_out"]}
    report.table(
        ["fact", "value"],
        [
            ["kind of feedback", data["shape"]],
            ["rows read", data["rows_read"]],
            *([cause, count] for cause, count in left.items()),
            *([f"{what} in {side}", data[f"{what}_{side}"]] for side in ("train", "validation")
              for what in ("prompts", "pairs")),
            ["pairs stated both ways", data["conflicts"]],
            ["rings of three answers or more", data["cycles"]],
            *([f"{name.replace('_', ' ')} ({side})", value] for side, made in data["rendered"].items()
              for name, value in made.items() if value and name not in ("num_groups", "num_pairs")),
        ],
    )  # fmt: skip
    if data["contradiction_places"]:
        report.text("Rows that contradict each other stand at " + ", ".join(data["contradiction_places"]) + ".")
    report.footer({"seed": facts["seed"], "steps": facts["num_steps"], "data": data["digest"][:16]})
    report.write(folder / REPORT_FILE)


def _held_out(report: Report, folder: Path, held: Mapping[str, Any]) -> None:
    draw_reward(folder / PICTURE_FILE, held)
    only = held["length_only"]
    report.heading("Accuracy on held-out prompts")
    report.text(
        f"{held['pairs']} pairs of {held['prompts']} prompts that were never trained on. Intervals are 95 %, pairs of "
        "one prompt counted as one cluster."
    )
    report.table(
        ["who", "right", "95 %"],
        [["the reward model", *_parts(held["accuracy"])], [f"taking {only['takes']}", *_parts(only["accuracy"])]],
    )
    value, low, high = only["difference"]
    report.text(
        f"Over prompts the model is ahead by {100 * value:.1f} points [{100 * low:.1f}, {100 * high:.1f}]; it is "
        f"better on {only['prompts_only_model']} prompts and worse on {only['prompts_only_guess']} "
        f"(exact sign test, p = {only['p']:.2g})."
    )
    for warning in held["warnings"]:
        report.text(f"Warning: {warning}")
    report.heading("Calibration")
    report.text(
        f"Expected calibration error {held['ece']:.3f}; a perfectly calibrated model would show "
        f"{held['ece_if_calibrated']:.3f} on as many pairs, by chance alone."
    )
    report.figure(
        folder / PICTURE_FILE,
        "Left: how often the model is right against how sure it is, sigma(|margin|), in bins of equal mass. "
        "Right: rewards of chosen and rejected answers.",
    )
    report.heading("Accuracy by margin and by length")
    for title, key in (("margin of the rewards", "by_margin"), ("tokens by which the better one is longer",
                                                                "by_length_gap")):  # fmt: skip
        report.table(
            [title, "pairs", "right", "95 %"],
            [[f"{_number(b['from'])} to {_number(b['to'])}", b["pairs"], *_parts(b["accuracy"])] for b in held[key]],
        )


def _parts(interval: Sequence[float]) -> list[str]:
    value, low, high = (100 * x for x in interval)
    return [f"{value:.1f} %", f"{low:.1f} to {high:.1f}"]


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def draw_reward(path: Path, held: Mapping[str, Any]) -> None:
    """The calibration curve beside the histogram of rewards, as a PNG. Raises DiskFullError."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0.5, 1], [0.5, 1], color="#9aa4b5", linewidth=1, label="calibrated")
    bins = held["calibration"]
    left.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color=_CHOSEN, label="model")
    left.set_xlim(0.49, 1.01)
    left.set_ylim(-0.02, 1.02)
    left.set_xlabel("sigma(|margin|)")
    left.set_ylabel("share of pairs it is right on")
    edges = held["scores"]["edges"]
    for name, colour in (("chosen", _CHOSEN), ("rejected", _REJECTED)):
        right.stairs(held["scores"][name], edges, fill=True, alpha=0.45, color=colour, label=name)
    right.set_xlabel("reward")
    right.set_ylabel("answers")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())
