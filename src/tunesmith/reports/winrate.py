"""The page about a match: who won how often, by how much, at what length and distance, and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.html import Report


def write_winrate_report(path: Path, facts: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> None:
    """Write the page; ``facts`` is what winrate.json holds, ``examples`` are rows of winrate.jsonl."""
    names = " and ".join(facts["win_rates"])
    report = Report(f"Win rate: {names} against {facts['against']}", f"{facts['num_prompts']} held-out prompts")
    report.heading("Result")
    add_winrate(report, facts)
    report.heading("Answers side by side")
    add_examples(report, examples)
    processor = f"{facts['machine']['processor']}, {facts['machine']['cores']} cores"
    source = facts["prompts"]["source"]
    report.footer(
        {"base": facts["base"]["name"], "prompts": source, "seconds": facts["seconds"], "processor": processor}
    )
    report.write(path)


def add_winrate(report: Report, facts: Mapping[str, Any]) -> None:
    """The tables of a match, for this page and for others."""
    against, sides = facts["against"], facts["sides"]
    report.text(
        "Both sides answered every prompt with the same random numbers, and the judge scored all answers in a shuffled "
        "order without knowing whose they are. A tie counts one half. Intervals are 95 % and know which answers share "
        "a prompt: of the win rate a score interval, of the difference a bootstrap over prompts. p is the exact "
        "two-sided sign test over prompts."
    )
    if facts["seen_in_training"]:
        report.text(f"Mind: the judge was trained with ({', '.join(facts['seen_in_training'])}).")
    if facts.get("judge_agreement"):
        report.text(f"The judge that writes its scores: {facts['judge_agreement']} against people.")
    report.table(
        [
            f"against {against}",
            "win rate",
            "won-tied-lost",
            "score difference",
            "p",
            "KL, nats an answer",
            "a token",
        ],
        [
            [
                label,
                interval_text(one["rate"], percent=True),
                f"{one['wins']}-{one['ties']}-{one['losses']}",
                interval_text(one["difference"]),
                f"{one['p']:.2g}",
                interval_text(facts["kl"][label]["sequence"]) if label in facts["kl"] else "-",
                f"{facts['kl'][label]['token']:.4f}" if label in facts["kl"] else "-",
            ]
            for label, one in facts["win_rates"].items()
        ],
    )
    if not facts["kl"]:
        report.text("KL is not estimated: the answers were not drawn at temperature 1 from all tokens.")
    parts = list(sides[against]["parts"])
    report.table(
        ["model", "mean score", "tokens an answer", "cut off", *(f"mean {name}" for name in parts if len(parts) > 1)],
        [
            [
                label,
                interval_text(one["score"]),
                interval_text(one["tokens"], digits=1),
                f"{100 * one['share_cut_off']:.0f} %",
                *(f"{one['parts'][name]:.3f}" for name in parts if len(parts) > 1),
            ]
            for label, one in sides.items()
        ],
    )
    counts = {name: count for name, count in facts["judge_counts"].items() if count}
    if counts:
        report.table(["the judge", "answers"], [[name.replace("_", " "), count] for name, count in counts.items()])


def add_examples(report: Report, examples: Sequence[Mapping[str, Any]]) -> None:
    """Prompts with every side's answer, score and length; the seed chose them, nobody picked."""
    report.text("Chosen by the seed, not by hand.")
    for row in examples:
        shown = {"prompt": "\n\n".join(_turn(turn, len(row["prompt"])) for turn in row["prompt"])}
        for label, text in row["answers"].items():
            cut = ", cut off" if row["stop_reasons"][label] == "length" else ""
            shown[f"{label}: score {row['scores'][label]:.3f}, {row['tokens'][label]} tokens{cut}"] = text
        report.example(shown)


def _turn(turn: Mapping[str, str], num_turns: int) -> str:
    return turn["content"] if num_turns == 1 else f"{turn['role']}: {turn['content']}"


def interval_text(limits: Mapping[str, float], *, percent: bool = False, digits: int = 3) -> str:
    """value [low, high] of an interval as JSON holds it."""
    if percent:
        value, low, high = (100 * limits[key] for key in ("value", "low", "high"))
        return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
    return f"{limits['value']:.{digits}f} [{limits['low']:.{digits}f}, {limits['high']:.{digits}f}]"
