"""Where a card's time goes: a step of training and decoded tokens, by kernel, with launches and waits counted.

    python bench/gpu_profile.py --model DIR --rows rows.jsonl [--seconds 60]

Prints a table a case: wall time a step or token without the profiler, then with it the kernels' own time, how many
kernels ran, how often the process asked for work (launches) and waited, and the kernels that take the most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import AdapterConfig, add_adapter, drop_adapter
from tunesmith.models.decoding import FastDecoding, start_decoding
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.records import Example, Where
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer, clip_gradients
from tunesmith.training.step import accumulate_gradients

ROWS, MAX_TOKENS, MICRO_BATCH_TOKENS = 32, 512, 16_384
# What the process calls to give the card work, and to wait for it.
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemsetAsync", "cudaMemcpyAsync")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def examples_of(tokenizer: Any, rows: str) -> list[Example]:
    """A step's rows as they are: their own lengths, the last three quarters of each in the loss."""
    found = []
    with open(rows, encoding="utf-8") as stream:
        for line in stream:
            words = " ".join(message["content"] for message in json.loads(line)["messages"])
            ids = np.array(tokenizer(words, add_special_tokens=False)["input_ids"][:MAX_TOKENS], np.int64)
            weight = (np.arange(len(ids)) >= len(ids) // 4).astype(np.float32)
            found.append(Example(ids=ids, loss_weight=weight, row_id=len(found), where=Where("bench")))
            if len(found) == ROWS:
                return found
    raise SystemExit(f"only {len(found)} rows")


def told(label: str, act: Callable[[], Any], per: int, repeats: int, top: int) -> dict[str, Any]:
    """One case: timed, then profiled once. per: steps or tokens that one call takes."""
    act()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        act()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - began) / per)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        act()
        torch.cuda.synchronize()
    kernels: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == DeviceType.CUDA:
            kernels[event.name] += event.time_range.elapsed_us()
            counts[event.name] += 1
        elif event.name.startswith("cu"):
            calls[event.name] += 1
    facts = {
        "case": label,
        "wall_ms": round(1e3 * statistics.median(seconds), 3),
        "kernels_ms": round(sum(kernels.values()) / 1e3 / per, 3),
        "kernels": round(sum(counts.values()) / per, 1),
        "launches": round(sum(n for name, n in calls.items() if name.startswith(LAUNCHES)) / per, 1),
        "waits": round(sum(n for name, n in calls.items() if name.startswith(WAITS)) / per, 2),
    }
    print(json.dumps(facts), flush=True)
    for name, microseconds in kernels.most_common(top):
        print(f"  {microseconds / 1e3 / per:9.3f} ms {counts[name] / per:8.1f} x  {name[:110]}", flush=True)
    return facts


def train_cases(base: Any, examples: list[Example]) -> None:
    role = add_adapter(base, "taught", AdapterConfig(r=16), seed=0)
    optimizer, parameters = build_optimizer(role.parameters, OptimConfig()), list(role.parameters.values())

    def step(checkpointing: bool) -> None:
        world = one_process("cuda")
        accumulate_gradients(
            base, role, examples, world, micro_batch_tokens=MICRO_BATCH_TOKENS, checkpointing=checkpointing
        )
        clip_gradients(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    tokens = sum(len(example.ids) for example in examples)
    for checkpointing in (False, True):
        torch.cuda.reset_peak_memory_stats()
        label = f"train, {tokens} tokens, checkpointing {checkpointing}"
        facts = told(label, lambda on=checkpointing: step(on), 1, 4, 24 if not checkpointing else 6)  # type: ignore[misc]
        peak = torch.cuda.max_memory_allocated() / 1e9
        print(f"  {tokens / facts['wall_ms'] * 1e3:,.0f} tokens/s, peak {peak:.2f} GB", flush=True)
    drop_adapter(base, "taught")


@torch.no_grad()
def decode_cases(base: Any, examples: list[Example], until: float) -> None:
    for size, replayed in ((1, True), (32, True), (1, False), (32, False), (8, True)):
        if time.perf_counter() > until:
            return
        prompts = [example.ids[:50] for example in examples[:size]]
        state, hidden_BD = start_decoding(base, prompts, 200, [None] * size)
        assert isinstance(state, FastDecoding)
        if not replayed:
            state.graphs = None
        held = [logits_of(hidden_BD, base.head).argmax(-1)]

        def tokens(state: Any = state, held: Any = held) -> None:
            for _ in range(16):
                held[0] = logits_of(state.step(held[0]), base.head).argmax(-1)
                held[0].tolist()

        told(f"decode, {size} rows, {'graphs' if replayed else 'kernel by kernel'}", tokens, 16, 4, 14)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--seconds", type=float, default=60.0, help="no case begins later than this")
    args = parser.parse_args()
    until = time.perf_counter() + args.seconds
    base = load_base(ModelConfig(model_name_or_path=args.model, device="cuda"))
    examples = examples_of(base.tokenizer, args.rows)
    decode_cases(base, examples, until)
    train_cases(base, examples)


if __name__ == "__main__":
    main()
