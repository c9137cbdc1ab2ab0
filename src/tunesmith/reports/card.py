"""The report card as a picture, a page, Markdown and lines of text; every figure comes from card.json."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report
from tunesmith.reports.markdown import markdown_table, markdown_text
from tunesmith.reports.winrate import interval_text
from tunesmith.runs import atomic_write_bytes, atomic_write_text

CARD_PICTURE, CALIBRATION_PICTURE, PAGE_FILE, MARKDOWN_FILE = "card.png", "calibration.png", "card.html", "card.md"
_COLOURS = ("#2a6fb5", "#c8643c")
_VERDICT_COLOURS = {"better": "#1f7a3d", "worse": "#b3261e", "biased": "#b3261e", "below chance": "#b3261e"}
_HOW_TO_READ = (
    "Every figure stands with its 95 % interval, by groups where items are variants of each other. Both models were "
    "asked the same items; the difference is the second less the first, its p adjusted by Holm over all rows before "
    "the verdict. 'better' and 'worse' say where the second is nearer to the best value, or farther, than chance "
    "explains; 'turned round' that it leans the other way, perhaps as far; 'at chance' that neither can be told from a "
    "model that knows nothing, or in a bias row from one that "
    "prefers nobody. detectable is the difference that four of five such cards would find, before Holm."
)
_RADAR = (
    "Each axis is the mean, over the rows of that dimension, of how near a value is to the best one (1 at the rim): "
    "for shares the share, for errors and biases what is left of 1, for speed the ratio to the faster model. It is for "
    "the eye; the rows decide."
)


def write_card_report(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write card.png, calibration.png, card.html and card.md; ``facts`` is what card.json holds."""
    draw_card(folder / CARD_PICTURE, facts)
    draw_calibration(folder / CALIBRATION_PICTURE, facts)
    atomic_write_text(folder / MARKDOWN_FILE, markdown(facts))
    report = Report(f"Report card: {_title(facts)}", f"{facts['base']['name']}, {facts['limit']} questions a model")
    report.figure(folder / CARD_PICTURE, _RADAR)
    report.text(_HOW_TO_READ)
    report.table(_columns(facts), [_cells(row, facts["labels"]) for row in facts["rows"]], sortable=True)
    report.heading("Calibration")
    report.figure(
        folder / CALIBRATION_PICTURE,
        "Left: how often the likeliest choice is right against its probability, in ten bins of equal mass. Right: "
        "accuracy where only the surest answers are given.",
    )
    for dimension in ("robustness", "fairness"):
        report.heading(f"What each form does: {dimension}")
        report.table(*_form_table(facts, dimension))
    report.heading("Bias by kind")
    report.text("Few items each: read the intervals, and take no verdict from a single line.")
    report.table(*_crows_table(facts))
    report.table(*_bbq_table(facts))
    _toxicity(report, facts)
    _samples(report, facts)
    _costs(report, facts)
    report.write(folder / PAGE_FILE)


def _title(facts: Mapping[str, Any]) -> str:
    return " against ".join(reversed(facts["labels"]))


def _columns(facts: Mapping[str, Any]) -> list[str]:
    two = ["difference", "p", "detectable"] if len(facts["labels"]) > 1 else []
    return ["dimension", "what", "items", *facts["labels"], *two, "verdict", "note"]


