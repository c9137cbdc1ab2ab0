"""The demo: a support desk's tickets. Measure the base, tune it, measure again on the same rows, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.examples import support_desk
from tunesmith.data.load import DataConfig
from tunesmith.evals.run import Comparison, TaskResult, compare, run_task
from tunesmith.evals.subject import local_subject
from tunesmith.evals.suites.support_desk import METRICS, support_desk_task
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.budget import peak_memory_bytes
from tunesmith.models.load import ModelConfig, gemm_gflops, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.recipes.prepare import ADAPTER_NAME, SFTConfig
from tunesmith.recipes.sft import Trained, train
from tunesmith.reports.html import Report
from tunesmith.rollout.generate import LocalGenerator, Sampling, TokenCount
from tunesmith.runs import machine_summary

# The subset that keeps the demo at some minutes on two cores; --full takes every row.
TRAIN_ROWS, TEST_ROWS, VALID_ROWS = 370, 80, 24
LABELS = ("base, bare prompt", "base, 3 shots", "tuned")


class DemoConfig(Config):
    """What ``tunesmith demo`` can be told."""

    output_dir: str = "runs/demo"
    """Where the run and the report are written; an earlier demo there is replaced."""
    full: bool = False
    """All shipped rows instead of the stated subset."""
    seed: int = Field(0, ge=0)
    """Keys the subset, the shots, the adapter's start and the order of rows."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of the tuning."""
    model_name_or_path: str = EMBEDDED_MODEL
    """The base that is measured and tuned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The three conditions on the same rows, and tuned against each of the others."""

    results: tuple[TaskResult, ...]
    against_shots: tuple[Comparison, ...]
    tokens: TokenCount


