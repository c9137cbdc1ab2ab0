"""Our side of the SFT comparison: `tunesmith sft`'s own recipe on the same rows. One JSON line.

    python bench/sft_ours.py --model smollm2-135m-instruct --rows rows.jsonl --output-dir OUT

Everything not made equal on both sides (rows, length, batch, learning rate, schedule, LoRA) is the recipe's default.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import measure
from settings import (
    BATCH_SIZE_ROWS,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_R,
    MAX_LENGTH_TOKENS,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, help="JSON lines with messages")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--keep-order", action="store_true", help="take the rows in the file's order")
    parser.add_argument("--save", action="store_true", help="accepted for symmetry: ours always saves the adapter")
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH_TOKENS)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE_ROWS)
    parser.add_argument("--flip-gradient", action="store_true", help="control: climb the loss instead")
    return parser.parse_args()


def recipe(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe a user would write, with checkpoints only at the end, as on TRL's side."""
    return {
        "model_name_or_path": args.model,
        "output_dir": args.output_dir,
        "overwrite_output_dir": True,
        "data": {"train": args.rows, "validation_share": 0.0},
        "max_length": args.max_length,
        "over_length": "truncate",
        "adapter": {"r": LORA_R, "lora_alpha": LORA_ALPHA},
        "per_device_train_batch_size": args.batch_size,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.0,
        "shuffle": not args.keep_order,
        "save_steps": 1_000_000,
        "after_training": "off",
    }


def flip_gradients(role: Any) -> None:
    """The control of the quality check: turn every gradient around."""
    for parameter in role.parameters.values():
        parameter.grad.neg_()


def tokens_per_step(metrics_file: Path) -> list[int]:
    """Real tokens of each step from the run's own log."""
    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    totals = [0, *(line["num_tokens"] for line in lines if "num_tokens" in line)]
    return [after - before for before, after in itertools.pairwise(totals)]


def main() -> None:
    args = parse_arguments()
    clock = measure.StepClock()
    from tunesmith.config import build_config
    from tunesmith.errors import NonFiniteLossError
    from tunesmith.recipes.sft import SFTConfig, train

    config = build_config(SFTConfig, recipe(args), place="bench")
    try:
        trained = train(config, tweak_gradients=flip_gradients if args.flip_gradient else None)
    except NonFiniteLossError as error:
        if not args.flip_gradient:
            raise
        print(error, file=sys.stderr)
        print(json.dumps({"who": "ours", "diverged": True}))
        return
    import torch

    metrics = Path(trained.output_dir) / "metrics.jsonl"
    print(
        json.dumps(
            {
                "who": "ours",
                "setting": "tunesmith sft, defaults",
                **measure.summary(clock.step_ends_seconds, tokens_per_step(metrics), skip_steps=1),
                **clock.turns(),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
