"""The page of ``advise`` and its Markdown, from what advise.json holds: advice first, then what it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.reports.advise_plots import write_pictures as write_pictures
from tunesmith.reports.html import Report
from tunesmith.reports.markdown import markdown_table, markdown_text

CAPTIONS = {
    "quality": "Quality of every condition on the same test rows, with its 95 % interval; the arrow marks the advice.",
    "curve": "Learning curve: tuned on, and retrieved from, a share of the training rows. The epochs are the same, so "
    "fewer rows are also fewer steps.",
    "cost": "Minutes on this machine, setting up included, by number of requests.",
    "freshness": "After the facts changed: an index is read as it is now, weights remember what they were taught.",
}
# Columns and rows of a table.
Table = tuple[list[str], list[list[str]]]


def write_report(path: Path, facts: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
    """Write the one-file page."""
    decision = facts["decision"]
    report = Report("Prompt, retrieve or tune?", f"{facts['base']['name']}, {Path(facts['task']).name}")
    report.heading(decision["verdict"])
    for reason in decision["reasons"]:
        report.text(reason)
    if decision["would_change"]:
        report.heading("What would change it")
        report.table(["if", "then"], [[change["what"], change["then"]] for change in decision["would_change"]])
    report.heading("Quality")
    report.figure(pictures["quality"], CAPTIONS["quality"])
    report.table(*quality_table(facts))
    report.text(how_it_was_measured(facts))
    if "curve" in pictures:
        report.heading("Would more rows help?")
        report.figure(pictures["curve"], CAPTIONS["curve"])
    report.heading("Cost")
    report.figure(pictures["cost"], CAPTIONS["cost"])
    report.table(*cost_table(facts))
    report.table(*break_even_table(facts))
    if facts["freshness"] is not None:
        report.heading("Facts that change")
        report.text(about_freshness(facts["freshness"]))
        report.figure(pictures["freshness"], CAPTIONS["freshness"])
        report.table(*freshness_table(facts["freshness"]))
        for example in facts["freshness"]["examples"][:2]:
            report.example(example)
    report.heading("Advice under other thresholds")
    for label in facts["sensitivity"]:
        report.text(f"Where {label}:")
        report.table(*sensitivity_table(facts, label))
    report.heading("How each condition was settled on")
    report.table(["condition", "chosen"], [[row["name"], row["chosen"]] for row in facts["conditions"]])
    report.table(
        ["tried on the validation rows", "quality"], [[k, _percent(v)] for k, v in facts["validation"].items()]
    )
    report.heading("Answers side by side")
    for example in facts["examples"]:
        report.example(example)
    for note in facts["notes"]:
        report.text(note)
    report.footer(_footer(facts))
    report.write(path)


def markdown(facts: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The same without the side-by-side answers; pictures are named as files beside it."""
    decision = facts["decision"]
    parts = [f"# Prompt, retrieve or tune?\n\n**{markdown_text(decision['verdict'])}**", _bullets(decision["reasons"])]
    if decision["would_change"]:
        parts += ["## What would change it", _bullets(f"if {c['what']}: {c['then']}" for c in decision["would_change"])]
    parts += [
        "## Quality",
        _picture(pictures["quality"]),
        markdown_table(*quality_table(facts)),
        markdown_text(how_it_was_measured(facts)),
    ]
    if "curve" in pictures:
        parts += ["## Would more rows help?", _picture(pictures["curve"])]
    parts += [
        "## Cost", _picture(pictures["cost"]),
        markdown_table(*cost_table(facts)), markdown_table(*break_even_table(facts)),
    ]  # fmt: skip
    if facts["freshness"] is not None:
        fresh = facts["freshness"]
        parts += ["## Facts that change", markdown_text(about_freshness(fresh)), _picture(pictures["freshness"])]
        parts.append(markdown_table(*freshness_table(fresh)))
    parts.append("## Advice under other thresholds")
    for label in facts["sensitivity"]:
        parts += [f"Where {label}:", markdown_table(*sensitivity_table(facts, label))]
    parts += ["## Notes", _bullets([*facts["notes"], *(f"{k}: {v}" for k, v in _footer(facts).items())])]
    return "\n\n".join(parts) + "\n"


