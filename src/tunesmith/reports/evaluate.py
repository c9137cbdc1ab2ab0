"""The page about an evaluation: what was found, every figure with its interval, worst cases, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.evaluate_picture import draw_suites
from tunesmith.reports.html import Report
from tunesmith.reports.markdown import markdown_table, markdown_text
from tunesmith.reports.winrate import interval_text
from tunesmith.runs import atomic_write_text

REPORT_FILE, TEXT_FILE, PICTURE_FILE = "report.html", "report.md", "eval.png"
Example = tuple[str, Mapping[str, Any]]
_METHOD = (
    "Intervals are 95 %: Wilson's score interval of shares, a bootstrap of other means, both over groups where items "
    "belong together. Comparisons are over the same items, asked in the same words and with the same settings: "
    "p is the exact two-sided McNemar test (on graded values the sign test) of the metric that decides in a suite, "
    "and p (Holm) holds for all tests of this evaluation together. Other metrics are shown and not tested."
)


def sentence(one: Mapping[str, Any], num_tests: int) -> str:
    """What may be said of one comparison: what was found, or what these items could have shown."""
    difference = one["differences"][one["headline"]]
    figures = f"{one['headline']} {signed(difference)}, {one['only_first']} items better in {one['first']}, "
    figures += f"{one['only_second']} in {one['second']}, p {one['p']:.2g}"
    figures += f", {one['p_holm']:.2g} over {num_tests} tests" if num_tests > 1 else ""
    if one["finding"] in ("better", "worse"):
        return f"{one['task']}: {one['second']} is {one['finding']} than {one['first']}: {figures}."
    if one["finding"] == "mixed":
        said = f"{one['second']} and {one['first']} differ, the number of items and the mean not in one direction"
        return f"{one['task']}: {said}: {figures}."
    could = "how much it varies cannot be told from these items"
    if one["smallest"] is not None and one["smallest"] >= 1:
        could = f"{one['num_items']} items that differ so seldom could show none"
    elif one["smallest"] is not None:
        could = f"{one['num_items']} items would show {one['smallest']:.3f} or more, 4 times in 5"
    return f"{one['task']}: no difference found between {one['second']} and {one['first']}: {figures}; {could}."


def signed(limits: Mapping[str, float]) -> str:
    """A difference with its sign and its interval."""
    return f"{limits['value']:+.3f} [{limits['low']:+.3f}, {limits['high']:+.3f}]"


def write_eval_report(folder: Path, facts: Mapping[str, Any], examples: Mapping[str, Sequence[Example]]) -> None:
    """Write eval.png, report.html and report.md; ``facts`` is what eval.json holds. Raises DiskFullError."""
    labels = [subject["label"] for subject in facts["subjects"]]
    has_picture = draw_suites(folder / PICTURE_FILE, facts["suites"], labels)
    against = f" against {', '.join(labels[1:])}" if len(labels) > 1 else ""
    report = Report(f"Evaluation: {labels[0]}{against}", f"{len(facts['suites'])} suites")
    report.heading("Result")
    for line in sentences(facts):
        report.text(line)
    report.table(*result_table(facts, labels), sortable=True)
    if has_picture:
        report.figure(folder / PICTURE_FILE, "Headline metric of each suite with its 95 % interval.")
    report.text(_METHOD)
    for suite in facts["suites"]:
        _suite(report, suite, labels, examples[suite["name"]])
    report.heading("What it took")
    report.table(*cost_table(facts, labels), sortable=True)
    report.footer(_footer(facts))
    report.write(folder / REPORT_FILE)
    atomic_write_text(folder / TEXT_FILE, _as_markdown(facts, labels, has_picture=has_picture))


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """Every comparison in a sentence; without one, what is missing for a statement of better or worse."""
    found = [sentence(one, facts["tests"]) for suite in facts["suites"] for one in suite["comparisons"]]
    return found or ["One model was measured; --compare names what it should be compared with."]


def result_table(facts: Mapping[str, Any], labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the headline of each suite, every subject, every comparison."""
    columns = ["suite", "metric", "items", "chance", *labels]
    columns += [f"{text} {label}" for label in labels[1:] for text in ("difference to", "p (Holm) against")]
    rows = []
    for suite in facts["suites"]:
        headline, chance = suite["headline"], suite["chance"].get(suite["headline"])
        row = [suite["name"], _metric(suite, headline), str(suite["items"]), "-" if chance is None else f"{chance:.3f}"]
        row += [interval_text(suite["results"][label]["metrics"][headline]) for label in labels]
        for one in suite["comparisons"]:
            row += [signed(one["differences"][headline]), f"{one['p_holm']:.2g}"]
        rows.append(row)
    return columns, rows


