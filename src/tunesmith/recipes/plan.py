"""Tell the truth before training: everything up to the first step, and one real step on the longest batch."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from tunesmith.data.check import shown
from tunesmith.data.mixture_report import table_lines
from tunesmith.models.adapters import describe_trainable, trainable_share
from tunesmith.models.budget import memory_in_use_bytes, peak_memory_bytes
from tunesmith.recipes.prepare import Prepared, SFTConfig, prepare
from tunesmith.tokens.render import template_notes
from tunesmith.tokens.store import RenderReport
from tunesmith.training.optim import build_optimizer
from tunesmith.training.schedule import examples_of_step
from tunesmith.training.session import decisions
from tunesmith.training.step import accumulate_gradients


def make_plan(config: SFTConfig) -> dict[str, Any]:
    """Prepare a recipe, take one step on its longest rows, and report what a run would do; nothing is written."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-plan-") as folder:
        prepared = prepare(config, Path(folder))
        seconds, peak = _probe_step(prepared)
        tokens_per_second = _probe_tokens(prepared) / seconds
        run_tokens = sum(prepared.train.lengths[i] for i in _steps_examples(prepared))
        budget = prepared.budget
        return {
            "base": prepared.base.resolved.name,
            "base_folder": str(prepared.base.resolved.folder),
            "notes": [*prepared.base.notes, *template_notes(prepared.base.tokenizer)],
            "rows": prepared.data_summary(),
            "training": _rendered(prepared.train_report),
            "validation": _rendered(prepared.valid_report) if prepared.valid_report else None,
            "trainable_parameters": prepared.role.num_parameters,
            "trainable_share": trainable_share(prepared.base, prepared.role),
            "steps": prepared.num_steps,
            "training_tokens": run_tokens,
            "decisions": decisions(prepared.base, prepared.budget),
            "memory": {
                "predicted_peak_bytes": budget.peak_bytes,
                "measured_peak_bytes": peak,
                "available_bytes": budget.available_bytes,
                "fits": budget.fits,
            },
            "time": {
                "probe_tokens_per_second": tokens_per_second,
                "predicted_seconds": run_tokens / tokens_per_second,
            },
        }


def _steps_examples(prepared: Prepared) -> list[int]:
    """Every example of the run, in order, over all its steps."""
    config, size = prepared.config, len(prepared.train)
    return [i for s in range(prepared.num_steps) for i in examples_of_step(config, size, prepared.world, s)]


def _longest(prepared: Prepared) -> list[int]:
    """The longest rows a single step could meet."""
    count = prepared.config.per_device_train_batch_size * prepared.config.gradient_accumulation_steps
    lengths = prepared.train.lengths
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])[:count]


def _probe_tokens(prepared: Prepared) -> int:
    return sum(prepared.train.lengths[i] for i in _longest(prepared))


def _probe_step(prepared: Prepared) -> tuple[float, int]:
    """(seconds, peak bytes) of a real step on the longest rows; the second of two, so that warm-up is left out."""
    optimizer = build_optimizer(prepared.role.parameters, prepared.config)
    examples = [prepared.train[i] for i in _longest(prepared)]
    # A probe must not move the weights it is asked about.
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    peak = memory_in_use_bytes(prepared.base.device)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        accumulate_gradients(
            prepared.base,
            prepared.role,
            examples,
            prepared.world,
            micro_batch_tokens=prepared.budget.micro_batch_tokens,
            checkpointing=prepared.budget.checkpointing,
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        peak = max(peak, peak_memory_bytes(prepared.base.device))
    return seconds, peak


def _rendered(report: RenderReport) -> dict[str, Any]:
    return {
        "rows": report.num_rows,
        "examples": report.num_examples,
        "tokens": report.num_tokens,
        "longest_tokens": report.longest_tokens,
        "loss_share": report.loss_share,
        "end_of_turn_share": report.end_share,
        "rows_dropped": dict(report.dropped),
        "rows_cut": report.num_rows_cut,
        "tokens_cut": report.tokens_cut,
        "rows_split_by_turn": report.num_rows_split,
    }


def describe(plan: dict[str, Any], recipe: str) -> list[str]:
    """The plan as lines a person reads; recipe: as it was called, with its overrides."""
    rows, training, memory, timing = plan["rows"], plan["training"], plan["memory"], plan["time"]
    lines = [
        f"base       {plan['base']} ({plan['base_folder']})",
        *(f"           {note}" for note in plan["notes"]),
        f"rows       {rows['rows_read']} read as {rows['shape']}: {rows['rows_train']} to train, "
        f"{rows['rows_validation']} to validate, {sum(rows['rows_dropped'].values())} faulty and dropped",
        *(f"           dropped {count} x {cause}" for cause, count in rows["rows_dropped"].items()),
    ]
    if rows["rows_beyond_limit"]:
        lines.append(f"           {rows['rows_beyond_limit']} rows beyond data.limit were not read")
    if rows["validation_rows_in_train"]:
        lines.append(f"           {rows['validation_rows_in_train']} validation rows stand in the training rows too")
    if rows.get("split_note"):
        lines.append(f"           the split: {rows['split_note']}")
    if rows["ignored_columns"]:
        lines.append(f"           columns not used: {', '.join(map(shown, rows['ignored_columns']))}")
    if "tasks" in rows:
        lines += [f"           {line}" for line in table_lines(rows["tasks"])]
    for cause, count in training["rows_dropped"].items():
        lines.append(f"           dropped {count} x {cause}")
    if training["rows_cut"]:
        lines.append(f"           cut {training['rows_cut']} rows, {training['tokens_cut']} tokens lost")
    if training["rows_split_by_turn"]:
        lines.append(
            f"           {training['rows_split_by_turn']} rows became several examples: the template rewrites earlier "
            "turns, the text is longer than a row, or an encoder-decoder model answers one turn at a time"
        )
    fits = "fits" if memory["fits"] else "DOES NOT FIT"
    return [
        *lines,
        f"tokens     {training['tokens']} in {training['examples']} examples, longest {training['longest_tokens']}; "
        f"{100 * training['loss_share']:.1f} % in the loss; end-of-turn trained in "
        f"{100 * training['end_of_turn_share']:.1f} % of the examples",
        f"trained    {describe_trainable(plan['trainable_parameters'], plan['trainable_share'])}",
        f"steps      {plan['steps']} over {plan['training_tokens']} tokens",
        f"memory     predicted {memory['predicted_peak_bytes'] / 1e9:.2f} GB, measured on the longest batch "
        f"{memory['measured_peak_bytes'] / 1e9:.2f} GB, free {memory['available_bytes'] / 1e9:.1f} GB: {fits}",
        f"time       about {timing['predicted_seconds'] / 60:.1f} minutes at {timing['probe_tokens_per_second']:.0f} "
        "tokens/s on the longest batch, evaluations not counted",
        f"next:      tunesmith sft {recipe}",
    ]
