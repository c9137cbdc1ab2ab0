"""Our side of the PPO comparison: the recipe of `tunesmith ppo`. One JSON line.

    python bench/ppo_ours.py --model smollm2-135m-instruct --rows prompts.jsonl --reward FOLDER --num-updates 3

Policy, reference, value and reward are roles on one base; what is not made equal on both sides is the recipe's default.
"""

from __future__ import annotations

import argparse
import json
import time

import measure
from ppo_settings import (
    KL_COEF,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_R,
    MAX_NEW_TOKENS,
    NUM_MINI_BATCHES,
    NUM_PPO_EPOCHS,
    NUM_PROMPTS,
    TEMPERATURE,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--reward", required=True)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--num-updates", type=int, required=True)
    args = parser.parse_args()
    import torch

    from tunesmith.config import build_config
    from tunesmith.recipes import ppo
    from tunesmith.recipes.ppo_config import PPOConfig

    ends: list[float] = []
    log = ppo.Run.log_metrics

    def timed(run: ppo.Run, step: int, metrics: dict[str, float]) -> None:
        ends.append(time.perf_counter())
        log(run, step, metrics)

    ppo.Run.log_metrics = timed  # type: ignore[method-assign,assignment]
    recipe = {
        "model_name_or_path": args.model,
        "output_dir": args.output_dir,
        "overwrite_output_dir": True,
        "data": {"train": args.rows},
        "rewards": [{"model": args.reward}],
        "adapter": {"r": LORA_R, "lora_alpha": LORA_ALPHA},
        "num_iterations": args.num_updates,
        "prompts_per_iteration": NUM_PROMPTS,
        "max_new_tokens": MAX_NEW_TOKENS,
        "num_ppo_epochs": NUM_PPO_EPOCHS,
        "num_mini_batches": NUM_MINI_BATCHES,
        "temperature": TEMPERATURE,
        "kl_coef": KL_COEF,
        "learning_rate": LEARNING_RATE,
        "save_steps": 1_000_000,
        "sample_steps": 1_000_000,
        "plot_steps": 1_000_000,
    }
    began = time.perf_counter()
    ppo.align(build_config(PPOConfig, recipe, place="bench"))
    # The last policy is sampled once more for the report; that round is no update.
    kept = {"who": "ours", "update_ends_seconds": [end - began for end in ends[: args.num_updates]]}
    print(json.dumps({**kept, "peak_rss_bytes": measure.peak_rss_bytes(), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
