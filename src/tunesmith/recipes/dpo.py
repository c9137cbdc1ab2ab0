"""Preference tuning without a reward model: DPO and IPO on pairs, KTO on single verdicts.

Read top to bottom: prepare, run folder and resume, loop, save. The config is in ``recipes/dpo_prepare.py``.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.models.adapters import adapter_digest, save_role
from tunesmith.models.budget import peak_memory_bytes
from tunesmith.models.roles import Base, Role
from tunesmith.randomness import derive_seed
from tunesmith.recipes.dpo_prepare import DPOConfig, Prepared, prepare
from tunesmith.reports.plots import loss_curve
from tunesmith.runs import read_metrics
from tunesmith.stats import Interval, wilson_interval
from tunesmith.training.checkpoint import plan_of
from tunesmith.training.loop import Gradients, Loop, TweakGradients, keep_best, run_loop
from tunesmith.training.optim import build_optimizer
from tunesmith.training.preference import Model, accumulate_preference, mean_preference
from tunesmith.training.session import checkpoint_to_resume, open_session


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """What a finished or interrupted run left behind; losses in the loss's own unit, margins in beta times nats.

    accuracy: share of held-out pairs whose better answer gained more on the reference (kto: of answers on the right
    side of the reference point); None without held-out rows.
    """

    output_dir: Path
    base: Base
    role: Role
    num_steps: int
    initial_eval_loss: float | None
    final_eval_loss: float | None
    accuracy: Interval | None
    eval_metrics: Mapping[str, float]
    best_step: int
    stopped_early: bool
    interrupted: bool
    train_seconds: float
    num_tokens: int
    peak_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the model."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name not in ("base", "role", "accuracy")}
        interval = self.accuracy and {name: getattr(self.accuracy, name) for name in ("value", "low", "high")}
        return {**kept, "output_dir": str(self.output_dir), "accuracy": interval}


def train(config: DPOConfig, *, base: Base | None = None, tweak_gradients: TweakGradients | None = None) -> Aligned:
    """Run the recipe, on a base of its own or on one already in memory."""
    # 1. Where to go on, and everything up to the first step, the reference's scores included.
    checkpoint = checkpoint_to_resume(config)
    prepared = prepare(config, base, plan_of(checkpoint).get("dtype"))
    # 2. The run folder, and the state of a run that goes on.
    parameters = prepared.role.parameters
    optimizer = build_optimizer(parameters, config)
    with open_session(prepared, checkpoint, optimizer, parameters, prepared.facts(), prepared.world) as session:
        # 3. The loop, and 4. what it leaves.
        plan, groups = session.state.plan, prepared.train.groups
        loop = Loop(
            config=config,
            session=session,
            num_steps=prepared.num_steps,
            num_examples=len(groups),
            gradients=lambda step: _gradients(prepared, plan, step, tweak_gradients),
            evaluate=None if prepared.valid is None else lambda: _evaluate(prepared, plan),
            name_rows=lambda step: ", ".join(str(groups[i].where) for i in prepared.indices(step)),
            write_adapter=lambda folder: save_role(prepared.base, prepared.role, folder),
        )
        return _finish(prepared, loop, interrupted=run_loop(loop))


def _model(prepared: Prepared, plan: Mapping[str, Any], step: int | None = None) -> Model:
    """The policy as a step or an evaluation (None) runs it; the plan of the run is replayed on resume."""
    seed, dropout = prepared.config.seed, prepared.config.adapter.lora_dropout
    return Model(
        base=prepared.base,
        role=prepared.role,
        micro_batch_tokens=int(plan["micro_batch_tokens"]),
        checkpointing=step is not None and plan["checkpointing"],
        dropout_seed=(lambda row_id: derive_seed(seed, "lora_dropout", step, row_id))
        if dropout and step is not None
        else None,
    )


def _gradients(prepared: Prepared, plan: Mapping[str, Any], step: int, tweak: TweakGradients | None) -> Gradients:
    """Fill the gradients of one step."""
    groups, references = prepared.train.take(prepared.indices(step))
    model = _model(prepared, plan, step)
    result = accumulate_preference(model, prepared.config, groups, references, prepared.world)
    if tweak is not None:
        tweak(prepared.role)
    return Gradients(metrics=result.metrics, num_tokens=result.num_tokens)


def _evaluate(prepared: Prepared, plan: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the held-out rows under the prefix eval_, the accuracy with its 95 % interval."""
    assert prepared.valid is not None
    metrics = mean_preference(
        _model(prepared, plan), prepared.config, prepared.valid.groups, prepared.valid.references, prepared.world
    )
    right = wilson_interval(round(metrics.pop("num_right")), round(metrics.pop("num_judged")))
    # A share of counts, so that the interval is one: weights of pairs have no part in it.
    accuracy = {"": right.value, "_low": right.low, "_high": right.high}
    metrics |= {f"rewards/accuracies{limit}": value for limit, value in accuracy.items()}
    return {f"eval_{name}": value for name, value in metrics.items()}


