"""Reinforcement learning from feedback: prompts and rewards in, a policy that earns more out (PPO, RLOO, GRPO).

Read top to bottom: prepare the roles, run folder and resume, the loop (sample, score, assign credit, update, log and
guard, checkpoint), save. Keys are in ``ppo_config.py``, what stands before the first iteration in ``ppo_prepare.py``,
a round's answers in ``ppo_round.py``, tables and last words in ``ppo_show.py``, the page and the win rate in
``ppo_report.py``; the update itself is ``training/rl_update.py``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from tunesmith.models.adapters import adapter_digest, save_role
from tunesmith.models.budget import peak_memory_bytes
from tunesmith.models.roles import Base
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.recipes.ppo_prepare import Prepared, prepare
from tunesmith.recipes.ppo_report import all_warnings, report_run
from tunesmith.recipes.ppo_round import Answers, answer, earned, observe_answers, source_metrics
from tunesmith.recipes.ppo_show import Aligned, Clock, Samples
from tunesmith.recipes.winrate import REWARDS_KEY
from tunesmith.reports.ppo import CURVES_FILE, draw_curves
from tunesmith.rollout.experience import Experience, sampler_difference
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.rewards import RewardSource
from tunesmith.runtime import release_memory
from tunesmith.training.checkpoint import load_checkpoint, plan_of, prune, save_checkpoint
from tunesmith.training.credit import CreditState, adapt_kl, assign_credit
from tunesmith.training.guards import Iteration, best_at_kl_budget, guard
from tunesmith.training.rl_update import build_rl_optimizer, learning_parameters, update
from tunesmith.training.schedule import stop_on_signal
from tunesmith.training.session import Session, checkpoint_to_resume, open_session
from tunesmith.training.watch import watch


@dataclass(slots=True, kw_only=True)
class _Job:
    """A run under way; ``history`` holds what each policy earned, the newest last."""

    prepared: Prepared
    session: Session
    credit: CreditState
    generator: LocalGenerator
    samples: Samples
    history: list[Iteration]
    warnings: list[str] = field(default_factory=list)


def align(config: PPOConfig, *, base: Base | None = None, reward: RewardSource | None = None) -> Aligned:
    """Run the recipe, on a base of its own or on one already in memory; ``reward`` stands in for the recipe's."""
    # 1. Where to go on, and everything up to the first iteration: prompts, roles on one base, rewards, memory.
    checkpoint = checkpoint_to_resume(config)
    prepared = prepare(config, base, plan_of(checkpoint).get("dtype"), reward)
    # 2. The run folder, and the state of a run that goes on.
    optimizer, parameters = build_rl_optimizer(prepared.roles, config), learning_parameters(prepared.roles)
    with open_session(prepared, checkpoint, optimizer, parameters, prepared.facts()) as session:
        saved = session.state.extras
        job = _Job(
            prepared=prepared,
            session=session,
            credit=CreditState.of(saved.get("credit", {"kl_coef": config.kl_coef})),
            # The plan of its memory has no second copy of the base.
            generator=LocalGenerator(prepared.base, max_rows=config.rollout_rows, weights="full"),
            samples=Samples(session.run.folder, after_step=session.state.step if session.resumed else -1),
            history=[Iteration(**one) for one in saved.get("history", [])],
            warnings=list(saved.get("warnings", [])),
        )
        # 3. The loop, and 4. what it leaves.
        return _finish(job, interrupted=_loop(job))


def _loop(job: _Job) -> bool:
    """Iterations until the end or until the user says stop; True if the user did."""
    config, state = job.prepared.config, job.session.state
    with stop_on_signal() as stop, watch(config.num_iterations, state.step, job.session.device) as show:
        if state.step == 0:
            # The policy before anything was learnt: a candidate like the others, and where a crash goes back to.
            _save(job)
        while state.step < config.num_iterations and not stop.asked:
            metrics = _iterate(job)
            show(state.step, metrics)
            if stop.asked or state.step % config.save_steps == 0 or state.step == config.num_iterations:
                _save(job)
        return stop.asked and state.step < config.num_iterations


def _iterate(job: _Job) -> dict[str, float]:
    """One round: sample, score, assign credit, update; returns its metrics."""
    prepared, config, session, state = job.prepared, job.prepared.config, job.session, job.session.state
    base, roles, iteration = prepared.base, prepared.roles, state.step
    clock = Clock()
    # Sample and score. Nothing has moved yet: an error in a reward loses nothing but these answers.
    try:
        answers = answer(prepared, job.generator, iteration, clock)
    except Exception:
        _save(job)
        raise
    # What every role says of every token, before anything moves.
    plan = state.plan
    seen = observe_answers(prepared, answers, int(plan["micro_batch_tokens"]))
    difference = sampler_difference(base, seen, answers.rollouts, roles.policy.adapter, config.temperature)
    credit = assign_credit(seen, answers.scores.total, answers.ended_B, config, job.credit)
    clock.lap("seconds/observe")
    # Guards and the best policy so far speak of the policy that answered: checkpoint-<iteration>.
    metrics = {**credit.metrics, "objective/kl_coef": job.credit.kl_coef, "val/sampler_difference": difference}
    _judge(job, answers, seen, credit.metrics)
    if iteration % config.plot_steps == 0:
        draw_curves(session.run.folder / CURVES_FILE, job.history, warned=all_warnings(job.history, config.guards))
    if iteration % config.sample_steps == 0:
        kl_B = ((seen.logprobs_BT - seen.reference_BT) * seen.mask_BT).sum(1).double().cpu().numpy()
        few = slice(0, config.num_samples)
        job.samples.write(iteration + 1, answers.items[few], answers.scores.total[few], kl_B[few])
    metrics |= update(
        base,
        roles,
        seen,
        credit,
        session.optimizer,
        config.model_copy(update={"micro_batch_tokens": int(plan["micro_batch_tokens"])}),
        seed=config.seed,
        iteration=iteration,
        num_iterations=config.num_iterations,
        kl_coef=job.credit.kl_coef,
        checkpointing=plan["checkpointing"],
    )
    adapt_kl(config, job.credit, metrics["objective/kl"])
    clock.lap("seconds/update")
    release_memory()
    state.advance(num_tokens=sum(e.num_tokens for e in seen.examples), epoch=0)
    metrics |= {"episode": state.step * len(answers.rollouts), "num_tokens": state.num_tokens, **clock.laps}
    session.log({**metrics, **source_metrics(prepared, answers.scores)})
    return metrics


