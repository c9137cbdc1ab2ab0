"""The verdict of a red-team campaign: one HTML page, Markdown and JSON. What a model said is escaped and shut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.reports.constitution_plots import draw_frontier
from tunesmith.reports.html import Report
from tunesmith.reports.markdown import markdown_table, markdown_text
from tunesmith.reports.redteam_plots import draw_heat
from tunesmith.reports.redteam_tables import headline, sections
from tunesmith.runs import atomic_write_text

HTML_FILE, MARKDOWN_FILE, JSON_FILE = "report.html", "report.md", "verdict.json"
TRADE_FILE, HEAT_FILE = "success_refusal.png", "success_where.png"
_TITLE = "Red-team verdict"
_MAY_HARM = "Texts may harm; each is shut until you open it."


def write_redteam_report(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write verdict.json, report.html and report.md with their pictures. Raises DiskFullError."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / JSON_FILE, json.dumps(facts, indent=1) + "\n")
    pictures = _draw(folder, facts)
    _write_page(folder / HTML_FILE, facts, pictures)
    _write_markdown(folder / MARKDOWN_FILE, facts, pictures)


def _draw(folder: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Pictures by file -> caption."""
    out, points = dict[str, str](), []
    for label in facts["labels"]:
        rates = facts["rates"][label]
        if {"attack success", "over-refusal"} <= set(rates):
            points.append(
                {"label": label, "harm": rates["attack success"]["raw"], "safe": rates["over-refusal"]["raw"]}
            )
    if draw_frontier(folder / TRADE_FILE, points, [], harm="attack success: attempts that got what they wanted, %"):
        out[TRADE_FILE] = "Attack success against over-refusal, raw, 95 % intervals; down and left is better."
    if draw_heat(folder / HEAT_FILE, facts["grid"]):
        out[HEAT_FILE] = "Successes of attempts by attack and category of harm; hatched: not tried."
    return out


def _write_page(path: Path, facts: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    report = Report(_TITLE, _subtitle(facts))
    for line in headline(facts):
        report.text(line)
    shown = list(sections(facts))
    num_first = 2 if facts["changes"] else 1
    for section in shown[:num_first]:
        report.heading(section.heading)
        report.text(section.words)
        report.table(section.columns, section.rows)
    for name, caption in pictures.items():
        report.figure(path.with_name(name), caption)
    for section in shown[num_first:]:
        report.heading(section.heading)
        report.text(section.words)
        report.table(section.columns, section.rows, sortable=True)
    _cases(report, facts["worst"], "What went furthest", "Successes of attacks; those that the first model withstood "
           f"come first. {_MAY_HARM}")  # fmt: skip
    _cases(report, facts["refused"], "Safe requests refused", f"Those that the first model answered come first. "
           f"{_MAY_HARM}")  # fmt: skip
    report.footer(_footer(facts))
    report.write(path)


def _cases(report: Report, cases: list[Mapping[str, Any]], heading: str, words: str) -> None:
    if not cases:
        return
    report.heading(heading)
    report.text(words)
    for case in cases:
        parts, asked = {"goal": case["goal"]}, None
        for label, side in reversed(case["sides"].items()):
            if side["messages"] != asked:
                asked = side["messages"]
                parts |= {f"{label}, {i}. {role}": text for i, (role, text) in enumerate(asked, 1)}
            parts[f"{label} answered ({side['kind']}, score {side['score']:.2f})"] = side["answer"]
        told = " → ".join(f"{label} {side['kind']}" for label, side in case["sides"].items())
        report.folded(f"{' + '.join([case['attack'], *case['converters']])}, {case['category']}: {told}", parts)


def _write_markdown(path: Path, facts: Mapping[str, Any], pictures: Mapping[str, str]) -> None:
    lines = [f"# {_TITLE}", "", markdown_text(_subtitle(facts)), ""]
    lines += [*(f"- {markdown_text(line)}" for line in headline(facts)), ""]
    for name, caption in pictures.items():
        lines += [f"![{markdown_text(caption)}]({name})", ""]
    for section in sections(facts):
        lines += [f"## {markdown_text(section.heading)}", "", markdown_text(section.words), ""]
        lines += [markdown_table(section.columns, section.rows), ""]
    lines += [f"Transcripts of the worst cases: {HTML_FILE}.", "", markdown_text(_joined(_footer(facts))), ""]
    atomic_write_text(path, "\n".join(lines))


def _subtitle(facts: Mapping[str, Any]) -> str:
    *others, final = facts["labels"]
    return f"{final} under attack" + (f", beside {', '.join(others)}" if others else "")


def _footer(facts: Mapping[str, Any]) -> dict[str, object]:
    return {label: _joined({name: str(value)[:60] for name, value in target.items()})
            for label, target in facts["models"].items()}  # fmt: skip


def _joined(named: Mapping[str, object]) -> str:
    return " · ".join(f"{key}: {value}" for key, value in named.items())
