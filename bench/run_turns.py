"""SFT beside TRL over many steps, step by step in turn. `make bench-turns` runs this and writes RESULTS-turns.md.

    python bench/run_turns.py [--data ../shared/data] [--only long short sweep wide 1b] [--judge] [--from-report]

All sides of a line are processes that live at once; one makes a step while the others wait, then the next one makes
its step of the same rows. So ratios are of what was measured a minute apart at most, and drift of the machine cancels;
where TRL groups rows by their length its steps hold them in another order, so ratios are of blocks of steps. The first
step (cold start) runs alone as well. TRL's settings are its defaults, for fewer steps, and the best of the sweep of
`run_sft.py`, which must have run here. ``--judge`` (with the line of short rows) has plain transformers + PEFT judge
the adapters at the end, which makes the wall time to a validation loss.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
from gpu_probe import write_model
from processes import Rows, Sides, child_environment, run_json
from report_parts import WHO, machine_lines, spread, table
from run_sft import add_common_arguments, data_file, prepare_sides, versions
from settings import BATCH_SIZE_ROWS, MAX_LENGTH_TOKENS, TRL_DEFAULTS, TRL_DEFAULTS_FP32, TUNED_ALLOCATOR, Setting

BENCH_FOLDER = Path(__file__).resolve().parent
PAGE = BENCH_FOLDER / "RESULTS-turns.md"
BLOCKS = 10
TRAIN_ROWS, VALIDATION_ROWS, LONG_TOKENS = 580, 200, 2_048
WAIT_SECONDS = 1_800


@dataclass(frozen=True)
class Line:
    """One comparison: its rows, its steps, and for how many of them TRL's defaults take part."""

    key: str
    title: str
    source: str
    num_steps: int
    defaults_steps: int
    max_length: int = MAX_LENGTH_TOKENS
    batch_rows: int = BATCH_SIZE_ROWS
    to_row: int | None = None
    wide: bool = False  # the model of a billion random weights
    alone: bool = False  # TRL one row a forward by torch's attention: eager scores of long rows are more than there is
    others: tuple[int, ...] = ()  # rows a forward of more of TRL's settings: another one may be its best on these rows


OASST, SHORT = "oasst_pairs/pairs_en.jsonl", "instructions/instructions.json"
LINES = (
    Line("long", f"Conversations (`{OASST}`)", OASST, 100, 6),
    Line("short", f"Short rows (`{SHORT}`)", SHORT, 100, 12, to_row=TRAIN_ROWS),
    Line("sweep", f"Short rows, more of TRL's settings (`{SHORT}`)", SHORT, 16, 0, to_row=TRAIN_ROWS, others=(1, 4, 8)),
    Line("wide", "Long rows, about 2,000 tokens", "joined", 6, 0, max_length=LONG_TOKENS, batch_rows=2, alone=True),
    Line("1b", "A Llama of 1.07 billion random weights", OASST, 5, 3, max_length=256, batch_rows=4, wide=True),
)


