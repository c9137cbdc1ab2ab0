"""The preference benchmark: ours and TRL, DPO and reward model, on the same pairs. `make bench-preference` runs this.

    python bench/run_preference.py [--data ../shared/data] [--rounds 3] [--reuse-sweep] [--only dpo] [--quick]

1. the peers' environment; 2. TRL's best of a stated sweep, each setting once; 3. rounds of ours, TRL's defaults and
TRL's best, who begins moving on; 4. bench/RESULTS-preference.md and bench/out/preference.json. --quick: two steps of
everything, one round, a page elsewhere. --reuse-sweep takes the best setting of the last sweep here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
from preference_report import goals, render
from preference_settings import (
    BATCH_SIZE_PAIRS,
    KINDS,
    MAX_LENGTH_TOKENS,
    Kind,
    PreferenceSetting,
    defaults,
    sweep_settings,
)
from processes import ProcessFailed, Sides, run_json
from run_sft import BUSY_LOAD, add_common_arguments, data_file, prepare_sides, versions
from settings import TUNED_ALLOCATOR

BENCH_FOLDER = Path(__file__).resolve().parent
SOURCE = "hh_rlhf/harmless_base.jsonl"


@dataclass(frozen=True)
class Pairs:
    """A file of pairs both sides read, and how many tokens both must count in it."""

    path: Path
    num_pairs: int
    tokens: int
    pairs_left_out: int


@dataclass(frozen=True)
class Bench:
    """Both sides on files of pairs."""

    sides: Sides

    def prepare(self, name: str, source: Path, num_pairs: int) -> Pairs:
        """Write ``name`` from the first usable pairs of ``source``."""
        path = self.sides.out / name
        command = [sys.executable, "preference_rows.py", "--model", self.sides.model_folder, "--source", str(source)]
        command += ["--output", str(path), "--num-pairs", str(num_pairs), "--max-length", str(MAX_LENGTH_TOKENS)]
        return Pairs(path=path, **run_json(command, {}, self.sides.out / f"{name}.log"))

    def ours(self, kind: Kind, pairs: Pairs) -> dict[str, Any]:
        """Our recipe on these pairs."""
        command = [sys.executable, "preference_ours.py", kind, "--model", self.sides.model]
        return self._measured([*command, *self._rows(pairs, f"ours_{kind}")], f"ours_{kind}", pairs)

    def trl(self, kind: Kind, setting: PreferenceSetting, pairs: Pairs) -> dict[str, Any]:
        """TRL's trainer on these pairs."""
        command = [str(self.sides.peers_python), "preference_peer_trl.py", kind, "--model", self.sides.model_folder]
        command += ["--setting", setting.to_json(), *self._rows(pairs, f"trl_{kind}")]
        return self._measured(command, f"trl_{kind}", pairs)

    def _rows(self, pairs: Pairs, name: str) -> list[str]:
        return ["--rows", str(pairs.path), "--output-dir", str(self.sides.out / name)]

    def _measured(self, command: list[str], name: str, pairs: Pairs) -> dict[str, Any]:
        before = self.sides.gemm_probe()
        result = run_json(command, TUNED_ALLOCATOR, self.sides.out / f"{name}.log")
        if result["tokens"] != pairs.tokens:
            raise SystemExit(f"{name} counted {result['tokens']} tokens in {pairs.path.name}, not {pairs.tokens}.")
        probes = {"gemm_before": before, "gemm_after": self.sides.gemm_probe()}
        return {**result, **rates(result, pairs.num_pairs), **probes}


def rates(result: dict[str, Any], num_pairs: int) -> dict[str, float]:
    """Pairs a second over the steps after the first one, which pay their share of the reference's pass before them.

    Step 1 has what is paid once (threads, memory's first touch, compiled kernels) and is left out on both sides.
    """
    ends = result["step_ends_seconds"]
    steady_pairs = num_pairs - BATCH_SIZE_PAIRS
    seconds = ends[-1] - ends[0] + result["reference_seconds"] * steady_pairs / num_pairs
    return {
        "pairs_per_second": steady_pairs / seconds,
        "pairs_per_second_without_reference": steady_pairs / (ends[-1] - ends[0]),
        "start_to_end_seconds": ends[-1],
    }


def sweep(bench: Bench, kind: Kind, pairs: Pairs, *, quick: bool) -> dict[str, Any]:
    """Each setting once; a setting that cannot run is recorded with the reason."""
    table: list[dict[str, Any]] = []
    settings = sweep_settings(kind, bf16_is_fast=bench.sides.bf16_is_fast)
    for setting in settings[:1] if quick else settings:
        entry: dict[str, Any] = {"setting": asdict(setting), "name": setting.name}
        try:
            entry["result"] = bench.trl(kind, setting, pairs)
            told = f"{entry['result']['pairs_per_second']:.3f} pairs/s"
        except ProcessFailed as error:
            entry["failed"] = told = str(error)
        table.append(entry)
        print(f"  {kind} sweep {len(table)}: {told}: {setting.name}", flush=True)
    done = [entry for entry in table if "result" in entry]
    best = max(done, key=lambda entry: float(entry["result"]["pairs_per_second"]))
    return {
        "table": table,
        "best": best["setting"],
        "num_pairs": pairs.num_pairs,
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg()[0],
    }


