"""Supervised fine-tuning: rows in, a trained and measured adapter out.

Read top to bottom: prepare, run folder and resume, loop, save. The config is in ``recipes/prepare.py``.
"""

from __future__ import annotations

import math
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.errors import CheckpointError, ConfigError, NonFiniteLossError
from tunesmith.models.adapters import adapter_digest, save_role
from tunesmith.models.budget import peak_memory_bytes
from tunesmith.models.roles import Base, Role
from tunesmith.randomness import derive_seed
from tunesmith.recipes.prepare import Prepared, SFTConfig, prepare
from tunesmith.reports.plots import loss_curve
from tunesmith.runs import Run, read_metrics
from tunesmith.runtime import release_memory
from tunesmith.training.checkpoint import (
    ResumeState,
    find_latest_valid,
    load_checkpoint,
    plan_of,
    prune,
    save_checkpoint,
)
from tunesmith.training.optim import build_optimizer, clip_gradients, learning_rate_at
from tunesmith.training.schedule import rows_per_step, stop_on_signal
from tunesmith.training.step import accumulate_gradients, mean_loss
from tunesmith.training.watch import Trackers, Watch

# Rows of other lengths every step leave holes in the heap; without this the process grows by a GB in 20 steps.
TRIM_EVERY_STEPS = 10
# Called on the role between the gradients and the optimiser's step; the quality check in bench/ breaks them there.
TweakGradients = Callable[[Role], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a finished or interrupted run left behind; losses in nats a token."""

    output_dir: Path
    base: Base
    role: Role
    num_steps: int
    initial_eval_loss: float | None
    final_eval_loss: float | None
    best_step: int
    stopped_early: bool
    interrupted: bool
    train_seconds: float
    num_tokens: int
    peak_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the model."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name not in ("base", "role")}
        return {**kept, "output_dir": str(self.output_dir)}


@dataclass(slots=True, kw_only=True)
class _Job:
    """A run under way."""

    prepared: Prepared
    run: Run
    state: ResumeState
    optimizer: torch.optim.Optimizer
    trackers: Trackers
    tweak: TweakGradients | None
    began: float
    first_tokens: int
    stopped_early: bool = False

    def log(self, metrics: dict[str, float]) -> None:
        self.run.log_metrics(self.state.step, metrics)
        self.trackers.log(self.state.step, metrics)


def train(config: SFTConfig, *, base: Base | None = None, tweak_gradients: TweakGradients | None = None) -> Trained:
    """Run the recipe, on a base of its own or on one already in memory."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-tokens-") as folder:
        # 1. Where to go on, and everything up to the first step.
        checkpoint = _checkpoint_to_resume(config)
        planned = plan_of(checkpoint) if checkpoint is not None else {}
        prepared = prepare(config, Path(folder), base, planned.get("dtype"))
        # 2. The run folder.
        recipe = config.model_dump(mode="json")
        # Every rank keeps books, but only the first one's are the run's.
        output_dir = Path(config.output_dir) if prepared.world.is_main else Path(folder) / "books"
        run = Run.create(
            output_dir, recipe, resume=config.resume_from_checkpoint is not None, overwrite=config.overwrite_output_dir
        )
        with run:
            optimizer = build_optimizer(prepared.role.parameters, config)
            state = ResumeState(seed=config.seed, plan=prepared.decisions(), recipe=prepared.identity())
            if checkpoint is not None:
                state = load_checkpoint(checkpoint, optimizer, prepared.role.parameters, recipe=prepared.identity())
                _go_on_as_planned(checkpoint, state, prepared)
            # A run that died before its first checkpoint begins anew.
            run.truncate_metrics(after_step=state.step if checkpoint is not None else -1)
            facts = {"plan": dict(state.plan), "budget": prepared.budget.as_dict(), "data": prepared.data_summary()}
            run.note({**facts, "notes": prepared.base.notes})
            names = config.report_to if prepared.world.is_main else []
            with Trackers(names, run.folder, recipe, first_step=state.step) as trackers:
                job = _Job(
                    prepared=prepared,
                    run=run,
                    state=state,
                    optimizer=optimizer,
                    trackers=trackers,
                    tweak=tweak_gradients,
                    began=time.perf_counter(),
                    first_tokens=state.num_tokens,
                )
                # 3. The loop, and 4. what it leaves.
                interrupted = _loop(job)
                trained = _finish(job, interrupted)
        prepared.world.close()
        return trained


