"""The PPO benchmark: ours and TRL 1.9's experimental trainer on the same prompts. `python bench/run_ppo.py` runs it.

Rounds of both, who begins moving on; answers a second over the updates after the first, and peak memory. Writes
bench/RESULTS-ppo.md. TRL's reward and value models have random heads and so does ours: speed does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import peers_env
import ppo_settings as held_equal
from processes import Sides, run_json
from report import spread, table
from run_sft import add_common_arguments, data_file, prepare_sides, versions
from settings import TUNED_ALLOCATOR

BENCH_FOLDER = Path(__file__).resolve().parent


def prepare_rows(source: Path, out: Path) -> tuple[Path, Path]:
    """Prompts and two pairs, from the first rows of the politeness pairs."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    texts = ["\n\n".join(part for part in (row["instruction"], row["input"]) if part) for row in rows]
    prompts, pairs = out / "ppo_prompts.jsonl", out / "ppo_pairs.jsonl"
    distinct = list(dict.fromkeys(texts))[: 2 * held_equal.NUM_PROMPTS]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in distinct), encoding="utf-8")
    told = [
        {"prompt": text, "chosen": row["chosen"], "rejected": row["rejected"]}
        for text, row in zip(texts, rows, strict=True)
        if row["chosen"] != row["rejected"]
    ]
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in told[:2]), encoding="utf-8")
    return prompts, pairs


def train_reward(sides: Sides, pairs: Path) -> Path:
    """A reward model of one step: its speed is that of any."""
    folder = sides.out / "ppo_reward"
    code = (
        "import json, sys; from tunesmith.config import build_config; "
        "from tunesmith.recipes.reward import train_reward; from tunesmith.recipes.reward_prepare import RewardConfig; "
        "train_reward(build_config(RewardConfig, json.loads(sys.argv[1]), place='bench')); print('{}')"
    )
    recipe = {
        "model_name_or_path": sides.model,
        "output_dir": str(folder),
        "overwrite_output_dir": True,
        "data": {"train": str(pairs), "validation_share": 0.0},
        "adapter": {"r": held_equal.LORA_R, "lora_alpha": held_equal.LORA_ALPHA},
        "max_steps": 1,
    }
    run_json([sys.executable, "-c", code, json.dumps(recipe)], {}, sides.out / "ppo_reward.log")
    return folder


def measured(sides: Sides, command: list[str], name: str) -> dict[str, Any]:
    """One side with probes around it."""
    before = sides.gemm_probe()
    result = run_json(command, {**TUNED_ALLOCATOR, "TRL_EXPERIMENTAL_SILENCE": "1"}, sides.out / f"{name}.log")
    ends = result["update_ends_seconds"]
    rate = held_equal.NUM_PROMPTS * (len(ends) - 1) / (ends[-1] - ends[0])
    return {**result, "answers_per_second": rate, "gemm_before": before, "gemm_after": sides.gemm_probe()}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything in order; returns the report that the page is rendered from."""
    sides = replace(prepare_sides(args), peers_python=peers_env.ensure("peers-ppo"))
    prompts, pairs = prepare_rows(data_file(args.data, "instructions/preferences.json"), sides.out)
    reward, load = train_reward(sides, pairs), os.getloadavg()[0]
    common = ["--rows", str(prompts), "--num-updates", str(args.num_updates), "--output-dir"]
    ours = [sys.executable, "ppo_ours.py", "--model", sides.model, "--reward", str(reward), *common]
    peer = [str(sides.peers_python), "ppo_peer_trl.py", "--model", sides.model_folder, *common]
    commands = {"ours": [*ours, str(sides.out / "ppo_ours")], "trl": [*peer, str(sides.out / "ppo_trl")]}
    rounds = []
    for index in range(args.rounds):
        order = ["ours", "trl"] if index % 2 == 0 else ["trl", "ours"]
        rounds.append({name: measured(sides, commands[name], f"ppo_{name}") for name in order})
        told = ", ".join(f"{name} {rounds[-1][name]['answers_per_second']:.3f} answers/s" for name in order)
        print(f"  round {index + 1}: {told}", flush=True)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": measure.machine(),
        "load_before": load,
        "versions": versions(sides),
        "rounds": rounds,
    }


def render(report: dict[str, Any]) -> str:
    """The whole page."""
    rounds, machine = report["rounds"], report["machine"]
    speed = [one["ours"]["answers_per_second"] / one["trl"]["answers_per_second"] for one in rounds]
    memory = [one["ours"]["peak_rss_bytes"] / one["trl"]["peak_rss_bytes"] for one in rounds]
    rows = [
        [
            str(number),
            name,
            f"{one['answers_per_second']:.3f}",
            f"{one['peak_rss_bytes'] / 1e9:.2f}",
            " / ".join(f"{one[probe]['float32']:.0f}" for probe in ("gemm_before", "gemm_after")),
        ]
        for number, a_round in enumerate(rounds, 1)
        for name, one in a_round.items()
    ]
    e, peers = held_equal, ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    setup = [
        f"date: {report['date']}; load before: {report['load_before']:.2f}",
        f"machine: {machine['cpu']}, {machine['cores']} cores ({', '.join(machine['instructions'])}), fp32",
        f"versions: {peers}; TRL's PPO left it after 1.9, so the peer's environment has trl 1.9.0",
        (
            f"an update: {e.NUM_PROMPTS} prompts of `instructions/preferences.json`, one answer of at most "
            f"{e.MAX_NEW_TOKENS} tokens each, {e.NUM_PPO_EPOCHS} epochs of {e.NUM_MINI_BATCHES} mini-batches; LoRA "
            f"r {e.LORA_R} on all linear layers; answers a second over the updates after the first"
        ),
        (
            "TRL: policy with LoRA, its adapter off as reference; value model (tuned whole: it knows no adapter for "
            "it) and reward model of their own; no checkpointing; it always writes the most tokens, ours stops at an "
            "answer's end"
        ),
        "ours: policy, reference, value and reward as adapters on one base",
    ]
    ratios = [["answers/s, ours over TRL", spread(speed)], ["peak resident memory, ours over TRL", spread(memory)]]
    parts = [
        "# PPO beside TRL's experimental trainer",
        "Written by `python bench/run_ppo.py`; never edited by hand. How it is measured: [README.md](README.md).",
        "\n".join(f"- {line}" for line in setup),
        table(["what", "median of the rounds (smallest to largest)"], ratios),
        table(["round", "who", "answers/s", "peak GB", "fp32 GEMM GFLOP/s before / after"], rows),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-updates", type=int, default=3)
    args = parser.parse_args()
    report = run(args)
    (args.out / "ppo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    page = render(report)
    (BENCH_FOLDER / "RESULTS-ppo.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
