"""The independent judge of quality: validation loss of adapters in plain transformers + PEFT, fp32, one row at a time.

    bench/.env-peers/bin/python bench/evaluate_adapter.py --model DIR --rows validation.jsonl --max-length 512 \
        --adapter base --adapter OUT_TRL --adapter OUT_OURS

Runs in the peers' environment and imports nothing of ours or of TRL. The loss is the mean over all tokens of the
answers and their end-of-turn tokens. Prints one JSON line: adapter folder (or "base") -> loss.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any


def read_rows(path: str, tokenizer: Any, max_length: int) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of each row; labels are -100 outside the answer and its end-of-turn token."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        end = ids.index(tokenizer.eos_token_id, len(prompt)) + 1
        labels = [-100] * len(prompt) + ids[len(prompt) : end] + [-100] * (len(ids) - end)
        rows.append((ids[:max_length], labels[:max_length]))
    return rows


def validation_loss(model: Any, rows: list[tuple[list[int], list[int]]]) -> tuple[float, int]:
    """Token-mean negative log-likelihood in natural log, and the number of tokens it is the mean of."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for ids, labels in rows:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].double()
            targets = torch.tensor(labels[1:])
            total += torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
            count += int((targets != -100).sum())
    return total / count, count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--adapter", action="append", required=True, help='an adapter folder, or "base" for none')
    args = parser.parse_args()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = read_rows(args.rows, AutoTokenizer.from_pretrained(args.model), args.max_length)
    losses: dict[str, float | None] = {}
    num_tokens = 0
    for adapter in args.adapter:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32")
        if adapter != "base":
            model = PeftModel.from_pretrained(model, adapter)
        loss, num_tokens = validation_loss(model.eval(), rows)
        losses[adapter] = loss if math.isfinite(loss) else None
    print(json.dumps({"losses": losses, "loss_tokens": num_tokens, "num_rows": len(rows)}))


if __name__ == "__main__":
    main()
