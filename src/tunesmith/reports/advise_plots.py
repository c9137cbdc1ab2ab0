"""The pictures of ``advise``: quality, learning curve, what it costs over time, and who follows a changed fact."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.runs import atomic_write_bytes

COLOURS = {
    "prompt": "#8a94a6", "shots": "#5c7fa8", "retrieve": "#3f8f6b", "tune": "#b5482a", "tune+retrieve": "#7a4f9a",
}  # fmt: skip
REQUESTS = [10 ** (power / 4) for power in range(4, 25)]


def write_pictures(folder: Path, facts: Mapping[str, Any]) -> dict[str, Path]:
    """quality.png, cost.png and, where they were measured, curve.png and freshness.png. Raises DiskFullError."""
    pictures = {"quality": _quality(facts), "cost": _cost(facts)}
    if len(facts["curve"]) > 1:
        pictures["curve"] = _curve(facts)
    if facts["freshness"] is not None:
        pictures["freshness"] = _freshness(facts["freshness"])
    paths = {}
    for name, figure in pictures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        paths[name] = folder / f"{name}.png"
        atomic_write_bytes(paths[name], picture.getvalue())
    return paths


def _axes(height: float) -> tuple[Any, Any]:
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _errors(intervals: Sequence[Mapping[str, float]]) -> list[list[float]]:
    return [
        [max(0.0, 100 * (one["value"] - one["low"])) for one in intervals],
        [max(0.0, 100 * (one["high"] - one["value"])) for one in intervals],
    ]


def _quality(facts: Mapping[str, Any]) -> Any:
    rows = list(reversed(facts["conditions"]))
    figure, axes = _axes(0.9 + 0.45 * len(rows))
    values = [100 * row["quality"]["value"] for row in rows]
    axes.barh(
        range(len(rows)), values, xerr=_errors([row["quality"] for row in rows]), capsize=3, height=0.62,
        color=[COLOURS[row["family"]] for row in rows], ecolor="#444",
    )  # fmt: skip
    chosen = facts["decision"]["choice"]
    axes.set_yticks(range(len(rows)), [f"{'→ ' if row['name'] == chosen else ''}{row['name']}" for row in rows])
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{facts['answers']['metric']}, % of {facts['rows']['test']} test rows, 95 % interval")
    axes.grid(axis="x", alpha=0.25)
    return figure


def _curve(facts: Mapping[str, Any]) -> Any:
    figure, axes = _axes(3.6)
    points = facts["curve"]
    rows = [point["num_rows"] for point in points]
    for offset, (key, family, label) in enumerate(
        (("tuned", "tune", "tuned on them"), ("retrieved", "retrieve", "retrieved from them"))
    ):
        axes.errorbar(
            [number * (1 + 0.02 * offset) for number in rows], [100 * point[key]["value"] for point in points],
            yerr=_errors([point[key] for point in points]), color=COLOURS[family], marker="o", capsize=3, label=label,
        )  # fmt: skip
    untrained = [row for row in facts["conditions"] if row["family"] in ("prompt", "shots")]
    best = max(untrained, key=lambda row: row["quality"]["value"])
    axes.axhline(
        100 * best["quality"]["value"],
        color=COLOURS[best["family"]],
        linestyle="--",
        label=f"{best['name']}, for comparison",
    )
    axes.set_xscale("log")
    axes.set_xticks(rows, [str(number) for number in rows])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_xlabel("training rows")
    axes.set_ylabel(f"{facts['answers']['metric']}, %")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _cost(facts: Mapping[str, Any]) -> Any:
    figure, axes = _axes(3.8)
    styles = ["-", "--", ":", "-."]
    seen: dict[str, int] = {}
    for row in facts["conditions"]:
        style = styles[seen.setdefault(row["family"], 0) % len(styles)]
        seen[row["family"]] += 1
        minutes = [row["setup_minutes"] + number * row["ms"]["median"] / 60_000 for number in REQUESTS]
        axes.plot(REQUESTS, minutes, color=COLOURS[row["family"]], linestyle=style, label=row["name"])
    tuned = next((row for row in facts["conditions"] if row["family"] == "tune"), None)
    for even in facts["break_even"]:
        if tuned is not None and even["when"] == "from" and REQUESTS[0] <= even["requests"] <= REQUESTS[-1]:
            spent = tuned["setup_minutes"] + even["requests"] * tuned["ms"]["median"] / 60_000
            axes.plot(even["requests"], spent, "o", color=COLOURS["tune"], markersize=5)
    axes.axvline(facts["rules"]["num_requests"], color="#999", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("requests, one at a time (grey line: those you expect; dots: tuning has paid for itself)")
    axes.set_ylabel("minutes, setting up included")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _freshness(fresh: Mapping[str, Any]) -> Any:
    rows = list(reversed(fresh["rows"]))
    figure, axes = _axes(0.9 + 0.45 * len(rows))
    new, old = ([100 * row[key]["value"] for row in rows] for key in ("new", "old"))
    axes.barh(range(len(rows)), new, color=COLOURS["retrieve"], height=0.6, label="says the new answer")
    axes.barh(range(len(rows)), old, left=new, color=COLOURS["tune"], height=0.6, label="says the old answer")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"% of {fresh['num_changed']} facts that changed after tuning; the rest: neither")
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