def _loop(job: _Job) -> bool:
    """Steps, evaluations and checkpoints until the end, the patience or the user says stop; True if the user did."""
    prepared, state, config = job.prepared, job.state, job.prepared.config
    eval_every = config.eval_steps or max(1, math.ceil(prepared.num_steps / 10))
    save_every = config.save_steps or eval_every
    patience, stopping = config.early_stopping_patience, False
    job.stopped_early = bool(patience) and state.evaluations_without_improvement >= patience
    with stop_on_signal() as stop, Watch(prepared.num_steps, state.step, prepared.base.device) as watch:
        if state.step == 0 and prepared.valid is not None:
            state.initial_metric = _evaluate(job)
            job.log({"eval_loss": state.initial_metric})
        while state.step < prepared.num_steps and not stopping and not job.stopped_early:
            metrics = _step(job)
            # One rank asked to stop stops them all, after the same step.
            stopping = prepared.world.sum(float(stop.asked)) > 0
            watch.update(state.step, metrics)
            if state.step % TRIM_EVERY_STEPS == 0:
                release_memory()
            if state.step % config.logging_steps == 0:
                job.log(metrics)
            last = state.step == prepared.num_steps
            if prepared.valid is not None and (state.step % eval_every == 0 or last):
                loss = _evaluate(job)
                improved = state.judge(loss)
                watch.update(state.step, {"eval_loss": loss})
                job.log({"eval_loss": loss, "generalization_gap": loss - metrics["loss"]})
                job.stopped_early = bool(patience) and state.evaluations_without_improvement >= patience
                if improved:
                    _save(job)
            if state.step % save_every == 0 or stopping or last:
                _save(job)
    return stopping and state.step < prepared.num_steps


