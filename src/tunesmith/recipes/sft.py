"""Supervised fine-tuning: rows in, a trained and measured adapter out.

Read top to bottom: config, prepare (data, base, tokens, budget), run folder, resume, loop, save.
"""

from __future__ import annotations

import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from tunesmith.data.load import DataConfig, LoadedData, load_data
from tunesmith.errors import CheckpointError, ConfigError, NonFiniteLossError
from tunesmith.models.adapters import AdapterConfig, add_adapter, adapter_digest, save_role
from tunesmith.models.budget import Budget, decide, peak_memory_bytes
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base, Role
from tunesmith.randomness import derive_seed, permutation
from tunesmith.records import Example
from tunesmith.reports.plots import loss_curve
from tunesmith.runs import Run, read_metrics
from tunesmith.tokens.render import RenderConfig
from tunesmith.tokens.store import RenderReport, TokenStore, build_store
from tunesmith.training.checkpoint import ResumeState, find_latest_valid, load_checkpoint, prune, save_checkpoint
from tunesmith.training.distribute import World, from_environment
from tunesmith.training.optim import OptimConfig, build_optimizer, clip_gradients, learning_rate_at
from tunesmith.training.step import accumulate_gradients, mean_loss
from tunesmith.training.watch import Trackers, Watch


class TrainConfig(OptimConfig):
    """How long, in which batches, and what is written on the way; Hugging Face's names."""

    output_dir: str = "runs/sft"
    """Where the run is written; a folder in use is refused."""
    overwrite_output_dir: bool = False
    """Delete what an earlier, finished run left in output_dir."""
    num_train_epochs: float = Field(1.0, gt=0)
    """Passes over the rows; a fraction stops inside one."""
    max_steps: int = Field(-1, ge=-1)
    """Optimiser steps; -1 derives them from num_train_epochs."""
    per_device_train_batch_size: int = Field(8, ge=1)
    """Rows of one device that enter a step together with the accumulated ones."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Multiplies the rows of a step; batch x accumulation x world rows make one step, always."""
    micro_batch_tokens: int = Field(2048, ge=64)
    """Most tokens in memory at once; never changes the step, only its memory."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations in the backward pass; auto: only where memory demands it."""
    seed: int = Field(0, ge=0)
    """Keys all randomness: adapter start, order of rows, splits, dropout."""
    shuffle: bool = True
    """A new order of the rows every epoch; false keeps the file's order."""
    logging_steps: int = Field(1, ge=1)
    """Steps between two lines of metrics.jsonl."""
    eval_steps: int | None = Field(None, ge=1)
    """Steps between two evaluations on the validation rows; empty: about ten a run."""
    save_steps: int | None = Field(None, ge=1)
    """Steps between two checkpoints, the most a crash can lose; empty: about ten a run."""
    save_total_limit: int = Field(2, ge=1)
    """Checkpoints kept besides the best one."""
    early_stopping_patience: int = Field(3, ge=0)
    """Evaluations without improvement before training stops; 0 never stops."""
    resume_from_checkpoint: str | None = None
    """auto continues the newest whole checkpoint of output_dir; a path continues that one."""
    report_to: list[Literal["none", "tensorboard", "wandb", "trackio"]] = []
    """Trackers that also get the metrics, through their own libraries."""


class SFTConfig(ModelConfig, RenderConfig, TrainConfig):
    """The whole recipe of ``tunesmith sft``."""

    data: DataConfig
    """Where the rows are and how they are read."""
    adapter: AdapterConfig = AdapterConfig()
    """What is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that is known before the first step."""

    config: SFTConfig
    base: Base
    role: Role
    data: LoadedData
    train: TokenStore
    valid: TokenStore | None
    train_report: RenderReport
    valid_report: RenderReport | None
    budget: Budget
    num_steps: int
    rows_per_step: int
    world: World


