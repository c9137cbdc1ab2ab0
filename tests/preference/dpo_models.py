"""Rows, bases and an independent log-probability for the tests of preference tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.config import build_config
from tunesmith.recipes.dpo_prepare import DPOConfig

PROMPTS = ["the cat sat on the mat", "on the hat", "another one on the other", "a", "then there", "tea or one"]


def pair_rows(count: int = 12) -> list[dict[str, Any]]:
    """Pairs whose better answer says 'the' and whose worse one says 'on'."""
    return [
        {
            "prompt": f"{PROMPTS[i % len(PROMPTS)]} {i}",
            "chosen": "the " * (1 + i % 3) + str(i),
            "rejected": "on " * (1 + (i + 1) % 4) + str(i),
        }
        for i in range(count)
    ]


def thumb_rows(count: int = 12) -> list[dict[str, Any]]:
    """Half good answers, half bad ones, each to a prompt of its own."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if i % 2 else "rejected"], "label": bool(i % 2)}
        for i, row in enumerate(pair_rows(count))
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config_of(rows: Path, folder: Path, model: Path, **keys: Any) -> DPOConfig:
    tree: dict[str, Any] = {
        "model_name_or_path": str(model),
        "output_dir": str(folder),
        "data": {"train": str(rows), "validation_share": 0.25},
        "adapter": {"r": 4, "lora_alpha": 8},
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "dtype": "float32",
        "cache_reference": False,
    }
    data = {**tree["data"], **keys.pop("data", {})}
    return build_config(DPOConfig, {**tree, **keys, "data": data}, place="test")


@torch.no_grad()
def plain_logprob(model: Any, ids: np.ndarray, loss_weight: np.ndarray) -> float:
    """log p of the tokens in the loss by transformers' own forward, the sum taken in NumPy."""
    logits = model(torch.from_numpy(ids)[None]).logits[0].double().numpy()
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(sum(logprobs[t - 1, ids[t]] for t in np.flatnonzero(loss_weight)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
