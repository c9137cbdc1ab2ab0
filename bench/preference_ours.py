"""Our side of the preference comparison: the recipe of `tunesmith dpo` or `tunesmith reward`. One JSON line.

    python bench/preference_ours.py dpo --model smollm2-135m-instruct --rows pairs.jsonl --output-dir OUT

Everything not made equal on both sides (rows, length, batch, learning rate, schedule, LoRA, beta) is the recipe's
default; the reference's scores are computed in the run, never taken from the cache, and count as time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
from preference_settings import BATCH_SIZE_PAIRS, BETA, KINDS, LEARNING_RATE, LORA_ALPHA, LORA_R, MAX_LENGTH_TOKENS


def recipe(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe a user would write, with a checkpoint only at the end."""
    common = {
        "model_name_or_path": args.model,
        "output_dir": args.output_dir,
        "overwrite_output_dir": True,
        "data": {"train": args.rows, "validation_share": 0.0},
        "max_length": MAX_LENGTH_TOKENS,
        "adapter": {"r": LORA_R, "lora_alpha": LORA_ALPHA},
        "per_device_train_batch_size": BATCH_SIZE_PAIRS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "linear",
        "shuffle": False,
        "save_steps": 1_000_000,
    }
    return {**common, "beta": BETA, "cache_reference": False} if args.kind == "dpo" else common


def watch_preparation(module: Any, name: str, note: Callable[[float, Any], None]) -> None:
    """Tell ``note`` the seconds and the result of every call of a recipe's function."""
    plain = getattr(module, name)

    def watched(*arguments: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        found = plain(*arguments, **keywords)
        note(time.perf_counter() - began, found)
        return found

    setattr(module, name, watched)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--output-dir", required=True)
    args = parser.parse_args()
    clock = measure.StepClock()
    from tunesmith.config import build_config

    reference: list[float] = []
    tokens: list[int] = []
    if args.kind == "dpo":
        from tunesmith.recipes import dpo_prepare as prepare
        from tunesmith.recipes.dpo import train

        kind: Any = prepare.DPOConfig
        watch_preparation(prepare, "reference_scores", lambda seconds, _: reference.append(seconds))
    else:
        from tunesmith.recipes import reward_prepare as prepare
        from tunesmith.recipes.reward import train_reward as train

        kind = prepare.RewardConfig
    watch_preparation(prepare, "render_groups", lambda _, found: tokens.append(found[1].num_tokens))
    done = train(build_config(kind, recipe(args), place="bench"))
    lines = [json.loads(line) for line in (Path(done.output_dir) / "metrics.jsonl").read_text().splitlines()]
    import torch

    print(
        json.dumps(
            {
                "who": "ours",
                "tokens": sum(tokens),
                "losses": [line["loss"] for line in lines if "loss" in line],
                "step_ends_seconds": clock.step_ends_seconds,
                "reference_seconds": sum(reference),
                "peak_rss_bytes": measure.peak_rss_bytes(),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
