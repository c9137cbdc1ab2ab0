"""Where a processor's time goes: a training step and a decoded token, by us and by transformers. Writes a page.

    .venv/bin/python bench/profile_cpu.py [--steps 3] [--only step token]        # bench/RESULTS-profile.md

The step: 8 rows of ``oasst_pairs/pairs_en.jsonl``, LoRA r 16 on all linear maps, under torch's profiler: the own time
of each operator, added up by what it is for. *Eager* is what TRL's best setting runs inside: transformers' modules with
PEFT, one row a forward, all logits. The token: median time of a step of the cache and of the head, batch by batch; of
one in one call also what its products take, each begun by itself in the same order: they can take longer than in it.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report_parts import table
from rows import read_messages
from sft_peer_trl import tokenize
from torch.profiler import ProfilerActivity, profile

from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.decoding import start_decoding
from tunesmith.models.load import ModelConfig, gemm_gflops, load_base
from tunesmith.models.packed import PackedWeights
from tunesmith.records import Example, Where
from tunesmith.runtime import tune_process
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer
from tunesmith.training.step import accumulate_gradients

BENCH_FOLDER = Path(__file__).resolve().parent
REPORT, PAGE = BENCH_FOLDER / "out" / "profile.json", BENCH_FOLDER / "RESULTS-profile.md"
ROWS, MAX_TOKENS, RANK, MICRO_BATCH_TOKENS = 8, 512, 16, 1_024
KINDS = ("products of the layers", "products of the head", "LoRA's products", "attention", "everything else")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")
ATTENTION = ("aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data")


def examples_of(tokenizer: Any, source: Path) -> list[Example]:
    """The first rows that are not all prompt; the answers' tokens are in the loss."""
    chats = [{"prompt": m[:-1], "completion": m[-1:]} for m in read_messages(source)[: 2 * ROWS]]
    rows = [row for row in tokenize(chats, tokenizer, MAX_TOKENS) if sum(row["completion_mask"])][:ROWS]
    return [
        Example(
            ids=np.array(row["input_ids"], np.int64),
            loss_weight=np.array(row["completion_mask"], np.float32),
            row_id=number,
            where=Where("bench", number),
        )
        for number, row in enumerate(rows)
    ]


def kind_of(name: str, shapes: list[Any], vocabulary: int) -> str:
    """What an operator is for, told by its name and the sizes it was given."""
    if "Attention" in name or "scaled_dot_product" in name or "flash" in name or name in ATTENTION:
        return "attention"
    if name in PRODUCTS:
        sizes = [size for shape in shapes if isinstance(shape, list | tuple) and len(shape) == 2 for size in shape]
        if vocabulary in sizes:
            return "products of the head"
        return "LoRA's products" if sizes and min(sizes) <= 3 * RANK else "products of the layers"
    return "everything else"


