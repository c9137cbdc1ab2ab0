"""A reward model: judged answers in, a scalar head on an adapter out, measured on prompts it never saw.

Read top to bottom: prepare, run folder and resume, loop, measure, save. The config is in ``recipes/reward_prepare.py``.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tunesmith.evals.reward import longer_wins, measure_grades, measure_reward, pairs_of
from tunesmith.models.adapters import save_role
from tunesmith.models.budget import peak_memory_bytes
from tunesmith.models.roles import Base, Role
from tunesmith.randomness import derive_seed
from tunesmith.recipes.reward_prepare import PreparedReward, RewardConfig, prepare_reward
from tunesmith.reports.plots import loss_curve
from tunesmith.reports.reward import write_reward_report
from tunesmith.rollout.score import OFFSET_KEY, RewardModel
from tunesmith.runs import read_metrics
from tunesmith.training.checkpoint import ResumeState, plan_of
from tunesmith.training.loop import Gradients, Loop, TweakGradients, keep_best, run_loop
from tunesmith.training.optim import build_optimizer
from tunesmith.training.reward_step import accumulate_reward_gradients, group_rewards, mean_reward_loss
from tunesmith.training.session import checkpoint_to_resume, open_session

# Step -> rewards of the validation prompts as an evaluation after it gave them, so that the report need not ask again.
Scored = dict[int, list[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedReward:
    """What a finished or interrupted run left behind; facts: what report.json holds, empty after an interruption."""

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
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the model."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name not in ("base", "role")}
        return {**kept, "output_dir": str(self.output_dir)}


def train_reward(
    config: RewardConfig, *, base: Base | None = None, tweak_gradients: TweakGradients | None = None
) -> TrainedReward:
    """Run the recipe, on a base of its own or on one already in memory."""
    # 1. Where to go on, and everything up to the first step.
    checkpoint = checkpoint_to_resume(config)
    prepared = prepare_reward(config, base, plan_of(checkpoint).get("dtype"))
    # 2. The run folder, and the state of a run that goes on.
    parameters = prepared.role.parameters
    optimizer = build_optimizer(parameters, config)
    facts = {"budget": prepared.budget.as_dict(), "data": data_facts(prepared)}
    with open_session(prepared, checkpoint, optimizer, parameters, facts, prepared.world) as session:
        # 3. The loop, and 4. what it leaves.
        plan, scored = session.state.plan, Scored()
        loop = Loop(
            config=config,
            session=session,
            num_steps=prepared.num_steps,
            num_examples=len(prepared.train),
            gradients=lambda step: _gradients(prepared, plan, step, tweak_gradients),
            evaluate=(lambda: _evaluate(prepared, session.state, scored)) if prepared.valid else None,
            name_rows=lambda step: ", ".join(str(group.where) for group in prepared.groups(step)),
            write_adapter=lambda folder: save_role(prepared.base, prepared.role, folder),
        )
        return _finish(prepared, loop, scored, interrupted=run_loop(loop))


def data_facts(prepared: PreparedReward) -> dict[str, Any]:
    """What was read and rendered, with everything that was left out and why."""
    rendered = {side: asdict(report) for side, report in prepared.reports.items()}
    return {**prepared.data.summary(), "rendered": rendered}


def _gradients(prepared: PreparedReward, plan: Mapping[str, Any], step: int, tweak: TweakGradients | None) -> Gradients:
    """Fill the gradients of one step; the plan of the run is replayed on resume, never decided again."""
    config = prepared.config
    sums = accumulate_reward_gradients(
        prepared.base,
        prepared.role,
        prepared.groups(step),
        prepared.world,
        prepared.loss,
        micro_batch_tokens=int(plan["micro_batch_tokens"]),
        # An adapter without dropout makes nothing of its seeds.
        dropout_seed=lambda row_id: derive_seed(config.seed, "lora_dropout", step, row_id),
        checkpointing=plan["checkpointing"],
    )
    if tweak is not None:
        tweak(prepared.role)
    return Gradients(metrics=sums.metrics(), num_tokens=int(sums.tokens))


def _evaluate(prepared: PreparedReward, state: ResumeState, scored: Scored) -> dict[str, float]:
    """Metrics of the validation rows, of which each rank scores every world.size-th prompt."""
    world, budget = prepared.world, int(state.plan["micro_batch_tokens"])
    mine = prepared.valid[world.rank :: world.size]
    rewards = group_rewards(prepared.base, prepared.role, mine, budget)
    if world.size == 1:
        # Of the evaluations before, only the best one's weights can still be asked for.
        for step in scored.keys() - {state.best_step}:
            del scored[step]
        scored[state.step] = rewards
    return mean_reward_loss(rewards, mine, world, prepared.loss).metrics("eval_")


def _finish(prepared: PreparedReward, loop: Loop, scored: Scored, interrupted: bool) -> TrainedReward:
    """The best weights are the result, measured and centred; an interrupted run keeps its checkpoint instead."""
    state, run = loop.session.state, loop.session.run
    seconds = time.perf_counter() - loop.session.began
    final, facts = state.last_metric, dict[str, Any]()
    if not interrupted:
        final = keep_best(loop)
        if prepared.world.is_main:
            facts = _measure(prepared, loop, scored)
            offset = facts[OFFSET_KEY]
            digest = RewardModel(base=prepared.base, role=prepared.role, offset=offset).digest
            extra = {"data_digest": prepared.data.digest, "reward_digest": digest, OFFSET_KEY: offset,
                     "loss_type": prepared.config.loss_type}  # fmt: skip
            save_role(prepared.base, prepared.role, run.folder, extra)
            metrics = read_metrics(run.folder / "metrics.jsonl")
            loss_curve(metrics, run.folder / "loss.png", best_step=state.best_step, unit=_unit(prepared.config))
            write_reward_report(run.folder, facts)
            run.finish({"eval_loss": final, "best_step": state.best_step, "stopped_early": loop.stopped_early})
    return TrainedReward(
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
        facts=facts,
    )


def _measure(prepared: PreparedReward, loop: Loop, scored: Scored) -> dict[str, Any]:
    """What the report shows, and the offset: held-out answers have mean reward 0, predicted grades their own level."""
    state, config = loop.session.state, prepared.config
    found = scored.get(state.best_step or state.step)
    if found is None:
        budget = int(state.plan["micro_batch_tokens"])
        found = group_rewards(prepared.base, prepared.role, prepared.valid or prepared.train, budget)
    rewards = [r.double().cpu().numpy() for r in found]
    offset = -prepared.loss.mean_grade if config.loss_type == "rating" else float(np.concatenate(rewards).mean())
    facts: dict[str, Any] = {
        OFFSET_KEY: offset,
        "loss_type": config.loss_type,
        "base": prepared.base.resolved.name,
        "data": data_facts(prepared),
        "best_step": state.best_step,
        "num_steps": state.step,
        "seed": config.seed,
        "initial_eval_loss": state.initial_metric,
        "eval_loss": state.best_metric if state.best_step else state.last_metric,
    }
    held_out = pairs_of(prepared.valid, [r - offset for r in rewards]) if prepared.valid else None
    if held_out is not None and len(held_out.right_P):
        facts["held_out"] = measure_reward(held_out, longer=longer_wins(prepared.train), seed=config.seed)
    if prepared.valid and config.loss_type == "rating":
        facts["grades"] = measure_grades(prepared.valid, [r - offset for r in rewards], prepared.loss.mean_grade)
    return facts


def _unit(config: RewardConfig) -> str:
    return {"pairwise": "nats a pair", "ranking": "nats a prompt", "rating": "squared grades"}[config.loss_type]


def describe_result(trained: TrainedReward, recipe: str) -> list[str]:
    """What to tell the user at the end: the numbers, what was written, the next command.

    recipe: as it was called, with the overrides that make it this run but for its folder.
    """
    if trained.interrupted:
        return [
            f"stopped after step {trained.num_steps}; nothing is lost.",
            f"next:  tunesmith reward {recipe} {shlex.quote(f'output_dir={trained.output_dir}')} "
            "resume_from_checkpoint=auto",
        ]
    before, after, lines = trained.initial_eval_loss, trained.final_eval_loss, list[str]()
    if before is not None and after is not None:
        lines.append(f"validation loss {before:.4f} -> {after:.4f}")
    if trained.stopped_early:
        lines.append(f"stopped early after {trained.num_steps} steps; the weights of step {trained.best_step} are kept")
    held = trained.facts.get("held_out")
    if held is not None:
        only = held["length_only"]
        lines += [
            f"right on {_percent(held['accuracy'])} of {held['pairs']} held-out pairs of {held['prompts']} prompts; "
            f"taking {only['takes']}: {_percent(only['accuracy'])}, p = {only['p']:.2g}",
            f"calibration error {held['ece']:.3f} ({held['ece_if_calibrated']:.3f} were it perfectly calibrated)",
            *(f"warning: {warning}" for warning in held["warnings"]),
        ]
    rate = trained.num_tokens / max(trained.train_seconds, 1e-9)
    return [
        *lines,
        f"{trained.num_steps} steps, {trained.num_tokens} tokens, {trained.train_seconds:.0f} s ({rate:.0f} tok/s), "
        f"peak {trained.peak_bytes / 1e9:.2f} GB",
        f"wrote {trained.output_dir}: adapter and head, report.html, report.json, metrics.jsonl, loss.png",
        f"next:  tunesmith score ROWS --adapter {shlex.quote(str(trained.output_dir))}",
    ]


def _percent(interval: list[float]) -> str:
    value, low, high = (100 * x for x in interval)
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
