"""Pictures and page of a reinforcement-learning run: is the reward real, what did it cost in KL, what was warned of."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.reports.html import Report
from tunesmith.reports.winrate import add_examples, add_winrate
from tunesmith.runs import atomic_write_bytes
from tunesmith.training.guards import Iteration, Warned, frontier

CURVES_FILE, FRONTIER_FILE, REPORT_FILE = "ppo.png", "frontier.png", "report.html"
_LINE, _MARK, _SOFT = "#3f6ea3", "#b5482a", "#c3d3e4"
_UNITS = {
    "reward": "reward, mean of answers",
    "kl": "KL to the reference,\nnats an answer",
    "length": "tokens an answer",
    "entropy": "entropy, nats a token",
    "repetition": "share of repeated 3-grams",
}
# Where a guard's line is drawn; the others' in the reward's panel.
_GUARD_PANELS = {"kl_alarm": "kl", "length_drift": "length", "entropy_collapse": "entropy", "repetition": "repetition"}


def draw_curves(
    path: Path, history: Sequence[Iteration], *, kept: int | None = None, warned: Sequence[Warned] = ()
) -> None:
    """Reward, KL, length, entropy and repetition over updates as one PNG, a line where a guard first spoke of it.

    kept: updates behind the policy that was kept, which is ringed. Watched sources get panels of their own. Raises
    DiskFullError.
    """
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    watched = sorted({name for one in history for name in one.watched})
    panels = [*_UNITS, *watched]
    num_rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(9.0, 2.7 * num_rows), dpi=120, layout="constrained")
    grid = figure.subplots(num_rows, 2, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        points = [(one.step, _value(one, panel)) for one in history if panel in _UNITS or panel in one.watched]
        steps, values = zip(*points, strict=True) if points else ((), ())
        if panel == "reward":
            spread = np.array([one.reward_std for one in history])
            low, high = np.array(values) - spread, np.array(values) + spread
            axes.fill_between(steps, low, high, color=_SOFT, alpha=0.5, linewidth=0, label="± std of answers")
        axes.plot(steps, values, color=_LINE, marker="o", markersize=3)
        for step, value in points:
            if step == kept:
                axes.plot(step, value, "o", markersize=10, markerfacecolor="none", color=_MARK, label="kept")
        for one, style in zip(_first_of_panel(warned, panel), ("--", ":"), strict=False):
            axes.axvline(one.step, color=_MARK, linestyle=style, linewidth=1.2, label=one.guard.replace("_", " "))
        # A source's name may hold a dollar sign, which would be read as a formula.
        axes.set_ylabel(_UNITS.get(panel, f"watched: {panel}".replace("$", r"\$")), fontsize=9)
        axes.set_xlabel("updates", fontsize=9)
        if panel != "reward" and panel in _UNITS:
            axes.set_ylim(bottom=min(0.0, *values) if values else 0.0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    _save(figure, path)


def _first_of_panel(warned: Sequence[Warned], panel: str) -> list[Warned]:
    """The first warning of each guard that belongs into a panel; those that belong nowhere else into the reward's."""
    first: dict[str, Warned] = {}
    for one in warned:
        if _GUARD_PANELS.get(one.guard, "reward") == panel:
            first.setdefault(one.guard, one)
    return list(first.values())


def _value(one: Iteration, panel: str) -> float:
    return float(getattr(one, panel)) if panel in _UNITS else one.watched[panel]


