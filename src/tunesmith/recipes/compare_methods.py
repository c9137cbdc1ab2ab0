"""Which method of tuning, on the same rows and steps: trained share, file, speed, memory, and quality with intervals.

Read top to bottom: config, the trainings, the choice on validation rows, the measurement on test rows, the report.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from tunesmith.config import Config, load_config
from tunesmith.data.load import DataConfig, load_data
from tunesmith.errors import ConfigError, RunError
from tunesmith.models.adapters import METHODS, AdapterConfig
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.recipes.compare_one import INTERRUPTED, Job
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.reports.compare_methods import write_page
from tunesmith.runs import atomic_write_text, machine_summary
from tunesmith.stats import (
    Interval,
    bootstrap_ratio,
    bootstrap_ratio_difference,
    newcombe_paired_difference,
    wilson_interval,
)

# What is tried where the recipe names no rates: a method's usual one for small models, and one beside it.
LEARNING_RATES: dict[str, list[float]] = {
    "full": [5e-5, 2e-4],
    "lora": [5e-4, 2e-3],
    "qlora": [5e-4, 2e-3],
    "bottleneck": [5e-4, 2e-3],
    "prefix": [2e-3, 1e-2],
    "prompt": [1e-2, 5e-2],
    "ia3": [5e-3, 2e-2],
}
RunJob = Callable[[Path], int]


class CompareMethodsConfig(Config):
    """The recipe of ``tunesmith compare-methods``."""

    sft: str
    """The recipe every method is trained with: an SFT recipe with validation rows; its adapter is LoRA's."""
    overrides: list[str] = []
    """key=value for it, as on the command line."""
    test: str
    """Rows to measure on, in the shape of the recipe's; never chosen on."""
    test_limit: int | None = Field(None, ge=1)
    """Only the first of them."""
    task: Literal["support_desk"] | None = None
    """An evaluation task to answer besides: the share of answers that are right in all fields."""
    task_items: int | None = Field(None, ge=1)
    """Most questions of the task."""
    methods: list[str] = ["full", "lora", "qlora", "bottleneck", "prefix", "ia3"]
    """Any of full, lora, qlora (LoRA on a 4-bit base), bottleneck, prefix, prompt, ia3."""
    settings: dict[str, dict[str, Any]] = {}
    """Method -> keys of its adapter section."""
    learning_rates: dict[str, list[float]] = {}
    """Method -> rates to try, the best by validation loss; else two stated in docs/compare-methods.md."""
    output_dir: str = "runs/compare-methods"
    """Where trainings and report are kept; a second call goes on there."""

    @model_validator(mode="after")
    def _known_methods(self) -> CompareMethodsConfig:
        known = {"full", "qlora", *METHODS}
        for name in (*self.methods, *self.settings, *self.learning_rates):
            if name not in known:
                raise ValueError(f"'{name}' is no method; there are {', '.join(sorted(known))}")
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            raise ValueError("methods should be a list without repetitions")
        if empty := [name for name, rates in self.learning_rates.items() if not rates]:
            raise ValueError(f"no learning rate is named for '{empty[0]}'")
        return self


def run_compare_methods(
    config: CompareMethodsConfig, say: Callable[[str], None], run_job: RunJob | None = None
) -> dict[str, Any]:
    """Train, choose, measure and report; returns what ``--json`` prints. run_job: runs a job's file, for tests.

    A rate at which the loss becomes infinite is out of the choice. Raises ConfigError for a recipe without validation
    rows, RunError where a training fails otherwise, or at every rate.
    """
    run_job = run_job or _in_own_process
    sft, _ = load_config(SFTConfig, Path(config.sft), config.overrides)
    if sft.data.validation is None and sft.data.validation_share == 0:
        raise ConfigError(f"{config.sft}:data.validation", "there are no rows to choose on.", "Name some.")
    test = _test_rows(config, sft)
    # What the rows are is a part of every job: others are another comparison.
    rows = [load_data(data, seed=sft.seed).digest for data in (sft.data, test)]
    # 1. Every method at each of its rates, each in a fresh process.
    results: dict[str, dict[str, Any]] = {}
    for method in config.methods:
        tried = []
        for rate in config.learning_rates.get(method, LEARNING_RATES.get(method, [sft.learning_rate])):
            job = _job(config, sft, method, rate)
            say(f"{method} at learning rate {rate:g} …")
            found = _result_of(job, rows, run_job)
            if found is None:
                return {"interrupted": True, "output_dir": config.output_dir}
            tried.append({"learning_rate": rate, **found})
            loss = found["eval_loss"]
            say("  diverged" if loss is None else f"  validation loss {loss:.4f}")
        # 2. The rate is chosen on the validation rows; the test rows are seen by what was chosen alone.
        ended = [one for one in tried if one["eval_loss"] is not None]
        if not ended:
            raise RunError(method, "diverged at every learning rate.", f"Lower learning_rates.{method}.")
        best = min(ended, key=lambda one: float(one["eval_loss"]))
        results[method] = {**best, "tried": {f"{one['learning_rate']:g}": one["eval_loss"] for one in tried}}
        # 3. The same test rows for all.
        job = _job(config, sft, method, best["learning_rate"])
        say(f"{method}: measuring on the test rows …")
        measured = _result_of(_measuring(config, job, test), rows, run_job)
        if measured is None:
            return {"interrupted": True, "output_dir": config.output_dir}
        results[method] |= measured
    # 4. Intervals and report.
    table = compared(results, seed=sft.seed)
    facts = {"recipe": config.sft, "test": config.test, "test rows": len(next(iter(results.values()))["rows"])}
    first = next(iter(results.values()))
    facts |= {"base": first["base"], "base digest": first["base_digest"][:16], "steps": first["num_steps"]}
    machine = machine_summary()
    facts["processor"] = f"{machine['processor']}, {machine['cores']} cores"
    out = {"facts": facts, "methods": table, "report": f"{config.output_dir}/report.html"}
    folder = Path(config.output_dir)
    atomic_write_text(folder / "comparison.json", json.dumps(out, indent=2) + "\n")
    write_page(folder, table, facts)
    return out