def _judge(job: _Job, answers: Answers, seen: Experience, metrics: Mapping[str, float]) -> None:
    """Note what the policy that answered earned, warn where learning goes wrong, and name the best one so far."""
    config, state = job.prepared.config, job.session.state
    job.history.append(earned(job.prepared, state.step, answers, seen, metrics))
    for warned in guard(job.history, config.guards):
        job.warnings.append(str(warned))
        job.samples.tell(f"warning: {warned}")
    # Of the earlier policies only the best has a checkpoint for certain: a resume may have changed save_steps.
    due = state.step % config.save_steps == 0 or state.step == config.num_iterations
    saved = {state.best_step, state.step} if due else {state.best_step}
    best = best_at_kl_budget([one for one in job.history if one.step in saved], config.kl_budget)
    state.best_step = best.step if best is not None else 0


def _save(job: _Job) -> None:
    """A checkpoint of everything the next iteration depends on."""
    prepared, session, state = job.prepared, job.session, job.session.state
    if state.saved_step == state.step:
        return
    state.extras = {
        "credit": job.credit.as_dict(),
        "history": [asdict(one) for one in job.history],
        "warnings": job.warnings,
    }
    save_checkpoint(
        session.run.folder,
        state,
        session.optimizer,
        session.parameters,
        write_adapter=lambda folder: save_role(prepared.base, prepared.roles.policy, folder, _taught_by(prepared)),
    )
    prune(session.run.folder, prepared.config.save_total_limit, keep={state.best_step})


def _taught_by(prepared: Prepared) -> dict[str, dict[str, str]]:
    """For a policy's provenance: a judge that it was trained with is told by this."""
    return {REWARDS_KEY: dict(prepared.rewards.identity)}


def _finish(job: _Job, interrupted: bool) -> Aligned:
    """The best policy within the KL budget is the result; an interrupted run keeps its checkpoint instead."""
    prepared, state, run = job.prepared, job.session.state, job.session.run
    if not interrupted:
        _last_round(job)
        if state.best_step != state.step:
            kept = run.folder / f"checkpoint-{state.best_step}"
            load_checkpoint(kept, None, job.session.parameters)
        digest = adapter_digest(prepared.base, prepared.roles.policy.adapter)
        extra = {"adapter_digest": digest, "prompts_digest": prepared.loaded.digest, "iteration": state.best_step}
        save_role(prepared.base, prepared.roles.policy, run.folder, {**extra, **_taught_by(prepared)})
        _report(job)
    by_step = {one.step: one for one in job.history}
    aligned = Aligned(
        output_dir=run.folder,
        base=prepared.base,
        num_iterations=state.step,
        num_episodes=state.step * prepared.config.prompts_per_iteration * prepared.config.num_generations,
        first=by_step.get(0),
        best=by_step.get(state.best_step),
        last=by_step.get(state.step),
        warnings=job.warnings,
        interrupted=interrupted,
        train_seconds=time.perf_counter() - job.session.began,
        peak_bytes=peak_memory_bytes(prepared.base.device),
    )
    if not interrupted:
        run.finish(aligned.as_dict())
    return aligned


def _report(job: _Job) -> None:
    """The win rate of the policy that was kept, if the recipe asks for one, and the page about the run."""
    prepared, config, run = job.prepared, job.prepared.config, job.session.run
    roles, held_out = prepared.roles, prepared.held_out
    played = None
    if held_out is not None:
        played = held_out.play(
            prepared.base, job.generator, roles.policy.adapter, roles.reference, run.folder, job.samples.tell
        )
    report_run(
        run.folder,
        job.history,
        config.guards,
        algorithm=config.algorithm,
        kept=job.session.state.best_step,
        kl_budget=config.kl_budget,
        samples=job.samples.rows(),
        played=played,
        facts={"base": prepared.base.resolved.name, "seconds": round(time.perf_counter() - job.session.began)},
    )


def _last_round(job: _Job) -> None:
    """The last policy answers once more: it is judged like the others, and nothing is learnt from it."""
    prepared, session, state, clock = job.prepared, job.session, job.session.state, Clock()
    answers = answer(prepared, job.generator, state.step, clock)
    seen = observe_answers(prepared, answers, int(state.plan["micro_batch_tokens"]))
    # A copy: the scores of this round belong to no iteration.
    credit = assign_credit(seen, answers.scores.total, answers.ended_B, prepared.config, replace(job.credit))
    _judge(job, answers, seen, credit.metrics)
    metrics = {**credit.metrics, **source_metrics(prepared, answers.scores), **clock.laps}
    session.run.log_metrics(state.step + 1, metrics)