def prepare(config: SFTConfig, folder: Path) -> Prepared:
    """Read, check, load, render and plan; tokens are laid into ``folder``."""
    world = from_environment(config.device)
    data = load_data(config.data, seed=config.seed)
    base = load_base(config.model_copy(update={"device": world.device}))
    role = add_adapter(base, "default", config.adapter, config.seed)
    limit = min(config.max_length or base.context_tokens, base.context_tokens)
    train, train_report = build_store(data.train, base.tokenizer, config, folder / "train", max_tokens=limit)
    valid, valid_report = None, None
    if len(data.validation):
        valid, valid_report = build_store(data.validation, base.tokenizer, config, folder / "valid", max_tokens=limit)
    wanted = None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing
    longest = max(train_report.longest_tokens, valid_report.longest_tokens if valid_report else 0)
    budget = decide(
        base, role, micro_batch_tokens=config.micro_batch_tokens, longest_tokens=longest, checkpointing=wanted
    )
    rows_per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * world.size
    steps = math.ceil(len(train) * config.num_train_epochs / rows_per_step - 1e-9)
    return Prepared(
        config=config,
        base=base,
        role=role,
        data=data,
        train=train,
        valid=valid,
        train_report=train_report,
        valid_report=valid_report,
        budget=budget,
        num_steps=config.max_steps if config.max_steps > 0 else max(1, steps),
        rows_per_step=rows_per_step,
        world=world,
    )


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


