"""The GPU benchmark: SFT against TRL, QLoRA against bf16, generation against transformers. `make bench-gpu` runs this.

    python bench/run_gpu.py [--tokenizer DIR] [--rows rows.jsonl] [--out bench/out/gpu] [--rounds 5]

All sides train the same Llama of 1.07 billion random weights on the same rows. Each loads once and waits; rounds go
through the sides in turn, who begins moves on. Writes gpu.json as it goes, and RESULTS-gpu.md from it. A side that
fails is told and left out. TRL is taken from this interpreter where it is there, else from the peers' environment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_probe import SHAPE, linear_weights
from settings import TRL_DEFAULTS, Setting

HERE = Path(__file__).resolve().parent
BATCH_ROWS = 32
# TRL as it comes, then what may be its best on a card: all rows of a step in one forward, but for the flattened layout,
# whose mask grows with the square of its tokens.
PADDED = Setting(weights="bfloat16", autocast=True, sampling="group_by_length", micro_rows=BATCH_ROWS)
TRL = {
    "trl_defaults": replace(TRL_DEFAULTS, micro_rows=BATCH_ROWS),
    "trl_padded": PADDED,
    "trl_no_autocast": replace(PADDED, autocast=False),
    "trl_padding_free": Setting(weights="bfloat16", autocast=True, layout="padding_free"),
    "trl_liger": replace(PADDED, liger=True),
}
OURS = {
    "ours": "tunesmith sft, bf16 LoRA",
    "ours_checkpointing": "tunesmith sft, bf16 LoRA, checkpointing",
    "qlora": "tunesmith sft, QLoRA (nf4)",
}
# Longest that a side may take to load and take its first step, and for a round.
LOAD_SECONDS, ROUND_SECONDS = 150, 60
# No round of generation begins later.
GENERATION_SECONDS = 90


class SideFailed(RuntimeError):
    """A side that ended or fell silent; its log has the reason."""


class Side:
    """A worker process: started, asked for rounds, told to end by its last answer."""

    def __init__(self, name: str, command: list[str], out: Path) -> None:
        self.name, self.log = name, (out / f"{name}.log").open("w", encoding="utf-8")
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env={**os.environ, **offline},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def answer(self, seconds: float) -> dict[str, Any]:
        """Its next line. Raises SideFailed when none comes in time."""
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise SideFailed(f"{self.name}: no answer; see {self.log.name}")
        found: dict[str, Any] = json.loads(line)
        return found

    def go(self) -> None:
        """Let it take its next round."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Nothing of it is left running."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()


def commands(args: argparse.Namespace, model: Path, num_steps: int) -> dict[str, list[str]]:
    """How each side is started."""
    common = ["--model", str(model), "--rows", str(args.rows), "--max-steps", str(num_steps)]
    common += ["--steps", str(args.steps), "--batch-size", str(args.batch_size)]
    worker = [sys.executable, str(HERE / "gpu_worker.py")]
    peers = [str(peers_python()), str(HERE / "gpu_worker.py")]
    out = {name: [*worker, name, *common, "--output-dir", str(args.out / name)] for name in OURS}
    for name, setting in TRL.items():
        out[name] = [*peers, "trl", *common, "--output-dir", str(args.out / name), "--setting", setting.to_json()]
    return out


def peers_python() -> Path:
    """The interpreter that has TRL."""
    if find_spec("trl") is not None:
        return Path(sys.executable)
    import peers_env

    return peers_env.ensure()


def train_in_turn(args: argparse.Namespace, model: Path, found: dict[str, Any], on_round: Callable[[], None]) -> None:
    """Rounds of all sides, one after the other; ``found`` fills as they come."""
    started = commands(args, model, 1 + args.rounds * (args.steps + 1))
    sides: dict[str, Side] = {}
    try:
        # Ours plan by the memory that is free, as they would alone: each begins before the next is there.
        for together in (("ours",), ("ours_checkpointing",), ("qlora",), tuple(TRL)):
            together = tuple(name for name in together if name not in args.leave_out)
            for name in together:
                sides[name] = Side(name, started[name], args.out)
                found[name] = {"rounds": []}
            for name in together:
                attempt(sides, found, name, lambda side: side.answer(LOAD_SECONDS))
        for index in range(args.rounds):
            names = list(sides)
            for name in names[index % max(1, len(names)) :] + names[: index % max(1, len(names))]:

                def round_of(side: Side) -> None:
                    side.go()
                    found[side.name]["rounds"].append(side.answer(ROUND_SECONDS))

                attempt(sides, found, name, round_of)
            print(f"round {index + 1}: " + ", ".join(f"{n} {found[n]['rounds'][-1]['seconds']:.3f} s" for n in sides))
            sys.stdout.flush()
            on_round()
        for name in list(sides):

            def last(side: Side) -> None:
                side.go()
                found[side.name] |= side.answer(ROUND_SECONDS)

            attempt(sides, found, name, last)
    finally:
        for side in sides.values():
            side.end()
    for told in found.values():
        if "tokens_per_step" in told:
            told["tokens_per_second"] = rates(told, args.steps)
            told["median"] = round(statistics.median(told["tokens_per_second"]), 1)
            told["peak_bytes"] = max(one["peak_bytes"] for one in told["rounds"])