def profiled(step: Callable[[], None], num_steps: int, vocabulary: int) -> dict[str, Any]:
    """Seconds a step without the profiler, and under it by kind, with the names that take most of what is left."""
    step()
    seconds = []
    for _ in range(num_steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        step()
    kinds, names, calls = Counter[str](), Counter[str](), 0
    for event in seen.key_averages(group_by_input_shape=True):
        kind = kind_of(event.key, event.input_shapes, vocabulary)
        kinds[kind] += event.self_cpu_time_total / 1e6
        calls += event.count
        if kind == "everything else":
            names[event.key.removeprefix("aten::")] += event.self_cpu_time_total / 1e6
    return {
        "seconds": statistics.median(seconds),
        "kinds": dict(kinds),
        "names": dict(names.most_common(8)),
        "calls": calls,
    }


def profile_step(source: Path, num_steps: int) -> dict[str, Any]:
    """Ours and eager modules on the same rows."""
    base = load_base(ModelConfig())
    examples = examples_of(base.tokenizer, source)
    vocabulary = base.head.weight_VD.shape[0]
    eager = eager_step(str(base.resolved.folder), examples, base.dtype)
    role = add_adapter(base, "default", AdapterConfig(r=RANK, lora_alpha=2 * RANK), seed=0)
    optimizer = build_optimizer(role.parameters, OptimConfig())

    def ours() -> None:
        accumulate_gradients(base, role, examples, one_process(), micro_batch_tokens=MICRO_BATCH_TOKENS)
        optimizer.step()
        optimizer.zero_grad()

    return {
        "tokens": sum(example.num_tokens for example in examples),
        "loss_tokens": int(sum(example.loss_weight.sum() for example in examples)),
        "sides": {"tunesmith": profiled(ours, num_steps, vocabulary), "eager": profiled(eager, num_steps, vocabulary)},
    }


def eager_step(folder: str, examples: list[Example], dtype: torch.dtype) -> Callable[[], None]:
    """A step of transformers' modules with PEFT's LoRA: one row a forward, all logits."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    total = sum(float(example.loss_weight.sum()) for example in examples)

    def step() -> None:
        for example in examples:
            ids = torch.from_numpy(example.ids)[None]
            labels = torch.where(torch.from_numpy(example.loss_weight) > 0, ids[0], -100)[None]
            model(input_ids=ids, labels=labels, num_items_in_batch=total).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Timed:
    """The library with a clock around its token."""

    def __init__(self, library: Any) -> None:
        self.library, self.seconds = library, list[float]()

    def token(self, *arguments: Any) -> None:
        began = time.perf_counter()
        self.library.token(*arguments)
        self.seconds.append(time.perf_counter() - began)


@torch.no_grad()
def profile_token(batches: list[int], tokens: int) -> dict[str, dict[str, dict[str, float]]]:
    """batch -> side -> milliseconds: a token's states, its head; of native ones the call and its products alone."""
    base = load_base(ModelConfig())
    sides: dict[str, PackedWeights | None] = {"full": None}
    for kind in ("half", "int8"):
        sides[f"{kind}, torch's kernels"] = PackedWeights(base, kind, native=False)
        sides[f"{kind}, in one call"] = PackedWeights(base, kind)
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for batch in batches:
        prompts = [np.arange(50) + 100 + row for row in range(batch)]
        for name, packed in sides.items():
            stepping = None if packed is None else packed.decoder()
            state, _ = start_decoding(base, prompts, tokens + 2, [None] * batch, stepping)
            token = None if stepping is None else stepping.token
            timed = None if token is None else Timed(token.library)
            if token is not None:
                token.library = timed
            head = base.head if packed is None else packed.head
            times, ids = [], torch.arange(batch)
            for _ in range(tokens):
                began = time.perf_counter()
                hidden = state.step(ids)
                between = time.perf_counter()
                logits_of(hidden, head)
                times.append((between - began, time.perf_counter() - between))
            states, of_head = (statistics.median(one) * 1e3 for one in zip(*times[1:], strict=True))
            figures = {"states": states, "head": of_head}
            if timed is not None and packed is not None:
                token.library = timed.library
                figures["call"] = statistics.median(timed.seconds[1:]) * 1e3
                figures["products"] = products_alone(packed, batch, tokens)
            found[str(batch)][name] = figures
    return found


def products_alone(packed: PackedWeights, rows: int, repeats: int) -> float:
    """Milliseconds of all products of the layers one after the other, as a token reads them."""
    weights = [weight for of_block in packed.products for weight in of_block]
    threads, calls = torch.get_num_threads(), []
    for weight in weights:
        x, y = torch.randn(rows, weight.linear.num_in), torch.empty(rows, weight.linear.num_out)
        digits, steps = torch.empty(rows, weight.linear.num_in + 1, dtype=torch.int16), torch.empty(rows)
        held = (x, y, digits, steps)
        pointers = (x.data_ptr(), rows, y.data_ptr(), threads, digits.data_ptr(), steps.data_ptr())
        calls.append((held, weight.library.linear, ctypes.byref(weight.linear), pointers))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _, linear, weight, pointers in calls:
            linear(weight, *pointers)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1e3


def step_text(part: dict[str, Any]) -> str:
    sides = part["sides"]
    rows = []
    for kind in KINDS:
        cells = []
        for side in sides.values():
            whole = sum(side["kinds"].values())
            took = side["kinds"].get(kind, 0.0)
            cells.append(f"{took:.2f} ({100 * took / whole:.0f} %)")
        rows.append([kind, *cells])
    rows.append(["a step without the profiler, s", *(f"{side['seconds']:.2f}" for side in sides.values())])
    rows.append(["operators called", *(f"{side['calls']:,}" for side in sides.values())])
    left = "; ".join(
        f"{name}: " + ", ".join(f"{key} {seconds:.2f}" for key, seconds in side["names"].items())
        for name, side in sides.items()
    )
    return (
        f"## A training step: {part['tokens']} tokens, {part['loss_tokens']} of them in the loss\n\n{part['facts']}\n\n"
        + table(["seconds of", *sides], rows)
        + f"\n\nThe most of everything else, in seconds: {left}."
    )


def token_text(part: dict[str, Any]) -> str:
    parts = [f"## A decoded token, milliseconds\n\n{part['facts']}"]
    for batch, sides in part["batches"].items():
        rows = []
        for name, figures in sides.items():
            cells = [f"{figures['states'] + figures['head']:.1f}", f"{figures['head']:.1f}"]
            if "call" in figures:
                call, products = figures["call"], figures["products"]
                cells += [f"{products:.1f}", f"{call - products:.1f}", f"{figures['states'] - call:.1f}"]
            else:
                cells += ["", "", ""]
            rows.append([name, *cells])
        header = ["batch " + batch, "a token", "head", "products", "attention, norms, meetings", "Python around"]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def facts(dtype: torch.dtype) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    probe = gemm_gflops(dtype, torch.device("cpu"))
    return (
        f"{datetime.date.today()}; {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f}; fp32 GEMM {probe:.0f} GFLOP/s; {versions}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=BENCH_FOLDER.parents[1] / "shared" / "data")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", choices=["step", "token"], default=["step", "token"])
    args = parser.parse_args()
    tune_process()
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.parent.mkdir(exist_ok=True)
    if "step" in args.only:
        said = facts(torch.float32)
        report["step"] = {**profile_step(args.data / "oasst_pairs" / "pairs_en.jsonl", args.steps), "facts": said}
        REPORT.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if "token" in args.only:
        said = facts(torch.float32)
        report["token"] = {"batches": profile_token(args.batches, args.tokens), "facts": said}
    REPORT.write_text(json.dumps(report, indent=1), encoding="utf-8")
    texts = {"step": step_text, "token": token_text}
    head = (
        "# Where a processor's time goes\n\nWritten by `python bench/profile_cpu.py`; never edited by hand. How it is "
        "measured: that file's first lines. What was changed and what it won: [LOG.md](LOG.md)."
    )
    text = "\n\n".join([head, *(texts[key](part) for key, part in report.items())]) + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