def _job(config: CompareMethodsConfig, sft: SFTConfig, method: str, rate: float) -> Job:
    """The recipe with the method in it, in a folder of its own."""
    folder = Path(config.output_dir) / method / f"lr-{rate:g}"
    adapter = sft.adapter if sft.adapter.method == "lora" else AdapterConfig()
    own = config.settings.get(method, {})
    if method in ("lora", "qlora"):
        adapter = AdapterConfig(**{**adapter.model_dump(exclude_unset=True), **own})
    else:
        adapter = AdapterConfig(**{"method": method, **own})
    update: dict[str, Any] = {
        "adapter": adapter,
        "learning_rate": rate,
        "output_dir": str(folder / "run"),
        "after_training": "off",
        "quantization": (sft.quantization or QuantizationConfig()) if method == "qlora" else None,
        # B's own rate is LoRA's alone.
        "loraplus_lr_ratio": sft.loraplus_lr_ratio if method in ("lora", "qlora") else 1.0,
    }
    return Job(sft=sft.model_copy(update=update), result=str(folder / "trained.json"))


def _test_rows(config: CompareMethodsConfig, sft: SFTConfig) -> DataConfig:
    """Where the test rows are, read as the recipe reads its own."""
    return sft.data.model_copy(
        update={"train": config.test, "limit": config.test_limit, "validation": None, "validation_share": 0.0}
        | {"group_by": None, "stratify_by": None}
    )


def _measuring(config: CompareMethodsConfig, job: Job, test: DataConfig) -> Job:
    result = str(Path(job.result).with_name("measured.json"))
    more = {"task": config.task, "task_items": config.task_items}
    return job.model_copy(update={"measure": True, "result": result, "test": test, **more})


def _result_of(job: Job, rows: list[str], run_job: RunJob) -> dict[str, Any] | None:
    """A job's result, from disk where the same job was done before; None when the user stopped it.

    rows: digests of what it reads. What another recipe or other rows left in its folder is replaced.
    """
    result = Path(job.result)
    asked = result.with_suffix(".job.json")
    text = json.dumps(job.model_dump(mode="json", exclude_unset=True) | {"rows": rows}, sort_keys=True)
    begun, done = result.with_suffix(".begun"), result.with_suffix(".done")
    mark = hashlib.sha256(text.encode()).hexdigest()
    if not (result.is_file() and done.is_file() and done.read_text() == mark):
        result.parent.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
        job = job.model_copy(update={"go_on": begun.is_file() and begun.read_text() == mark})
        atomic_write_text(begun, mark)
        atomic_write_text(asked, job.model_dump_json(exclude_unset=True) + "\n")
        status = run_job(asked)
        if status == INTERRUPTED:
            return None
        if status != 0 or not result.is_file():
            raise RunError(asked, f"ended with status {status}.", "See what it said above; a second call goes on.")
        atomic_write_text(done, mark)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _in_own_process(job: Path) -> int:
    """Run a job in a fresh process; what it prints goes to standard error."""
    command = [sys.executable, "-m", "tunesmith.recipes.compare_one", str(job)]
    process = subprocess.Popen(command, stdout=sys.stderr)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # It heard the same Ctrl-C, and saves what it has.
            continue


def compared(results: Mapping[str, Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """One row a method: its numbers, the loss on the test rows with its interval, and paired differences from LoRA's.

    Rows are resampled, the same for both of a pair; another seed of the training is not a part of the interval.
    """
    other = "lora" if "lora" in results else next(iter(results))
    columns = {name: list(zip(*found["rows"], strict=True)) for name, found in results.items()}
    if len({tuple(rows) for rows, _, _ in columns.values()}) != 1:
        raise RunError("test rows", "not every method could read the same rows.", "Drop rows that are too long.")
    table = []
    for name, found in results.items():
        row = {key: value for key, value in found.items() if key not in ("rows", "right")}
        over, under = columns[name][1:]
        row |= {"method": name, "test_loss": _limits(bootstrap_ratio(over, under, seed=seed))}
        if name != other:
            change = bootstrap_ratio_difference(columns[other][1:], (over, under), seed=seed)
            row["test_loss_minus"] = {"method": other, "difference": _limits(change)}
        if "right" in found:
            right = found["right"]
            row["task"] = _limits(wilson_interval(sum(right), len(right)))
            if name != other:
                row["task_minus"] = _limits(newcombe_paired_difference(results[other]["right"], right))
        table.append(row)
    return table


def _limits(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]
