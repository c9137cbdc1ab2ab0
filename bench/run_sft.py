"""The SFT benchmark: ours and TRL on the same rows, interleaved, as separate processes. `make bench` runs this.

    python bench/run_sft.py [--data ../shared/data] [--rounds 3] [--reuse-sweep] [--smoke]

1. makes the peers' environment (bench/.env-peers) if it is not there; 2. sweeps TRL's settings once, in short runs;
3. runs ours, TRL's defaults and TRL's best in turn, round after round; 4. checks quality (bench/quality.py);
5. writes bench/RESULTS.md and bench/out/report.json. --smoke does all of it on two steps and writes elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import peers_env
import quality
from processes import ProcessFailed, Rows, Sides, run_json
from report import goals, render
from settings import (
    BATCH_SIZE_ROWS,
    MAX_LENGTH_TOKENS,
    TRL_DEFAULTS,
    TRL_DEFAULTS_FP32,
    TUNED_ALLOCATOR,
    Setting,
    first_stage,
    fp32_stage,
    second_stage,
    short_stages,
    third_stage,
)

BENCH_FOLDER = Path(__file__).resolve().parent
FINALISTS = 3
BUSY_LOAD = 0.5


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=BENCH_FOLDER.parents[1] / "shared" / "data")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--model-folder", help="a safetensors folder for TRL; default: tunesmith's own of --model")
    parser.add_argument("--out", type=Path, default=BENCH_FOLDER / "out")


def data_file(data: Path, name: str) -> Path:
    """A file of the shared data, or a clear end where it is not on this machine."""
    path = data / name
    if not path.exists():
        raise SystemExit(f"{path} is not here: name the folder that holds {name} with --data.")
    return path.resolve()


def prepare_sides(args: argparse.Namespace) -> Sides:
    """The peers' environment, the model as a safetensors folder and the output folder."""
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve()
    code = (
        "import json, sys; from tunesmith.models.resolve import resolve_model as r; "
        "print(json.dumps(str(r(sys.argv[1]).folder)))"
    )
    folder = args.model_folder or run_json([sys.executable, "-c", code, args.model], {}, out / "resolve.log")
    return Sides(peers_python=peers_env.ensure(), model=args.model, model_folder=str(folder), out=out)


def try_settings(sides: Sides, rows: Rows, settings: list[Setting], table: list[dict[str, Any]]) -> None:
    """Run each setting once and append it to the table; a setting that cannot run is recorded with the reason."""
    for setting in settings:
        if any(entry["setting"] == asdict(setting) for entry in table):
            continue
        try:
            entry = {"setting": asdict(setting), "name": setting.name, "result": sides.trl(setting, rows)}
            rate = f"{entry['result']['steady_tokens_per_second']} tokens/s"
        except ProcessFailed as error:
            entry = {"setting": asdict(setting), "name": setting.name, "failed": str(error)}
            rate = "failed"
        table.append(entry)
        print(f"  sweep {len(table):2d}: {rate}: {setting.name}", flush=True)


def best_of(table: list[dict[str, Any]]) -> Setting:
    """The setting with the most tokens a second in the steady state; its mean where it was run more than once."""
    done = [entry for entry in table if "result" in entry]
    return Setting(**max(done, key=lambda entry: float(mean_rate(entry)))["setting"])


def mean_rate(entry: dict[str, Any]) -> float:
    """Steady tokens a second of a sweep entry, averaged with its repetition among the finalists."""
    rates = [run["steady_tokens_per_second"] for run in (entry["result"], entry.get("again")) if run]
    return float(sum(rates) / len(rates))