def metric_table(suite: Mapping[str, Any], labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: every metric of one suite, every subject, every difference."""
    columns = ["metric", "chance", *labels, *(f"difference to {label}" for label in labels[1:])]
    rows = []
    for metric in suite["results"][labels[0]]["metrics"]:
        chance = suite["chance"].get(metric)
        row = [_metric(suite, metric), "-" if chance is None else f"{chance:.3f}"]
        row += [interval_text(suite["results"][label]["metrics"][metric]) for label in labels]
        rows.append(row + [signed(one["differences"][metric]) for one in suite["comparisons"]])
    return columns, rows


def cost_table(facts: Mapping[str, Any], labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what each subject took on each suite in this process; kept answers took nothing."""
    columns = ["suite", "model", "seconds", "tokens read", "tokens generated", "answers cut off"]
    rows = []
    for suite in facts["suites"]:
        for label in labels:
            one = suite["results"][label]
            costs = (one["seconds"], one["read_tokens"], one["generated_tokens"], one["cut_off"])
            rows.append([suite["name"], label, *map(str, costs)])
    return columns, rows


def about_suite(suite: Mapping[str, Any]) -> list[str]:
    """What must be said of a suite: what it measures, where it is from, how it was asked, where shots were chosen."""
    shown = {None: "the task's own number of shots", 1: "1 shot"}.get(suite["shots"], f"{suite['shots']} shots")
    template = "in the chat template" if suite["chat_template"] else "as plain text"
    drawn = suite["sampling"]
    how = "by the likelihood of given words"
    if drawn is not None:
        how = f"by at most {drawn['max_new_tokens']} tokens at temperature {drawn['temperature']:g}"
        how += f", {suite['samples']} drawn" if suite["samples"] > 1 else ""
    lines = [
        suite["about"],
        f"Version {suite['version']}, {suite['source']}, {suite['licence']}. {suite['items']} items"
        + (f" in {suite['groups']} groups" if suite["groups"] < suite["items"] else "")
        + f", {shown}, asked {template}, answered {how}.",
    ]
    chosen = suite["shots_chosen"]
    if chosen is not None:
        tried = "; ".join(
            f"{shots}: " + ", ".join(f"{label} {interval_text(limits)}" for label, limits in own.items())
            for shots, own in chosen["tried"].items()
        )
        lines.append(
            f"The number of shots was chosen on {chosen['items']} {chosen['on']} items by the mean of "
            f"{suite['headline']} over the models ({tried}); the items below were then asked once."
        )
    return lines


def _suite(report: Report, suite: Mapping[str, Any], labels: Sequence[str], examples: Sequence[Example]) -> None:
    report.heading(suite["name"])
    for line in about_suite(suite):
        report.text(line)
    report.table(*metric_table(suite, labels), sortable=True)
    cut = {label: suite["results"][label]["cut_off"] for label in labels if suite["results"][label]["cut_off"]}
    if cut:
        told = ", ".join(f"{count} of {label}" for label, count in cut.items())
        report.text(f"Answers cut off at the most tokens allowed: {told}. They were scored as they stand.")
    for why, row in examples:
        report.example({f"{row['item']}: {why}": question_text(row["asked"]), "expected": row["target"]})
        report.sides({_headed(label, suite, answer): _said(answer) for label, answer in row["answers"].items()})


def question_text(turns: Sequence[Mapping[str, str]]) -> str:
    """The turns as they were asked, roles named where there are several."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns) or "(a text of its own)"


def _headed(label: str, suite: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    cut = ", cut off" if answer["stop_reason"] == "length" else ""
    return f"{label}: {suite['headline']} {answer['values'][suite['headline']]:.3g}{cut}"


def _said(answer: Mapping[str, Any]) -> str:
    draws = [answer["text"], *answer["samples"]]
    text = answer["text"] if len(draws) == 1 else "\n\n".join(f"[{i}] {draw}" for i, draw in enumerate(draws, 1))
    return f"{text}\n\n({answer['explanation']})" if answer["explanation"] else text


def _metric(suite: Mapping[str, Any], metric: str) -> str:
    return f"{metric} (less is better)" if metric in suite["less_is_better"] else metric


def _footer(facts: Mapping[str, Any]) -> dict[str, object]:
    machine = facts["machine"]
    return {
        **{subject["label"]: subject["identity"].get("model", "?") for subject in facts["subjects"]},
        "tests": facts["tests"],
        "seconds": facts["seconds"],
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "tunesmith": machine["versions"]["tunesmith"],
    }


def _as_markdown(facts: Mapping[str, Any], labels: Sequence[str], *, has_picture: bool) -> str:
    against = f" against {', '.join(labels[1:])}" if len(labels) > 1 else ""
    parts = [f"# Evaluation: {markdown_text(labels[0] + against)}", *map(markdown_text, sentences(facts))]
    parts.append(markdown_table(*result_table(facts, labels)))
    if has_picture:
        parts.append(f"![Headline metrics with 95 % intervals]({PICTURE_FILE})")
    parts.append(markdown_text(_METHOD))
    for suite in facts["suites"]:
        parts += [f"## {markdown_text(suite['name'])}", *map(markdown_text, about_suite(suite))]
        parts.append(markdown_table(*metric_table(suite, labels)))
    parts += ["## What it took", markdown_table(*cost_table(facts, labels))]
    return "\n\n".join([*parts, " · ".join(f"{k}: {markdown_text(v)}" for k, v in _footer(facts).items())]) + "\n"
