"""What a whole run leaves to look at: live picture, page, blind win rate, and a policy that says what taught it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import build_config
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipes.ppo import align
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.recipes.ppo_prepare import prepare

CODE = """
def letters(prompt, answer):
    return float(len(answer))

def watched(prompts, answers):
    return [-1.0 * len(a) for a in answers]
"""
JUDGE = "def other(answer):\n    return float(len(answer)) / 2\n"


def config(folder: Path, **more: Any) -> PPOConfig:
    (folder / "mine.py").write_text(CODE)
    (folder / "judge.py").write_text(JUDGE)
    for name, words in (("train", ("hi", "what now?", "more", "go on")), ("held-out", ("who?", "why me?", "when"))):
        (folder / f"{name}.txt").write_text("\n".join(words) + "\n")
    settings: dict[str, Any] = {
        "data": {"train": str(folder / "train.txt")},
        "rewards": [
            {"function": f"{folder / 'mine.py'}:letters"},
            {"function": f"{folder / 'mine.py'}:watched", "weight": 0.0},
        ],
        "held_out": {
            "prompts": str(folder / "held-out.txt"),
            "rewards": [{"function": f"{folder / 'judge.py'}:other"}],
            "sampling": {"max_new_tokens": 8, "temperature": 1.0},
            "num_samples": 2,
            "num_examples": 2,
        },
        "output_dir": str(folder / "run"), "algorithm": "rloo", "num_generations": 4, "num_iterations": 2,
        "prompts_per_iteration": 4, "max_new_tokens": 8, "adapter": {"r": 4}, "num_mini_batches": 1, "dtype": "float32",
    }  # fmt: skip
    return build_config(PPOConfig, settings | more, place="test")


@pytest.fixture
def base(load: Callable[..., Any]) -> Any:
    return load("llama", "float32")


def test_a_run_leaves_pictures_a_page_and_a_win_rate(base: Any, tmp_path: Path) -> None:
    aligned = align(config(tmp_path), base=base)
    run = tmp_path / "run"
    assert aligned.num_iterations == 2
    facts = json.loads((run / "winrate.json").read_text())
    rows = [json.loads(line) for line in (run / "winrate.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and set(rows[0]["answers"]) == {"reference", "policy"}
    assert all(row["scores"][who] == len(row["answers"][who]) / 2 for row in rows for who in ("reference", "policy"))
    assert facts["win_rates"]["policy"]["wins"] == sum(r["scores"]["policy"] > r["scores"]["reference"] for r in rows)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 2 and "watched" in text
    assert all((run / name).stat().st_size > 5000 for name in ("ppo.png", "frontier.png"))
    # The policy says what it was trained with, so that another match can refuse it as a judge.
    told, early = (json.loads((f / "tunesmith_provenance.json").read_text()) for f in (run, run / "checkpoint-1"))
    assert told["rewards"] == early["rewards"]
    told = told["rewards"]
    assert told["letters.weight"] == "1.0" and told["watched.weight"] == "0.0" and len(told["letters.code"]) == 64


def test_the_picture_is_there_while_the_run_goes_on(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.recipes import ppo

    drawn: list[int] = []
    draw = ppo.draw_curves

    def keep(path: Path, history: Any, **how: Any) -> None:
        draw(path, history, **how)
        drawn.append(len(history))
        assert path.is_file()

    monkeypatch.setattr(ppo, "draw_curves", keep)
    align(config(tmp_path, num_iterations=4, plot_steps=2, held_out=None), base=base)
    assert drawn == [1, 3]
    assert "Not measured: the recipe names no judge" in (tmp_path / "run" / "report.html").read_text()


def test_a_judge_that_is_trained_with_is_refused_before_anything_is_trained(base: Any, tmp_path: Path) -> None:
    held_out = config(tmp_path).held_out
    assert held_out is not None
    same = held_out.model_dump() | {"rewards": [{"function": f"{tmp_path / 'mine.py'}:watched"}]}
    with pytest.raises(ConfigError, match="the judge is what a policy was trained with"):
        align(config(tmp_path, held_out=same), base=base)
    assert not (tmp_path / "run").exists()


def test_held_out_prompts_are_asked_as_training_asks_and_checked_before_it(load: Any, tmp_path: Path) -> None:
    settings = config(tmp_path)
    assert settings.held_out is not None
    (tmp_path / "held-out.txt").write_text("who?\nhi\n")
    data = settings.data.model_copy(update={"system": "Be kind."})
    prepared = prepare(settings.model_copy(update={"data": data}), load("llama", "float32"))
    assert prepared.held_out is not None
    for rows in (prepared.prompts, prepared.held_out.prompts):
        assert {(row.messages[0].role, row.messages[0].content) for row in rows} == {("system", "Be kind.")}
    assert "1 of 2 held-out prompts are trained on, too." in prepared.base.notes
    (tmp_path / "held-out.txt").write_text("who?\n" + "x" * 300 + "\n")
    with pytest.raises(DataError, match=r"held-out.txt:2.*the held-out prompt has \d+ tokens"):
        prepare(settings, load("llama", "float32"))
