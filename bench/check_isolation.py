"""Is TRL's flattened batch exact here? Logits of rows in one flat sequence against each row alone (fp32).

    bench/.env-peers/bin/python bench/check_isolation.py --model DIR --rows rows.jsonl

TRL itself promises isolation only with FlashAttention; transformers builds a block-diagonal mask from the position
ids for sdpa and eager attention. The sweep tries padding_free and packing only where this says exact. The control
flattens without position ids, so rows do attend to each other, and must differ. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

TOLERANCE = 1e-3  # of logits around 10, fp32, other kernels for other shapes


def largest_differences(model: Any, rows: list[list[int]]) -> dict[str, float]:
    """Largest absolute logit difference to each row alone: padding-free, packed, and the control."""
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    lengths = [len(row) for row in rows]
    flat = [token for row in rows for token in row]
    batches = {
        "padding_free": collate([{"input_ids": row} for row in rows]),
        "packing": collate([{"input_ids": flat, "seq_lengths": lengths}]),
        "control": {"input_ids": torch.tensor([flat])},
    }
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows])
        return {
            name: (model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits[0] - alone)
            .abs()
            .max()
            .item()
            for name, batch in batches.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    args = parser.parse_args()
    from sft_peer_trl import read_chats, tokenize
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [row["input_ids"] for row in tokenize(read_chats(args.rows)[:4], tokenizer, 200)]
    found = {}
    for attention in ("sdpa", "eager"):
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32", attn_implementation=attention)
        found[attention] = largest_differences(model.train(), rows)
    exact = all(
        found[attention][layout] < TOLERANCE < found[attention]["control"]
        for attention in found
        for layout in ("padding_free", "packing")
    )
    print(json.dumps({"exact": exact, "tolerance": TOLERANCE, "largest_logit_difference": found}))


if __name__ == "__main__":
    main()
