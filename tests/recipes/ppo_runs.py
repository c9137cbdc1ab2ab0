"""A tiny PPO recipe and what a run of it left, for the tests that stop, kill and resume it."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tunesmith.recipes.ppo import align
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.rollout.rewards import Answered

# The reward can be told to misbehave in a given round; its code, and so its identity, stays the same.
REWARD = textwrap.dedent(
    """
    import os, signal
    from pathlib import Path

    def letters(prompts, answers):
        counter = Path(os.environ.get("REWARD_COUNTER", os.devnull))
        if counter.name != "null":
            counter.write_text(counter.read_text() + "x" if counter.exists() else "x")
            what, _, at = os.environ.get("REWARD_MISCHIEF", "").partition("@")
            if what and len(counter.read_text()) == int(at):
                if what == "raise":
                    raise KeyError("no such mood")
                os.kill(os.getpid(), getattr(signal, what))
        return [sum(c.isalpha() for c in a) / max(1, len(a)) - 0.01 * len(p) for p, a in zip(prompts, answers)]
    """
)
PROMPTS = "hi\nwhat now?\ntell me more\nthe other one\nand again\n"


class Scripted:
    """A reward that gives what a function of (round, items) says."""

    name, identity, counts = "scripted", {"scripted": "1"}, {}

    def __init__(self, give: Callable[[int, Sequence[Answered]], Any]) -> None:
        self.give, self.round = give, 0

    def score(self, items: Sequence[Answered]) -> Any:
        self.round += 1
        return self.give(self.round, items)


def write_inputs(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "prompts.txt").write_text(PROMPTS)
    (folder / "mood.py").write_text(REWARD)


def tiny(model: Path, folder: Path, run: str, **more: Any) -> PPOConfig:
    """Three iterations of three prompts with every kind of state a run can have."""
    settings: dict[str, Any] = {
        "model_name_or_path": str(model),
        "device": "cpu",
        "dtype": "float32",
        "data": {"train": str(folder / "prompts.txt")},
        "rewards": [{"function": f"{folder / 'mood.py'}:letters"}],
        "adapter": {"r": 2},
        "num_iterations": 3,
        "prompts_per_iteration": 3,
        "num_mini_batches": 2,
        "max_new_tokens": 5,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "linear",
        "kl_target": 0.5,
        "whiten_scores": True,
        # A picture takes longer than the rest of an iteration.
        "plot_steps": 100,
        "output_dir": str(folder / run),
    }
    return PPOConfig(**{**settings, **more})


def left_by(folder: Path, last: int = 3) -> dict[str, Any]:
    """All that must be the same whether a run was stopped on its way or not; seconds and memory are not."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    state = json.loads((folder / f"checkpoint-{last}" / "trainer_state.json").read_text())
    files = {
        name: (folder / name).read_bytes()
        for name in (
            "adapter_model.safetensors",
            "samples.jsonl",
            f"checkpoint-{last}/parameters.safetensors",
            f"checkpoint-{last}/optimizer.safetensors",
        )
    }
    told = [{key: value for key, value in row.items() if not key.startswith("seconds/")} for row in metrics]
    return {**files, "metrics": told, "extras": state["extras"], "tokens": state["num_tokens"]}


def align_and_die(model: Path, folder: Path, kill_at: int | None) -> None:
    """A run that is killed in its ``kill_at``-th optimiser step; None leaves it to the reward's mischief."""
    steps, step = [], torch.optim.AdamW.step

    def dying(self: torch.optim.AdamW, *args: Any) -> Any:
        steps.append(1)
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args)

    torch.optim.AdamW.step = dying  # type: ignore[method-assign]
    align(tiny(model, folder, "killed"))