def sweep(sides: Sides, rows: Rows, compile_rows: Rows, *, smoke: bool, short: bool) -> dict[str, Any]:
    """Three stages, each on the best so far; then the fastest few once more, so that luck does not choose."""
    isolation = run_json(
        [str(sides.peers_python), "check_isolation.py", "--model", sides.model_folder, "--rows", str(rows.path)],
        {},
        sides.out / "isolation.log",
    )
    table: list[dict[str, Any]] = []
    if smoke:
        try_settings(sides, rows, [Setting(micro_rows=1)], table)
    elif not sides.bf16_is_fast:
        try_settings(sides, rows, fp32_stage(packing_is_exact=isolation["exact"]), table)
    elif short:
        for stage in short_stages(packing_is_exact=isolation["exact"]):
            try_settings(sides, rows, stage, table)
    else:
        try_settings(sides, rows, first_stage(), table)
        try_settings(sides, rows, second_stage(best_of(table), packing_is_exact=isolation["exact"]), table)
        for setting in third_stage(best_of(table)):
            try_settings(sides, compile_rows if setting.compiled else rows, [setting], table)
        done = sorted((entry for entry in table if "result" in entry), key=mean_rate, reverse=True)
        for entry in done[:FINALISTS]:
            setting = Setting(**entry["setting"])
            entry["again"] = sides.trl(setting, compile_rows if setting.compiled else rows)
    return {"isolation": isolation, "table": table, "rows": rows.num_rows, "best": asdict(best_of(table))}


def interleave(sides: Sides, rows: Rows, defaults: Setting, best: Setting, num_rounds: int) -> list[dict[str, Any]]:
    """Rounds of ours, TRL's defaults and TRL's best; who begins moves on, so that drift favours nobody."""
    runs = {
        "ours": lambda: sides.ours(rows),
        "trl_defaults": lambda: sides.trl(defaults, rows),
        "trl_best": lambda: sides.trl(best, rows),
    }
    names = list(runs)
    rounds = []
    for index in range(num_rounds):
        order = names[index % len(names) :] + names[: index % len(names)]
        rounds.append({name: runs[name]() for name in order})
        rates = ", ".join(f"{name} {rounds[-1][name]['steady_tokens_per_second']} tokens/s" for name in order)
        print(f"  round {index + 1}: {rates}", flush=True)
    return rounds


def check_data(args: argparse.Namespace) -> tuple[Path, Path]:
    speed_source = data_file(args.data, "oasst_pairs/pairs_en.jsonl")
    return speed_source, data_file(args.data, "instructions/instructions.json")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything in order; returns the report that RESULTS.md is rendered from."""
    speed_source, quality_source = check_data(args)
    load_before = os.getloadavg()[0]
    if load_before > BUSY_LOAD:
        print(f"Warning: load average {load_before:.1f}; something else runs here and the numbers will show it.")
    sides = prepare_sides(args)
    step_rows = 2 if args.smoke else args.num_rows // BATCH_SIZE_ROWS
    length = {"max_length": MAX_LENGTH_TOKENS}
    rows = sides.prepare_rows("rows.jsonl", speed_source, step_rows * BATCH_SIZE_ROWS, **length)
    sweep_rows = sides.prepare_rows("sweep_rows.jsonl", speed_source, 16 if args.smoke else args.sweep_rows, **length)
    compile_rows = sides.prepare_rows("compile_rows.jsonl", speed_source, 16 if args.smoke else 72, **length)
    sweep_file = sides.out / ("sweep_smoke.json" if args.smoke else "sweep.json")
    if args.reuse_sweep and sweep_file.exists():
        swept = json.loads(sweep_file.read_text(encoding="utf-8"))
    else:
        swept = sweep(sides, sweep_rows, compile_rows, smoke=args.smoke, short=args.short_sweep)
        swept["kind"] = "short" if args.short_sweep else "full" if sides.bf16_is_fast else "fp32"
        swept["date"] = time.strftime("%Y-%m-%d")
        sweep_file.write_text(json.dumps(swept, indent=1), encoding="utf-8")
    best = Setting(**swept["best"])
    defaults = TRL_DEFAULTS if sides.bf16_is_fast else TRL_DEFAULTS_FP32
    rounds = interleave(sides, rows, defaults, best, 1 if args.smoke else args.rounds)
    # Kept apart as well, so that a failure further down does not cost the rounds.
    (sides.out / "rounds.json").write_text(json.dumps(rounds, indent=1), encoding="utf-8")
    untuned = {} if args.smoke or args.skip_untuned else untuned_allocator(sides, rows, defaults, best)
    checked = checked_quality(args, sides, quality_source)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": measure.machine(),
        "load_before": load_before,
        "versions": versions(sides),
        "model": args.model,
        "allocator": TUNED_ALLOCATOR,
        "rows": {**asdict(rows), "path": None, "source": "oasst_pairs/pairs_en.jsonl"},
        "sweep": swept,
        "best_name": best.name,
        "defaults_name": defaults.name,
        "bf16_is_fast": sides.bf16_is_fast,
        "rounds": rounds,
        "untuned": untuned,
        "quality": checked,
        "smoke": args.smoke,
    }


def checked_quality(args: argparse.Namespace, sides: Sides, source: Path) -> dict[str, Any] | None:
    """The quality check, made now or taken from the last `bench/quality.py` here."""
    saved = sides.out / "quality.json"
    if args.reuse_quality and saved.exists():
        return dict(json.loads(saved.read_text(encoding="utf-8")))
    if args.skip_quality:
        return None
    return quality.check(sides, source, 2 if args.smoke else 100, bf16_is_fast=sides.bf16_is_fast)


def untuned_allocator(sides: Sides, rows: Rows, defaults: Setting, best: Setting) -> dict[str, Any]:
    """Each side once without the allocator's environment, to show what it does to speed and peak."""
    return {
        "ours": sides.ours(rows, tuned_allocator=False),
        "trl_defaults": sides.trl(defaults, rows, tuned_allocator=False),
        "trl_best": sides.trl(best, rows, tuned_allocator=False),
    }


