"""The loop that every recipe with rows and steps shares: steps, evaluations, checkpoints, an end, a way back.

A recipe gives what only it knows, how a step's gradients come about and what an evaluation says; it calls
``run_loop`` where a reader expects the loop. No state lives here: all of it is in the ``Session``.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import NonFiniteLossError
from tunesmith.models.roles import Role
from tunesmith.runtime import release_memory
from tunesmith.training.checkpoint import load_checkpoint, prune, save_checkpoint
from tunesmith.training.optim import clip_gradients, learning_rate_at
from tunesmith.training.schedule import TrainConfig, rows_per_step, stop_on_signal
from tunesmith.training.session import Session
from tunesmith.training.watch import watch

# Rows of other lengths every step leave holes in the heap; without this the process grows by a GB in 20 steps.
TRIM_EVERY_STEPS = 10
# Called on the role between the gradients and the optimiser's step; tests and checks break the gradients there.
TweakGradients = Callable[[Role], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """What filling one step's gradients told: its metrics (``loss`` among them), and its tokens over all ranks."""

    metrics: Mapping[str, float]
    num_tokens: int


@dataclass(slots=True, kw_only=True)
class Loop:
    """What a run does at each step, and at each evaluation.

    num_examples: rows of one epoch. gradients: the 0-based step -> its gradients in ``.grad``. evaluate: metrics of
    the validation rows, ``eval_loss`` among them; None without such rows. name_rows: where the rows of a step come
    from, for an error. write_adapter: writes what a user loads into a checkpoint's folder. cost: what of an
    evaluation's metrics chooses the kept weights and stops early (lower is better).
    """

    config: TrainConfig
    session: Session
    num_steps: int
    num_examples: int
    gradients: Callable[[int], Gradients]
    evaluate: Callable[[], Mapping[str, float]] | None
    name_rows: Callable[[int], str]
    write_adapter: Callable[[Path], None]
    cost: Callable[[Mapping[str, float]], float] = operator.itemgetter("eval_loss")
    stopped_early: bool = False


def run_loop(loop: Loop) -> bool:
    """Steps, evaluations and checkpoints until the end, the patience or the user says stop; True if the user did."""
    session, state, config = loop.session, loop.session.state, loop.config
    eval_every = config.eval_steps or max(1, math.ceil(loop.num_steps / 10))
    save_every = config.save_steps or eval_every
    patience, stopping = config.early_stopping_patience, False
    loop.stopped_early = bool(patience) and state.evaluations_without_improvement >= patience
    with stop_on_signal() as stop, watch(loop.num_steps, state.step, session.device) as show:
        if state.step == 0 and loop.evaluate is not None:
            before = _evaluated(loop.evaluate)
            state.initial_metric = loop.cost(before)
            session.log(before)
        while state.step < loop.num_steps and not stopping and not loop.stopped_early:
            metrics = _step(loop)
            # One rank asked to stop stops them all, after the same step.
            stopping = session.world.sum(float(stop.asked)) > 0
            show(state.step, metrics)
            if state.step % TRIM_EVERY_STEPS == 0:
                release_memory()
            if state.step % config.logging_steps == 0:
                session.log(metrics)
            last = state.step == loop.num_steps
            if loop.evaluate is not None and (state.step % eval_every == 0 or last):
                after = _evaluated(loop.evaluate)
                improved = state.judge(loop.cost(after))
                show(state.step, after)
                session.log({**after, "generalization_gap": after["eval_loss"] - metrics["loss"]})
                loop.stopped_early = bool(patience) and state.evaluations_without_improvement >= patience
                if improved:
                    _save(loop)
            if state.step % save_every == 0 or stopping or last:
                _save(loop)
    return stopping and state.step < loop.num_steps


def _step(loop: Loop) -> dict[str, float]:
    """One optimiser step; returns its metrics."""
    session, state, config = loop.session, loop.session.state, loop.config
    rate = learning_rate_at(state.step, loop.num_steps, config)
    for group in session.optimizer.param_groups:
        group["lr"] = rate * group["lr_ratio"]
    step = state.step
    result = loop.gradients(step)
    norm = clip_gradients(list(session.parameters.values()), config.max_grad_norm)
    if not math.isfinite(norm):
        raise NonFiniteLossError(loop.name_rows(step), f"the gradient's norm is {norm}.", "Lower learning_rate.")
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    rows = rows_per_step(config, session.world)
    state.advance(num_tokens=result.num_tokens, epoch=step * rows // loop.num_examples)
    new_tokens, seconds = state.num_tokens - session.first_tokens, time.perf_counter() - session.began
    return {
        **result.metrics,
        "learning_rate": rate,
        "grad_norm": norm,
        "epoch": round(state.step * rows / loop.num_examples, 4),
        "num_tokens": state.num_tokens,
        "tokens_per_second": round(new_tokens / seconds, 1),
    }


def _evaluated(evaluate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    metrics = dict(evaluate())
    release_memory()
    return metrics


def _save(loop: Loop) -> None:
    session, state = loop.session, loop.session.state
    if session.world.is_main and state.saved_step != state.step:
        folder = session.run.folder
        save_checkpoint(folder, state, session.optimizer, session.parameters, write_adapter=loop.write_adapter)
        prune(folder, loop.config.save_total_limit, keep={state.best_step})
    session.world.barrier()


def keep_best(loop: Loop) -> float | None:
    """Put the best evaluation's weights back after the loop; returns the metric of the weights that are there now."""
    session, state = loop.session, loop.session.state
    if state.best_step in (0, state.step):
        return state.last_metric
    load_checkpoint(Path(loop.config.output_dir) / f"checkpoint-{state.best_step}", None, session.parameters)
    return state.best_metric
