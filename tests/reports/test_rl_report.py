"""The page about a reinforcement-learning run: what is drawn and told is what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from tunesmith.reports.ppo import draw_curves, draw_frontier, write_rl_report
from tunesmith.training.guards import Iteration, Warned, best_at_kl_budget

HISTORY = [
    Iteration(
        step=i, reward=0.5 * i, kl=float(i * i), length=40.0 + i, entropy=2.0 - 0.1 * i, repetition=0.01 * i,
        reward_std=0.3, watched={"judge$": 5.0 - i},
    )
    for i in range(6)
]  # fmt: skip
WARNED = [
    Warned("kl_alarm", step, f"KL is {step * step} nats.", "The penalty is too weak.", {"kl": float(step * step)})
    for step in (4, 5)
]
ATTACK = "<script>alert(1)</script>"


class Kept:
    """The figures that were saved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figures: list[Figure] = []
        save = Figure.savefig

        def keep(figure: Figure, *arguments: Any, **how: Any) -> None:
            self.figures.append(figure)
            save(figure, *arguments, **how)

        monkeypatch.setattr(Figure, "savefig", keep)


def drawn(axes: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(*axes.lines[0].get_data(), strict=True)]


def test_every_phase_is_drawn_with_what_was_kept_and_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(monkeypatch)
    draw_curves(tmp_path / "ppo.png", HISTORY, kept=3, warned=WARNED)
    panels = {axes.get_ylabel().split(",")[0]: axes for axes in kept.figures[0].axes if axes.get_visible()}
    assert list(panels) == [
        "reward", "KL to the reference", "tokens an answer", "entropy", "share of repeated 3-grams",
        r"watched: judge\$",
    ]  # fmt: skip
    assert drawn(panels["reward"]) == [(one.step, one.reward) for one in HISTORY]
    assert drawn(panels["KL to the reference"]) == [(one.step, one.kl) for one in HISTORY]
    assert drawn(panels[r"watched: judge\$"]) == [(one.step, one.watched["judge$"]) for one in HISTORY]
    lines = {str(line.get_label()): line for line in panels["KL to the reference"].lines}
    assert list(lines["kl alarm"].get_xdata()) == [4, 4], "the first time, and only that"
    assert list(lines["kept"].get_xdata()) == [3]
    assert "kl alarm" not in {str(line.get_label()) for line in panels["reward"].lines}
    picture = imread(tmp_path / "ppo.png")
    assert len({tuple(pixel) for pixel in picture.reshape(-1, picture.shape[-1])[::7]}) > 20, "the picture is blank"


def test_one_phase_is_enough_for_a_live_picture(tmp_path: Path) -> None:
    draw_curves(tmp_path / "ppo.png", HISTORY[:1])
    assert (tmp_path / "ppo.png").stat().st_size > 1000


def test_the_frontier_shows_points_budget_and_the_kept_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = best_at_kl_budget(HISTORY, 10.0)
    assert best is not None and best.step == 3
    kept = Kept(monkeypatch)
    draw_frontier(tmp_path / "f.png", HISTORY, kept=best.step, kl_budget=10.0)
    axes = kept.figures[0].axes[0]
    (dots,) = axes.collections
    assert [tuple(map(float, point)) for point in dots.get_offsets()] == [(one.kl, one.reward) for one in HISTORY]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines["KL budget 10"].get_xdata()) == [10, 10]
    assert (list(lines["kept: 3 updates"].get_xdata()), list(lines["kept: 3 updates"].get_ydata())) == ([9.0], [1.5])


def side(score: float) -> dict[str, Any]:
    limits = {"value": score, "low": score - 0.1, "high": score + 0.1}
    return {"score": limits, "parts": {"reward-2": score}, "tokens": limits, "share_cut_off": 0.25}


MATCH: dict[str, Any] = {
    "num_prompts": 8, "num_samples": 1, "against": "sft", "judge_counts": {"judge.unparsed": 2}, "seen_in_training": [],
    "sides": {"sft": side(0.2), "ppo": side(0.9)},
    "win_rates": {
        "ppo": {
            "wins": 6, "ties": 1, "losses": 1, "p": 0.125, "rate": {"value": 0.8125, "low": 0.5, "high": 0.95},
            "difference": {"value": 0.7, "low": 0.3, "high": 1.1},
        }
    },
    "kl": {"ppo": {"sequence": {"value": 2.5, "low": 2.0, "high": 3.0}, "token": 0.0625}},
}  # fmt: skip
EXAMPLE = {
    "prompt": [{"role": "user", "content": "Broken!"}], "answers": {"sft": ATTACK, "ppo": "Sorry."},
    "scores": {"sft": -1.0, "ppo": 2.0}, "tokens": {"sft": 9, "ppo": 3},
    "stop_reasons": {"sft": "length", "ppo": "end_of_turn"},
}  # fmt: skip
SAMPLES = [
    {"step": step, "row_id": row, "prompt": f"prompt {row}", "answer": f"answer {step} to {row}", "score": step / 10}
    for step in (0, 2, 5)
    for row in (3, 7)
]


def page(folder: Path, **more: Any) -> str:
    settings: dict[str, Any] = {
        "title": "PPO", "kept": 3, "kl_budget": 10.0, "samples": SAMPLES, "match": MATCH, "examples": [EXAMPLE],
        "facts": {"minutes": 24.5},
    }  # fmt: skip
    write_rl_report(folder, HISTORY, WARNED, **(settings | more))
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_tells_course_frontier_guards_win_rate_and_samples(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.count("data:image/png;base64,") == 2
    for told in (
        "81.2 % [50.0, 95.0]", "6-1-1", "0.700 [0.300, 1.100]", "2.500 [2.000, 3.000]", "0.0625", "judge.unparsed",
        "<td dir=\"auto\">kl alarm</td><td dir=\"auto\">2 times</td><td dir=\"auto\">4 updates</td>", "KL is 25 nats.",
        "sft: score -1.000, 9 tokens, cut off", "after 5 updates: score 0.500", "answer 5 to 7", "minutes: 24.5",
        '<td dir="auto">kept</td><td dir="auto">3</td><td dir="auto">1.500</td><td dir="auto">9.00</td>',
    ):  # fmt: skip
        assert told in text, told
    assert "answer 2 to 3" not in text, "only the ends are shown"
    assert ATTACK not in text and "&lt;script&gt;" in text


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    write_rl_report(
        tmp_path, HISTORY, [], title="RLOO", kept=None, kl_budget=None, samples=[], match=None, examples=[], facts={}
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for told in ("No guard spoke.", "Not measured: the recipe names no judge", "None were kept."):
        assert told in text
    seen = page(tmp_path, match={**MATCH, "kl": {}, "seen_in_training": ["ppo: reward-1"]}, samples=SAMPLES[:3])
    assert "the judge was trained with (ppo: reward-1)" in seen and "KL is not estimated" in seen
    assert "answer 2 to 3" in seen and "answer 0 to 7" not in seen