def versions(sides: Sides) -> dict[str, str]:
    """Package versions in the peers' environment and in ours."""
    names = ["torch", "transformers", "peft", "trl", "accelerate", "datasets"]
    code = (
        "import json, sys; from importlib.metadata import version as v; "
        "print(json.dumps({n: v(n) for n in sys.argv[1:]}))"
    )
    theirs = run_json([str(sides.peers_python), "-c", code, *names], {}, sides.out / "versions.log")
    ours = run_json([sys.executable, "-c", code, "tunesmith", *names[:3]], {}, sides.out / "versions.log")
    return {**{f"peers: {n}": v for n, v in theirs.items()}, **{f"ours: {n}": v for n, v in ours.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--num-rows", type=int, default=48, help="a multiple of 8; the steady state is all but step 1")
    parser.add_argument("--sweep-rows", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reuse-sweep", action="store_true", help="take the best setting from the last sweep here")
    parser.add_argument("--short-sweep", action="store_true", help="only the settings that have ranked first before")
    parser.add_argument("--skip-quality", action="store_true")
    parser.add_argument("--reuse-quality", action="store_true", help="take the last bench/quality.py's figures")
    parser.add_argument("--skip-untuned", action="store_true", help="leave out the runs without allocator settings")
    parser.add_argument("--from-report", action="store_true", help="write the page again from the last run's report")
    parser.add_argument("--smoke", action="store_true", help="two steps of everything: does it run?")
    args = parser.parse_args()
    report_file = args.out / ("report_smoke.json" if args.smoke else "report.json")
    if args.from_report:
        report = json.loads(report_file.read_text(encoding="utf-8"))
        if args.reuse_quality:
            report["quality"] = json.loads((args.out / "quality.json").read_text(encoding="utf-8"))
    else:
        report = run(args)
        report_file.write_text(json.dumps(report, indent=1), encoding="utf-8")
    text = render(report)
    target = args.out / "RESULTS_smoke.md" if args.smoke else BENCH_FOLDER / "RESULTS.md"
    target.write_text(text, encoding="utf-8")
    print(text)
    print(f"Wrote {target}.")
    if not args.smoke and not all(reached for _, _, reached in goals(report)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
