"""A PPO run that is stopped, interrupted or killed goes on to the very same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppo_runs import Scripted, left_by, tiny, write_inputs

from tunesmith.errors import CheckpointError, RewardError
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.recipes.ppo import align
from tunesmith.recipes.ppo_show import describe_result
from tunesmith.rollout.rewards import Answered

ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"value_learning_rate": 1e-2, "entropy_coef": 0.01},
    "rloo": {"algorithm": "rloo", "num_generations": 2},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_whose_reward_raised_goes_on_to_the_same_bytes(
    algorithm: str, folder: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ALGORITHMS[algorithm]
    model = model_folder("llama")
    align(tiny(model, folder, "whole", **more))
    monkeypatch.setenv("REWARD_COUNTER", str(folder / "count"))
    monkeypatch.setenv("REWARD_MISCHIEF", "raise@2")
    with pytest.raises(RewardError, match=r"prompt rows \d.*KeyError.*no such mood.*line \d+ of mood.py") as caught:
        align(tiny(model, folder, "stopped", **more))
    assert caught.value.fix
    assert (folder / "stopped" / "checkpoint-1").is_dir()
    assert not (folder / "stopped" / "adapter_model.safetensors").exists()
    monkeypatch.delenv("REWARD_MISCHIEF")
    align(tiny(model, folder, "stopped", resume_from_checkpoint="auto", **more))
    assert left_by(folder / "stopped") == left_by(folder / "whole")
    # Control: another seed leaves something else.
    align(tiny(model, folder, "other", seed=1, **more))
    assert (
        left_by(folder / "other")["adapter_model.safetensors"] != left_by(folder / "whole")["adapter_model.safetensors"]
    )


def test_ctrl_c_saves_and_says_how_to_go_on(
    folder: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_folder("llama")
    align(tiny(model, folder, "whole"))
    monkeypatch.setenv("REWARD_COUNTER", str(folder / "count"))
    monkeypatch.setenv("REWARD_MISCHIEF", "SIGINT@2")
    stopped = align(tiny(model, folder, "run", save_steps=5))
    assert stopped.interrupted and stopped.num_iterations == 2
    assert "resume_from_checkpoint=auto" in describe_result(stopped.as_dict(), "ppo.yaml")[-1]
    monkeypatch.delenv("REWARD_MISCHIEF")
    finished = align(tiny(model, folder, "run", save_steps=5, resume_from_checkpoint="auto"))
    assert not finished.interrupted
    mine, whole = left_by(folder / "run"), left_by(folder / "whole")
    for name in ("checkpoint-3/parameters.safetensors", "checkpoint-3/optimizer.safetensors", "metrics"):
        assert mine[name] == whole[name], name


KILLED_IN_UPDATE = textwrap.dedent(
    """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from tunesmith.runtime import tune_process
    tune_process()
    import torch
    from ppo_runs import tiny
    from tunesmith.recipes.ppo import align

    model, folder, kill_at = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    steps, step = [], torch.optim.AdamW.step
    def dying(self, *args):
        steps.append(1)
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args)
    torch.optim.AdamW.step = dying
    align(tiny(model, folder, "killed", resume_from_checkpoint="auto" if kill_at > 99 else None))
    """
)


@pytest.mark.parametrize("where", ["while scoring", "in an update"])
def test_kill_9_loses_nothing(where: str, folder: Path, model_folder: Callable[[str], Path]) -> None:
    model = model_folder("llama")

    def start(kill_at: int, mischief: str = "") -> int:
        command = [sys.executable, "-c", KILLED_IN_UPDATE, str(Path(__file__).parent), str(model), str(folder)]
        extra = {"REWARD_COUNTER": str(folder / "count"), "REWARD_MISCHIEF": mischief}
        done = subprocess.run([*command, str(kill_at)], env={**os.environ, **extra}, capture_output=True, check=False)
        return done.returncode

    # Two epochs of two mini-batches: the 7th optimiser step lies in the middle of the second iteration.
    code = start(99, "SIGKILL@2") if where == "while scoring" else start(7)
    assert code == -signal.SIGKILL
    assert {path.name for path in (folder / "killed").glob("checkpoint-*")} == {"checkpoint-0", "checkpoint-1"}
    assert start(100) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        align(tiny(model, folder, "whole"))
    assert left_by(folder / "killed") == left_by(folder / "whole")


def test_another_recipe_is_not_gone_on_with(folder: Path, model_folder: Callable[[str], Path]) -> None:
    model = model_folder("llama")
    align(tiny(model, folder, "run", num_iterations=1))
    with pytest.raises(CheckpointError, match=r"kl_coef \(0.05 -> 0.2\)"):
        align(tiny(model, folder, "run", num_iterations=1, kl_coef=0.2, resume_from_checkpoint="auto"))
    (folder / "mood.py").write_text((folder / "mood.py").read_text() + "# changed\n")
    with pytest.raises(CheckpointError, match=r"reward_identity\.letters\.code"):
        align(tiny(model, folder, "run", num_iterations=1, resume_from_checkpoint="auto"))


def test_an_error_between_two_checkpoints_loses_no_iteration(
    folder: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_folder("llama")
    align(tiny(model, folder, "whole", save_steps=3))
    monkeypatch.setenv("REWARD_COUNTER", str(folder / "count"))
    monkeypatch.setenv("REWARD_MISCHIEF", "raise@3")
    with pytest.raises(RewardError, match="no such mood"):
        align(tiny(model, folder, "run", save_steps=3))
    assert (folder / "run" / "checkpoint-2").is_dir()
    monkeypatch.delenv("REWARD_MISCHIEF")
    align(tiny(model, folder, "run", save_steps=3, resume_from_checkpoint="auto"))
    assert left_by(folder / "run") == left_by(folder / "whole")


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
