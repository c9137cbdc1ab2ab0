"""One side of the GPU comparison: loads, takes a step, then waits; each line on stdin is answered by a timed round.

    python bench/gpu_worker.py SIDE --model DIR --rows rows.jsonl --output-dir OUT [--setting JSON]

Whoever began it interleaves the sides, so that none computes while another is timed. A round is a step that is not
timed, since the allocator begins it empty, then ``--steps`` that are, from synchronised to synchronised GPU. What is
counted are real tokens. Each answer is one JSON line; all else that libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from settings import LEARNING_RATE, LORA_ALPHA, LORA_R, MAX_LENGTH_TOKENS, Setting


class Rounds:
    """Times rounds of optimiser steps, by torch's hook on every optimiser's step: the same on both sides."""

    def __init__(self, steps: int, answers: Any) -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.torch, self.steps, self.answers = torch, steps, answers
        self.count, self.began = 0, 0.0
        register_optimizer_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        cuda = self.torch.cuda
        cuda.synchronize()
        now, place = time.perf_counter(), self.count % (self.steps + 1)
        if self.count == 0:
            self._wait({"ready": True})
        elif place == 1:
            self.began = now
        elif place == 0:
            memory = {"peak_bytes": cuda.max_memory_allocated(), "reserved_bytes": cuda.max_memory_reserved()}
            self._wait({"seconds": now - self.began, **memory})
        self.count += 1

    def _wait(self, answer: dict[str, Any]) -> None:
        # What stays reserved here would be missing to the sides whose turn is next.
        self.torch.cuda.empty_cache()
        print(json.dumps(answer), file=self.answers, flush=True)
        sys.stdin.readline()
        self.torch.cuda.reset_peak_memory_stats()


def ours(args: argparse.Namespace) -> dict[str, Any]:
    """``tunesmith sft``'s own recipe; its plan beside what is measured."""
    from sft_ours import tokens_per_step

    from tunesmith.config import build_config
    from tunesmith.recipes.sft import SFTConfig, train

    recipe = {
        "model_name_or_path": args.model,
        "device": "cuda",
        "output_dir": args.output_dir,
        "overwrite_output_dir": True,
        "data": {"train": args.rows, "validation_share": 0.0},
        "max_length": MAX_LENGTH_TOKENS,
        "over_length": "truncate",
        "adapter": {"r": LORA_R, "lora_alpha": LORA_ALPHA},
        "per_device_train_batch_size": args.batch_size,
        "micro_batch_tokens": args.micro_batch_tokens,
        "max_steps": args.max_steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "linear",
        "save_steps": 1_000_000,
        "after_training": "off",
        **({"quantization": {"bits": 4}} if args.side == "qlora" else {}),
        **({"gradient_checkpointing": True} if args.side == "ours_checkpointing" else {}),
    }
    trained = train(build_config(SFTConfig, recipe, place="bench"))
    folder = Path(trained.output_dir)
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "tokens_per_step": tokens_per_step(folder / "metrics.jsonl"),
        "budget": facts.get("budget"),
        "fast_path": trained.base.decoder is not None,
        "notes": trained.base.notes,
        "losses": losses(folder / "metrics.jsonl"),
    }


def losses(metrics: Path) -> list[float]:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [round(line["loss"], 4) for line in lines if "loss" in line]


def trl(args: argparse.Namespace) -> dict[str, Any]:
    """TRL's SFTTrainer in one setting, as ``sft_peer_trl.py`` builds it."""
    from sft_peer_trl import CountingCollator, accumulation_steps, build_trainer, per_step

    setting = Setting.from_json(args.setting)
    args.gpu = True
    trainer = build_trainer(args, setting)
    counts = trainer.data_collator = CountingCollator(trainer.data_collator)
    trainer.train()
    accumulation = accumulation_steps(setting, args.batch_size)
    return {
        "tokens_per_step": per_step(counts.tokens_per_batch, accumulation, args.max_steps),
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("ours", "ours_checkpointing", "qlora", "trl"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--setting", help="a Setting as JSON, for trl")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH_TOKENS)
    parser.add_argument("--micro-batch-tokens", type=int, default=16_384)
    parser.add_argument("--max-steps", type=int, required=True)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a round")
    args = parser.parse_args()
    # Answers alone go to stdout, whatever libraries write there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if args.side != "trl":
        from tunesmith.runtime import tune_process

        tune_process()
    Rounds(args.steps, answers)
    told = trl(args) if args.side == "trl" else ours(args)
    print(json.dumps({"done": True, **told}), file=answers, flush=True)


if __name__ == "__main__":
    main()