def run_demo(config: DemoConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the whole job; returns what ``--json`` prints."""
    # 1. The base, measured before anything is trained.
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    recipe = sft_recipe(config)
    base = load_base(ModelConfig(model_name_or_path=config.model_name_or_path))
    # Numbers of the base's own kind: what the minutes below depend on.
    probe = gemm_gflops(base.dtype, base.device, seconds=0.5)
    say(f"{base.notes[0]} GEMM probe: {probe:.0f} GFLOP/s.")
    results_path = folder / "results.jsonl"
    generator = LocalGenerator(base)
    results = [
        _measure(config, base, generator, label, shots, None, results_path, say)
        for label, shots in zip(LABELS[:2], (0, 3), strict=True)
    ]
    # 2. Tune.
    say(f"tuning on {_num_train(config)} rows …")
    trained = train(recipe, base=base)
    if trained.interrupted:
        say(f"stopped; go on with: tunesmith demo --output-dir {config.output_dir}")
        return {"interrupted": True, "output_dir": str(folder)}
    # 3. The same rows again.
    results.append(_measure(config, base, generator, LABELS[2], 0, ADAPTER_NAME, results_path, say))
    measured = Measured(
        results=tuple(results),
        against_shots=tuple(compare(results[1], results[2], metric) for metric in METRICS),
        tokens=generator.tokens,
    )
    # 4. Report.
    seconds = time.perf_counter() - began
    facts = _facts(config, trained, measured, probe, seconds)
    write_report(folder / "report.html", measured, trained, facts)
    _show(measured, trained, facts, folder, say)
    return {"facts": facts, "metrics": _as_rows(measured), "report": str(folder / "report.html")}


def sft_recipe(config: DemoConfig) -> SFTConfig:
    """The recipe the demo tunes with; `recipes/support_desk.yaml` is the same one."""
    return SFTConfig(
        model_name_or_path=config.model_name_or_path,
        output_dir=config.output_dir,
        overwrite_output_dir=True,
        data=DataConfig(
            train=str(support_desk.file_of("train")),
            validation=str(support_desk.file_of("valid")),
            limit=None if config.full else TRAIN_ROWS,
            validation_limit=None if config.full else VALID_ROWS,
        ),
        adapter=AdapterConfig(r=16, lora_alpha=32),
        learning_rate=config.learning_rate,
        warmup_ratio=0.05,
        per_device_train_batch_size=4,
        eval_steps=20,
        seed=config.seed,
        after_training="off",
    )


def _num_train(config: DemoConfig) -> int:
    return support_desk.SIZES["train"] if config.full else TRAIN_ROWS


def _measure(
    config: DemoConfig,
    base: Base,
    generator: LocalGenerator,
    label: str,
    shots: int,
    adapter: str | None,
    results_path: Path,
    say: Callable[[str], None],
) -> TaskResult:
    task = support_desk_task(None if config.full else TEST_ROWS, num_shots=shots, seed=config.seed)
    say(f"measuring {label} on {len(task.items)} test rows …")
    subject = local_subject(base, generator, adapter, label)
    result = run_task(task, subject, Sampling(max_new_tokens=96), results_path)
    say(f"  all fields exact: {result.interval('all_fields').percent()}")
    return result


def _facts(
    config: DemoConfig, trained: Trained, measured: Measured, probe: float, seconds: float
) -> dict[str, str | int | float]:
    machine = machine_summary()
    return {
        "base": trained.base.resolved.name,
        "base digest": trained.base.resolved.base_digest[:16],
        "training rows": _num_train(config),
        "test rows": len(measured.results[0].answers),
        "training tokens": trained.num_tokens,
        "generated tokens": measured.tokens.generated,
        "prefilled tokens": measured.tokens.prefilled,
        "minutes": round(seconds / 60, 1),
        "peak memory GB": round(peak_memory_bytes(trained.base.device) / 1e9, 2),
        f"GEMM probe GFLOP/s, {str(trained.base.dtype).removeprefix('torch.')}": round(probe),
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "date": time.strftime("%Y-%m-%d"),
    }


def _as_rows(measured: Measured) -> list[dict[str, Any]]:
    rows = []
    for metric, comparison in zip(METRICS, measured.against_shots, strict=True):
        row: dict[str, Any] = {"metric": metric}
        for result in measured.results:
            interval = result.interval(metric)
            row[result.label] = [interval.value, interval.low, interval.high]
        test = comparison.test
        row["mcnemar"] = {"only_3_shots": test.only_first, "only_tuned": test.only_second, "p": test.p}
        rows.append(row)
    return rows


def _table(measured: Measured) -> list[list[str]]:
    return [
        [
            metric,
            *(result.interval(metric).percent() for result in measured.results),
            f"{comparison.test.only_first} : {comparison.test.only_second}",
            f"{comparison.test.p:.2g}",
        ]
        for metric, comparison in zip(METRICS, measured.against_shots, strict=True)
    ]


COLUMNS = ["share of rows right, 95 % interval", *LABELS, "only 3 shots : only tuned", "McNemar p"]


def write_report(path: Path, measured: Measured, trained: Trained, facts: dict[str, Any]) -> None:
    """The one-file page: table, loss curve, three examples before and after."""
    report = Report("Support desk: before and after tuning", f"{facts['base']}, {facts['training rows']} rows")
    report.heading("The same test rows, three ways")
    report.text(
        "Test wordings, products and names occur nowhere in the training rows. Intervals are Wilson's; p is the exact "
        "two-sided McNemar test of tuned against 3 shots, over rows only one of them got right."
    )
    report.table(COLUMNS, _table(measured))
    report.heading("Training")
    report.text(
        f"Validation loss {trained.initial_eval_loss:.3f} before, {trained.final_eval_loss:.3f} after "
        f"{trained.num_steps} steps (weights of step {trained.best_step} kept)."
    )
    report.figure(trained.output_dir / "loss.png", "Loss in nats a token over optimiser steps.")
    report.heading("Three examples")
    for index in _examples(measured):
        answers = [result.answers[index] for result in measured.results]
        shown = {"message": answers[0].item.messages[-1].content, "expected": answers[0].item.target}
        shown.update({result.label: a.text for result, a in zip(measured.results, answers, strict=True)})
        report.example(shown)
    report.footer(facts)
    report.write(path)


def _examples(measured: Measured, count: int = 3) -> list[int]:
    """The first rows, a failure of the tuned model among them where there is one: nobody learns from wins alone."""
    outcomes = measured.results[-1].outcomes("all_fields")
    first = list(range(min(count, len(outcomes))))
    failures = [i for i, right in enumerate(outcomes) if not right]
    if failures and not set(failures) & set(first):
        first[-1] = failures[0]
    return first


def _show(
    measured: Measured, trained: Trained, facts: dict[str, Any], folder: Path, say: Callable[[str], None]
) -> None:
    for line in _aligned([COLUMNS, *_table(measured)]):
        say(line)
    for index in _examples(measured):
        answers = [result.answers[index] for result in measured.results]
        say(f"\nmessage  {answers[0].item.messages[-1].content}")
        say(f"before   {' '.join(answers[1].text.split())[:300]}")
        say(f"after    {' '.join(answers[2].text.split())[:300]}")
    say("\n" + " · ".join(f"{key} {value}" for key, value in facts.items()))
    say(f"validation loss {trained.initial_eval_loss:.3f} -> {trained.final_eval_loss:.3f}")
    say(f"wrote {folder / 'report.html'} and the adapter in {folder}")
    say(f'next:  tunesmith chat --adapter {folder} --system "{support_desk.SYSTEM}"')


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
