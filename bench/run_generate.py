"""Answering beside transformers' ``generate`` on the same weights, in one process. Writes RESULTS-generate.md.

    .venv/bin/python bench/run_generate.py [--rounds 5] [--new-tokens 128] [--batches 1 8 32] [--busy] [--only KEY ...]

Prompts of 40 to 60 tokens from ``instructions/instructions.json``, greedy, exactly the new tokens asked for: nothing
ends a turn here. Prefill is the time to the first token, decoding what follows. ``ragged``: 64 samples at temperature
1 that end where they end, at most the new tokens asked for; transformers in two batches sorted by length. At batch 1
llama.cpp answers too, with files that ``tunesmith export`` wrote of the same weights (``--engines``). Sides take turns
inside a round, who begins moves on, and ratios are taken inside a round. ``drift``: how far the packed weights'
next-token distributions lie from the full ones on greedy answers, in nats. ``--busy`` takes processor seconds on one
thread instead of the clock: for a shared machine. Figures of the parts that are not run stay as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from report_parts import spread, table

from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.decoding import start_decoding
from tunesmith.models.load import ModelConfig, gemm_gflops, load_base
from tunesmith.models.packed import PackedWeights
from tunesmith.models.roles import Base
from tunesmith.records import Message
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.runtime import tune_process
from tunesmith.tokens.render import render_prompt

BENCH_FOLDER = Path(__file__).resolve().parent
REPORT, PAGE = BENCH_FOLDER / "out" / "generate.json", BENCH_FOLDER / "RESULTS-generate.md"
NUM_PROMPTS, DRIFT_ROWS, DRIFT_TOKENS, RAGGED_BATCH = 64, 16, 32, 32
THEIRS = "transformers"
Ids = list[NDArray[np.int64]]
# (prompts, new tokens, whether rows end by themselves and are sampled, seed) -> number of tokens made.
Answer = Callable[[Ids, int, bool, int], int]


def read_prompts(base: Base, source: Path) -> Ids:
    """The first prompts of a middling length, in the model's chat template."""
    found: Ids = []
    for row in json.loads(source.read_text(encoding="utf-8")):
        text = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        ids = render_prompt([Message(role="user", content=text)], base.tokenizer)
        if 40 <= len(ids) <= 60:
            found.append(np.asarray(ids, np.int64))
        if len(found) == NUM_PROMPTS:
            return found
    raise SystemExit(f"{source} has only {len(found)} prompts of 40 to 60 tokens.")


def ours(base: Base, generator: LocalGenerator) -> Answer:
    """Our generator; where rows may not end, nothing counts as an end."""

    def answer(prompts: Ids, new_tokens: int, ragged: bool, seed: int) -> int:
        sampling = Sampling(max_new_tokens=new_tokens, temperature=1.0 if ragged else 0.0, seed=seed)
        asked = [Prompt(ids=ids, row_id=number) for number, ids in enumerate(prompts)]
        ends = Base.end_ids_of
        if not ragged:
            Base.end_ids_of = lambda self, adapter: frozenset()  # type: ignore[method-assign]
        try:
            return sum(len(rollout.ids) for rollout in generator.generate(asked, sampling))
        finally:
            Base.end_ids_of = ends  # type: ignore[method-assign]

    return answer


def theirs(base: Base) -> Answer:
    """transformers' generate over the same modules, padded on the left, in batches of like lengths."""
    model, pad = base.model, base.tokenizer.eos_token_id
    ends = sorted(base.end_ids_of(None))

    def batch(prompts: Ids, new_tokens: int, ragged: bool) -> int:
        width = max(len(ids) for ids in prompts)
        ids_BL = torch.full((len(prompts), width), pad)
        mask_BL = torch.zeros_like(ids_BL)
        for row, ids in enumerate(prompts):
            ids_BL[row, width - len(ids) :], mask_BL[row, width - len(ids) :] = torch.from_numpy(ids), 1
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if ragged else {"do_sample": False}
        how |= {"eos_token_id": ends if ragged else None, "pad_token_id": pad, "max_new_tokens": new_tokens}
        made_BN = model.generate(input_ids=ids_BL, attention_mask=mask_BL, **how)[:, width:]
        # A row counts up to its first end; what is written behind it is padding.
        is_end_BN = torch.isin(made_BN, torch.tensor(ends)) if ragged else torch.zeros_like(made_BN, dtype=torch.bool)
        return int((is_end_BN.cumsum(1) - is_end_BN.long() == 0).sum())

    def answer(prompts: Ids, new_tokens: int, ragged: bool, seed: int) -> int:
        torch.manual_seed(seed)
        ordered = sorted(prompts, key=len)
        firsts = range(0, len(ordered), RAGGED_BATCH)
        return sum(batch(ordered[first : first + RAGGED_BATCH], new_tokens, ragged) for first in firsts)

    return answer


