"""A classifier: labelled texts in, an adapter under a linear head out, measured on rows it never saw.

Read top to bottom: prepare, run folder and resume, loop, measure, save. The config is in
``recipes/classify_prepare.py``.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.evals.classify import measure_classes
from tunesmith.evals.classify_baselines import baselines
from tunesmith.models.adapters import save_role
from tunesmith.models.budget import peak_memory_bytes
from tunesmith.models.classes import text_logits
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed
from tunesmith.recipes.classify_prepare import ClassifyConfig, PreparedClassifier, prepare_classifier
from tunesmith.reports.classify import write_classify_report
from tunesmith.reports.plots import loss_curve
from tunesmith.rollout.classify import LABELS_KEY, TEMPLATE_KEY, Classifier
from tunesmith.runs import read_metrics
from tunesmith.training.checkpoint import plan_of
from tunesmith.training.classify_step import accumulate_class_gradients, mean_class_loss
from tunesmith.training.loop import Gradients, Loop, TweakGradients, keep_best, run_loop
from tunesmith.training.optim import build_optimizer
from tunesmith.training.session import checkpoint_to_resume, open_session

# What of an evaluation chooses the weights, as a number that is better when lower.
COSTS: dict[str, Callable[[Mapping[str, float]], float]] = {
    "eval_loss": lambda metrics: metrics["eval_loss"],
    "eval_accuracy": lambda metrics: 1 - metrics["eval_accuracy"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedClassifier:
    """What a finished or interrupted run left behind; facts: what report.json holds, empty after an interruption."""

    output_dir: Path
    classifier: Classifier
    num_steps: int
    best_step: int
    stopped_early: bool
    interrupted: bool
    train_seconds: float
    num_tokens: int
    peak_bytes: int
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the model."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name != "classifier"}
        return {**kept, "output_dir": str(self.output_dir), LABELS_KEY: list(self.classifier.labels)}


def train_classifier(
    config: ClassifyConfig, *, base: Base | None = None, tweak_gradients: TweakGradients | None = None
) -> TrainedClassifier:
    """Run the recipe, on a base of its own or on one already in memory."""
    # 1. Where to go on, and everything up to the first step.
    checkpoint = checkpoint_to_resume(config)
    prepared = prepare_classifier(config, base, plan_of(checkpoint).get("dtype"))
    # 2. The run folder, and the state of a run that goes on.
    parameters = prepared.role.parameters
    optimizer = build_optimizer(parameters, config)
    facts = {"budget": prepared.budget.as_dict(), "data": data_facts(prepared)}
    with open_session(prepared, checkpoint, optimizer, parameters, facts, prepared.world) as session:
        # 3. The loop, and 4. what it leaves.
        plan = session.state.plan
        loop = Loop(
            config=config,
            session=session,
            num_steps=prepared.num_steps,
            num_examples=len(prepared.train),
            gradients=lambda step: _gradients(prepared, plan, step, tweak_gradients),
            evaluate=(lambda: _evaluate(prepared, plan)) if prepared.valid else None,
            name_rows=lambda step: ", ".join(str(text.row.where) for text in prepared.texts(step)),
            write_adapter=lambda folder: save_role(prepared.base, prepared.role, folder, provenance(prepared)),
            cost=COSTS[config.metric_for_best_model],
        )
        return _finish(prepared, loop, interrupted=run_loop(loop))


def data_facts(prepared: PreparedClassifier) -> dict[str, Any]:
    """What was read and rendered, with everything that was left out and why."""
    rendered = {side: asdict(report) for side, report in prepared.reports.items()}
    return {**prepared.data.summary(), "rendered": rendered}


def provenance(prepared: PreparedClassifier) -> dict[str, Any]:
    """What a folder must say besides its weights: the classes by the head's rows, and how texts are laid before it."""
    return {LABELS_KEY: list(prepared.data.labels), TEMPLATE_KEY: prepared.config.chat_template}


