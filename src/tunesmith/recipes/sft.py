"""Supervised fine-tuning: rows in, a trained and measured adapter out.

Read top to bottom: prepare, run folder and resume, loop, save. The config is in ``recipes/prepare.py``.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.models.adapters import adapter_digest, describe_trainable, save_role, trainable_share
from tunesmith.models.budget import peak_memory_bytes
from tunesmith.models.roles import Base, Role
from tunesmith.randomness import derive_seed
from tunesmith.recipes.after_training import look_back_at
from tunesmith.recipes.prepare import Prepared, SFTConfig, prepare
from tunesmith.reports.after_training import say_after
from tunesmith.reports.plots import loss_curve
from tunesmith.runs import read_metrics
from tunesmith.training.checkpoint import plan_of
from tunesmith.training.loop import Gradients, Loop, TweakGradients, keep_best, run_loop
from tunesmith.training.optim import build_optimizer
from tunesmith.training.session import checkpoint_to_resume, open_session
from tunesmith.training.step import accumulate_gradients, mean_loss


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
    after: Mapping[str, Any] | None = None
    """What after_training.json holds; None where it was not asked for."""

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the model."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name not in ("base", "role")}
        return {**kept, "output_dir": str(self.output_dir)}


def train(config: SFTConfig, *, base: Base | None = None, tweak_gradients: TweakGradients | None = None) -> Trained:
    """Run the recipe, on a base of its own or on one already in memory."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-tokens-") as folder:
        # 1. Where to go on, and everything up to the first step.
        checkpoint = checkpoint_to_resume(config)
        prepared = prepare(config, Path(folder), base, plan_of(checkpoint).get("dtype"))
        # 2. The run folder, and the state of a run that goes on.
        parameters = prepared.role.parameters
        optimizer = build_optimizer(parameters, config)
        facts: dict[str, Any] = {"budget": prepared.budget.as_dict(), "data": prepared.data_summary()}
        facts |= {"num_examples": len(prepared.train), "trainable_parameters": prepared.role.num_parameters}
        if prepared.world.is_main:
            share = trainable_share(prepared.base, prepared.role)
            print(f"trained    {describe_trainable(prepared.role.num_parameters, share)}", file=sys.stderr, flush=True)
        with open_session(prepared, checkpoint, optimizer, parameters, facts, prepared.world) as session:
            # 3. The loop, and 4. what it leaves.
            plan = session.state.plan
            loop = Loop(
                config=config,
                session=session,
                num_steps=prepared.num_steps,
                num_examples=len(prepared.train),
                gradients=lambda step: _gradients(prepared, plan, step, tweak_gradients),
                evaluate=None if prepared.valid is None else lambda: _evaluate(prepared, plan),
                name_rows=lambda step: ", ".join(str(example.where) for example in prepared.examples(step)),
                write_adapter=lambda folder: save_role(prepared.base, prepared.role, folder),
            )
            trained = _finish(prepared, loop, interrupted=run_loop(loop))
        if config.after_training == "off" or trained.interrupted or not prepared.world.is_main:
            return trained
        # 5. What it broke.
        return replace(trained, after=look_back_at(prepared, trained.output_dir))


def _gradients(prepared: Prepared, plan: Mapping[str, Any], step: int, tweak: TweakGradients | None) -> Gradients:
    """Fill the gradients of one step; the plan of the run is replayed on resume, never decided again."""
    config = prepared.config
    # An adapter that is gone on with has its own.
    seed, dropout = config.seed, config.adapter.lora_dropout or config.adapter_name_or_path
    result = accumulate_gradients(
        prepared.base,
        prepared.role,
        prepared.examples(step),
        prepared.world,
        micro_batch_tokens=int(plan["micro_batch_tokens"]),
        dropout_seed=(lambda row_id: derive_seed(seed, "lora_dropout", step, row_id)) if dropout else None,
        checkpointing=plan["checkpointing"],
    )
    if tweak is not None:
        tweak(prepared.role)
    return Gradients(metrics={"loss": result.loss}, num_tokens=result.num_tokens)


def _evaluate(prepared: Prepared, plan: Mapping[str, Any]) -> dict[str, float]:
    assert prepared.valid is not None
    budget = int(plan["micro_batch_tokens"])
    return {"eval_loss": mean_loss(prepared.base, prepared.role, prepared.valid, prepared.world, budget)}


def _finish(prepared: Prepared, loop: Loop, interrupted: bool) -> Trained:
    """The best weights are the result; an interrupted run keeps its checkpoint instead."""
    state, run = loop.session.state, loop.session.run
    seconds = time.perf_counter() - loop.session.began
    final = state.last_metric
    if not interrupted:
        final = keep_best(loop)
        if prepared.world.is_main:
            digest = adapter_digest(prepared.base, prepared.role.adapter)
            extra = {"data_digest": prepared.data.digest, "adapter_digest": digest}
            if prepared.start_digest is not None:
                extra["started_from"] = prepared.start_digest
            save_role(prepared.base, prepared.role, run.folder, extra)
            loss_curve(read_metrics(run.folder / "metrics.jsonl"), run.folder / "loss.png", best_step=state.best_step)
            run.finish({"eval_loss": final, "best_step": state.best_step, "stopped_early": loop.stopped_early})
    return Trained(
        output_dir=run.folder,
        base=prepared.base,
        role=prepared.role,
        num_steps=state.step,
        initial_eval_loss=state.initial_metric,
        final_eval_loss=final,
        best_step=state.best_step,
        stopped_early=loop.stopped_early,
        interrupted=interrupted,
        train_seconds=seconds,
        num_tokens=state.num_tokens,
        peak_bytes=peak_memory_bytes(prepared.base.device),
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
    lines += [] if trained.after is None else say_after(trained.after)
    kind = "model" if config.adapter.method == "full" else "adapter"
    wrote = f"{kind}, metrics.jsonl, loss.png" + (
        "" if trained.after is None or "skipped" in trained.after else ", after_training.html"
    )
    lines.append(f"wrote {trained.output_dir}: {wrote}")
    verb = "generate" if trained.base.is_encoder_decoder else "chat"
    return [*lines, f"next:  tunesmith {verb} --{kind} {shlex.quote(str(trained.output_dir))}"]