def interleave(
    bench: Bench, kind: Kind, pairs: Pairs, best: PreferenceSetting, num_rounds: int
) -> list[dict[str, Any]]:
    """Rounds of ours, TRL's defaults and TRL's best; who begins moves on, so that drift favours nobody."""
    plain = defaults(bf16_is_fast=bench.sides.bf16_is_fast)
    runs = {
        "ours": lambda: bench.ours(kind, pairs),
        "trl_defaults": lambda: bench.trl(kind, plain, pairs),
        "trl_best": lambda: bench.trl(kind, best, pairs),
    }
    names = list(runs)
    rounds = []
    for index in range(num_rounds):
        order = names[index % len(names) :] + names[: index % len(names)]
        rounds.append({name: runs[name]() for name in order})
        told = ", ".join(f"{name} {rounds[-1][name]['pairs_per_second']:.3f} pairs/s" for name in order)
        print(f"  {kind} round {index + 1}: {told}", flush=True)
    return rounds


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything in order; returns the report that the page is rendered from."""
    source = data_file(args.data, SOURCE)
    load_before = os.getloadavg()[0]
    if load_before > BUSY_LOAD:
        print(f"Warning: load average {load_before:.1f}; something else runs here and the numbers will show it.")
    sides = prepare_sides(args)
    bench = Bench(sides)
    num_pairs = 2 * BATCH_SIZE_PAIRS if args.quick else args.num_pairs
    pairs = bench.prepare("pairs.jsonl", source, num_pairs)
    sweep_pairs = bench.prepare("sweep_pairs.jsonl", source, 2 * BATCH_SIZE_PAIRS)
    kinds: dict[str, Any] = {}
    for kind in KINDS if args.only is None else (args.only,):
        saved = sides.out / f"preference_sweep_{kind}{'_quick' if args.quick else ''}.json"
        if args.reuse_sweep and saved.exists():
            swept = json.loads(saved.read_text(encoding="utf-8"))
        else:
            swept = sweep(bench, kind, sweep_pairs, quick=args.quick)
            saved.write_text(json.dumps(swept, indent=1), encoding="utf-8")
        if args.sweep_only:
            continue
        best = PreferenceSetting(**swept["best"])
        rounds = interleave(bench, kind, pairs, best, 1 if args.quick else args.rounds)
        kinds[kind] = {"sweep": swept, "best_name": best.name, "rounds": rounds}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": measure.machine(),
        "load_before": load_before,
        "versions": versions(sides),
        "model": args.model,
        "allocator": TUNED_ALLOCATOR,
        "pairs": {**asdict(pairs), "path": None, "source": SOURCE},
        "batch_size_pairs": BATCH_SIZE_PAIRS,
        "defaults_name": defaults(bf16_is_fast=sides.bf16_is_fast).name,
        "bf16_is_fast": sides.bf16_is_fast,
        "kinds": kinds,
        "quick": args.quick,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--num-pairs", type=int, default=3 * BATCH_SIZE_PAIRS, help="a multiple of 4, at least 8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=KINDS, help="one of the two; the page keeps the other's last figures")
    parser.add_argument("--reuse-sweep", action="store_true", help="take TRL's best from the last sweep here")
    parser.add_argument("--sweep-only", action="store_true", help="stop after the sweep")
    parser.add_argument("--from-report", action="store_true", help="write the page again from the last run's report")
    parser.add_argument("--quick", action="store_true", help="two steps of everything, once: does it run?")
    args = parser.parse_args()
    if args.num_pairs < 2 * BATCH_SIZE_PAIRS or args.num_pairs % BATCH_SIZE_PAIRS:
        parser.error(f"--num-pairs must be a multiple of {BATCH_SIZE_PAIRS}, at least {2 * BATCH_SIZE_PAIRS}")
    report_file = args.out / ("preference_quick.json" if args.quick else "preference.json")
    before = json.loads(report_file.read_text(encoding="utf-8")) if report_file.exists() else {}
    if args.from_report:
        report = before
    else:
        report = run(args)
        if args.sweep_only:
            return
        if args.only and before.get("pairs") == report["pairs"]:
            # The other half keeps its figures, with the date they were measured on.
            report["kinds"] = {**before["kinds"], **report["kinds"]}
        for kind in report["kinds"].values():
            kind.setdefault("date", report["date"])
        report_file.write_text(json.dumps(report, indent=1), encoding="utf-8")
    text = render(report)
    target = args.out / "RESULTS-preference_quick.md" if args.quick else BENCH_FOLDER / "RESULTS-preference.md"
    target.write_text(text, encoding="utf-8")
    print(text)
    print(f"Wrote {target}.")
    if not args.quick and not all(reached for _, _, reached in goals(report)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
