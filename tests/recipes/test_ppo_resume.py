"""A PPO run that is stopped, interrupted or killed goes on to the very same bytes."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import exit_code_of
from ppo_runs import Scripted, align_and_die, left_by, tiny, write_inputs

from tunesmith.errors import CheckpointError, RewardError
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.recipes.ppo import align
from tunesmith.recipes.ppo_show import describe_result
from tunesmith.rollout.rewards import Answered

ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"value_learning_rate": 1e-2, "entropy_coef": 0.01},
    "rloo": {"algorithm": "rloo", "num_generations": 2},
}

# Settings -> what a run with them leaves that nothing stopped.
Whole = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Runs that nothing stopped, each made once for all tests that compare with it."""
    made: dict[str, dict[str, Any]] = {}

    def left(**more: Any) -> dict[str, Any]:
        name = repr(sorted(more.items()))
        if name not in made:
            folder = tmp_path_factory.mktemp("whole")
            write_inputs(folder)
            align(tiny(model_folder("llama"), folder, "run", **more))
            made[name] = left_by(folder / "run")
        return made[name]

    return left


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_whose_reward_raised_goes_on_to_the_same_bytes(
    algorithm: str, folder: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    more = ALGORITHMS[algorithm]
    model = model_folder("llama")
    monkeypatch.setenv("REWARD_COUNTER", str(folder / "count"))
    monkeypatch.setenv("REWARD_MISCHIEF", "raise@2")
    with pytest.raises(RewardError, match=r"prompt rows \d.*KeyError.*no such mood.*line \d+ of mood.py") as caught:
        align(tiny(model, folder, "stopped", **more))
    assert caught.value.fix
    assert (folder / "stopped" / "checkpoint-1").is_dir()
    assert not (folder / "stopped" / "adapter_model.safetensors").exists()
    monkeypatch.delenv("REWARD_MISCHIEF")
    align(tiny(model, folder, "stopped", resume_from_checkpoint="auto", **more))
    assert left_by(folder / "stopped") == whole(**more)
    # Control: another seed leaves something else.
    name = "adapter_model.safetensors"
    assert whole(**more, seed=1)[name] != whole(**more)[name]


def test_ctrl_c_saves_and_says_how_to_go_on(
    folder: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    model = model_folder("llama")
    monkeypatch.setenv("REWARD_COUNTER", str(folder / "count"))
    monkeypatch.setenv("REWARD_MISCHIEF", "SIGINT@2")
    stopped = align(tiny(model, folder, "run", save_steps=5))
    assert stopped.interrupted and stopped.num_iterations == 2
    assert "resume_from_checkpoint=auto" in describe_result(stopped.as_dict(), "ppo.yaml")[-1]
    monkeypatch.delenv("REWARD_MISCHIEF")
    finished = align(tiny(model, folder, "run", save_steps=5, resume_from_checkpoint="auto"))
    assert not finished.interrupted
    mine, expected = left_by(folder / "run"), whole()
    for name in ("checkpoint-3/parameters.safetensors", "checkpoint-3/optimizer.safetensors", "metrics"):
        assert mine[name] == expected[name], name


@pytest.mark.parametrize("where", ["while scoring", "in an update"])
def test_kill_9_loses_nothing(where: str, folder: Path, model_folder: Callable[[str], Path], whole: Whole) -> None:
    model = model_folder("llama")
    told = {"REWARD_COUNTER": str(folder / "count"), "REWARD_MISCHIEF": "SIGKILL@2" if where == "while scoring" else ""}
    # Two epochs of two mini-batches: the 7th optimiser step lies in the middle of the second iteration.
    kill_at = 7 if where == "in an update" else None
    assert exit_code_of(align_and_die, model, folder, kill_at, **told) == -signal.SIGKILL
    assert {path.name for path in (folder / "killed").glob("checkpoint-*")} == {"checkpoint-0", "checkpoint-1"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        align(tiny(model, folder, "killed", resume_from_checkpoint="auto"))
    assert left_by(folder / "killed") == whole()


def test_another_recipe_is_not_gone_on_with(folder: Path, model_folder: Callable[[str], Path]) -> None:
    model = model_folder("llama")
    align(tiny(model, folder, "run", num_iterations=1))
    with pytest.raises(CheckpointError, match=r"kl_coef \(0.05 -> 0.2\)"):
        align(tiny(model, folder, "run", num_iterations=1, kl_coef=0.2, resume_from_checkpoint="auto"))
    (folder / "mood.py").write_text((folder / "mood.py").read_text() + "# changed\n")
    with pytest.raises(CheckpointError, match=r"reward_identity\.letters\.code"):
        align(tiny(model, folder, "run", num_iterations=1, resume_from_checkpoint="auto"))


def test_an_error_between_two_checkpoints_loses_no_iteration(
    folder: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    model = model_folder("llama")
    monkeypatch.setenv("REWARD_COUNTER", str(folder / "count"))
    monkeypatch.setenv("REWARD_MISCHIEF", "raise@3")
    with pytest.raises(RewardError, match="no such mood"):
        align(tiny(model, folder, "run", save_steps=3))
    assert (folder / "run" / "checkpoint-2").is_dir()
    monkeypatch.delenv("REWARD_MISCHIEF")
    align(tiny(model, folder, "run", save_steps=3, resume_from_checkpoint="auto"))
    assert left_by(folder / "run") == whole(save_steps=3)


def test_the_policy_kept_has_a_checkpoint_where_save_steps_has_changed(
    folder: Path, model_folder: Callable[[str], Path]
) -> None:
    def told(first_round: int) -> Scripted:
        # The policy with one update behind it earns most, but has no checkpoint where every second one is saved.
        given = {1: 0.0, 2: 9.0, 3: 5.0, 4: 1.0, 5: 1.0}
        return Scripted(lambda i, items: np.full(len(items), given[first_round + i - 1]) + 1e-3 * np.arange(len(items)))

    def until_it_is_out(i: int, items: Sequence[Answered]) -> Any:
        if i == 4:
            raise RewardError("reward", "is out.", "Wait.")
        return first.give(i, items)

    model, more = model_folder("llama"), {"num_iterations": 4, "kl_budget": 1e6}
    first = told(1)
    with pytest.raises(RewardError, match="is out"):
        align(tiny(model, folder, "run", save_steps=2, **more), reward=Scripted(until_it_is_out))
    assert not (folder / "run" / "checkpoint-1").exists()
    config = tiny(model, folder, "run", save_steps=1, resume_from_checkpoint="auto", **more)
    done = align(config, reward=told(4))
    assert done.best is not None and done.best.step == 2
    assert (folder / "run" / "adapter_model.safetensors").read_bytes() == (
        folder / "run" / "checkpoint-2" / "adapter_model.safetensors"
    ).read_bytes()


def test_another_reference_in_the_same_folder_is_not_gone_on_with(
    folder: Path, model_folder: Callable[[str], Path], load: Callable[..., Any]
) -> None:
    def tune(seed: int) -> None:
        base = load("llama", dtype="float32")
        save_role(base, add_adapter(base, "tuned", AdapterConfig(r=2), seed), folder / "sft")

    tune(0)
    config = tiny(model_folder("llama"), folder, "run", num_iterations=1, sft_adapter=str(folder / "sft"))
    align(config)
    tune(1)
    with pytest.raises(CheckpointError, match="reference_digest"):
        align(config.model_copy(update={"resume_from_checkpoint": "auto"}))


def test_unicodes_own_line_breaks_in_a_sample_are_no_end_of_it(
    folder: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "prompts.txt").write_text("hi\u2028there\nwhat\u0085now?\n", encoding="utf-8")
    model, more = model_folder("llama"), {"prompts_per_iteration": 2, "num_iterations": 2}
    align(tiny(model, folder, "whole", **more))
    monkeypatch.setenv("REWARD_COUNTER", str(folder / "count"))
    monkeypatch.setenv("REWARD_MISCHIEF", "raise@2")
    with pytest.raises(RewardError):
        align(tiny(model, folder, "run", **more))
    monkeypatch.delenv("REWARD_MISCHIEF")
    align(tiny(model, folder, "run", resume_from_checkpoint="auto", **more))
    assert left_by(folder / "run", last=2) == left_by(folder / "whole", last=2)
    lines = (folder / "run" / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    assert len([line for line in lines if "there" in line or "now" in line]) == 4
