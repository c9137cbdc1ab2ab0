"""A LoRA step on the base in 4 bits, beside the same step on the base as it is: forward + backward. One JSON line.

    .venv/bin/python bench/qlora_speed.py [--tokens 1024] [--rows 4] [--rounds 7] [--model smollm2-135m-instruct]

Both in one process, interleaved; random tokens, all in the loss, r 16 on every linear map. Also: one step of greedy
decoding at batch 1 and 8, and the unpacking alone. `--busy` takes processor seconds on one thread instead of the
clock: for a shared machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.decoding import start_decoding
from tunesmith.models.forward import forward
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.quantize import linear_maps, quantized_layers
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.roles import Base, Role
from tunesmith.records import Example, Where
from tunesmith.runtime import tune_process
from tunesmith.tokens.pack import Packed, pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default=ModelConfig().model_name_or_path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    tune_process()
    if args.busy:
        torch.set_num_threads(1)
    clock = time.process_time if args.busy else time.perf_counter
    settings = ModelConfig(model_name_or_path=args.model, dtype=args.dtype)
    full = load_base(settings)
    packed = load_base(
        settings.model_copy(
            update={"quantization": QuantizationConfig(), "dtype": str(full.dtype).removeprefix("torch.")}
        )
    )
    in_bf16 = sum(2 * layer.weight.numel() for layer in linear_maps(full.model).values())  # type: ignore[union-attr, operator, misc]
    layers = quantized_layers(packed.model).values()
    sides = {"full": full, "4 bits": packed}
    roles = {side: add_adapter(base, "bench", AdapterConfig(r=16), seed=0) for side, base in sides.items()}
    batch = _random_rows(args.rows, args.tokens // args.rows, packed.model.config.vocab_size)
    steps = _interleaved({side: _step(base, roles[side], batch) for side, base in sides.items()}, args.rounds, clock)
    result = {
        "model": args.model,
        "dtype": str(full.dtype).removeprefix("torch."),
        "tokens": args.tokens,
        "clock": "processor seconds, one thread" if args.busy else f"wall, {torch.get_num_threads()} threads",
        "step": steps,
        "unpacking_seconds": _interleaved({"all": lambda: [x.frozen.dense(full.dtype) for x in layers]}, 3, clock)[
            "all"
        ],
        "quantised_part_of_bf16": round(sum(layer.packed.num_bytes for layer in layers) / in_bf16, 4),
    }
    for rows in (1, 8):
        decoding = {side: _decode(base, rows) for side, base in sides.items()}
        result[f"decoding, batch {rows}"] = _interleaved(decoding, args.rounds, clock)
    print(json.dumps(result))


def _random_rows(num_rows: int, length: int, vocab_size: int) -> Packed:
    draws, weight = np.random.default_rng(0), np.ones(length, np.float32)
    weight[0] = 0.0
    rows = [
        Example(ids=draws.integers(3, vocab_size, length), loss_weight=weight, row_id=i, where=Where("bench", i))
        for i in range(num_rows)
    ]
    return pack(rows, "bench")


def _step(base: Base, role: Role, batch: Packed) -> Callable[[], None]:
    def step() -> None:
        loss, _ = forward(base, batch, "ce_sum")
        loss.backward()
        for parameter in role.parameters.values():
            parameter.grad = None

    return step


def _decode(base: Base, num_rows: int) -> Callable[[], object]:
    state, _ = start_decoding(base, [np.arange(3, 35)] * num_rows, 1000, ["bench"] * num_rows)
    ids_B = torch.full((num_rows,), 7)
    return lambda: state.step(ids_B)


def _interleaved(
    sides: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float | list[float]]:
    """Median seconds of each side after one round to warm up, and of the ratio first / last inside a round."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, run in sides.items():
            began = clock()
            run()
            if number:
                seconds[side].append(clock() - began)
    found: dict[str, float | list[float]] = {side: round(statistics.median(s), 4) for side, s in seconds.items()}
    if len(sides) > 1:
        first, *_, last = seconds.values()
        ratios = [one / two for one, two in zip(first, last, strict=True)]
        found["speed_against_full"] = round(statistics.median(ratios), 3)
        found["range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return found


if __name__ == "__main__":
    main()
