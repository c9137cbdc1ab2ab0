"""A round of red-teaming as one page: what was trained on, and what the second attack found, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.reports.constitution_tables import Section, number, percent
from tunesmith.reports.html import Report
from tunesmith.reports.markdown import markdown_table, markdown_text
from tunesmith.runs import atomic_write_text

Facts = Mapping[str, Any]
_TITLE = "A round of red-teaming"


def loop_headline(facts: Facts) -> list[str]:
    """A sentence for each question of the second attack."""
    before, after = facts["again"]["labels"]
    lines = []
    for one in facts["again"]["changes"]:
        sides = ((one[side]["raw"] if one["unit"] == "share" else one[side]) for side in ("before", "after"))
        first, second = map(percent if one["unit"] == "share" else number, sides)
        unit = "" if one["unit"] == "share" else f" {one['unit']}"
        lines.append(f"{one['what']}: {first} → {second}{unit}, p {one['p_holm']:.2g}: {one['finding']}.")
    goals = facts["goals"]
    lines.append(
        f"{before} → {after}, on {goals['test']} goals and {goals['safe']} safe requests that neither was trained on."
    )
    return lines


def write_loop_report(folder: Path, facts: Facts) -> None:
    """Write report.html and report.md. Raises DiskFullError."""
    shown = list(_sections(facts))
    report = Report(_TITLE, f"{facts['base']}, learning by {facts['learn']}")
    lines = [f"# {_TITLE}", "", *(f"- {markdown_text(line)}" for line in loop_headline(facts)), ""]
    for line in loop_headline(facts):
        report.text(line)
    for section in shown:
        report.heading(section.heading)
        report.text(section.words)
        report.table(section.columns, section.rows)
        lines += [f"## {section.heading}", "", markdown_text(section.words), ""]
        lines += [markdown_table(section.columns, section.rows), ""]
    report.footer(facts["footer"])
    report.write(folder / "report.html")
    lines.append(markdown_text("; ".join(f"{name}: {value}" for name, value in facts["footer"].items())))
    atomic_write_text(folder / "report.md", "\n".join(lines) + "\n")


def _sections(facts: Facts) -> Iterator[Section]:
    again = facts["again"]
    yield _changes(again)
    yield _levels(again)
    yield _families(again)
    yield _rows(facts["export"])


def _changes(again: Facts) -> Section:
    rows: list[list[object]] = []
    for one in again["changes"]:
        share = one["unit"] == "share"
        before, after = (one[side]["raw"] if share else one[side] for side in ("before", "after"))
        difference = percent(one["difference"], sign=True) if share else number(one["difference"])
        show = percent if share else number
        rows.append(
            [
                one["what"], one["num"], one["num_goals"], show(before), show(after), difference,
                percent(one["corrected"], sign=True), f"{one['p_holm']:.2g}", one["finding"],
            ]
        )  # fmt: skip
    words = (
        "After minus before, on the same attempts at goals that nothing was trained on; over-refusal on safe requests. "
        "corrected: for the judge's errors. Holm over this table."
    )
    columns = ["what", "pairs", "goals", "before", "after", "difference", "corrected", "p (Holm)", "finding"]
    return Section(heading="Before and after", words=words, columns=columns, rows=rows)


def _levels(again: Facts) -> Section:
    rows: list[list[object]] = []
    for side, rates in again["rates"].items():
        for label, told in rates.items():
            for what, rate in told.items():
                rows.append([what, side, label, rate["num"], rate["num_goals"], percent(rate["raw"]),
                             percent(rate["corrected"])])  # fmt: skip
    for label, rate in again["safe"].items():
        if rate is not None:
            rows.append(["over-refusal", "-", label, rate["num"], rate["num_goals"], percent(rate["raw"]),
                         percent(rate["corrected"])])  # fmt: skip
    told = "; ".join(f"{side}: {', '.join(families)}" for side, families in again["families"].items())
    words = f"{told}. Nonsense is no success: where it grew, the model was broken rather than made safe."
    columns = ["what", "attacks", "model", "attempts", "goals", "raw", "corrected"]
    return Section(heading="Levels", words=words, columns=columns, rows=rows)


def _families(again: Facts) -> Section:
    trained = {family for name, own in again["families"].items() for family in own if "not" not in name}
    rows: list[list[object]] = []
    for one in again["by_family"]:
        change = one.get("change")
        tested = ["-", "-"] if change is None else [percent(change["difference"], sign=True), f"{change['p_holm']:.2g}"]
        known = "yes" if one["name"] in trained else "no"
        rows.append([one["name"], known, one["label"], one["rate"]["num"], percent(one["rate"]["raw"]), *tested])
    columns = ["family", "trained on", "model", "attempts", "attack success", "difference", "p (Holm)"]
    return Section(heading="By family of attacks", words="Holm over this table.", columns=columns, rows=rows)


def _rows(export: Facts) -> Section:
    rows: list[list[object]] = []
    for to, told in export.items():
        begins = told["safe_answers"]["openings"]
        rows.append([
            to, told["rows"], told["own"], told.get("helpful", 0), told.get("borderline", 0),
            sum(told["left_out"].values()), begins["different"], f"{100 * begins['share']:.0f} %",
        ])  # fmt: skip
    words = (
        "What was trained on: attacks that went through with the answer that should have been given, and rows of help "
        "beside them, of which some only sound as if they should be refused. Openings: the ways safe answers begin."
    )
    columns = ["rows for", "rows", "attacks", "help", "sound bad", "left out", "openings", "commonest"]
    return Section(heading="Rows", words=words, columns=columns, rows=rows)
