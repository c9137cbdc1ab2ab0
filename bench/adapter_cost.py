"""What an adapter costs at every decoded token: unmerged, merged, and several of them in one batch. One JSON line.

    .venv/bin/python bench/adapter_cost.py [--rank 16] [--tokens 24] [--rounds 5] [--batches 1 32]

LoRA on every linear map of the embedded model, with the same values on both sides: ``unmerged`` beside the base,
``merged`` in weights that `tunesmith adapter merge` writes, ``mixed`` four unmerged ones over the rows of a batch,
``base`` without any. Greedy steps after the prefill, interleaved; medians of decoded tokens a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.decoding import start_decoding
from tunesmith.models.load import ModelConfig, build_base, gemm_gflops, load_base
from tunesmith.models.merge import write_merged
from tunesmith.models.resolve import resolve_model
from tunesmith.models.roles import Base
from tunesmith.runtime import tune_process

NAMES = ("first", "second", "third", "fourth")
PROMPT_TOKENS = 48


@torch.no_grad()
def decode_rate(base: Base, adapters: list[str | None], num_tokens: int) -> float:
    """Tokens a second of greedy steps, the prefill left out."""
    ids = (np.arange(PROMPT_TOKENS) * 37 + 100) % base.model.config.vocab_size
    state, hidden_BD = start_decoding(base, [ids.astype(np.int64)] * len(adapters), num_tokens, adapters)
    chosen_B = logits_of(hidden_BD, base.head).argmax(-1)
    began = time.perf_counter()
    for _ in range(num_tokens):
        chosen_B = logits_of(state.step(chosen_B), base.head).argmax(-1)
    return num_tokens * len(adapters) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    args = parser.parse_args()
    tune_process()
    base = load_base(ModelConfig())
    for number, name in enumerate(NAMES):
        role = add_adapter(base, name, AdapterConfig(r=args.rank), seed=number)
        for parameter in role.parameters.values():
            parameter.data = torch.randn_like(parameter) * 0.01
    with tempfile.TemporaryDirectory(prefix="tunesmith-merged-") as folder:
        write_merged(base, NAMES[0], Path(folder), base.dtype)
        merged = build_base(resolve_model(folder), base.device, base.dtype)
    report = {
        "dtype": str(base.dtype).removeprefix("torch."),
        "rank": args.rank,
        "threads": torch.get_num_threads(),
        "gemm_gflops": round(gemm_gflops(base.dtype, base.device, seconds=0.5)),
        "batches": {},
    }
    for size in args.batches:
        sides: dict[str, tuple[Base, list[str | None]]] = {
            "base": (base, [None] * size),
            "unmerged": (base, [NAMES[0]] * size),
            "merged": (merged, [None] * size),
        }
        if size >= len(NAMES):
            sides["mixed"] = (base, [NAMES[row % len(NAMES)] for row in range(size)])
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(args.rounds + 1):
            for name, (model, adapters) in sides.items():
                rate = decode_rate(model, adapters, args.tokens)
                if turn:  # The first one warms up.
                    rates[name].append(rate)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        spread = {name: [round(min(values), 1), round(max(values), 1)] for name, values in rates.items()}
        ratios = [u / m for u, m in zip(rates["unmerged"], rates["merged"], strict=True)]
        report["batches"][size] = {
            "tokens_per_second": {name: round(value, 1) for name, value in medians.items()},
            "range": spread,
            "unmerged_over_merged": round(statistics.median(ratios), 3),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