def _gradients(
    prepared: PreparedClassifier, plan: Mapping[str, Any], step: int, tweak: TweakGradients | None
) -> Gradients:
    """Fill the gradients of one step; the plan of the run is replayed on resume, never decided again."""
    config = prepared.config
    sums = accumulate_class_gradients(
        prepared.base,
        prepared.role,
        prepared.texts(step),
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


def _evaluate(prepared: PreparedClassifier, plan: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the validation rows, of which each rank takes every world.size-th."""
    world = prepared.world
    mine = prepared.valid[world.rank :: world.size]
    logits_NK = text_logits(prepared.base, prepared.role, [text.ids for text in mine], int(plan["micro_batch_tokens"]))
    return mean_class_loss(logits_NK, mine, world, prepared.loss).metrics("eval_")


def _finish(prepared: PreparedClassifier, loop: Loop, interrupted: bool) -> TrainedClassifier:
    """The best weights are the result, and are measured; an interrupted run keeps its checkpoint instead."""
    state, run = loop.session.state, loop.session.run
    seconds = time.perf_counter() - loop.session.began
    classifier = Classifier(
        base=prepared.base,
        role=prepared.role,
        labels=prepared.data.labels,
        chat_template=prepared.config.chat_template,
        budget_tokens=int(state.plan["micro_batch_tokens"]),
    )
    facts: dict[str, Any] = {}
    if not interrupted:
        kept = keep_best(loop)
        if prepared.world.is_main:
            facts = _measure(prepared, loop, classifier, kept)
            extra = {
                **provenance(prepared),
                "data_digest": prepared.data.digest,
                "classifier_digest": classifier.digest,
            }
            save_role(prepared.base, prepared.role, run.folder, extra)
            metrics = read_metrics(run.folder / "metrics.jsonl")
            loss_curve(metrics, run.folder / "loss.png", best_step=state.best_step, unit="nats a row")
            write_classify_report(run.folder, facts)
            run.finish(
                {facts["kept_by"]: facts["kept"], "best_step": state.best_step, "stopped_early": loop.stopped_early}
            )
    return TrainedClassifier(
        output_dir=run.folder,
        classifier=classifier,
        num_steps=state.step,
        best_step=state.best_step,
        stopped_early=loop.stopped_early,
        interrupted=interrupted,
        train_seconds=seconds,
        num_tokens=state.num_tokens,
        peak_bytes=peak_memory_bytes(prepared.base.device),
        facts=facts,
    )


def _measure(prepared: PreparedClassifier, loop: Loop, classifier: Classifier, kept: float | None) -> dict[str, Any]:
    """What the report shows: the test rows if there are any, else the validation rows, beside simpler ways."""
    state, config, data = loop.session.state, prepared.config, prepared.data
    side = "test" if prepared.sides["test"] else "validation"
    held = prepared.sides[side]
    facts: dict[str, Any] = {
        "base": prepared.base.resolved.name,
        "adapter": prepared.base.methods[str(prepared.role.adapter)],
        "trained_parameters": prepared.role.num_parameters,
        "data": data_facts(prepared),
        "class_weights": dict(zip(data.labels, prepared.loss.class_weights, strict=True)),
        "kept_by": config.metric_for_best_model,
        "initial": _as_metric(config, state.initial_metric),
        "kept": _as_metric(config, kept),
        "best_step": state.best_step,
        "num_steps": state.step,
        "seed": config.seed,
        "measured_on": side if held else "",
    }
    if held:
        train_N, class_N = (np.array([text.class_index for text in texts]) for texts in (prepared.train, held))
        train_texts, held_texts = ([text.row.text for text in texts] for texts in (prepared.train, held))
        others = baselines(train_texts, train_N, held_texts, len(data.labels), config.seed)
        probabilities_NK = classifier.probabilities([text.ids for text in held])
        facts["held_out"] = measure_classes(probabilities_NK, class_N, data.labels, others, config.seed)
    return facts


def _as_metric(config: ClassifyConfig, cost: float | None) -> float | None:
    """A cost as the metric it was made of."""
    return cost if cost is None or config.metric_for_best_model == "eval_loss" else 1 - cost


def describe_result(trained: TrainedClassifier, recipe: str) -> list[str]:
    """What to tell the user at the end: the numbers, what was written, the next command.

    recipe: as it was called, with the overrides that make it this run but for its folder.
    """
    if trained.interrupted:
        return [
            f"stopped after step {trained.num_steps}; nothing is lost.",
            f"next:  tunesmith classify {recipe} {shlex.quote(f'output_dir={trained.output_dir}')} "
            "resume_from_checkpoint=auto",
        ]
    facts, lines = trained.facts, list[str]()
    if facts.get("initial") is not None and facts.get("kept") is not None:
        lines.append(
            f"validation {facts['kept_by'].removeprefix('eval_')} {facts['initial']:.4f} -> {facts['kept']:.4f}"
        )
    if trained.stopped_early:
        lines.append(f"stopped early after {trained.num_steps} steps; the weights of step {trained.best_step} are kept")
    held = facts.get("held_out")
    if held is not None:
        value, low, high = held["macro_f1"]
        lines.append(
            f"right on {_percent(held['accuracy'])} of {held['rows']} {facts['measured_on']} rows; "
            f"macro-F1 {value:.3f} [{low:.3f}, {high:.3f}]"
        )
        lines += [
            f"{name}: {_percent(other['accuracy'])}, p = {other['p']:.2g}" for name, other in held["others"].items()
        ]
        lines.append(
            f"calibration error {held['ece']:.3f} ({held['ece_if_calibrated']:.3f} were it perfectly calibrated)"
        )
        lines += [f"warning: {warning}" for warning in held["warnings"]]
    rate = trained.num_tokens / max(trained.train_seconds, 1e-9)
    return [
        *lines,
        f"{trained.num_steps} steps, {trained.num_tokens} tokens, {trained.train_seconds:.0f} s ({rate:.0f} tok/s), "
        f"peak {trained.peak_bytes / 1e9:.2f} GB",
        f"wrote {trained.output_dir}: adapter and head, report.html, report.json, metrics.jsonl, loss.png",
        f"next:  tunesmith predict ROWS --adapter {shlex.quote(str(trained.output_dir))}",
    ]


def _percent(interval: list[float]) -> str:
    value, low, high = (100 * x for x in interval)
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
