"""The page about MT-Bench: grades and win rates by category and turn, the judge's manners, answers side by side."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report
from tunesmith.reports.plots import TREND, VALIDATION


def write_mt_bench_report(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the page; ``facts`` is what mt_bench.json holds."""
    models, judge = facts["models"], facts["judge"]
    report = Report(
        f"MT-Bench: {' against '.join(models)}", f"{facts['num_questions']} questions, judged by {judge['name']}"
    )
    for note in facts["notes"]:
        report.text(f"Mind: {note}")
    if "grades" in facts:
        report.heading(f"Grades from 1 to 10 (judge: {judge['agreement']['grade']})")
        _add_grades(report, facts)
    if "pairs" in facts:
        report.heading(f"Compared in pairs (judge: {judge['agreement']['pair']})")
        _add_pairs(report, facts)
    report.heading("Answers")
    report.table(
        ["model", "answers", "mean characters", "cut off"],
        [[m, one["num"], f"{one['mean_characters']:.0f}", one["cut_off"]] for m, one in facts["answers"].items()],
    )
    report.heading("Examples, chosen by the seed")
    for example in facts["examples"]:
        for number, turn in enumerate(example["turns"], 1):
            report.example(_example(example, number, turn))
    report.footer(
        {
            "questions": facts["questions"]["source"],
            "judge": ", ".join(f"{name} {digest[:12]}" for name, digest in judge["digests"].items()),
            "seconds": facts["seconds"],
            "processor": f"{facts['machine']['processor']}, {facts['machine']['cores']} cores",
        }
    )
    report.write(path)


def _add_grades(report: Report, facts: Mapping[str, Any]) -> None:
    report.text(
        "Mean grades with 95 % intervals, bootstrapped over questions, so that the turns of one question count as one "
        "observation. Where a verdict could not be read its grade is unknown: the interval then reaches from the case "
        "that all of them are 1 to the case that all are 10. The wording is tunesmith's own; the numbers are not "
        "comparable with published ones."
    )
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "grades.png"
        grades_picture(facts["grades"], picture)
        report.figure(picture, "Mean grade by category, with 95 % intervals")
    tables = list(facts["grades"].items())
    if "grade_difference" in facts:
        tables.append((f"{facts['models'][0]} minus {facts['models'][1]}", facts["grade_difference"]))
    for label, own in tables:
        report.text(label)
        _add_table(report, own, percent=False)


def _add_pairs(report: Report, facts: Mapping[str, Any]) -> None:
    pairs = facts["pairs"]
    one, other = facts["models"]
    report.text(
        f"How often {one} wins against {other}, a tie one half. A pair is shown in both orders, or in one that no name "
        "decides, and what the judge adds for a place is cancelled. Intervals are clustered by question. "
        f"{pairs['won']} won, {pairs['tied']} tied ({pairs['same_answers']} because both said the same), "
        f"{pairs['lost']} lost."
    )
    _add_table(report, pairs["win_rate"], percent=True)
    if manners := pairs["manners"]:
        counts = manners["counts"]
        rows = [["verdicts", ", ".join(f"{counts[name]} {name}" for name in counts)]]
        names = {"prefers_first": "prefers the answer shown first", "consistent": "agrees with itself when swapped"}
        names["reversed"] = "names the other winner when swapped"
        rows += [[text, _share(manners[name])] for name, text in names.items()]
        rows.append(["prefers the longer answer", _share(pairs["prefers_longer"])])
        report.table(["the judge", ""], rows)


def _add_table(report: Report, own: Mapping[str, Any], *, percent: bool) -> None:
    turns = list(own["turns"])
    rows = [["all", own], *([name, one] for name, one in own["categories"].items())]
    report.table(
        ["category", "verdicts", "all turns", *(f"turn {turn}" for turn in turns)],
        [
            [
                name,
                one["all"]["num"],
                mean_text(one["all"], percent=percent),
                *(mean_text(one["turns"][t], percent=percent) if t in one["turns"] else "-" for t in turns),
            ]
            for name, one in rows
        ],
    )


def _share(one: Mapping[str, float] | None) -> str:
    return f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]" if one else "-"


def mean_text(one: Mapping[str, Any], *, percent: bool = False) -> str:
    """value [low, high] of a bounded mean as JSON holds it, with the verdicts that could not be read."""
    scale, unit, digits = (100, " %", 1) if percent else (1, "", 2)
    value = "unread" if one["value"] is None else f"{scale * one['value']:.{digits}f}{unit}"
    text = f"{value} [{scale * one['low']:.{digits}f}, {scale * one['high']:.{digits}f}]"
    return f"{text}, {one['num_unparsed']} of {one['num']} unparsed" if one["num_unparsed"] else text


def _example(example: Mapping[str, Any], number: int, turn: Mapping[str, Any]) -> dict[str, str]:
    parts = {f"question {example['question']} ({example['category']}), turn {number}": turn["user"]}
    for label, text in turn["answers"].items():
        grade = turn.get("grades", {}).get(label)
        shown = "" if "grades" not in turn else ", unparsed" if grade is None else f", grade {grade:.2f}"
        parts[f"{label}{shown}"] = text
    if "preference" in turn:
        value = turn["preference"]
        first, other = turn["answers"]
        won = "unparsed" if value is None else first if value > 0.5 else other if value < 0.5 else "a tie"
        parts["compared"] = f"{won}; the judge said: {' / '.join(turn['pair_said']) or 'nothing, the two are the same'}"
    return parts


def grades_picture(grades: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Mean grade of each model by category with its interval, as a PNG. Raises DiskFullError."""
    from matplotlib.figure import Figure

    from tunesmith.runs import atomic_write_bytes

    figure = Figure(figsize=(7.2, 3.8), dpi=130, layout="constrained")
    axes = figure.subplots()
    names = ["all", *next(iter(grades.values()))["categories"]]
    for model, (label, own) in enumerate(grades.items()):
        rows = [own["all"], *(one["all"] for one in own["categories"].values())]
        known = [(i, row) for i, row in enumerate(rows) if row["value"] is not None]
        middles = [row["value"] for _, row in known]
        down = [max(0.0, row["value"] - row["low"]) for _, row in known]
        up = [max(0.0, row["high"] - row["value"]) for _, row in known]
        places = [i + 0.24 * (model - (len(grades) - 1) / 2) for i, _ in known]
        color = (TREND, VALIDATION)[model % 2]
        axes.errorbar(places, middles, yerr=[down, up], fmt="o", capsize=3, color=color, label=label)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylim(0.8, 10.2)
    axes.set_ylabel("mean grade, 1 to 10")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    atomic_write_bytes(path, data.getvalue())
