"""Peer side of the SFT comparison: TRL + PEFT LoRA on the same rows, in the peers' environment. One JSON line.

    bench/.env-peers/bin/python bench/sft_peer_trl.py --model DIR --rows rows.jsonl --output-dir OUT --setting JSON

Rows: JSON lines with ``messages``; the last one is the answer. Everything not named by the setting and not made
equal on both sides (rows, length, batch, learning rate, schedule, LoRA) is left as TRL has it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import measure
from settings import (
    BATCH_SIZE_ROWS,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_R,
    MAX_LENGTH_TOKENS,
    Setting,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder with weights in safetensors and the tokenizer")
    parser.add_argument("--rows", required=True, help="JSON lines with messages")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--setting", required=True, help="a Setting as JSON")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE_ROWS, help="rows (packs when packing) in a step")
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH_TOKENS)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--save", action="store_true", help="save the adapter to the output folder")
    parser.add_argument("--gpu", action="store_true", help="train on the GPU")
    return parser.parse_args()


def read_chats(path: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]


def tokenize(chats: list[dict[str, Any]], tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """What TRL's preparation does, done before it: padding_free refuses to truncate and wants rows cut already."""
    rows = []
    for chat in chats:
        prompt_ids = tokenizer.apply_chat_template(chat["prompt"], add_generation_prompt=True)["input_ids"]
        ids = tokenizer.apply_chat_template(chat["prompt"] + chat["completion"])["input_ids"]
        if ids[: len(prompt_ids)] != prompt_ids:
            raise ValueError("The chat template does not keep the prompt as a prefix.")
        mask = [0] * len(prompt_ids) + [1] * (len(ids) - len(prompt_ids))
        rows.append({"input_ids": ids[:max_length], "completion_mask": mask[:max_length]})
    return rows


class CountingCollator:
    """TRL's own collator, counting the real (unpadded) tokens of each batch it is given."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate
        self.tokens_per_batch: list[int] = []
        self.loss_tokens_per_batch: list[int] = []

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        self.tokens_per_batch.append(sum(len(example["input_ids"]) for example in examples))
        batch = self.collate(examples)
        self.loss_tokens_per_batch.append(int((batch["labels"][:, 1:] != -100).sum()))
        return batch


def trainer_options(setting: Setting, max_length: int) -> dict[str, Any]:
    """The SFTConfig keys a setting stands for; none where TRL's own defaults are asked for."""
    if setting.own_defaults:
        return {"max_length": max_length} if setting.autocast else {"max_length": max_length, "bf16": False}
    return {
        "gradient_checkpointing": setting.checkpointing,
        "bf16": setting.autocast,
        "train_sampling_strategy": setting.sampling,
        "max_length": None if setting.layout == "padding_free" else max_length,
        "padding_free": setting.layout == "padding_free",
        "packing": setting.layout == "packing",
        "completion_only_loss": True,
        "torch_compile": setting.compiled,
        "use_liger_kernel": setting.liger,
        "model_init_kwargs": {"dtype": setting.weights, "attn_implementation": setting.attention},
    }


def accumulation_steps(setting: Setting, batch_size: int) -> int:
    """Forwards in one optimiser step."""
    if setting.layout == "packing" or setting.micro_rows >= batch_size:
        return 1
    if batch_size % setting.micro_rows:
        raise ValueError(f"{setting.micro_rows} rows a forward do not divide a batch of {batch_size}.")
    return batch_size // setting.micro_rows


def per_step(counts: list[int], accumulation: int, num_steps: int) -> list[int]:
    """Sums over the forwards of each step; batches the loader prepared ahead but never trained on are left out."""
    return [sum(counts[step * accumulation : (step + 1) * accumulation]) for step in range(num_steps)]


def build_trainer(args: argparse.Namespace, setting: Setting) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, Trainer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    chats = read_chats(args.rows)
    if setting.layout == "padding_free":
        chats = tokenize(chats, tokenizer, args.max_length)
    accumulation = accumulation_steps(setting, args.batch_size)
    kind = SFTTrainer
    if setting.loss == "full_logits":
        kind = type("FullLogitsSFTTrainer", (SFTTrainer,), {"compute_loss": Trainer.compute_loss})
    return kind(
        model=args.model,
        args=SFTConfig(
            output_dir=args.output_dir,
            per_device_train_batch_size=args.batch_size // accumulation,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            max_steps=args.max_steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not args.gpu,
            **trainer_options(setting, args.max_length),
        ),
        train_dataset=Dataset.from_list(chats),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=LORA_R, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def main() -> None:
    args = parse_arguments()
    setting = Setting.from_json(args.setting)
    clock = measure.StepClock()
    trainer = build_trainer(args, setting)
    counts = trainer.data_collator = CountingCollator(trainer.data_collator)
    trainer.train()
    if args.save:
        trainer.save_model(args.output_dir)
    import torch

    accumulation = accumulation_steps(setting, args.batch_size)
    num_steps = len(clock.step_ends_seconds)
    tokens_per_step = per_step(counts.tokens_per_batch, accumulation, num_steps)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    print(
        json.dumps(
            {
                "who": "trl",
                "setting": setting.name,
                **measure.summary(clock.step_ends_seconds, tokens_per_step, setting.skip_steps),
                **clock.turns(),
                "loss_tokens": sum(per_step(counts.loss_tokens_per_batch, accumulation, num_steps)),
                "logged_losses": losses,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
