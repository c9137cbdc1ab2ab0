"""``tunesmith reward`` from rows to a measured folder, and back from a crash bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.reward.reward_rows import write_pairs
from tunesmith.cli.main import app
from tunesmith.config import build_config
from tunesmith.errors import AdapterMismatchError, ConfigError, DataError
from tunesmith.models.adapters import PROVENANCE_FILE, WEIGHTS_FILE, AdapterConfig, add_adapter, save_role
from tunesmith.models.load import load_base
from tunesmith.models.roles import Role
from tunesmith.recipes.reward import train_reward
from tunesmith.recipes.reward_prepare import RewardConfig
from tunesmith.recipes.score import ScoreConfig, score_rows
from tunesmith.rollout.score import OFFSET_KEY, load_reward_model
from tunesmith.training.reward_step import group_rewards


@pytest.fixture
def settings(tmp_path: Path, model_folder: Callable[[str], Path]) -> dict[str, Any]:
    return {
        "model_name_or_path": str(model_folder("llama")),
        "device": "cpu",
        "dtype": "float32",
        "data": {"train": str(write_pairs(tmp_path / "pairs.jsonl")), "validation_share": 0.25},
        "adapter": {"r": 4, "lora_dropout": 0.1},
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "max_steps": 20,
        "eval_steps": 5,
        "micro_batch_tokens": 128,
    }


def config(settings: dict[str, Any], **more: Any) -> RewardConfig:
    return build_config(RewardConfig, {**settings, **more}, place="recipe")


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / WEIGHTS_FILE)


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_it_learns_measures_centres_and_saves(settings: dict[str, Any], tmp_path: Path) -> None:
    trained = train_reward(config(settings, center_rewards_coefficient=0.01))
    held = trained.facts["held_out"]
    assert held["pairs"] == 6 and held["accuracy"][0] == 1.0
    assert trained.final_eval_loss is not None and trained.initial_eval_loss is not None
    assert trained.final_eval_loss < 0.5 * trained.initial_eval_loss
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} >= {
        "adapter_model.safetensors", "adapter_config.json", "report.html", "report.json", "reward.png", "loss.png",
        "metrics.jsonl", "run.json", PROVENANCE_FILE,
    }  # fmt: skip
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(trained.facts))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0].keys() >= {"eval_loss", "eval_accuracy", "eval_margin"}
    assert sum("eval_accuracy" in line for line in lines) == 5
    # Scores of the saved folder: held-out answers have mean 0, and stock PEFT's numbers are these plus the offset.
    base = load_base(config(settings))
    reward = load_reward_model(base, folder)
    provenance = json.loads((folder / PROVENANCE_FILE).read_text())
    assert reward.offset == provenance[OFFSET_KEY] != 0 and reward.digest == provenance["reward_digest"]
    assert sum(held["scores"]["chosen"]) == 6
    edges, counts = np.array(held["scores"]["edges"]), np.array([held["scores"][n] for n in ("chosen", "rejected")])
    assert abs(float((counts * (edges[1:] + edges[:-1]) / 2).sum())) < 12 * (edges[1] - edges[0])
    scored = score_rows(
        ScoreConfig(
            model_name_or_path=settings["model_name_or_path"], dtype="float32", rows=settings["data"]["train"],
            adapter=str(folder), output=str(tmp_path / "scores.jsonl"),
        )
    )  # fmt: skip
    assert scored.right == scored.pairs == 24


@pytest.mark.usefixtures("undrawn")
def test_a_crash_and_a_resume_give_the_same_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    train_reward(config(settings, output_dir=str(tmp_path / "whole"), save_steps=3))
    steps: list[int] = []

    def die(_: Role) -> None:
        steps.append(1)
        if len(steps) == 9:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train_reward(config(settings, save_steps=3), tweak_gradients=die)
    resumed = train_reward(config(settings, save_steps=3, resume_from_checkpoint="auto"))
    assert same(tmp_path / "run", tmp_path / "whole")
    assert resumed.facts["held_out"] == json.loads((tmp_path / "whole" / "report.json").read_text())["held_out"]
    # The control: another seed is another run.
    train_reward(config(settings, output_dir=str(tmp_path / "other"), seed=1))
    assert not same(tmp_path / "other", tmp_path / "whole")


@pytest.mark.usefixtures("undrawn")
def test_the_report_takes_the_rewards_of_the_evaluation_that_was_kept(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.recipes import reward as module

    def counted(*args: Any) -> Any:
        asked.append(len(args[2]))
        return group_rewards(*args)

    asked: list[int] = []
    monkeypatch.setattr(module, "group_rewards", counted)
    trained = train_reward(config(settings))
    # Before the first step and after each fifth one.
    assert asked == [6] * 5
    # A process that goes on from the last checkpoint has seen no evaluation: it asks anew, and reports the same.
    again = train_reward(config(settings, resume_from_checkpoint="auto"))
    assert asked == [6] * 6
    assert again.facts == trained.facts


@pytest.mark.usefixtures("undrawn")
def test_a_flipped_gradient_does_not_learn(settings: dict[str, Any]) -> None:
    def flip(role: Role) -> None:
        for parameter in role.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(-1)

    trained = train_reward(config(settings, early_stopping_patience=0), tweak_gradients=flip)
    # The best weights are kept, so it is the report of a model that never got better.
    assert trained.facts["held_out"]["accuracy"][0] < 0.9 or trained.best_step == 0


def test_grades_are_predicted_in_their_own_unit(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        {"prompt": f"say w{i}", "completion": f"w{i} {word}", "rating": grade}
        for i in range(16)
        for word, grade in (("please", 5), ("now", 2))
    ]
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(tmp_path / "graded.jsonl"), "validation_share": 0.25}
    trained = train_reward(config(settings, data=data, loss_type="rating", max_steps=40))
    assert trained.facts[OFFSET_KEY] == -3.5 and trained.facts["held_out"]["accuracy"][0] == 1.0
    held = trained.facts["held_out"]["scores"]
    edges = np.array(held["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    means = {name: float((np.array(held[name]) * middle).sum() / sum(held[name])) for name in ("chosen", "rejected")}
    assert abs(means["chosen"] - 5) < 0.7 and abs(means["rejected"] - 2) < 0.7
    grades = trained.facts["grades"]
    assert grades["answers"] == 8 and grades["rmse_of_mean"] == 1.5 and grades["rmse"] < 0.7
    assert "always saying the mean grade" in (tmp_path / "run" / "report.html").read_text()


def test_it_starts_from_an_sft_adapter_and_on_its_base_only(
    settings: dict[str, Any], tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    base = load_base(config(settings))
    sft = add_adapter(base, "default", AdapterConfig(r=3), seed=5)
    for parameter in sft.parameters.values():
        parameter.data += 0.1
    save_role(base, sft, tmp_path / "sft")
    start = {key: value for key, value in settings.items() if key != "adapter"} | {"max_steps": 1}
    trained = train_reward(config(start, adapter_path=str(tmp_path / "sft"), learning_rate=1e-6))
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "sft")
    assert set(ours) - set(theirs) == {"base_model.model.score.weight"}
    assert all(np.allclose(ours[key], theirs[key], atol=1e-5) for key in theirs) and trained.num_steps == 1
    with pytest.raises(ConfigError, match="adapter_path brings its own settings"):
        config(settings, adapter_path=str(tmp_path / "sft"))
    with pytest.raises(AdapterMismatchError):
        other = config(start, adapter_path=str(tmp_path / "sft"), model_name_or_path=str(model_folder("mistral")))
        train_reward(other.model_copy(update={"output_dir": str(tmp_path / "other")}))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"adapter": {"method": "full"}}, "trains an adapter"),
        ({"loss_type": "rating", "center_rewards_coefficient": 0.1}, "grades fix the level"),
        ({"loss_type": "listwise"}, "loss_type"),
        ({"centre_rewards_coefficient": 1}, "Did you mean 'center_rewards_coefficient'"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(settings: dict[str, Any], more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(settings, **more)


def test_pairs_cannot_be_regressed_on(settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="makes a grade"):
        train_reward(config(settings, loss_type="rating"))


def test_the_verb_says_what_it_did_and_what_comes_next(settings: dict[str, Any], tmp_path: Path) -> None:
    import yaml

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(app, ["reward", str(tmp_path / "recipe.yaml"), "max_steps=6"])
    assert done.exit_code == 0, done.output
    assert "held-out pairs of 6 prompts" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next:  tunesmith score ROWS --adapter {tmp_path / 'run'}"
    page = (tmp_path / "run" / "report.html").read_text()
    for words in ("Accuracy on held-out prompts", "Calibration", "tokens by which the better one is longer"):
        assert words in page
    bad = CliRunner().invoke(app, ["reward", str(tmp_path / "recipe.yaml"), "data.train=nowhere.jsonl"])
    assert bad.exit_code == 2 and "no such file or folder" in bad.stderr