def train(config: SFTConfig, *, tweak_gradients: Callable[[Role], None] | None = None) -> Trained:
    """Run the recipe. tweak_gradients: called before each optimiser step; the quality check of bench/ breaks it."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-tokens-") as folder:
        prepared = prepare(config, Path(folder))
        return run_training(prepared, tweak_gradients)


def run_training(prepared: Prepared, tweak_gradients: Callable[[Role], None] | None = None) -> Trained:  # noqa: C901
    """The loop of a prepared recipe."""
    config, base, role, world = prepared.config, prepared.base, prepared.role, prepared.world
    # 1. Run folder and resume.
    checkpoint = _checkpoint_to_resume(config)
    recipe = config.model_dump(mode="json")
    run = Run.create(
        config.output_dir, recipe, resume=checkpoint is not None, overwrite=config.overwrite_output_dir
    )
    optimizer = build_optimizer(role.parameters, config)
    state = ResumeState(seed=config.seed, plan=_decisions(prepared), recipe=_identity(prepared))
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, optimizer, role.parameters, recipe=_identity(prepared))
        run.truncate_metrics(after_step=state.step)
    run.note({"plan": dict(state.plan), "notes": base.notes, "data": prepared.data.summary()})
    # 2. The plan of the run is replayed on resume, never decided again.
    checkpointing = bool(state.plan["checkpointing"])
    micro_batch_tokens = int(state.plan["micro_batch_tokens"])
    eval_every = config.eval_steps or max(1, math.ceil(prepared.num_steps / 10))
    save_every = config.save_steps or eval_every
    evaluate = _evaluator(prepared, micro_batch_tokens)
    began, tokens_at_start, stopped_early = time.perf_counter(), state.num_tokens, False
    trackers = Trackers(config.report_to, run.folder, recipe)
    # 3. The loop.
    with run, _stop_on_signal() as stop, Watch(prepared.num_steps, state.step, base.device) as watch:
        if state.step == 0 and prepared.valid is not None:
            state.initial_metric = evaluate()
            _log(run, trackers, 0, {"eval_loss": state.initial_metric})
        while state.step < prepared.num_steps and not stop.asked and not stopped_early:
            rows, epoch = _rows_of_step(prepared, state.step)
            rate = learning_rate_at(state.step, prepared.num_steps, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            result = accumulate_gradients(
                base,
                role,
                rows,
                world,
                micro_batch_tokens=micro_batch_tokens,
                dropout_seed=_dropout_seeds(config, state.step),
                checkpointing=checkpointing,
            )
            if tweak_gradients is not None:
                tweak_gradients(role)
            norm = clip_gradients(list(role.parameters.values()), config.max_grad_norm)
            if not math.isfinite(norm):
                places = ", ".join(str(row.where) for row in rows)
                raise NonFiniteLossError(places, f"the gradient's norm is {norm}.", "Lower learning_rate.")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.advance(num_tokens=result.num_tokens, epoch=epoch)
            speed = (state.num_tokens - tokens_at_start) / (time.perf_counter() - began)
            metrics = {
                "loss": result.loss,
                "learning_rate": rate,
                "grad_norm": norm,
                "epoch": round(state.step * prepared.rows_per_step / len(prepared.train), 4),
                "num_tokens": state.num_tokens,
                "tokens_per_second": round(speed, 1),
            }
            watch.update(state.step, metrics)
            if state.step % config.logging_steps == 0:
                _log(run, trackers, state.step, metrics)
            last = state.step == prepared.num_steps
            if prepared.valid is not None and (state.step % eval_every == 0 or last):
                loss = evaluate()
                improved = state.judge(loss)
                watch.update(state.step, {"eval_loss": loss})
                _log(run, trackers, state.step, {"eval_loss": loss, "generalization_gap": loss - result.loss})
                if improved:
                    _save(prepared, run, state, optimizer)
                patience = config.early_stopping_patience
                stopped_early = bool(patience) and state.evaluations_without_improvement >= patience
            if state.step % save_every == 0 or stop.asked or last:
                _save(prepared, run, state, optimizer)
    # 4. The best weights are the result; an interrupted run keeps its checkpoint instead.
    final = state.last_metric
    if not stop.asked:
        if state.best_step not in (0, state.step):
            load_checkpoint(Path(config.output_dir) / f"checkpoint-{state.best_step}", None, role.parameters)
            final = state.best_metric
        if world.is_main:
            extra = {"data_digest": prepared.data.digest, "adapter_digest": adapter_digest(base, role.adapter)}
            save_role(base, role, run.folder, extra)
            loss_curve(read_metrics(run.folder / "metrics.jsonl"), run.folder / "loss.png", best_step=state.best_step)
            run.finish({"eval_loss": final, "best_step": state.best_step, "stopped_early": stopped_early})
    trackers.close()
    return Trained(
        output_dir=run.folder,
        base=base,
        role=role,
        num_steps=state.step,
        initial_eval_loss=state.initial_metric,
        final_eval_loss=final,
        best_step=state.best_step,
        stopped_early=stopped_early,
        interrupted=stop.asked,
        train_seconds=time.perf_counter() - began,
        num_tokens=state.num_tokens,
        peak_bytes=peak_memory_bytes(base.device),
    )


def _rows_of_step(prepared: Prepared, step: int) -> tuple[list[Example], int]:
    """This rank's rows of one step and the epoch it starts in; a function of the step alone, so a resume needs no cursor.

    Steps run over the epochs' orders laid end to end, so no row is ever skipped to round an epoch.
    """
    config, world, size = prepared.config, prepared.world, len(prepared.train)
    first = step * prepared.rows_per_step
    total = math.ceil(size * config.num_train_epochs) if config.max_steps <= 0 else prepared.num_steps * prepared.rows_per_step
    places = range(first, min(first + prepared.rows_per_step, total))
    orders: dict[int, list[int]] = {}
    for epoch in {place // size for place in places}:
        shuffled = permutation(size, config.seed, "row_order", epoch) if config.shuffle else list(range(size))
        orders[epoch] = shuffled
    mine = [place for place in places if place % world.size == world.rank]
    return [prepared.train[orders[place // size][place % size]] for place in mine], first // size


def _dropout_seeds(config: SFTConfig, step: int) -> Callable[[int], int] | None:
    if config.adapter.lora_dropout == 0:
        return None
    return lambda row_id: derive_seed(config.seed, "lora_dropout", step, row_id)


def _evaluator(prepared: Prepared, micro_batch_tokens: int) -> Callable[[], float]:
    valid: Sequence[Example] = prepared.valid if prepared.valid is not None else []
    return lambda: mean_loss(prepared.base, prepared.role, valid, prepared.world, micro_batch_tokens)


def _decisions(prepared: Prepared) -> dict[str, Any]:
    """What the planner decided; written in the run and replayed on resume."""
    base = prepared.base
    return {
        "checkpointing": prepared.budget.checkpointing,
        "micro_batch_tokens": prepared.budget.micro_batch_tokens,
        "dtype": str(base.dtype).removeprefix("torch."),
        "kernels": "fast" if base.decoder is not None else "reference",
        "num_threads": torch.get_num_threads(),
    }


def _identity(prepared: Prepared) -> dict[str, Any]:
    """What must be the same for a resume to continue the same run."""
    free = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
    free |= {"logging_steps", "report_to"}
    recipe = prepared.config.model_dump(mode="json", exclude=free)
    return {**recipe, "data_digest": prepared.data.digest, "base_digest": prepared.base.resolved.base_digest}


def _checkpoint_to_resume(config: SFTConfig) -> Path | None:
    wanted = config.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted == "auto":
        return find_latest_valid(Path(config.output_dir))
    if not Path(wanted).is_dir():
        raise CheckpointError(wanted, "no such checkpoint.", "Name a checkpoint-<step> folder, or auto.")
    if Path(wanted).resolve().parent != Path(config.output_dir).resolve():
        raise ConfigError("resume_from_checkpoint", f"'{wanted}' is not in output_dir.", "Set output_dir to its folder.")
    return Path(wanted)


def _save(prepared: Prepared, run: Run, state: ResumeState, optimizer: torch.optim.Optimizer) -> None:
    if prepared.world.is_main and state.saved_step != state.step:
        save_checkpoint(
            run.folder,
            state,
            optimizer,
            prepared.role.parameters,
            write_adapter=lambda folder: save_role(prepared.base, prepared.role, folder),
        )
        prune(run.folder, prepared.config.save_total_limit, keep={state.best_step})
    prepared.world.barrier()


def _log(run: Run, trackers: Trackers, step: int, metrics: dict[str, float]) -> None:
    run.log_metrics(step, metrics)
    trackers.log(step, metrics)


@dataclass(slots=True)
class _Stop:
    asked: bool = False


@contextmanager
def _stop_on_signal() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM finish the step, save and leave; a second one leaves at once."""
    stop = _Stop()

    def ask(number: int, _: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe_result(trained: Trained, config: SFTConfig, recipe: Path) -> list[str]:
    """What to tell the user at the end: the numbers, what was written, the next command."""
    before, after = trained.initial_eval_loss, trained.final_eval_loss
    if trained.interrupted:
        return [
            f"stopped after step {trained.num_steps}; nothing is lost.",
            f"next:  tunesmith sft {recipe} output_dir={trained.output_dir} resume_from_checkpoint=auto",
        ]
    lines = [] if before is None or after is None else [f"validation loss {before:.4f} -> {after:.4f} nats a token"]
    if trained.stopped_early:
        lines.append(f"stopped early after {trained.num_steps} steps; the weights of step {trained.best_step} were kept.")
    rate = trained.num_tokens / max(trained.train_seconds, 1e-9)
    lines.append(
        f"{trained.num_steps} steps, {trained.num_tokens} tokens, {trained.train_seconds:.0f} s ({rate:.0f} tok/s), "
        f"peak {trained.peak_bytes / 1e9:.2f} GB"
    )
    lines.append(f"wrote {trained.output_dir}: adapter, metrics.jsonl, loss.png")
    what = f"--adapter {trained.output_dir}" if config.adapter.method == "lora" else f"--model {trained.output_dir}"
    return [*lines, f"next:  tunesmith chat {what}"]
