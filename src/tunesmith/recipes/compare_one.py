"""One training of ``compare-methods``, or the measurement of what it left, in a process of its own.

A peak of memory is a process's: in one process the second method would inherit the first one's.
``python -m tunesmith.recipes.compare_one JOB`` reads a job as JSON and writes its result beside it.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import Config, build_config
from tunesmith.data.load import DataConfig, load_data
from tunesmith.errors import NonFiniteLossError, TunesmithError
from tunesmith.models.adapters import load_adapter, trainable_share
from tunesmith.models.forward import forward
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.runs import atomic_write_text
from tunesmith.runtime import tune_process
from tunesmith.tokens.pack import pack
from tunesmith.tokens.store import build_store

INTERRUPTED = 130


class Job(Config):
    """What one process does."""

    sft: SFTConfig
    """The recipe, the method's own settings in it."""
    result: str
    """Where the result is written; it is there only when it is whole."""
    go_on: bool = False
    """Whether checkpoints in the folder are of this very job, so that it goes on from them."""
    measure: bool = False
    """Whether to measure what the training left instead of training."""
    test: DataConfig | None = None
    """Rows to measure the loss on."""
    task: str | None = None
    """The evaluation task to answer besides."""
    task_items: int | None = None
    """Most questions of it."""


def run_job(job: Job) -> dict[str, Any] | None:
    """The job's numbers, None where the user stopped it; an ``eval_loss`` of None: it diverged."""
    return _measured(job) if job.measure else _trained(job)


def _trained(job: Job) -> dict[str, Any] | None:
    folder = Path(job.sft.output_dir)
    going_on = job.go_on and any(folder.glob("checkpoint-*"))
    update = {"resume_from_checkpoint": "auto"} if going_on else {"overwrite_output_dir": folder.exists()}
    try:
        trained = train(job.sft.model_copy(update=update))
    except NonFiniteLossError as error:
        print(f"diverged: {error}", file=sys.stderr)
        return {"eval_loss": None}
    if trained.interrupted:
        return None
    final = trained.final_eval_loss
    files = ("adapter_model.safetensors",) if trained.role.adapter is not None else ("*.safetensors",)
    return {
        "trainable_parameters": trained.role.num_parameters,
        "trainable_share": trainable_share(trained.base, trained.role),
        "file_bytes": sum(path.stat().st_size for name in files for path in folder.glob(name)),
        "num_steps": trained.num_steps,
        "num_tokens": trained.num_tokens,
        "train_seconds": trained.train_seconds,
        # Of a run that was broken off, this process trained a part only: its pace is not told.
        "tokens_per_second": None if going_on else trained.num_tokens / max(trained.train_seconds, 1e-9),
        "peak_bytes": trained.peak_bytes,
        "loss_before": trained.initial_eval_loss,
        "eval_loss": final if final is not None and math.isfinite(final) else None,
        "best_step": trained.best_step,
        "dtype": str(trained.base.dtype).removeprefix("torch."),
        "base": trained.base.resolved.name,
        "base_digest": trained.base.resolved.base_digest,
    }


def _measured(job: Job) -> dict[str, Any]:
    config, adapter = job.sft, None
    whole = config.adapter.method == "full"
    model = config.output_dir if whole else config.model_name_or_path
    kept = {name: getattr(config, name) for name in ModelConfig.model_fields}
    base = load_base(ModelConfig(**{**kept, "model_name_or_path": model}))
    if not whole:
        adapter = load_adapter(base, Path(config.output_dir), "measured").adapter
    assert job.test is not None
    out: dict[str, Any] = {"rows": row_losses(base, adapter, config, job.test)}
    if job.task is not None:
        out["right"] = _answered(base, adapter, job)
    return out


@torch.no_grad()
def row_losses(base: Base, adapter: str | None, config: SFTConfig, test: DataConfig) -> list[list[float]]:
    """[row, loss sum in nats, loss weight sum] of every test row that fits, as the recipe renders them."""
    records = load_data(test.model_copy(update={"validation_share": 0.0}), seed=config.seed).train
    limit = min(config.max_length or base.context_tokens, base.context_tokens)
    sums: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="tunesmith-test-") as folder:
        store, _ = build_store(records, base.tokenizer_of(adapter), config, Path(folder), max_tokens=limit)
        for example in (store[i] for i in range(len(store))):
            loss, weight = forward(base, pack([example], adapter), "ce_sum")
            row = sums.setdefault(int(example.row_id), [0.0, 0.0])
            row[0] += float(loss)
            row[1] += float(weight)
    return [[row, *values] for row, values in sorted(sums.items())]


def _answered(base: Base, adapter: str | None, job: Job) -> list[bool]:
    """Whether all of each answer of the support-desk task is right."""
    from tunesmith.evals.run import run_task
    from tunesmith.evals.subject import local_subject
    from tunesmith.evals.suites.support_desk import support_desk_task
    from tunesmith.rollout.generate import LocalGenerator, Sampling

    task = support_desk_task(job.task_items, seed=job.sft.seed)
    subject = local_subject(base, LocalGenerator(base), adapter, "measured")
    result = run_task(task, subject, Sampling(max_new_tokens=96), Path(job.result).with_name("answers.jsonl"))
    return result.outcomes("all_fields")


def main(path: str) -> int:
    """Run the job of a file; returns the exit status."""
    tune_process()
    try:
        job = build_config(Job, json.loads(Path(path).read_text(encoding="utf-8")), place=path)
        result = run_job(job)
    except TunesmithError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    if result is None:
        return INTERRUPTED
    atomic_write_text(Path(job.result), json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