def draw_frontier(path: Path, history: Sequence[Iteration], *, kept: int | None, kl_budget: float | None) -> None:
    """Reward against KL, a point an iteration and later ones darker; the line joins those no other beats.

    Raises DiskFullError.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # The palest blues cannot be seen on white.
    blues = ListedColormap(colormaps["Blues"](np.linspace(0.25, 1, 256)))
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    kl, reward = [one.kl for one in history], [one.reward for one in history]
    points = axes.scatter(kl, reward, c=[one.step for one in history], cmap=blues, zorder=2)
    best = frontier(history)
    axes.step(
        [one.kl for one in best], [one.reward for one in best], where="post", color=_LINE, linewidth=1.2, zorder=1,
        label="best within each KL",
    )  # fmt: skip
    for one in history:
        if one.step == kept:
            label = f"kept: {one.step} updates"
            axes.plot(one.kl, one.reward, "o", markersize=12, markerfacecolor="none", color=_MARK, label=label)
    if kl_budget is not None:
        axes.axvline(kl_budget, color=_MARK, linestyle="--", linewidth=1, label=f"KL budget {kl_budget:g}")
    axes.set_xlabel("KL to the reference, nats an answer")
    axes.set_ylabel("reward, mean of answers")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.colorbar(points, label="updates", ticks=MaxNLocator(integer=True))
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def write_rl_report(
    folder: Path,
    history: Sequence[Iteration],
    warned: Sequence[Warned],
    *,
    title: str,
    kept: int | None,
    kl_budget: float | None,
    samples: Sequence[Mapping[str, Any]],
    match: Mapping[str, Any] | None,
    examples: Sequence[Mapping[str, Any]],
    facts: Mapping[str, object],
) -> None:
    """Write ppo.png, frontier.png and report.html of a finished run into its folder.

    samples: rows with step, row_id, prompt, answer, score, of which the first and the last step are shown. match: what
    winrate.json holds, None where nothing judged; examples: its rows to show. Raises DiskFullError.
    """
    draw_curves(folder / CURVES_FILE, history, kept=kept, warned=warned)
    draw_frontier(folder / FRONTIER_FILE, history, kept=kept, kl_budget=kl_budget)
    report = Report(title, f"{len(history)} rollout phases")
    report.heading("Course")
    report.figure(folder / CURVES_FILE, "Means over the answers of each rollout phase, before the update from them.")
    _add_ends(report, history, kept)
    report.heading("Reward against KL")
    report.text(
        "A reward model is trusted least where answers are furthest from those it was trained on, so the policy that "
        "is kept is the best within a KL budget, not the best by reward alone."
    )
    report.figure(folder / FRONTIER_FILE, "Each point is a rollout phase. The line joins those no other beats.")
    report.heading("Guards")
    _add_guards(report, warned)
    report.heading("Win rate, blind")
    if match is not None:
        add_winrate(report, match)
        add_examples(report, examples)
    else:
        report.text("Not measured: the recipe names no judge that the policy did not train with.")
    report.heading("Samples of the training prompts, first and last")
    _add_samples(report, samples)
    report.footer(facts)
    report.write(folder / REPORT_FILE)


def _add_ends(report: Report, history: Sequence[Iteration], kept: int | None) -> None:
    shown = [("first", history[0]), ("last", history[-1])]
    shown[1:1] = [("kept", one) for one in history if one.step == kept]
    watched = sorted({name for one in history for name in one.watched})
    report.table(
        ["phase", "updates", "reward", "KL, nats", "tokens", "entropy", "repeated 3-grams", *watched],
        [
            [
                name, one.step, f"{one.reward:.3f}", f"{one.kl:.2f}", f"{one.length:.1f}", f"{one.entropy:.2f}",
                f"{one.repetition:.3f}", *(f"{one.watched[w]:.3f}" if w in one.watched else "-" for w in watched),
            ]
            for name, one in shown
        ],
    )  # fmt: skip


def _add_guards(report: Report, warned: Sequence[Warned]) -> None:
    """The first and the newest word of each guard, and how often it spoke."""
    if not warned:
        report.text("No guard spoke.")
        return
    by_guard: dict[str, list[Warned]] = {}
    for one in warned:
        by_guard.setdefault(one.guard, []).append(one)
    report.table(
        ["guard", "spoke", "first after", "what was seen last", "what mostly causes it"],
        [
            [
                name.replace("_", " "),
                f"{len(spoken)} times",
                f"{spoken[0].step} updates",
                spoken[-1].seen,
                spoken[-1].cause,
            ]
            for name, spoken in by_guard.items()
        ],
    )


def _add_samples(report: Report, samples: Sequence[Mapping[str, Any]]) -> None:
    """Each prompt that was sampled at both ends, with both answers; the first sample of a step is shown."""
    if not samples:
        report.text("None were kept.")
        return
    ends = min(row["step"] for row in samples), max(row["step"] for row in samples)
    first, last = ({row["row_id"]: row for row in reversed(samples) if row["step"] == step} for step in ends)
    both = [row_id for row_id in dict.fromkeys(row["row_id"] for row in samples) if row_id in first and row_id in last]
    if not both:
        report.text(f"No prompt was answered both after {ends[0]} and after {ends[1]} updates.")
    for row_id in both:
        report.example(
            {"prompt": str(first[row_id]["prompt"])}
            | {
                f"after {row['step']} updates: score {row['score']:.3f}": str(row["answer"])
                for row in (first[row_id], last[row_id])
            }
        )
