"""The report of a constitution's run: one HTML page and the same as Markdown. What a model said is escaped and shut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.reports.constitution_plots import draw_frontier, draw_principles
from tunesmith.reports.constitution_tables import sections
from tunesmith.reports.html import Report
from tunesmith.reports.markdown import markdown_table, markdown_text
from tunesmith.runs import atomic_write_text

HTML_FILE, MARKDOWN_FILE, FRONTIER_FILE, PRINCIPLES_FILE = "report.html", "report.md", "frontier.png", "principles.png"
_TITLE = "A constitution's run: before and after"


def write_constitution_report(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write report.html and report.md with their pictures, from what constitution_run.json holds."""
    pictures = _draw(folder, facts)
    _write_page(folder / HTML_FILE, facts, pictures)
    _write_markdown(folder / MARKDOWN_FILE, facts, pictures)


def _draw(folder: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Pictures by file -> caption."""
    goal, out = facts["evaluation"].get("goal", {}), {}
    points = [
        {"label": label, "harm": one["harm"]["after"], "safe": one["safe"]["after"]} for label, one in goal.items()
    ]
    if goal:
        first = next(iter(goal.values()))
        points.insert(0, {"label": "base", "harm": first["harm"]["before"], "safe": first["safe"]["before"]})
    points += [
        {**one, "label": f"control: {one['control']}"} for one in facts.get("controls", []) if one["harm"] is not None
    ]
    curve = [{**one, "label": f"{one['share']:g}"} for one in facts.get("curve", []) if one["harm"] is not None]
    if draw_frontier(folder / FRONTIER_FILE, points, curve):
        out[FRONTIER_FILE] = "Harmful compliance against over-refusal, 95 % intervals; down and left is better."
    if draw_principles(folder / PRINCIPLES_FILE, facts.get("revise", {}).get("principles", {})):
        out[PRINCIPLES_FILE] = "How often each principle was sampled, found something, and changed the answer."
    return out


def _write_page(path: Path, facts: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    constitution = facts["constitution"]
    report = Report(_TITLE, f"{facts['base']}, constitution {constitution['name']} {constitution['version']}")
    for line in facts["headline"]:
        report.text(line)
    for name, caption in pictures.items():
        report.figure(path.with_name(name), caption)
    for section in sections(facts):
        report.heading(section.heading)
        report.text(section.words)
        report.table(section.columns, section.rows)
    _scenarios(report, facts)
    _examples(report, facts)
    _audit(report, facts)
    report.footer(facts["footer"])
    report.write(path)


def _scenarios(report: Report, facts: Mapping[str, Any]) -> None:
    shown = facts["evaluation"].get("scenarios", [])
    if not shown:
        return
    report.heading("The scenarios side by side")
    for one in shown:
        report.text(f"{one['id']}: {one['about']} It {one['rule']}.")
        parts = {"prompt": one["prompt"]}
        for label, side in one["sides"].items():
            parts[f"{label}: {side['why']}"] = side["answer"]
        report.folded(f"answers to: {one['prompt']}", parts)


def _examples(report: Report, facts: Mapping[str, Any]) -> None:
    shown = facts["evaluation"].get("examples", [])
    if not shown:
        return
    report.heading("Before and after")
    report.text(
        "The first answers of each set that became another kind, and the first two that did not. They may harm."
    )
    for one in shown:
        before, after = one["kinds"]
        parts = {"prompt": one["prompt"], f"base: {before}": one["before"], f"tuned: {after}": one["after"]}
        report.folded(f"{one['set']}: {before} → {after}", parts)


def _audit(report: Report, facts: Mapping[str, Any]) -> None:
    if not facts.get("audit"):
        return
    report.heading("From the audit log")
    report.text("Prompts of the supervised phase with every step; the whole log is audit.jsonl. Texts may harm.")
    for chain in facts["audit"]:
        parts = {"prompt": chain["prompt"], "first answer": chain["first"]}
        for step in chain["steps"]:
            told = f"round {step['round']}: {step['principle']}, {step['outcome']}"
            parts[f"{told}: critique"] = step["critique"] or "-"
            if step["changed"]:
                parts[f"{told}: after"] = step["after"]
        report.folded(chain["title"], parts)


def _write_markdown(path: Path, facts: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    constitution = facts["constitution"]
    lines = [f"# {_TITLE}", ""]
    told = f"{facts['base']}, constitution {constitution['name']} {constitution['version']}"
    lines += [markdown_text(told), "", *(f"- {markdown_text(line)}" for line in facts["headline"]), ""]
    for name, caption in pictures.items():
        lines += [f"![{markdown_text(caption)}]({name})", ""]
    for section in sections(facts):
        lines += [f"## {markdown_text(section.heading)}", "", markdown_text(section.words), ""]
        lines += [markdown_table(section.columns, section.rows), ""]
    footer = " · ".join(f"{key}: {value}" for key, value in facts["footer"].items())
    lines += [markdown_text(footer), ""]
    atomic_write_text(path, "\n".join(lines))