def _finish(prepared: Prepared, loop: Loop, interrupted: bool) -> Aligned:
    """The best weights are the result; an interrupted run keeps its checkpoint instead."""
    state, run = loop.session.state, loop.session.run
    seconds = time.perf_counter() - loop.session.began
    final = state.last_metric
    metrics = read_metrics(run.folder / "metrics.jsonl")
    if not interrupted:
        final = keep_best(loop)
        if prepared.world.is_main:
            digest = adapter_digest(prepared.base, prepared.role.adapter)
            extra = {"data_digest": prepared.data.digest, "reference_digest": prepared.reference_digest}
            save_role(prepared.base, prepared.role, run.folder, {**extra, "adapter_digest": digest})
            loss_curve(metrics, run.folder / "loss.png", best_step=state.best_step, unit="mean of a row")
            run.finish({"eval_loss": final, "best_step": state.best_step, "stopped_early": loop.stopped_early})
    kept_step = state.step if interrupted else state.best_step
    evaluations = [line for line in metrics if line["step"] == kept_step and "eval_loss" in line]
    kept = evaluations[-1] if evaluations else {}
    accuracy = None
    if kept:
        names = ("eval_rewards/accuracies", "eval_rewards/accuracies_low", "eval_rewards/accuracies_high")
        accuracy = Interval(*(float(kept[name]) for name in names))
    return Aligned(
        output_dir=run.folder,
        base=prepared.base,
        role=prepared.role,
        num_steps=state.step,
        initial_eval_loss=state.initial_metric,
        final_eval_loss=final,
        accuracy=accuracy,
        eval_metrics={name: value for name, value in kept.items() if name.startswith("eval_")},
        best_step=state.best_step,
        stopped_early=loop.stopped_early,
        interrupted=interrupted,
        train_seconds=seconds,
        num_tokens=state.num_tokens,
        peak_bytes=peak_memory_bytes(prepared.base.device),
    )


def describe_result(aligned: Aligned, config: DPOConfig, recipe: str) -> list[str]:
    """What to tell the user at the end: the numbers, what was written, the next command."""
    before, after = aligned.initial_eval_loss, aligned.final_eval_loss
    if aligned.interrupted:
        return [
            f"stopped after step {aligned.num_steps}; nothing is lost.",
            f"next:  tunesmith dpo {recipe} {shlex.quote(f'output_dir={aligned.output_dir}')} "
            "resume_from_checkpoint=auto",
        ]
    lines = [] if before is None or after is None else [f"validation loss {before:.4f} -> {after:.4f}"]
    if aligned.accuracy is not None:
        what = "answers on the right side" if config.loss_type == "kto" else "pairs told apart as people did"
        lines.append(f"held-out {what}: {aligned.accuracy.percent()} (95 % interval)")
        if "eval_rewards/margins" in aligned.eval_metrics:
            lines.append(f"held-out reward margin: {aligned.eval_metrics['eval_rewards/margins']:.4f}")
    if aligned.stopped_early:
        lines.append(
            f"stopped early after {aligned.num_steps} steps; the weights of step {aligned.best_step} were kept."
        )
    lines.append(
        f"{aligned.num_steps} steps, {aligned.num_tokens} tokens, {aligned.train_seconds:.0f} s, "
        f"peak {aligned.peak_bytes / 1e9:.2f} GB"
    )
    is_adapter = config.adapter.method != "full" or config.adapter_name_or_path is not None
    kind = "adapter" if is_adapter else "model"
    lines.append(f"wrote {aligned.output_dir}: {kind}, metrics.jsonl, loss.png")
    return [*lines, f"next:  tunesmith chat --{kind} {shlex.quote(str(aligned.output_dir))}"]
