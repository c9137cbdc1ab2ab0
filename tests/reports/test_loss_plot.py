"""The loss curve: what is drawn is what was logged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from tunesmith.reports.plots import loss_curve


def draw(metrics: list[dict[str, Any]], path: Path, monkeypatch: pytest.MonkeyPatch, best_step: int = 0) -> Axes:
    """The axes that were drawn, besides the picture."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **how: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **how)

    monkeypatch.setattr(Figure, "savefig", keep)
    loss_curve(metrics, path, best_step=best_step)
    monkeypatch.undo()
    (axes,) = figures[0].axes
    return axes


def points(axes: Axes, label: str) -> list[tuple[float, float]]:
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith(label)]
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


METRICS = [
    {"step": 0, "eval_loss": 3.0},
    *({"step": step, "loss": 3.0 / step, "learning_rate": 1e-3} for step in range(1, 9)),
    {"step": 4, "eval_loss": 1.5},
    {"step": 8, "eval_loss": 1.75},
]


def test_every_logged_loss_is_drawn_and_the_kept_step_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = draw(METRICS, tmp_path / "loss.png", monkeypatch, best_step=4)
    assert points(axes, "training") == [(step, 3.0 / step) for step in range(1, 9)]
    assert points(axes, "validation") == [(0, 3.0), (4, 1.5), (8, 1.75)]
    assert points(axes, "kept: step 4, 1.500") == [(4, 1.5)]
    assert axes.get_xlabel() == "optimiser step"
    assert "nats" in axes.get_ylabel()
    assert axes.get_ylim()[0] == 0
    picture = imread(tmp_path / "loss.png")
    assert picture.shape[0] > 400 and picture.shape[1] > 800
    assert len({tuple(pixel) for pixel in picture.reshape(-1, picture.shape[-1])[::7]}) > 20, "the picture is blank"
    # Control: without a best step nothing is marked.
    assert not [
        line for line in draw(METRICS, tmp_path / "b.png", monkeypatch).lines if "kept" in str(line.get_label())
    ]


def test_many_steps_get_a_mean_that_neither_lags_nor_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = [{"step": step, "loss": 5.0 - step / 50 + 0.1 * (-1) ** step} for step in range(1, 201)]
    axes = draw(noisy, tmp_path / "loss.png", monkeypatch)
    assert len(points(axes, "training, each step")) == 200
    mean = points(axes, "training, mean")
    assert [x for x, _ in mean] == [row["step"] for row in noisy]
    # Of 21 alternating values one is left over: 0.1 / 21. A trailing mean would lag by ten steps, 0.2.
    assert all(abs(y - (5.0 - x / 50)) < 0.1 / 21 + 1e-9 for x, y in mean[10:-10])
    assert mean[0][1] == noisy[0]["loss"] and mean[-1][1] == noisy[-1]["loss"]


@pytest.mark.parametrize("metrics", [[], [{"step": 3, "learning_rate": 0.1}], [{"step": 0, "eval_loss": 2.0}]])
def test_little_or_nothing_to_draw_is_still_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: list[dict[str, Any]]
) -> None:
    axes = draw(metrics, tmp_path / "loss.png", monkeypatch)
    texts = [text.get_text() for text in axes.texts]
    assert texts == ([] if any("eval_loss" in row for row in metrics) else ["no loss was logged"])
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_drawing_leaves_a_notebook_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tunesmith.reports.plots import loss_curve\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"loss_curve([{{'step': 1, 'loss': 1.0}}], Path({str(tmp_path / 'l.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
