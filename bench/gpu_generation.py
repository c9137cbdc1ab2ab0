"""Generation on a GPU: ours against transformers' generate on the very same weights, in turn.

    python bench/gpu_generation.py --model DIR --rows rows.jsonl [--rounds 5] [--seconds 90]

Greedy, exactly 128 new tokens; prompts of about 50 tokens, padded on the left for transformers (bf16, sdpa, its dynamic
cache). Each round asks both for one batch; the time of the first token alone is told apart. After each round all that
is known goes out as one JSON line, so that the last line stands for whatever was reached.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

NUM_PROMPTS, NEW_TOKENS = 64, 128


def prompts_of(tokenizer: Any, rows: str) -> list[Any]:
    """The beginnings of rows, 40 to 60 tokens each."""
    import numpy as np

    found: list[Any] = []
    with open(rows, encoding="utf-8") as stream:
        for line in stream:
            words = " ".join(message["content"] for message in json.loads(line)["messages"])
            ids = tokenizer(words, add_special_tokens=False)["input_ids"]
            if len(ids) >= 60:
                found.append(np.array(ids[: 40 + len(found) % 21], np.int64))
            if len(found) == NUM_PROMPTS:
                return found
    raise SystemExit(f"only {len(found)} rows have 60 tokens")


def seconds_of(run: Callable[[], int], wanted: int) -> float:
    """Seconds of a call that must give ``wanted`` tokens."""
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    tokens = run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    if tokens != wanted:
        raise SystemExit(f"{tokens} tokens instead of {wanted}: an end token came early.")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1e9, help="no round begins later than this after the start")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    until = time.perf_counter() + args.seconds
    import torch

    from tunesmith.models.load import ModelConfig, load_base
    from tunesmith.rollout.generate import LocalGenerator, Prompt
    from tunesmith.rollout.sampling import Sampling

    base = load_base(ModelConfig(model_name_or_path=args.model, device="cuda"))
    prompts = prompts_of(base.tokenizer, args.rows)
    pad = base.model.config.pad_token_id

    def ours(batch: list[Any], new_tokens: int) -> int:
        asked = [Prompt(ids=ids, row_id=i) for i, ids in enumerate(batch)]
        sampling = Sampling(max_new_tokens=new_tokens, temperature=0.0)
        answers = LocalGenerator(base, max_rows=len(batch), max_cache_tokens=10**6).generate(asked, sampling)
        return sum(len(answer.ids) for answer in answers)

    @torch.no_grad()
    def theirs(batch: list[Any], new_tokens: int) -> int:
        longest = max(len(ids) for ids in batch)
        ids_BL = torch.full((len(batch), longest), pad, dtype=torch.int64)
        mask_BL = torch.zeros_like(ids_BL)
        for row, ids in enumerate(batch):
            ids_BL[row, longest - len(ids) :] = torch.from_numpy(ids)
            mask_BL[row, longest - len(ids) :] = 1
        out = base.model.generate(
            input_ids=ids_BL.cuda(),
            attention_mask=mask_BL.cuda(),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        )
        return int(out[:, longest:].numel())

    found: dict[str, Any] = {"fast_path": base.decoder is not None}
    sides = {"ours": ours, "transformers": theirs}
    rates: dict[int, dict[str, list[float]]] = {size: {name: [] for name in sides} for size in args.batches}
    firsts: dict[int, dict[str, list[float]]] = {size: {name: [] for name in sides} for size in args.batches}
    for index in range(args.rounds):
        for size in args.batches:
            if time.perf_counter() > until:
                return
            if index == 0:
                for run in sides.values():
                    run(prompts[:size], 8)
            batch = [prompts[(index * size + i) % NUM_PROMPTS] for i in range(size)]
            for name in list(sides)[:: 1 if index % 2 else -1]:
                firsts[size][name].append(seconds_of(partial(sides[name], batch, 1), size))
                seconds = seconds_of(partial(sides[name], batch, NEW_TOKENS), size * NEW_TOKENS)
                rates[size][name].append(size * NEW_TOKENS / seconds)
            found[str(size)] = {name: told(rates[size][name], firsts[size][name]) for name in sides}
            print(json.dumps(found), flush=True)


def told(rates: list[float], firsts: list[float]) -> dict[str, Any]:
    """One side's rounds of a batch size so far."""
    return {
        "tokens_per_second": [round(rate, 1) for rate in rates],
        "median": round(statistics.median(rates), 1),
        "first_token_seconds": round(statistics.median(firsts), 4),
    }


if __name__ == "__main__":
    main()