def llama_cpp(file: Path) -> Answer:
    """llama.cpp in this process, greedy, one prompt at a time, a token a call as a server would."""
    from tunesmith.models.llama_cpp import LlamaCpp

    engine = LlamaCpp(file, context_tokens=512, threads=torch.get_num_threads())

    def answer(prompts: Ids, new_tokens: int, ragged: bool, seed: int) -> int:
        for ids in prompts:
            engine.clear()
            row_1V = engine.decode(ids.tolist(), [False] * (len(ids) - 1) + [True])
            for _ in range(new_tokens - 1):
                row_1V = engine.decode([int(row_1V[0].argmax())], [True])
        return new_tokens * len(prompts)

    return answer


def engine_files(model: str, kinds: list[str]) -> dict[str, Path]:
    """Files of the model for llama.cpp, written once; none where its binding is not installed."""
    from tunesmith.models.llama_cpp import is_installed

    files = {kind: REPORT.with_name(f"{Path(model).name}-{kind}.gguf") for kind in kinds if is_installed()}
    for kind, file in files.items():
        if not file.exists():
            program = str(Path(sys.executable).with_name("tunesmith"))
            command = [program, "export", model, "--quant", kind, "--output", str(file)]
            subprocess.run([*command, "--no-check"], check=True, capture_output=True)
    return files


def measure(
    sides: dict[str, Answer], prompts: Ids, new_tokens: int, ragged: bool, rounds: int, clock: Callable[[], float]
) -> list[dict[str, dict[str, float]]]:
    """One entry a round: side -> its figures. A round before them warms up and is not counted."""
    found = []
    for number in range(rounds + 1):
        names = list(sides)
        begin = number % len(names)
        figures: dict[str, dict[str, float]] = {}
        for name in names[begin:] + names[:begin]:
            if not number:
                sides[name](prompts, 2, ragged, number)
                continue
            began = clock()
            first = 0 if ragged else sides[name](prompts, 1, ragged, number)
            between = clock()
            made = sides[name](prompts, new_tokens, ragged, number)
            whole = clock() - between
            if ragged:
                figures[name] = {"tokens": made, "rate": made / whole}
            else:
                assert made == new_tokens * len(prompts), f"{name} made {made} tokens"
                prefill = between - began
                rate = (made - first) / (whole - prefill) if new_tokens > 1 else 0.0
                figures[name] = {"prefill_seconds": prefill, "rate": rate, "whole_rate": made / whole}
        if figures:
            found.append(figures)
    return found


@torch.no_grad()
def drift(base: Base, packed: dict[str, PackedWeights], prompts: Ids) -> dict[str, dict[str, float]]:
    """KL divergence of each packed kind from the full weights on greedy answers, one figure a decoded token."""
    adapters: list[str | None] = [None] * len(prompts)
    full, hidden_BD = start_decoding(base, prompts, DRIFT_TOKENS, adapters)
    states = {
        name: start_decoding(base, prompts, DRIFT_TOKENS, adapters, kind.decoder()) for name, kind in packed.items()
    }
    logits_BV = logits_of(hidden_BD, base.head)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in packed}
    same: dict[str, list[torch.Tensor]] = {name: [] for name in packed}
    for _ in range(DRIFT_TOKENS):
        chosen_B = logits_BV.argmax(-1)
        logits_BV = logits_of(full.step(chosen_B), base.head)
        wanted_BV = torch.log_softmax(logits_BV.double(), -1)
        for name, kind in packed.items():
            got_BV = torch.log_softmax(logits_of(states[name][0].step(chosen_B), kind.head).double(), -1)
            found[name].append((wanted_BV.exp() * (wanted_BV - got_BV)).sum(-1))
            same[name].append(wanted_BV.argmax(-1) == got_BV.argmax(-1))
    out = {}
    for name in packed:
        kl, top = torch.cat(found[name]), torch.cat(same[name]).double()
        out[name] = {
            "mean": float(kl.mean()), "p99": float(kl.quantile(0.99)), "max": float(kl.max()),
            "same_top": float(top.mean()), "tokens": float(len(kl)),
        }  # fmt: skip
    return out