def attempt(sides: dict[str, Side], found: dict[str, Any], name: str, act: Any) -> None:
    """A side that fails leaves; the others go on."""
    try:
        act(sides[name])
    except (SideFailed, OSError, ValueError) as error:
        side = sides.pop(name)
        side.end()
        found[name]["failed"] = str(error)
        tail = Path(side.log.name).read_text(encoding="utf-8").strip().splitlines()[-12:]
        print(f"{name} failed: {error}\n  " + "\n  ".join(tail), flush=True)


def rates(told: Mapping[str, Any], steps: int) -> list[float]:
    """Real tokens a second of each round's timed steps."""
    out = []
    for index, one in enumerate(told["rounds"]):
        first = 1 + index * (steps + 1) + 1
        out.append(round(sum(told["tokens_per_step"][first : first + steps]) / one["seconds"], 1))
    return out


def run_json(
    command: list[str], seconds: float, log: Path, on_line: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """The last JSON line a command prints, also where it is cut short; on_line is given each as it comes."""
    found: dict[str, Any] = {}
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=errors, text=True)
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                found = json.loads(line)
                if on_line is not None:
                    on_line(found)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
    if not found:
        tail = log.read_text(encoding="utf-8").strip().splitlines()[-12:]
        print(f"{Path(command[1]).name} failed:\n  " + "\n  ".join(tail), flush=True)
        return {"failed": f"no result; see {log}"}
    return found


def versions() -> dict[str, str]:
    """Of what was measured."""
    out = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "peft", "trl", "liger_kernel", "bitsandbytes", "accelerate"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def share_of_peak(tokens_per_second: float, tflops: float) -> float:
    """Of the measured rate: two products a weight and token, forward and to the input; no frozen weight has a third."""
    return tokens_per_second * 4 * linear_weights(SHAPE) / (tflops * 1e12)


def spread(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):,.0f} ({min(numbers):,.0f} to {max(numbers):,.0f})"


def rounds_of(report: Mapping[str, Any]) -> int:
    """Rounds of generation that every batch size has."""
    told = [one for one in report.get("generation", {}).values() if isinstance(one, dict)]
    return min((len(one["transformers"]["tokens_per_second"]) for one in told), default=0)


def render(report: Mapping[str, Any]) -> str:
    """The page."""
    card, settings = report["card"], report["settings"]
    lines = [
        "# Measured on a GPU",
        "",
        f"{card.get('card')}, {card.get('memory_gib')} GiB; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items())
        + f"; {report['date']}. Written by `make bench-gpu` (bench/run_gpu.py).",
        "",
        f"A bf16 product of 8192 x 8192 x 8192 ran at {card.get('tflops_8192')} TFLOP/s, one of a layer's shape "
        f"(8192 tokens, 2048 to 8192 features) at {card.get('tflops_layer')}.",
        "",
        "## SFT with LoRA",
        "",
        "A Llama of 1.07 billion random weights (16 layers of width 2048, vocabulary 49,152), LoRA r 16 on all linear "
        f"maps, {settings['batch_size']} rows of oasst_pairs a step, cut at 512 tokens. Median of {settings['rounds']} "
        f"rounds of {settings['steps']} steps, the sides in turn in one run; real tokens. Peak: of the allocator. "
        "Share: 4 x weights of the layers' linear maps x tokens/s over the rate of the large "
        "product (no frozen weight has a "
        "gradient); the head, attention, the adapter and what checkpointing recomputes are not counted. Ours take "
        "all rows of a step in one pack (`micro_batch_tokens: 16384`; the default of 1,024 is for CPUs).",
        "",
        "| | tokens/s, median (range) | ours is | peak GB | share of peak |",
        "| --- | --- | --- | --- | --- |",
    ]
    names = OURS | {name: f"TRL: {setting.name}" for name, setting in TRL.items()}
    sft = report.get("sft", {})
    mine = sft.get("ours", {}).get("median")
    for name, label in names.items():
        told = sft.get(name, {"failed": "not run"})
        if "median" not in told:
            lines.append(f"| {label} | {'failed' if name in sft else 'not in this run'} | | | |")
            continue
        ratio = f"{mine / told['median']:.2f}x" if mine and name != "ours" else ""
        share = f"{share_of_peak(told['median'], card['tflops_8192']):.1%}" if card.get("tflops_8192") else ""
        peak = f"{told['peak_bytes'] / 1e9:.2f}"
        lines.append(f"| {label} | {spread(told['tokens_per_second'])} | {ratio} | {peak} | {share} |")
    for name in OURS:
        told = sft.get(name, {})
        if told.get("budget") and "peak_bytes" in told:
            predicted = told["budget"]["peak_bytes"]
            lines += [
                "",
                f"{names[name]}: the plan said {predicted / 1e9:.2f} GB "
                f"({'with' if told['budget']['checkpointing'] else 'without'} checkpointing), "
                f"measured {told['peak_bytes'] / 1e9:.2f}.",
            ]
    return "\n".join([*lines, *_generation_lines(report)]) + "\n"