def joined_rows(source: Path, target: Path, tokens: int) -> Path:
    """Rows longer than ``tokens``: a question with the answers to it and to the next ones as its one answer."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    out: list[dict[str, str]] = []
    held: list[dict[str, str]] = []
    for row in rows:
        held.append(row)
        # Four characters a token are fewer than English text has; rows.py cuts at the length.
        if sum(len(one["output"]) for one in held) > 6 * tokens:
            out.append({"prompt": held[0]["prompt"], "output": "\n\n".join(one["output"] for one in held)})
            held = []
    target.write_text("".join(json.dumps(row) + "\n" for row in out), encoding="utf-8")
    return target


def rows_of(line: Line, sides: Sides, data: Path, num_steps: int) -> Rows:
    """The first usable rows of a line, started over where they run out."""
    if line.source == "joined":
        pairs = data_file(data, "oasst_pairs/pairs_en.jsonl")
        source = joined_rows(pairs, sides.out / "joined.jsonl", line.max_length)
    else:
        source = data_file(data, line.source)
    extra = ["--repeat", *(["--to-row", str(line.to_row)] if line.to_row else [])]
    name = f"turns_{line.key}_{num_steps}.jsonl"
    return sides.prepare_rows(name, source, num_steps * line.batch_rows, *extra, max_length=line.max_length)


def best_of_sweep(out: Path) -> Setting:
    """The setting that the sweep of run_sft.py chose on this machine."""
    file = out / "sweep.json"
    if not file.exists():
        raise SystemExit(f"{file} is not there: run bench/run_sft.py first, whose sweep chooses TRL's best setting.")
    return Setting(**json.loads(file.read_text(encoding="utf-8"))["best"])


def commands(line: Line, sides: Sides, data: Path) -> dict[str, tuple[list[str], Rows]]:
    """What starts each side, and the rows it makes steps on."""
    rows = rows_of(line, sides, data, line.num_steps)
    shared = ["--max-length", str(line.max_length), "--batch-size", str(line.batch_rows)]
    ours = [sys.executable, "sft_ours.py", "--model", sides.model, "--rows", str(rows.path), "--keep-order", *shared]
    out = {"ours": ([*ours, "--output-dir", str(sides.out / f"turns_{line.key}_ours")], rows)}
    best = best_of_sweep(sides.out)
    if line.alone:
        best = replace(best, micro_rows=1, attention="sdpa", sampling="sequential")
    settings = {"trl_best": (best, rows)}
    settings |= {f"trl_{n}": (replace(best, micro_rows=n), rows) for n in line.others if n != best.micro_rows}
    if line.defaults_steps:
        defaults = TRL_DEFAULTS if sides.bf16_is_fast else TRL_DEFAULTS_FP32
        settings["trl_defaults"] = (defaults, rows_of(line, sides, data, line.defaults_steps))
    for name, (setting, its_rows) in settings.items():
        command = [str(sides.peers_python), "sft_peer_trl.py", "--model", sides.model_folder, *shared, "--save"]
        command += ["--rows", str(its_rows.path), "--setting", setting.to_json()]
        out[name] = ([*command, "--output-dir", str(sides.out / f"turns_{line.key}_{name}")], its_rows)
    return out


class Side:
    """A process that makes one step when it is told to."""

    def __init__(self, name: str, command: list[str], folder: Path, log: Path) -> None:
        self.name, self.folder, self.steps = name, folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        variables = {**TUNED_ALLOCATOR, measure.TURNS_VARIABLE: str(folder)}
        # The steps' results go to a file: a full pipe would hold the process up.
        self.output = folder / "output"
        with self.output.open("w") as out, log.open("a") as errors:
            self.process = subprocess.Popen(
                command, env=child_environment(variables), cwd=BENCH_FOLDER, stdout=out, stderr=errors
            )

    def step(self) -> bool:
        """Let it make its next step; False once it has made all of them and ended."""
        self.steps += 1
        (self.folder / f"go-{self.steps}").touch()
        began = time.monotonic()
        while not (self.folder / f"done-{self.steps}").exists():
            if self.process.poll() is not None:
                if self.process.returncode:
                    raise SystemExit(f"{self.name} ended with status {self.process.returncode}; see the log.")
                return False
            if time.monotonic() - began > WAIT_SECONDS:
                raise SystemExit(f"{self.name} made no step in {WAIT_SECONDS} s.")
            time.sleep(0.01)
        return True

    def result(self) -> dict[str, Any]:
        return dict(json.loads(self.output.read_text().strip().splitlines()[-1]))


def measure_line(line: Line, sides: Sides, data: Path) -> dict[str, Any]:
    """All sides of a line in turn until each has made its steps; who begins a step moves on."""
    running: dict[str, Side] = {}
    results: dict[str, Any] = {}
    probe, load, asked = sides.gemm_probe(), os.getloadavg()[0], commands(line, sides, data)
    for name, (command, _) in asked.items():
        running[name] = Side(name, command, sides.out / f"turns_{name}", sides.out / "turns.log")
        running[name].step()
    number = 0
    while running:
        names = list(running)
        begin = number % len(names)
        for name in names[begin:] + names[:begin]:
            if not running[name].step():
                results[name] = running.pop(name).result()
        number += 1
        print(f"  {line.key}: step {number + 1} made by {', '.join(running) or 'nobody'}", flush=True)
    for name, (_, rows) in asked.items():
        if results[name]["tokens"] != rows.tokens:
            raise SystemExit(f"{name} counted {results[name]['tokens']} tokens, not {rows.tokens}.")
    rows = asked["ours"][1]
    facts = {"rows_cut": rows.rows_cut, "rows_left_out": rows.rows_left_out, "num_rows": rows.num_rows}
    return {"results": results, "probe": [probe, sides.gemm_probe()], "load": load, "date": today(), **facts}


def judged(sides: Sides, data: Path) -> dict[str, float]:
    """Validation losses in nats a token of the adapters that the line of short rows left, by plain transformers."""
    source = data_file(data, "instructions/instructions.json")
    extra = ("--from-row", str(TRAIN_ROWS))
    validation = sides.prepare_rows("turns_validation.jsonl", source, VALIDATION_ROWS, *extra, max_length=512)
    command = [str(sides.peers_python), "evaluate_adapter.py", "--model", sides.model_folder]
    command += ["--rows", str(validation.path), "--max-length", "512", "--adapter", "base"]
    folders = {name: str(sides.out / f"turns_short_{name}") for name in ("ours", "trl_best")}
    for folder in folders.values():
        command += ["--adapter", folder]
    losses = run_json(command, {}, sides.out / "evaluate.log")["losses"]
    return {"base": losses["base"], **{name: losses[folder] for name, folder in folders.items()}}


def today() -> str:
    return time.strftime("%Y-%m-%d")


def step_rates(result: dict[str, Any]) -> list[float]:
    """Tokens a second of every step after the first."""
    return [count / s for count, s in zip(result["tokens_per_step"][1:], result["step_seconds"], strict=True)]


def whole_rate(result: dict[str, Any], first: int = 0, end: int | None = None) -> float:
    """Tokens a second of all steps after the first, or of some of them."""
    return sum(result["tokens_per_step"][1:][first:end]) / sum(result["step_seconds"][first:end])


def block_ratios(results: dict[str, Any], peer: str) -> list[float]:
    """Ours over the peer in tokens/s, block by block of the steps that both made."""
    steps = min(len(results[name]["step_seconds"]) for name in ("ours", peer))
    edges = [steps * i // min(BLOCKS, steps) for i in range(min(BLOCKS, steps) + 1)]
    pairs = itertools.pairwise(edges)
    return [whole_rate(results["ours"], a, b) / whole_rate(results[peer], a, b) for a, b in pairs]


def ratio_text(results: dict[str, Any], peer: str) -> str:
    """The ratio over all steps that both made, and those of its blocks."""
    steps = min(len(results[name]["step_seconds"]) for name in ("ours", peer))
    whole = whole_rate(results["ours"], 0, steps) / whole_rate(results[peer], 0, steps)
    blocks = block_ratios(results, peer)
    return f"{whole:.2f} (blocks {statistics.median(blocks):.2f}, {min(blocks):.2f} to {max(blocks):.2f})"


def name_of(line: Line, side: str, result: dict[str, Any]) -> str:
    """Who a side is, or the setting where that says more."""
    other = side not in WHO or (line.alone and side == "trl_best")
    return f"TRL: {result['setting']}" if other else WHO[side]


def line_text(line: Line, found: dict[str, Any]) -> str:
    """Setting, rates and ratios of one line."""
    results = found["results"]
    ours = results["ours"]
    tokens = ours["tokens_per_step"]
    machine = ""
    if "probe" in found:
        probes = " and ".join(f"{probe['float32']:.0f}" for probe in found["probe"])
        halves = " and ".join(f"{probe['bfloat16']:.0f}" for probe in found["probe"])
        machine = f"; load before {found['load']:.2f}; GEMM before and after in fp32 {probes}, in bf16 {halves} GFLOP/s"
    head = (
        f"{found['date']}{machine}. "
        f"{ours['num_steps']} steps of {line.batch_rows} rows cut at {line.max_length} tokens ({found['rows_cut']} of "
        f"{found['num_rows']} were); a step has {statistics.median(tokens):.0f} real tokens ({min(tokens)} to "
        f"{max(tokens)})." + found.get("note", "")
    )
    rows = []
    for name in sorted(results, key=lambda name: (name not in WHO, name)):
        result = results[name]
        ratios = "" if name == "ours" else ratio_text(results, name)
        memory = "" if name == "ours" else f"{ours['peak_rss_bytes'] / result['peak_rss_bytes']:.2f}"
        row = [
            name_of(line, name, result),
            str(result["num_steps"]),
            f"{whole_rate(result):.1f}",
            quartiles(step_rates(result), 1),
            f"{result['cold_start_seconds']:.1f}",
        ]
        rows.append([*row, f"{result['peak_rss_bytes'] / 1e9:.2f}", ratios, memory])
    columns = [
        "who",
        "steps",
        "tokens/s",
        "of its steps",
        "cold start s",
        "peak GB",
        "ours over it, tokens/s",
        "memory",
    ]
    return f"## {line.title}\n\n{head}\n\n" + table(columns, rows)


def quartiles(values: list[float], digits: int = 2) -> str:
    """Median, quartiles and range of the steps."""
    if len(values) < 8:
        return spread(values)
    low, middle, high = statistics.quantiles(values, n=4)
    a, b, c, d, e = (f"{x:.{digits}f}" for x in (middle, low, high, min(values), max(values)))
    return f"{a} (quartiles {b} to {c}, all {d} to {e})"


def loss_text(report: dict[str, Any]) -> str:
    """The wall time to a validation loss."""
    losses, results = report["losses"], report["lines"]["short"]["results"]
    rows = [["no adapter", "", f"{losses['base']:.4f}"]]
    for name in ("ours", "trl_best"):
        seconds = results[name]["cold_start_seconds"] + sum(results[name]["step_seconds"])
        rows.append([WHO[name], f"{seconds:.0f}", f"{losses[name]:.4f}"])
    return (
        f"## Wall time to a validation loss\n\nThe line of short rows to its end: {results['ours']['num_steps']} steps "
        f"of the same rows, each side's in its own order, from the process's start to the last step, without the other "
        f"sides' turns. Loss in nats, token mean over the answers of {VALIDATION_ROWS} later rows, by plain "
        "transformers + PEFT in fp32.\n\n" + table(["who", "seconds", "validation loss"], rows)
    )


def render(report: dict[str, Any]) -> str:
    """RESULTS-turns.md."""
    lines = [line for line in LINES if line.key in report["lines"]]
    threads = report["lines"][lines[0].key]["results"]["ours"]["threads"]
    parts = [
        "# SFT beside TRL, step by step",
        "Written by `python bench/run_turns.py` (`make bench-turns`); never edited by hand. The sides live at once and "
        "make their steps of the same rows in turn; figures are over all steps after the first. The sweep that chose "
        "TRL's best, and rounds of whole processes: [RESULTS.md](RESULTS.md).",
        "\n".join(
            [
                *machine_lines(report, threads),
                "- model, where nothing else is said: smollm2-135m-instruct; LoRA r 16, alpha 32, all linear layers",
                f"- TRL's defaults: {report['defaults_name']}; they make the first steps only",
                f"- TRL, best of the sweep: {report['best_name']}; on conversations, by `run_sft.py`",
            ]
        ),
        *(line_text(line, report["lines"][line.key]) for line in lines),
    ]
    if "losses" in report:
        parts.append(loss_text(report))
    return "\n\n".join(parts) + "\n"


def wide_sides(sides: Sides) -> Sides:
    """The same sides on the model of random weights, which is made once."""
    folder = sides.out / "random-1b"
    if not (folder / "config.json").exists():
        write_model(str(folder), sides.model_folder, "cpu")
    return replace(sides, model=str(folder), model_folder=str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    keys = [line.key for line in LINES]
    parser.add_argument("--only", nargs="+", choices=keys, default=keys)
    parser.add_argument("--judge", action="store_true", help="judge the adapters of the line of short rows")
    parser.add_argument("--from-report", action="store_true", help="write the page again without running anything")
    args = parser.parse_args()
    report_file = args.out / "turns.json"
    report = json.loads(report_file.read_text()) if report_file.exists() else {"lines": {}}

    def keep() -> None:
        report_file.write_text(json.dumps(report, indent=1), encoding="utf-8")
        PAGE.write_text(render(report), encoding="utf-8")

    if args.from_report:
        keep()
        return
    sides = prepare_sides(args)
    report |= {"machine": measure.machine(), "versions": versions(sides), "best_name": best_of_sweep(args.out).name}
    report["defaults_name"] = (TRL_DEFAULTS if sides.bf16_is_fast else TRL_DEFAULTS_FP32).name
    for line in (line for line in LINES if line.key in args.only):
        own = wide_sides(sides) if line.wide else sides
        report["lines"][line.key] = measure_line(line, own, args.data)
        keep()
    if args.judge:
        report["losses"] = judged(sides, args.data)
        keep()
    print(render(report))


if __name__ == "__main__":
    main()