def _step(job: _Job) -> dict[str, float]:
    """One optimiser step; returns its metrics."""
    prepared, state, config = job.prepared, job.state, job.prepared.config
    rate = learning_rate_at(state.step, prepared.num_steps, config)
    for group in job.optimizer.param_groups:
        group["lr"] = rate
    step, dropout = state.step, config.adapter.lora_dropout
    # The plan of the run is replayed on resume, never decided again.
    result = accumulate_gradients(
        prepared.base,
        prepared.role,
        prepared.examples(step),
        prepared.world,
        micro_batch_tokens=int(state.plan["micro_batch_tokens"]),
        dropout_seed=(lambda row_id: derive_seed(config.seed, "lora_dropout", step, row_id)) if dropout else None,
        checkpointing=bool(state.plan["checkpointing"]),
    )
    if job.tweak is not None:
        job.tweak(prepared.role)
    norm = clip_gradients(list(prepared.role.parameters.values()), config.max_grad_norm)
    if not math.isfinite(norm):
        places = ", ".join(str(example.where) for example in prepared.examples(step))
        raise NonFiniteLossError(places, f"the gradient's norm is {norm}.", "Lower learning_rate.")
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    rows = rows_per_step(config, prepared.world)
    state.advance(num_tokens=result.num_tokens, epoch=step * rows // len(prepared.train))
    return {
        "loss": result.loss,
        "learning_rate": rate,
        "grad_norm": norm,
        "epoch": round(state.step * rows / len(prepared.train), 4),
        "num_tokens": state.num_tokens,
        "tokens_per_second": round((state.num_tokens - job.first_tokens) / (time.perf_counter() - job.began), 1),
    }


def _evaluate(job: _Job) -> float:
    prepared = job.prepared
    assert prepared.valid is not None
    budget = int(job.state.plan["micro_batch_tokens"])
    loss = mean_loss(prepared.base, prepared.role, prepared.valid, prepared.world, budget)
    release_memory()
    return loss


def _save(job: _Job) -> None:
    prepared, state = job.prepared, job.state
    if prepared.world.is_main and state.saved_step != state.step:
        save_checkpoint(
            job.run.folder,
            state,
            job.optimizer,
            prepared.role.parameters,
            write_adapter=lambda folder: save_role(prepared.base, prepared.role, folder),
        )
        prune(job.run.folder, prepared.config.save_total_limit, keep={state.best_step})
    prepared.world.barrier()


def _finish(job: _Job, interrupted: bool) -> Trained:
    """The best weights are the result; an interrupted run keeps its checkpoint instead."""
    prepared, state, run, config = job.prepared, job.state, job.run, job.prepared.config
    seconds = time.perf_counter() - job.began
    final = state.last_metric
    if not interrupted:
        if state.best_step not in (0, state.step):
            load_checkpoint(Path(config.output_dir) / f"checkpoint-{state.best_step}", None, prepared.role.parameters)
            final = state.best_metric
        if prepared.world.is_main:
            digest = adapter_digest(prepared.base, prepared.role.adapter)
            extra = {"data_digest": prepared.data.digest, "adapter_digest": digest}
            save_role(prepared.base, prepared.role, run.folder, extra)
            loss_curve(read_metrics(run.folder / "metrics.jsonl"), run.folder / "loss.png", best_step=state.best_step)
            run.finish({"eval_loss": final, "best_step": state.best_step, "stopped_early": job.stopped_early})
    return Trained(
        output_dir=run.folder,
        base=prepared.base,
        role=prepared.role,
        num_steps=state.step,
        initial_eval_loss=state.initial_metric,
        final_eval_loss=final,
        best_step=state.best_step,
        stopped_early=job.stopped_early,
        interrupted=interrupted,
        train_seconds=seconds,
        num_tokens=state.num_tokens,
        peak_bytes=peak_memory_bytes(prepared.base.device),
    )


def _checkpoint_to_resume(config: SFTConfig) -> Path | None:
    wanted = config.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted == "auto":
        return find_latest_valid(Path(config.output_dir))
    if not Path(wanted).is_dir():
        raise CheckpointError(wanted, "no such checkpoint.", "Name a checkpoint-<step> folder, or auto.")
    if Path(wanted).resolve().parent != Path(config.output_dir).resolve():
        raise ConfigError(
            "resume_from_checkpoint", f"'{wanted}' is not in output_dir.", "Set output_dir to its folder."
        )
    return Path(wanted)


def _go_on_as_planned(checkpoint: Path, state: ResumeState, prepared: Prepared) -> None:
    """Refuse to go on with other numbers or other kernels; other threads round otherwise, which is noted."""
    now = prepared.decisions()
    for name in ("dtype", "kernels"):
        if state.plan[name] != now[name]:
            raise CheckpointError(
                str(checkpoint), f"ran with {name} {state.plan[name]}, which here is {now[name]}.", "Start a new run."
            )
    if state.plan["num_threads"] != now["num_threads"]:
        prepared.base.notes.append(
            f"resumed on {now['num_threads']} threads instead of {state.plan['num_threads']}: sums may round otherwise."
        )


def describe_result(trained: Trained, config: SFTConfig, recipe: str) -> list[str]:
    """What to tell the user at the end: the numbers, what was written, the next command.

    recipe: as it was called, with the overrides that make it this run but for its folder.
    """
    before, after = trained.initial_eval_loss, trained.final_eval_loss
    if trained.interrupted:
        return [
            f"stopped after step {trained.num_steps}; nothing is lost.",
            f"next:  tunesmith sft {recipe} {shlex.quote(f'output_dir={trained.output_dir}')} "
            "resume_from_checkpoint=auto",
        ]
    lines = [] if before is None or after is None else [f"validation loss {before:.4f} -> {after:.4f} nats a token"]
    if trained.stopped_early:
        lines.append(
            f"stopped early after {trained.num_steps} steps; the weights of step {trained.best_step} were kept."
        )
    rate = trained.num_tokens / max(trained.train_seconds, 1e-9)
    lines.append(
        f"{trained.num_steps} steps, {trained.num_tokens} tokens, {trained.train_seconds:.0f} s ({rate:.0f} tok/s), "
        f"peak {trained.peak_bytes / 1e9:.2f} GB"
    )
    lines.append(f"wrote {trained.output_dir}: adapter, metrics.jsonl, loss.png")
    what = f"--adapter {trained.output_dir}" if config.adapter.method == "lora" else f"--model {trained.output_dir}"
    verb = "generate" if trained.base.is_encoder_decoder else "chat"
    return [*lines, f"next:  tunesmith {verb} {what}"]