def quality_table(facts: Mapping[str, Any]) -> Table:
    """Conditions with the metric that decides, the others, and the paired test against the best."""
    others = [name for name in facts["conditions"][0]["metrics"] if name != facts["answers"]["metric"]]
    columns = ["condition", facts["answers"]["metric"], *others, "against the best, points", "p", "p, Holm", "cut off"]
    rows = []
    for row in facts["conditions"]:
        against = row["against_best"]
        compared = ["", "", ""]
        if against is not None:
            change = against["difference"]
            low, high = 100 * change["low"], 100 * change["high"]
            compared = [f"{100 * change['value']:+.1f} [{low:+.1f}, {high:+.1f}]"]
            compared += [f"{against['p']:.2g}", f"{against['holm_p']:.2g}"]
        shares = [interval_text(row["quality"]), *(interval_text(row["metrics"][name]) for name in others)]
        rows.append([row["name"], *shares, *compared, str(row["cut_off"])])
    return columns, rows


def how_it_was_measured(facts: Mapping[str, Any]) -> str:
    """What a reader must know to believe the table."""
    return (
        f"All conditions answered the same {facts['rows']['test']} test rows once; prompts, numbers of shots and the "
        f"tuned weights were chosen on {facts['rows']['validation']} other rows. Near copies of a test question are "
        "not learnt from, searched or shown. Intervals are 95 % (Wilson for shares, else "
        "bootstrap); p is the exact McNemar or sign test against the best condition, then adjusted by Holm for all of "
        "them. Every adapter was trained once: intervals are about which rows were asked, not about the seed. "
        f"{facts['answers']['note'][0].upper()}{facts['answers']['note'][1:]}"
    )


def cost_table(facts: Mapping[str, Any]) -> Table:
    """Tokens and time of a request, and of setting up."""
    columns = [
        "condition",
        "prompt tokens",
        "answer tokens",
        "ms a request, median [range]",
        "set up: minutes",
        "tokens",
    ]
    rows = []
    for row in facts["conditions"]:
        ms = row["ms"]
        time = f"{ms['median']:.0f} [{ms['low']:.0f}, {ms['high']:.0f}] of {ms['num']}"
        tokens = [f"{row['prompt_tokens']:.0f}", f"{row['answer_tokens']:.0f}"]
        rows.append([row["name"], *tokens, time, f"{row['setup_minutes']:.1f}", f"{row['setup_tokens']:,}"])
    return columns, rows


def break_even_table(facts: Mapping[str, Any]) -> Table:
    """For how many requests tuning takes less time than each condition without it, whatever the quality."""
    rows = []
    for even in facts["break_even"]:
        number = even["requests"]
        rows.append([even["against"], even["when"] if number is None else f"{even['when']} {number:,.0f} requests"])
    return ["tuning takes less time than", "when"], rows


def about_freshness(fresh: Mapping[str, Any]) -> str:
    """How the test was done."""
    facts = "an invented museum, whose things lie in halls" if fresh["invented"] else "your facts"
    told = (
        f"An adapter of its own was tuned on {facts}; then {fresh['num_changed']} of them changed, in the index alone, "
        f"and {fresh['num_kept']} did not. They are asked in a wording of their own where there are several. An answer "
        "that names both or neither counts as neither; 'follows': more new answers than old ones, sign test p at most "
        "0.05."
    )
    warning = " Tuning did not teach the old facts here (less than half), so this says little about weights."
    return told if fresh["learnt"] else told + warning


def freshness_table(fresh: Mapping[str, Any]) -> Table:
    """Who says what after the change."""
    columns = ["asked", "says the new", "says the old", "unchanged facts right", "p", "follows"]
    rows = [
        [
            row["name"],
            interval_text(row["new"]),
            interval_text(row["old"]),
            interval_text(row["kept"]) if row["kept"] is not None else "-",
            f"{row['p']:.2g}",
            "yes" if row["follows"] else "no",
        ]
        for row in fresh["rows"]
    ]
    return columns, rows


def sensitivity_table(facts: Mapping[str, Any], label: str) -> Table:
    """Requests down, margins across."""
    table = facts["sensitivity"][label]
    margins = list(next(iter(table.values())))
    columns = ["requests", *(f"give up {100 * float(margin):g} points" for margin in margins)]
    return columns, [[f"{int(n):,}", *(row[margin] or "none" for margin in margins)] for n, row in table.items()]


def interval_text(limits: Mapping[str, float]) -> str:
    """Value and limits in percent."""
    value, low, high = (100 * limits[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _footer(facts: Mapping[str, Any]) -> dict[str, object]:
    machine, minutes = facts["machine"], facts["minutes"]
    return {
        "base": f"{facts['base']['name']} ({facts['base']['digest'][:12]}), {facts['base']['dtype']}",
        "training rows": facts["rows"]["train"],
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "minutes": f"{minutes['taken']:.1f} ({minutes['estimated']:.1f} estimated)",
        "seed": facts["settings"]["seed"],
        "date": facts["date"],
    }


def _bullets(lines: Any) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _picture(path: Path) -> str:
    return f"![{path.stem}]({path.name})"
