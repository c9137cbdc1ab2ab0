"""The retention matrix as a picture and as a page: a row a stage, a column a task."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunesmith.reports.html import Report
from tunesmith.runs import atomic_write_bytes
from tunesmith.stats import Interval


class Cell(Protocol):
    """What was measured of one task after one stage."""

    def loss(self) -> Interval: ...

    def share_exact(self) -> Interval | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One arm: cells[stage][task]; stage 0 is the base, stage k the arm after its k-th task."""

    arm: str
    tasks: Sequence[str]
    cells: Sequence[Sequence[Cell]]

    @property
    def stages(self) -> list[str]:
        """What the rows are called."""
        return ["base", *(f"after {task}" for task in self.tasks)]


def draw_matrices(matrices: Sequence[Matrix], path: Path) -> None:
    """A panel an arm, all on one scale of colours: exact match where every task has it, else the validation loss."""
    # Not through pyplot: that would change the drawing backend of a notebook that calls this.
    from matplotlib.figure import Figure

    shares = [[[c.share_exact() for c in row] for row in m.cells] for m in matrices]
    exact = all(s is not None for panel in shares for row in panel for s in row)
    values = [
        [[100 * s.value if exact and s is not None else c.loss().value for s, c in zip(*both, strict=True)]
         for both in zip(panel, m.cells, strict=True)]
        for panel, m in zip(shares, matrices, strict=True)
    ]  # fmt: skip
    every = [value for panel in values for row in panel for value in row]
    low, high = (0.0, 100.0) if exact else (min(every), max(every))
    names = matrices[0].tasks
    size = (1.4 + len(matrices) * (0.6 + 0.85 * len(names)), 1.6 + 0.5 * len(matrices[0].stages))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, matrix, panel in zip(panels, matrices, values, strict=True):
        image = axes.imshow(panel, cmap="Blues" if exact else "Blues_r", vmin=low, vmax=high, aspect="auto")
        for stage, row in enumerate(panel):
            for task, value in enumerate(row):
                dark = (value - low) / max(high - low, 1e-9) > 0.6
                axes.text(task, stage, f"{value:.0f}" if exact else f"{value:.2f}", ha="center", va="center",
                          fontsize=8, color="white" if dark == exact else "black")  # fmt: skip
        axes.set_title(matrix.arm, fontsize=10)
        axes.set_xticks(range(len(names)), names, fontsize=8, rotation=20)
        axes.set_yticks(range(len(matrix.stages)), matrix.stages if axes is panels[0] else [], fontsize=8)
        axes.tick_params(length=0)
    label = "exact match, %" if exact else "validation loss, nats a token"
    figure.colorbar(image, ax=list(panels), shrink=0.85).set_label(label, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic_write_bytes(path, picture.getvalue())


def write_continual_report(path: Path, matrices: Sequence[Matrix], summary: Mapping[str, Any], picture: Path) -> None:
    """The one-file page: the picture, a table an arm with intervals, and what was forgotten."""
    facts = summary["facts"]
    report = Report("What is left of earlier tasks", f"{facts['base']}, {facts['rows']} rows")
    report.text(
        "A row is a stage, a column a task: what the adapter that answers it says of its validation rows. shared: one "
        "adapter goes on learning; separate: one each, so an untrained task is the base's; replay: one adapter, with a "
        f"share of {facts['replay share']} old rows among the new. The last weights of each stage are measured."
    )
    report.figure(picture, "Retention: stages down, tasks across")
    for matrix in matrices:
        report.heading(f"{matrix.arm}: loss in nats a token, exact match in %")
        rows = [[stage, *(_cell(cell) for cell in row)] for stage, row in zip(matrix.stages, matrix.cells, strict=True)]
        report.table(["stage", *matrix.tasks], rows)
    report.heading("Forgotten: the best from when a task was learnt to before the last, less the last")
    report.text(
        "Positive numbers are losses, negative ones gains. 95 % intervals: a bootstrap over rows for the loss, "
        "Newcombe's paired one for exact match. The best of several stages is by chance a little too good, so small "
        "numbers mean nothing."
    )
    lost = [
        [arm, one["task"], _limits(one["loss"]), _limits(one["exact"], 100)]
        for arm, found in summary["forgetting"].items()
        for one in found
    ]
    report.table(["arm", "task", "loss, nats", "exact, points"], lost)
    report.footer(facts)
    report.write(path)


def _cell(cell: Cell) -> str:
    exact = cell.share_exact()
    return str(cell.loss()) + ("" if exact is None else f" · {exact.percent()}")


def _limits(interval: Mapping[str, float] | None, times: float = 1.0) -> str:
    if interval is None:
        return "not asked"
    value, low, high = (times * interval[key] for key in ("value", "low", "high"))
    digits = 0 if times > 1 else 3
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
