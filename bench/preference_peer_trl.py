"""Peer side of the preference comparison: TRL's DPOTrainer or RewardTrainer with PEFT, in the peers' environment.

    bench/.env-peers/bin/python bench/preference_peer_trl.py dpo --model DIR --rows pairs.jsonl --setting JSON ...

Everything that the setting does not name and that is not made equal on both sides is left as TRL has it. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import measure
from preference_settings import (
    BATCH_SIZE_PAIRS,
    BETA,
    KINDS,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_R,
    MAX_LENGTH_TOKENS,
    PreferenceSetting,
)


def options(setting: PreferenceSetting, kind: str) -> dict[str, Any]:
    """The config keys a setting stands for."""
    if setting.own_defaults:
        return {} if setting.autocast else {"bf16": False}
    chosen: dict[str, Any] = {
        "gradient_checkpointing": setting.checkpointing,
        "bf16": setting.autocast,
        "model_init_kwargs": {"dtype": setting.weights, "attn_implementation": setting.attention},
    }
    return {**chosen, "precompute_ref_log_probs": setting.precompute} if kind == "dpo" else chosen


def build_trainer(args: argparse.Namespace, setting: PreferenceSetting) -> Any:
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    pairs = [json.loads(line) for line in Path(args.rows).read_text(encoding="utf-8").splitlines()]
    if args.kind == "reward":
        pairs = [{side: pair["prompt"] + pair[side] for side in ("chosen", "rejected")} for pair in pairs]
    names = {"dpo": ("DPOTrainer", "DPOConfig", "CAUSAL_LM"), "reward": ("RewardTrainer", "RewardConfig", "SEQ_CLS")}
    trainer_name, config_name, task = names[args.kind]
    micro = min(setting.micro_pairs, BATCH_SIZE_PAIRS)
    config = getattr(trl, config_name)(
        output_dir=args.output_dir,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=BATCH_SIZE_PAIRS // micro,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        max_length=MAX_LENGTH_TOKENS,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **({"beta": BETA} if args.kind == "dpo" else {}),
        **options(setting, args.kind),
    )
    return getattr(trl, trainer_name)(
        model=args.model,
        args=config,
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        peft_config=LoraConfig(r=LORA_R, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type=task),
    )


def time_reference(kind: str) -> list[float]:
    """Seconds of TRL's pass over the rows before the first step, where it makes one."""
    seconds: list[float] = []
    if kind == "dpo":
        from trl import DPOTrainer

        precompute = DPOTrainer._precompute_ref_logps

        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            found = precompute(*arguments, **keywords)
            seconds.append(time.perf_counter() - began)
            return found

        DPOTrainer._precompute_ref_logps = timed
    return seconds


def count_tokens(dataset: Any) -> int:
    """Tokens of both sides of all pairs, the prompt in each."""
    if "prompt_ids" in dataset.column_names:
        prompts = sum(2 * len(ids) for ids in dataset["prompt_ids"])
    else:
        prompts = 0
    return prompts + sum(len(ids) for side in ("chosen_ids", "rejected_ids") for ids in dataset[side])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--setting", required=True)
    args = parser.parse_args()
    setting = PreferenceSetting.from_json(args.setting)
    clock = measure.StepClock()
    reference = time_reference(args.kind)
    trainer = build_trainer(args, setting)
    trainer.train()
    import torch

    print(
        json.dumps(
            {
                "who": "trl",
                "tokens": count_tokens(trainer.train_dataset),
                "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
                "step_ends_seconds": clock.step_ends_seconds,
                "reference_seconds": sum(reference),
                "peak_rss_bytes": measure.peak_rss_bytes(),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