def _cells(row: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    digits = 1 if row["unit"] in ("ms", "tokens/s") else 3
    unit = f" {row['unit']}" if row["unit"] else ""
    two = []
    if row["second"] is not None:
        shown = [interval_text(row[key], digits=digits) for key in ("second", "difference")]
        two = [shown[0] + unit, shown[1] + unit, f"{row['p']:.2g}", f"{row['detectable']:.{digits}f}"]
    first = interval_text(row["first"], digits=digits) + unit
    notes = [row["note"]]
    if len(labels) > 1:
        own = zip(labels, (row["note"], row["second_note"]), strict=True)
        notes = [f"{label}: {note}" for label, note in own if note]
    note = "; ".join(part for part in (_aim(row), *notes) if part)
    return [row["dimension"], row["name"], str(row["num_items"]), first, *two, row["verdict"], note]


def _aim(row: Mapping[str, Any]) -> str:
    best = "more is better" if row["ideal"] is None else f"best {row['ideal']:g}"
    if row["chance"] is None or row["chance"] == row["ideal"]:
        return best
    chances = [f"{row[key]:.2f}" for key in ("chance", "second_chance") if row[key] is not None]
    return f"{best}, chance {' and '.join(dict.fromkeys(chances))}"


def describe_rows(facts: Mapping[str, Any]) -> list[str]:
    """The rows as lines of a terminal: what, the models' figures, the verdict."""
    table = [["", *facts["labels"], "verdict"]]
    for row in facts["rows"]:
        cells = _cells(row, facts["labels"])
        figures = cells[3:5] if row["second"] is not None else cells[3:4]
        empty = [""] * (len(facts["labels"]) - len(figures))
        table.append([row["name"], *figures, *empty, row["verdict"]])
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def markdown(facts: Mapping[str, Any]) -> str:
    """The card as a Markdown page with its picture."""
    columns = _columns(facts)
    lines = [f"# Report card: {markdown_text(_title(facts))}", "", f"![Report card]({CARD_PICTURE})", ""]
    lines.append(markdown_table(columns, [_cells(row, facts["labels"]) for row in facts["rows"]]))
    machine = facts["machine"]
    lines += ["", _HOW_TO_READ, "", f"{facts['seconds']:.0f} s on {machine['processor']}, {machine['cores']} cores."]
    return "\n".join(lines) + "\n"


def dimension_scores(rows: Sequence[Mapping[str, Any]], which: str) -> dict[str, float]:
    """dimension -> mean nearness to the best value, 0 to 1, of the model that ``which`` (first, second) names."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row[which] is None:
            continue
        value, others = row[which]["value"], [row[key]["value"] for key in ("first", "second") if row[key]]
        if row["ideal"] is None:
            score = value / max(others)
        elif row["unit"]:
            score = min(others) / value if value else 1.0
        else:
            score = 1 - abs(value - row["ideal"]) / max(row["ideal"], 1 - row["ideal"])
        scores.setdefault(row["dimension"], []).append(min(1.0, max(0.0, score)))
    return {name: sum(own) / len(own) for name, own in scores.items()}


def draw_card(path: Path, facts: Mapping[str, Any]) -> None:
    """The radar beside the table of all rows, as a PNG. Raises DiskFullError."""
    from matplotlib.figure import Figure

    rows = facts["rows"]
    figure = Figure(figsize=(15.5, 1.6 + 0.29 * len(rows)), dpi=110, layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 2.3))
    radar, table = figure.add_subplot(grid[0], projection="polar"), figure.add_subplot(grid[1])
    names = list(dict.fromkeys(row["dimension"] for row in rows))
    angles = [2 * math.pi * k / len(names) for k in range(len(names))]
    for label, which, colour in zip(facts["labels"], ("first", "second"), _COLOURS, strict=False):
        scores = dimension_scores(rows, which)
        values = [scores[name] for name in names]
        radar.plot([*angles, angles[0]], [*values, values[0]], color=colour, linewidth=1.8, label=label)
        radar.fill(angles, values, color=colour, alpha=0.08)
    radar.set_xticks(angles, names, fontsize=9)
    radar.set_ylim(0, 1)
    radar.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"], fontsize=7, color="#5c6678")
    radar.legend(loc="lower left", bbox_to_anchor=(-0.12, -0.14), frameon=False, fontsize=9)
    radar.set_title(f"{_title(facts)}", fontsize=11, pad=18)
    table.axis("off")
    shown = [_picture_cells(row, facts) for row in rows]
    columns = ["", *facts["labels"], *(["difference"] if len(facts["labels"]) > 1 else []), "verdict"]
    widths = [0.27, *[0.19] * (len(columns) - 2), 0.16]
    drawn = table.table(shown, colLabels=columns, colWidths=widths, loc="center", cellLoc="left", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.scale(1, 1.32)
    for (line, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#d9dee7")
        if line == 0:
            cell.get_text().set_fontweight("bold")
        elif column == len(columns) - 1:
            word = cell.get_text().get_text()
            cell.get_text().set_color(_VERDICT_COLOURS.get(word, "#5c6678"))
            cell.get_text().set_fontweight("bold" if word in _VERDICT_COLOURS else "normal")
    _save(figure, path)


def _picture_cells(row: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    cells = _cells(row, facts["labels"])
    figures = cells[3 : -2 if row["second"] is None else -4]
    width = 1 if len(facts["labels"]) == 1 else 3
    return [row["name"], *figures, *[""] * (width - len(figures)), row["verdict"]]


def draw_calibration(path: Path, facts: Mapping[str, Any]) -> None:
    """Reliability and selective accuracy of every model, as a PNG. Raises DiskFullError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="#9aa4b5", linewidth=1, label="calibrated")
    for label, details, colour in zip(facts["labels"], facts["details"], _COLOURS, strict=False):
        bins, points = details["curves"]["reliability"], details["curves"]["selective"]
        left.plot([b[0] for b in bins], [b[1] for b in bins], "o-", color=colour, markersize=4, label=label)
        right.step([p[0] for p in points], [p[1] for p in points], where="post", color=colour, label=label)
    left.set_xlabel("probability of the likeliest choice")
    left.set_ylabel("share that is right")
    right.set_xlabel("share answered, surest first")
    right.set_ylabel("accuracy on those")
    for axes in (left, right):
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def _form_table(facts: Mapping[str, Any], dimension: str) -> tuple[list[str], list[list[str]]]:
    columns, rows = ["form", "items"], []
    for label in facts["labels"]:
        columns += [label, f"{label}: less plain"]
    tables = [details["forms"][dimension] for details in facts["details"]]
    for own in zip(*tables, strict=True):
        cells = [own[0]["form"], str(own[0]["items"])]
        for one in own:
            cells += [interval_text(one["accuracy"]), interval_text(one["difference"])]
        rows.append(cells)
    return columns, rows


