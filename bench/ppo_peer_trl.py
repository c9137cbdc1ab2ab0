"""Peer side of the PPO comparison: TRL 1.9's experimental PPOTrainer with PEFT, in an environment of its own.

    bench/.env-peers-ppo/bin/python bench/ppo_peer_trl.py --model DIR --rows prompts.jsonl --num-updates 3

Policy with LoRA, its reference by switching the adapter off, value and reward models of their own, as TRL has it; the
value model is tuned whole, since the trainer knows no adapter for it. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

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
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--num-updates", type=int, required=True)
    args = parser.parse_args()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    # Its collator pads, its lengths are told by the pad token: it must not be the end token.
    tokenizer.pad_token = tokenizer.decode([0])
    rows = [json.loads(line) for line in Path(args.rows).read_text(encoding="utf-8").splitlines()]
    asked = [
        tokenizer.apply_chat_template([{"role": "user", "content": row["prompt"]}], add_generation_prompt=True)
        for row in rows
    ]
    ids = [one["input_ids"] if not isinstance(one, list) else one for one in asked]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.perf_counter())

    def classifier() -> AutoModelForSequenceClassification:
        model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=1, dtype=torch.float32)
        model.config.pad_token_id = tokenizer.pad_token_id
        return model

    config = PPOConfig(
        output_dir=args.output_dir,
        # The rows of an update; it cuts its mini-batches from them, each in one forward and backward pass.
        per_device_train_batch_size=NUM_PROMPTS,
        gradient_accumulation_steps=1,
        num_mini_batches=NUM_MINI_BATCHES,
        num_ppo_epochs=NUM_PPO_EPOCHS,
        total_episodes=NUM_PROMPTS * args.num_updates,
        response_length=MAX_NEW_TOKENS,
        local_rollout_forward_batch_size=NUM_PROMPTS,
        num_sample_generations=0,
        temperature=TEMPERATURE,
        kl_coef=KL_COEF,
        stop_token="eos",
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=False,
        bf16=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        ref_model=None,
        reward_model=classifier(),
        value_model=classifier(),
        train_dataset=Dataset.from_list([{"input_ids": one} for one in ids]),
        peft_config=LoraConfig(r=LORA_R, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    began = time.perf_counter()
    trainer.train()
    kept = {"who": "trl", "update_ends_seconds": [end - began for end in ends]}
    print(json.dumps({**kept, "peak_rss_bytes": measure.peak_rss_bytes(), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