def _generation_lines(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "## Generation",
        "",
        f"The same weights in bf16, greedy, 128 new tokens, prompts of 40 to 60 tokens; against transformers' generate "
        f"(sdpa, dynamic cache). Median of {rounds_of(report)} rounds in turn; tokens/s with the prompt's pass in it.",
        "",
        "| batch | ours | transformers | ratio | first token: ours | transformers |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for size, told in report.get("generation", {}).items():
        if isinstance(told, dict):
            a, b = told["ours"], told["transformers"]
            lines.append(
                f"| {size} | {spread(a['tokens_per_second'])} | {spread(b['tokens_per_second'])} | "
                f"{a['median'] / b['median']:.2f}x | {1e3 * a['first_token_seconds']:.0f} ms | "
                f"{1e3 * b['first_token_seconds']:.0f} ms |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a folder with a tokenizer of 49,152 words; default: the embedded model's")
    parser.add_argument(
        "--rows", type=Path, help="JSON lines with messages; default: made of ../shared/data/oasst_pairs"
    )
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "gpu")
    parser.add_argument("--page", type=Path, default=HERE / "RESULTS-gpu.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a round")
    parser.add_argument("--batch-size", type=int, default=BATCH_ROWS)
    parser.add_argument("--leave-out", nargs="+", default=[], choices=[*OURS, *TRL], help="sides not run")
    parser.add_argument("--only", choices=("sft", "generation"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.out = args.out.resolve()
    if args.tokenizer is None:
        from tunesmith.models.resolve import resolve_model

        args.tokenizer = str(resolve_model("smollm2-135m-instruct").folder)
    num_rows = (1 + args.rounds * (args.steps + 1)) * args.batch_size
    if args.rows is None:
        args.rows = args.out / "rows.jsonl"
        source = args.data / "oasst_pairs" / "pairs_en.jsonl"
        command = [sys.executable, "rows.py", "--model", args.tokenizer, "--source", str(source), "--repeat"]
        command += ["--output", str(args.rows), "--num-rows", str(num_rows), "--max-length", "512"]
        subprocess.run(command, cwd=HERE, check=True)
    args.rows = args.rows.resolve()
    model = args.out / "model"
    probe = [sys.executable, "gpu_probe.py", "--tokenizer", args.tokenizer, "--model", str(model)]
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "settings": {"rounds": args.rounds, "steps": args.steps, "batch_size": args.batch_size},
        "card": run_json(probe, 120, args.out / "probe.log"),
    }
    print(json.dumps(report["card"]), flush=True)

    def write() -> None:
        (args.out / "gpu.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        args.page.write_text(render(report), encoding="utf-8")

    write()
    if args.only != "generation":
        report["sft"] = {}
        train_in_turn(args, model, report["sft"], write)
        write()
    if args.only != "sft":
        command = [sys.executable, "gpu_generation.py", "--model", str(model), "--rows", str(args.rows)]
        command += ["--rounds", str(args.rounds), "--seconds", str(GENERATION_SECONDS)]

        def so_far(found: dict[str, Any]) -> None:
            report["generation"] = found
            write()

        so_far(run_json(command, GENERATION_SECONDS + 60, args.out / "generation.log", so_far))
    print(args.page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