def _crows_table(facts: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    tables = [details["crows_pairs"] for details in facts["details"]]
    rows = [
        [kind, str(own["pairs"]), *(interval_text(table[kind]["stereotype"]) for table in tables)]
        for kind, own in tables[0].items()
    ]
    return ["CrowS-Pairs, stereotype preferred", "pairs", *facts["labels"]], rows


def _bbq_table(facts: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    tables = [details["bbq"] for details in facts["details"]]
    columns = ["BBQ bias score", "items"]
    for label in facts["labels"]:
        columns += [f"{label}: ambiguous", f"{label}: disambiguated"]
    rows = []
    for kind, own in tables[0].items():
        cells = [kind.replace("_", " "), f"{own['items']:.0f}"]
        for table in tables:
            cells += [f"{table[kind]['ambiguous']:+.2f}", f"{table[kind]['disambiguated']:+.2f}"]
        rows.append(cells)
    return columns, rows


def _toxicity(report: Report, facts: Mapping[str, Any]) -> None:
    known = facts["classifier"]
    report.heading("Offensive continuations, and the classifier that counts them")
    report.text(
        f"A logistic regression on n-grams, trained on tweets (digest {known['digest'][:16]}). It finds words, not "
        "meaning: HateCheck is built to show that, and its figures below say how far the counts can be trusted. The "
        "corrected shares are Rogan and Gladen's, with the classifier's own uncertainty inside the interval."
    )
    report.table(
        ["tested on", "offensive texts found", "others let pass", "independent texts"],
        [
            [
                name,
                interval_text(own["sensitivity"]),
                interval_text(own["specificity"]),
                f"{own['offensive']} + {own['other']}",
            ]
            for name, own in known["errors"].items()
        ],
    )
    report.table(
        ["share of offensive continuations", *facts["labels"]],
        [
            [
                f"corrected by {name}",
                *(_or_nothing(details["offensive_corrected"][name]) for details in facts["details"]),
            ]
            for name in known["errors"]
        ],
    )
    report.table(
        ["HateCheck function", "cases", "right"],
        [[name, n, f"{share:.2f}"] for name, (n, share) in known["hatecheck_right_by_function"].items()],
    )


def _samples(report: Report, facts: Mapping[str, Any]) -> None:
    """Written answers side by side: the first of each suite, then the continuations most likely to be offensive."""
    report.heading("Written answers side by side")
    report.text("The first items of each suite, not chosen by hand.")
    for own in zip(*(details["samples"] for details in facts["details"]), strict=True):
        _beside(report, facts, own, [one["found"] for one in own])
    report.heading("Worst continuations")
    report.text("The three prompts on which a model's continuation is likeliest offensive by the classifier.")
    pairs = list(zip(*(details["continuations"] for details in facts["details"]), strict=True))
    for own in sorted(pairs, key=lambda pair: -max(one["offensive"] for one in pair))[:3]:
        _beside(report, facts, own, [f"{one['offensive']:.2f}" for one in own])


def _beside(report: Report, facts: Mapping[str, Any], own: Sequence[Mapping[str, Any]], remarks: Sequence[str]) -> None:
    report.example({"asked": own[0]["asked"]})
    labels = [f"{label}: {remark}" if remark else label for label, remark in zip(facts["labels"], remarks, strict=True)]
    report.sides({label: one["answer"] or "(nothing)" for label, one in zip(labels, own, strict=True)})


def _or_nothing(limits: Mapping[str, float] | None) -> str:
    return "not known: no better than chance there" if limits is None else interval_text(limits)


def _costs(report: Report, facts: Mapping[str, Any]) -> None:
    report.heading("What was asked, and what it took")
    report.table(
        ["task", "version", "dimension", "items", "rows from", "cut off"],
        [
            [
                task["name"], task["version"], task["dimension"], task["items"], task["source"],
                ", ".join(str(details["cut"].get(task["name"], 0)) for details in facts["details"]),
            ]
            for task in facts["tasks"]
        ],
    )  # fmt: skip
    report.text(
        f"At most {facts['peak_memory_bytes'] / 1e9:.2f} GB of memory were taken, all models and this program "
        f"together. Energy: {facts['energy']}."
    )
    machine = facts["machine"]
    report.footer(
        {
            "base": facts["base"]["name"],
            "digest": facts["base"]["digest"][:16],
            "seed": facts["seed"],
            "seconds": facts["seconds"],
            "processor": f"{machine['processor']}, {machine['cores']} cores",
        }
    )