def render(report: dict[str, Any]) -> str:
    """The page; medians over the rounds with their range."""
    lines = [
        "# Answering beside transformers' generate",
        "",
        "Written by `python bench/run_generate.py`; never edited by hand. How it is measured: that file's first lines.",
        "",
    ]
    for key, part in report.items():
        lines += [f"## {part['title']}", "", *[f"- {line}" for line in part["facts"]], ""]
        if key == "drift":
            rows = [
                [name, f"{d['mean']:.2e}", f"{d['p99']:.2e}", f"{d['max']:.2e}", f"{d['same_top']:.4f}"]
                for name, d in part["drift"].items()
            ]
            lines += [table(["weights", "mean KL", "99th percentile", "largest", "same likeliest token"], rows), ""]
            continue
        rounds = part["rounds"]
        names = list(rounds[0])
        columns = [key for key in ("prefill_seconds", "rate", "whole_rate") if key in rounds[0][THEIRS]]
        said = {"prefill_seconds": "prefill, s", "rate": "tokens/s decoded", "whole_rate": "tokens/s with prefill"}
        rows = []
        for name in names:
            cells = [spread([one[name][column] for one in rounds]) for column in columns]
            ratios = [one[name]["rate"] / one[THEIRS]["rate"] for one in rounds]
            rows.append([name, *cells, spread(ratios)])
        header = ["who", *(said[column] for column in columns), f"decoding over {THEIRS}"]
        lines += [table(header, rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--kinds", nargs="+", default=["full", "half", "int8"])
    parser.add_argument("--engines", nargs="*", default=["f16", "q8_0", "q4_1"], help="llama.cpp's files at batch 1")
    parser.add_argument(
        "--only", nargs="+", choices=["batches", "ragged", "drift"], default=["batches", "ragged", "drift"]
    )
    parser.add_argument("--data", type=Path, default=BENCH_FOLDER.parents[1] / "shared" / "data")
    parser.add_argument("--model", default=ModelConfig().model_name_or_path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    tune_process()
    if args.busy:
        torch.set_num_threads(1)
    clock = time.process_time if args.busy else time.perf_counter
    base = load_base(ModelConfig(model_name_or_path=args.model, dtype=args.dtype))
    prompts = read_prompts(base, args.data / "instructions" / "instructions.json")
    generators = {kind: LocalGenerator(base, weights=kind) for kind in args.kinds}
    sides: dict[str, Answer] = {THEIRS: theirs(base)}
    sides |= {f"tunesmith, {kind}": ours(base, generator) for kind, generator in generators.items()}
    unit = (
        "processor seconds of one thread, shared machine" if args.busy else f"wall, {torch.get_num_threads()} threads"
    )

    def facts() -> list[str]:
        load, dtype = os.getloadavg()[0], str(base.dtype).removeprefix("torch.")
        versions = ", ".join(f"{name} {version(name)}" for name in ("tunesmith", "torch", "transformers"))
        return [
            f"{datetime.date.today()}, {args.rounds} rounds, {unit}; load {load:.1f}, GEMM probe "
            f"{gemm_gflops(base.dtype, base.device):.0f} GFLOP/s",
            f"{versions}; {args.model}, {dtype}, {torch.backends.cpu.get_cpu_capability()}",
        ]

    report: dict[str, Any] = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.parent.mkdir(exist_ok=True)

    def keep(key: str, title: str, **figures: Any) -> None:
        report[key] = {"title": title, "facts": facts(), **figures}
        REPORT.write_text(json.dumps(report, indent=1), encoding="utf-8")
        PAGE.write_text(render(report), encoding="utf-8")
        print(render({key: report[key]}).partition("##")[2])

    for size in args.batches if "batches" in args.only else []:
        engines = engine_files(args.model, args.engines) if size == 1 else {}
        more = {f"llama.cpp, {kind}": llama_cpp(file) for kind, file in engines.items()}
        rounds = measure({**sides, **more}, prompts[:size], args.new_tokens, False, args.rounds, clock)
        keep(f"batch {size}", f"Batch {size}, exactly {args.new_tokens} new tokens, greedy", rounds=rounds)
    if "ragged" in args.only:
        rounds = measure(sides, prompts, args.new_tokens, True, args.rounds, clock)
        keep("ragged", f"{NUM_PROMPTS} samples at temperature 1, at most {args.new_tokens} tokens each", rounds=rounds)
    if "drift" in args.only:
        packed = {kind: one.packed for kind, one in generators.items() if one.packed is not None}
        what = f"KL divergence from the full weights in nats, {DRIFT_ROWS} greedy answers of {DRIFT_TOKENS} tokens"
        keep("drift", what, drift=drift(base, packed, prompts[:DRIFT_ROWS]))


if __name__ == "__main__":
    main()
