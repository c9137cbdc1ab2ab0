"""The planner's accuracy: predicted against measured peak memory (VmHWM) of real steps, a fresh process a setting.

    python bench/plan_accuracy.py measure   # some minutes; writes bench/out/plan-accuracy.json
    python bench/plan_accuracy.py report    # predictions beside it: bench/RESULTS-plan.md

Measuring knows nothing of the prediction; a setting that was measured is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MEASURED = HERE / "out" / "plan-accuracy.json"
PAGE = HERE / "RESULTS-plan.md"
LORA = {"r": 16}
# name -> adapter, dtype, checkpointing, tokens of a micro-batch, tokens of each row (None: 32 to 512, by turns), more.
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": LORA, "tokens": 1024, "row": 256},
    "lora, checkpointing": {"adapter": LORA, "tokens": 1024, "row": 256, "checkpointing": True},
    "lora, long rows": {"adapter": LORA, "tokens": 512, "row": 512},
    "lora, rows of all lengths": {"adapter": LORA, "tokens": 512, "row": None},
    "lora r 64, attention": {"adapter": {"r": 64, "target_modules": "attention"}, "tokens": 256, "row": 128},
    "full": {"adapter": {"method": "full"}, "tokens": 256, "row": 128},
    "full, checkpointing": {"adapter": {"method": "full"}, "tokens": 512, "row": 256, "checkpointing": True},
    "qlora": {"adapter": LORA, "tokens": 512, "row": 256, "quantization": {"bits": 4}},
    "qlora, checkpointing": {
        "adapter": LORA,
        "tokens": 512,
        "row": 256,
        "quantization": {"bits": 4},
        "checkpointing": True,
    },
    "bottleneck": {"adapter": {"method": "bottleneck"}, "tokens": 512, "row": 256},
    "ia3": {"adapter": {"method": "ia3"}, "tokens": 512, "row": 128},
    "dora": {"adapter": {"r": 16, "use_dora": True}, "tokens": 256, "row": 128},
    "prefix": {"adapter": {"method": "prefix"}, "tokens": 256, "row": 128},
    "lora, transformers' modules": {"adapter": LORA, "tokens": 256, "row": 128, "kernels": "reference"},
}
MIXED_ROWS = (512, 256, 256, 128, 96, 64, 32)


def row_lengths(setting: dict[str, Any], num_micro_batches: int) -> list[int]:
    """The rows of one step, in so many full micro-batches."""
    if setting["row"] is None:
        return list(MIXED_ROWS)
    return [setting["row"]] * (num_micro_batches * setting["tokens"] // setting["row"])


def take_steps(setting: dict[str, Any]) -> dict[str, int]:
    """Two steps of this process, as ``tunesmith sft`` takes them; bytes resident before, and at the highest."""
    from tunesmith.runtime import tune_process

    tune_process()
    import numpy as np
    from measure import peak_rss_bytes

    from tunesmith.models.adapters import AdapterConfig, add_adapter
    from tunesmith.models.load import ModelConfig, load_base
    from tunesmith.progress import resident_bytes
    from tunesmith.records import Example, Where
    from tunesmith.runtime import release_memory
    from tunesmith.training.distribute import one_process
    from tunesmith.training.optim import OptimConfig, build_optimizer, clip_gradients
    from tunesmith.training.step import accumulate_gradients

    libraries = resident_bytes()
    settings = {"device": "cpu", "dtype": setting.get("dtype", "float32"), "kernels": setting.get("kernels", "auto")}
    if "quantization" in setting:
        settings["quantization"] = setting["quantization"]
    base = load_base(ModelConfig(**settings))
    role = add_adapter(base, "default", AdapterConfig(**setting["adapter"]), 0)
    release_memory()
    before, load_peak = resident_bytes(), peak_rss_bytes()
    # The kernel's own way to forget the highest mark: what loading took is not what training takes.
    Path("/proc/self/clear_refs").write_text("5")
    optimizer = build_optimizer(role.parameters, OptimConfig())
    draws = np.random.default_rng(0)
    # The second step has moments from the start, and its second micro-batch gradients.
    for num_micro_batches in (1, 2):
        rows = [
            Example(
                ids=draws.integers(5, 49_000, length),
                loss_weight=(np.arange(length) >= length // 4).astype(np.float32),
                row_id=i,
                where=Where("synthetic", i + 1),
            )
            for i, length in enumerate(row_lengths(setting, num_micro_batches))
        ]
        accumulate_gradients(
            base,
            role,
            rows,
            one_process(),
            micro_batch_tokens=setting["tokens"],
            checkpointing=setting.get("checkpointing", False),
        )
        clip_gradients(list(role.parameters.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    peak = peak_rss_bytes()
    return {
        "libraries_bytes": libraries,
        "before_bytes": before,
        "load_peak_bytes": load_peak,
        "peak_bytes": peak,
        "parameters": role.num_parameters,
    }


def measure() -> None:
    """Every setting that has no measurement yet, each in a process of its own."""
    found: dict[str, Any] = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
    MEASURED.parent.mkdir(exist_ok=True)
    for name, setting in SETTINGS.items():
        if found.get(name, {}).get("setting") == setting:
            continue
        command = [sys.executable, __file__, "steps", json.dumps(setting)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode:
            print(f"{name}: failed\n{done.stderr[-600:]}", flush=True)
            continue
        found[name] = {"setting": setting, **json.loads(done.stdout.splitlines()[-1])}
        MEASURED.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {found[name]['peak_bytes'] / 1e9:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "report", "steps"))
    parser.add_argument("setting", nargs="?")
    given = parser.parse_args()
    if given.what == "steps":
        print(json.dumps(take_steps(json.loads(given.setting))))
    elif given.what == "measure":
        measure()
    else:
        report()


def report() -> None:
    """Predictions of today's planner beside what was measured."""
    measured = json.loads(MEASURED.read_text())
    rows = [(name, found, *predictions(found)) for name, found in measured.items() if name in SETTINGS]
    errors = [(loaded / found["peak_bytes"] - 1, alone / found["peak_bytes"] - 1) for _, found, loaded, alone in rows]
    worst = [max(abs(error) for error in column) for column in zip(*errors, strict=True)]
    lines = [
        "# The planner's accuracy",
        "",
        "Peak resident memory (VmHWM, reset after loading) of two optimiser steps, the second of two micro-batches,",
        "each setting in a process of its own; smollm2-135m-instruct, CPU, synthetic rows, one thread.",
        "*Loaded*: the prediction before step one with the base in memory, as every run makes it. *Config*: that of",
        "`tunesmith plan --model`, which knows the config and what importing the libraries took.",
        "`python bench/plan_accuracy.py measure`, then `report`.",
        "",
        "| setting | tokens at once | row | measured GB | loaded GB | error | config GB | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, found, loaded, alone), (first, second) in zip(rows, errors, strict=True):
        setting = found["setting"]
        row = setting["row"] or "32 to 512"
        lines.append(
            f"| {name} | {setting['tokens']} | {row} | {found['peak_bytes'] / 1e9:.2f} | {loaded / 1e9:.2f} | "
            f"{100 * first:+.1f} % | {alone / 1e9:.2f} | {100 * second:+.1f} % |"
        )
    lines += [
        "",
        "Where every row is longer than 256 tokens (*long rows*) no scores are kept; the planner counts them, since it",
        "must hold for shorter rows beside them. The heap's share was chosen when the first settings had been measured "
        "([LOG.md](LOG.md)); held out are full with checkpointing, both of qlora, and bottleneck.",
    ]
    lines += ["", f"Largest error: {100 * worst[0]:.1f} % loaded, {100 * worst[1]:.1f} % from the config.", ""]
    PAGE.write_text("\n".join(lines))
    print("\n".join(lines))


def predictions(found: dict[str, Any]) -> tuple[int, int]:
    """Bytes at the peak: with what the process held before the first step, and from the config alone."""
    from dataclasses import replace

    import torch

    from tunesmith.kernels.native import team
    from tunesmith.models.adapter_config import AdapterConfig
    from tunesmith.models.adapter_cost import adapter_cost
    from tunesmith.models.load import DTYPES
    from tunesmith.models.memory import Setting, training_memory
    from tunesmith.models.shape import open_shape

    setting = found["setting"]
    shape = replace(open_shape("smollm2-135m-like"), fast=setting.get("kernels") != "reference")
    how = Setting(
        element_bytes=DTYPES[setting.get("dtype", "float32")].itemsize,
        quantized="quantization" in setting,
        checkpointing=setting.get("checkpointing", False),
        micro_batch_tokens=setting["tokens"],
        longest_tokens=max(row_lengths(setting, 1)),
        on_cpu=True,
        compiled=team(DTYPES[setting.get("dtype", "float32")], torch.device("cpu")),
    )
    cost = adapter_cost(shape, AdapterConfig(**setting["adapter"]))
    memory = training_memory(shape, cost, how, process_bytes=found["libraries_bytes"])
    added = memory.total - memory.process - memory.weights - memory.adapter
    return found["before_bytes"] + added, memory.total


if __name__ == "__main__":
    main()
