"""A toy task a tiny T5 learns from nothing: 'monday 23 april 1994' -> '94 m04 d23 mon'."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from tunesmith.randomness import permutation

MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
DAYS, YEARS = range(1, 29), range(1990, 2000)
NUM_TRAIN, NUM_VALID, NUM_TEST = 1500, 100, 200


def date_rows() -> list[dict[str, str]]:
    """All dates in a fixed shuffled order, as rows of ``input`` and ``output``; the parts never overlap."""
    every = list(itertools.product(WEEKDAYS, DAYS, range(12), YEARS))
    rows = [
        {
            "input": f"{weekday} {day} {MONTHS[month]} {year}",
            "output": f"{year % 100} m{month + 1:02d} d{day:02d} {weekday[:3]}",
        }
        for weekday, day, month, year in every
    ]
    order = permutation(len(rows), 0, "date_rows")
    return [rows[i] for i in order[: NUM_TRAIN + NUM_VALID + NUM_TEST]]


def date_tokenizer(rows: list[dict[str, str]]) -> Any:
    """One token a word, trained on the rows; an end token behind every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<pad>", "</s>", "<unk>"])
    tokenizer.train_from_iterator([row[name] for row in rows for name in ("input", "output")], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def write_date_task(folder: Path) -> Path:
    """An untrained T5, its tokenizer, rows for training and validation, and the recipe; returns the recipe's path."""
    import torch
    import transformers as t

    rows = date_rows()
    tokenizer = date_tokenizer(rows[:NUM_TRAIN])
    torch.manual_seed(0)
    config = t.T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0,
    )  # fmt: skip
    t.T5ForConditionalGeneration(config).save_pretrained(folder / "untrained")
    tokenizer.save_pretrained(folder / "untrained")
    parts = {"train": rows[:NUM_TRAIN], "valid": rows[NUM_TRAIN : NUM_TRAIN + NUM_VALID]}
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    recipe = folder / "dates.yaml"
    recipe.write_text(
        f"model_name_or_path: {folder / 'untrained'}\noutput_dir: {folder / 'run'}\n"
        f"data:\n  train: {folder / 'train.jsonl'}\n  validation: {folder / 'valid.jsonl'}\n"
        "adapter:\n  method: full\nlearning_rate: 4.0e-3\nwarmup_ratio: 0.05\nnum_train_epochs: 6\n"
        "per_device_train_batch_size: 32\nmicro_batch_tokens: 4096\nearly_stopping_patience: 0\n"
        "dtype: float32\ndevice: cpu\neval_steps: 100\n"
    )
    return recipe


def held_out_rows() -> list[dict[str, str]]:
    """The rows that are neither trained on nor validated with."""
    return date_rows()[NUM_TRAIN + NUM_VALID :]
