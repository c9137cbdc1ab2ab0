"""A tiny run of a constitution: a model that writes noise, a critic that refuses, and every stage there is."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CONSTITUTION = """
name: tiny
version: "1"
principles:
  - id: harmless
    text: Do no harm.
    category: harmless
    critique_request: Does {answer} do harm?
    revision_request: Rewrite {answer}.
"""
TOPICS = ("tigers", "lamps", "rivers", "clocks", "bread", "maps", "songs", "bees", "kites", "stones")


def write_world(folder: Path, model: Path) -> Path:
    """Prompts, rows, public sets and a constitution in a folder; gives the model's copy with room for a judge."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "model"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (folder / "tiny.yaml").write_text(CONSTITUTION)
    _lines(folder / "harmful.jsonl", [{"question": f"how to break {one}?"} for one in TOPICS])
    _lines(folder / "harmless.jsonl", [{"prompt": f"what are {one}?"} for one in TOPICS[:6]])
    _lines(folder / "helpful.jsonl", [{"prompt": f"tell of {one}", "completion": f"{one}: ok."} for one in TOPICS])
    _lines(folder / "held.jsonl", [{"prompt": f"say {one}", "completion": f"{one} it is."} for one in TOPICS[:4]])
    sets = folder / "sets"
    for name in ("advbench", "harmbench", "xstest"):
        (sets / name).mkdir(parents=True)
    (sets / "advbench" / "harmful_behaviors.csv").write_text(
        "goal,target\n" + "".join(f"Build a trap for {one},Sure\n" for one in TOPICS[:5])
    )
    rows = [{"behavior": f"Sell fake {one}", "category": "x"} for one in TOPICS[:5]]
    _lines(sets / "harmbench" / "standard_behaviors.jsonl", rows)
    (sets / "xstest" / "prompts.csv").write_text(
        "id,prompt,type,label,focus,note\n"
        + "".join(f"{i},Kill the {one} process,t,safe,f,n\n" for i, one in enumerate(TOPICS[:5]))
        + "".join(f"{i + 5},Kill the {one} keeper,t,unsafe,f,n\n" for i, one in enumerate(TOPICS[:5]))
    )
    return copy


def tiny_recipe(folder: Path, model: Path, **more: Any) -> dict[str, Any]:
    """Every stage, in a few tokens and steps each."""
    trained = {"per_device_train_batch_size": 4, "max_steps": 2, "save_steps": 1, "learning_rate": 1e-2}
    settings: dict[str, Any] = {
        "model_name_or_path": str(model),
        "device": "cpu",
        "dtype": "float32",
        "output_dir": str(folder / "run"),
        "constitution": str(folder / "tiny.yaml"),
        "prompts": {
            "harmful": str(folder / "harmful.jsonl"),
            "harmful_columns": {"prompt": "question"},
            "harmless": str(folder / "harmless.jsonl"),
            "label_share": 0.5,
        },
        "skip": ["helpful"],
        "revise": {
            "critic": "always-refuse",
            "helpful_rows": str(folder / "helpful.jsonl"),
            "helpful_share": 0.5,
            "answer_tokens": 6,
            "num_rounds": 1,
            "temperature": 1.0,
        },
        "sft": {"adapter": {"r": 2}, "data": {"validation_share": 0}, **trained},
        "label": {"max_new_tokens": 6, "temperatures": [1.0], "max_redraws": 1},
        "reward": {"adapter": {"r": 2}, **trained},
        "dpo": trained,
        "ppo": {"num_iterations": 1, "prompts_per_iteration": 2, "num_mini_batches": 1, "max_new_tokens": 4},
        "evaluate": {
            "data_dir": str(folder / "sets"),
            "max_new_tokens": 4,
            "helpful": {"num": 3, "num_judged": 2},
            "reference": {"rows": str(folder / "held.jsonl"), "num": 3},
            "creative": {"num": 2, "num_samples": 2, "max_new_tokens": 4},
            "scenario_max_new_tokens": 4,
            "judge": {"calibrations": str(folder / "judges")},
        },
    }
    return {**settings, **more}


def run_and_die(recipe: dict[str, Any], what: str) -> None:
    """A run that is killed in its n-th optimiser step (``n:step``), or at its n-th answer kept (``n:answer``)."""
    from tunesmith.config import build_config
    from tunesmith.recipes.constitution_run import run_constitution
    from tunesmith.recipes.constitution_run_config import ConstitutionRunConfig
    from tunesmith.rollout.results import ResultsFile

    count, _, stage = what.partition(":")
    seen: list[int] = []
    if stage == "step":
        _dying(torch.optim.AdamW, "step", int(count), seen)
    else:
        _dying(ResultsFile, "append", int(count), seen)
    run_constitution(build_config(ConstitutionRunConfig, recipe, place="test"), lambda _: None)


def _dying(kind: Any, name: str, at: int, seen: list[int]) -> None:
    work: Callable[..., Any] = getattr(kind, name)

    def dying(self: Any, *args: Any, **more: Any) -> Any:
        seen.append(1)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(self, *args, **more)

    setattr(kind, name, dying)


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
