"""Two answers of one prompt as a forest, beside two whole rows: forward + backward on HH-RLHF pairs. One JSON line.

    .venv/bin/python bench/forest_speed.py [--data ../shared/data/hh_rlhf/harmless_base.jsonl] [--pairs 16] [--rounds 5]

Both sides put the same answers' tokens into the loss; interleaved. Rates count whole rows' tokens (the prompt once an
answer) on both sides. `--busy` takes processor seconds on one thread instead of the clock: for a shared machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from tunesmith.data.preferences import PreferenceDataConfig, load_preferences
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import forward
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.runtime import tune_process
from tunesmith.tokens.forest import forest_of
from tunesmith.tokens.pack import Packed, micro_batches, pack
from tunesmith.tokens.preference import render_groups
from tunesmith.tokens.render import RenderConfig

HH = Path(__file__).resolve().parents[2] / "shared" / "data" / "hh_rlhf" / "harmless_base.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(HH))
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    tune_process()
    if args.busy:
        torch.set_num_threads(1)
    clock = time.process_time if args.busy else time.perf_counter
    base = load_base(ModelConfig())
    role = add_adapter(base, "policy", AdapterConfig(r=16), seed=0)
    config = PreferenceDataConfig(train=args.data, on_bad_row="drop", validation_share=0, limit=4 * args.pairs)
    groups, _ = render_groups(
        load_preferences(config).train, base.tokenizer, RenderConfig(over_length="drop"), max_tokens=512
    )
    rows = [list(group.examples) for group in groups[: args.pairs]]
    assert len(rows) == args.pairs

    def packs(trees: bool) -> list[Packed]:
        units = [forest_of([group])[:2] for group in rows] if trees else [([r], None) for g in rows for r in g]
        sizes = [sum(segment.num_tokens for segment in segments) for segments, _ in units]
        out = []
        for batch in micro_batches(sizes, args.micro_batch_tokens):
            if trees:
                segments, parents, _ = forest_of([rows[i] for i in batch])
                out.append(pack(segments, "policy", parents))
            else:
                out.append(pack([units[i][0][0] for i in batch], "policy"))
        return out

    sides = {"forest": packs(True), "rows": packs(False)}
    tokens = {side: sum(packed.num_tokens for packed in made) for side, made in sides.items()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    losses = {}
    for _ in range(args.rounds):
        for side, made in sides.items():
            began, total = clock(), 0.0
            for packed in made:
                loss, _ = forward(base, packed, "ce_sum")
                loss.backward()
                total += float(loss.detach())
            seconds[side].append(clock() - began)
            losses[side] = total
            for parameter in role.parameters.values():
                parameter.grad = None
    assert abs(losses["forest"] / losses["rows"] - 1) < 1e-4, losses
    ratios = [rows_s / forest_s for rows_s, forest_s in zip(seconds["rows"], seconds["forest"], strict=True)]
    result = {
        "pairs": args.pairs,
        "tokens": tokens,
        "tokens_a_second": {side: round(tokens["rows"] / statistics.median(s)) for side, s in seconds.items()},
        "tokens_ratio": round(tokens["rows"] / tokens["forest"], 2),
        "speed_ratio_median": round(statistics.median(ratios), 2),
        "speed_ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "clock": "processor seconds, one thread" if args.busy else "wall",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
