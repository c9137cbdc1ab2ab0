"""The stages of a round of Self-Instruct: instructions, their kind, their instances, and the rows that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.data.bootstrap.filters import instance_fault, instances_faults, instruction_fault
from tunesmith.data.bootstrap.parse import parse_input, parse_instances, parse_instruction, parse_yes_no
from tunesmith.data.bootstrap.prompts import (
    ask_answer,
    ask_classification,
    ask_instance,
    ask_instruction,
    draw_shown,
    looks_like_classification,
)
from tunesmith.data.bootstrap.rouge import Nearest, Pool
from tunesmith.data.bootstrap.seeds import Instance, Task
from tunesmith.recipes.bootstrap_ask import Asker, Reply
from tunesmith.recipes.bootstrap_config import BootstrapConfig

Stop = Literal["", "num", "idle", "interrupted"]


@dataclass(slots=True)
class Made:
    """What a run has come to: rows and turned-down answers in the order they came, and why it ended."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    unread_kinds: int = 0
    num_instruction_requests: int = 0
    num_idle_requests: int = 0
    stopped: Stop = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An instruction that got into the pool, with where it comes from."""

    step: int
    instruction: str
    shown: tuple[str, ...]
    request: str
    nearest: Nearest | None
    is_classification: bool = False
    kind_by: str = "rule"


def new_instructions(
    config: BootstrapConfig, seeds: Sequence[Task], asker: Asker, made: Made, pool: Pool, steps: range
) -> list[Candidate]:
    """Ask for one instruction a step; what passes goes into the pool, in the order of the steps."""
    shown = [
        draw_shown(
            seeds,
            made.tasks,
            num_shown=config.num_shown,
            num_made=config.num_made_shown,
            seed=config.seed,
            step=step,
        )
        for step in steps
    ]
    replies = asker.ask(
        "instruction",
        [(step, ask_instruction(tasks)) for step, tasks in zip(steps, shown, strict=True)],
        config.max_instruction_tokens,
    )
    out = []
    for step, tasks, reply in zip(steps, shown, replies, strict=True):
        text = parse_instruction(reply.text)
        fault = reply.fault or instruction_fault(text, config.filters)
        nearest = pool.nearest(text) if fault is None else None
        if nearest is not None and nearest.score >= config.filters.max_rouge_l:
            fault = "similar"
        if fault is not None:
            extra = {"nearest": {"id": nearest.id, "rouge_l": round(nearest.score, 4)}} if nearest else {}
            _reject(made, "instruction", step, fault, reply, instruction=text, **extra)
            continue
        pool.add(_task_id(step), text)
        ids = tuple(task.id for task in tasks)
        out.append(Candidate(step=step, instruction=text, shown=ids, request=reply.key, nearest=nearest))
    return out


def tell_kinds(
    config: BootstrapConfig, seeds: Sequence[Task], asker: Asker, made: Made, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Say of every instruction whether it is classification; an answer that says neither leaves it to the rule."""
    answers: list[bool | None] = [None] * len(candidates)
    if config.scheme == "paper":
        asked = [
            (one.step, ask_classification(one.instruction, seeds, seed=config.seed, step=one.step))
            for one in candidates
        ]
        answers = [parse_yes_no(reply.text) for reply in asker.ask("classification", asked, 8, greedy=True)]
        made.unread_kinds += answers.count(None)
    return [
        Candidate(
            step=one.step,
            instruction=one.instruction,
            shown=one.shown,
            request=one.request,
            nearest=one.nearest,
            is_classification=looks_like_classification(one.instruction) if answer is None else answer,
            kind_by="rule" if answer is None else "writer",
        )
        for one, answer in zip(candidates, answers, strict=True)
    ]


def make_instances(
    config: BootstrapConfig, seeds: Sequence[Task], asker: Asker, made: Made, candidates: Sequence[Candidate]
) -> list[tuple[Candidate, list[Instance], Reply]]:
    """Ask for the instances of every instruction; answers that hold none are turned down."""
    asked = [
        (
            one.step,
            ask_instance(
                one.instruction,
                seeds,
                label_first=one.is_classification,
                num_shots=config.num_shots,
                seed=config.seed,
                step=one.step,
            ),
        )
        for one in candidates
    ]
    out, inputs = [], list[tuple[Candidate, str]]()
    for one, reply in zip(candidates, asker.ask("instance", asked, config.max_instance_tokens), strict=True):
        by_asking = config.scheme == "small" and not one.is_classification
        given = parse_input(reply.text) if by_asking else None
        instances = [] if by_asking else parse_instances(reply.text)
        fault = reply.fault or ("unparseable" if given is None and not instances else None)
        if fault is None and given is not None:
            # An input that repeats itself or the task is not worth an answer; "-" stands for the output to come.
            fault = instance_fault(one.instruction, Instance(given, "-"), config.filters)
        if fault is not None:
            _reject(made, "instance", one.step, fault, reply, instruction=one.instruction)
        elif given is not None:
            inputs.append((one, given))
        else:
            out.append((one, instances, reply))
    answers = asker.ask(
        "answer",
        [(one.step, ask_answer(one.instruction, given)) for one, given in inputs],
        config.max_instance_tokens,
    )
    for (one, given), reply in zip(inputs, answers, strict=True):
        if reply.fault:
            _reject(made, "answer", one.step, reply.fault, reply, instruction=one.instruction, input=given)
        else:
            out.append((one, [Instance(given, reply.text.strip())], reply))
    return sorted(out, key=lambda item: item[0].step)


def keep_rows(
    config: BootstrapConfig, made: Made, asker: Asker, candidate: Candidate, instances: list[Instance], reply: Reply
) -> None:
    """Turn the instances of one instruction into rows, as far as they pass and are wanted."""
    kept: list[Instance] = []
    faults = instances_faults(candidate.instruction, instances, config.filters)
    for instance, fault in zip(instances, faults, strict=True):
        if fault is None and len(kept) >= config.max_instances:
            fault = "beyond_max_instances"
        if fault is None and len(made.rows) >= config.num:
            fault = "beyond_num"
        if fault is not None:
            _reject(
                made,
                reply.stage,
                candidate.step,
                fault,
                reply,
                instruction=candidate.instruction,
                input=instance.input,
                output=instance.output,
            )
            continue
        made.rows.append(_row(candidate, instance, len(kept), reply, asker))
        kept.append(instance)
    if kept:
        made.tasks.append(
            Task(
                id=_task_id(candidate.step),
                instruction=candidate.instruction,
                instances=tuple(kept),
                is_classification=candidate.is_classification,
            )
        )


def _row(candidate: Candidate, instance: Instance, number: int, reply: Reply, asker: Asker) -> dict[str, Any]:
    nearest = candidate.nearest
    return {
        "id": f"{_task_id(candidate.step)}_{number}",
        "instruction": candidate.instruction,
        "input": instance.input,
        "output": instance.output,
        "lineage": {
            "step": candidate.step,
            "shown": list(candidate.shown),
            "is_classification": candidate.is_classification,
            "kind_by": candidate.kind_by,
            "requests": {"instruction": candidate.request, reply.stage: reply.key},
            "nearest": {"id": nearest.id, "rouge_l": round(nearest.score, 4)} if nearest else None,
            "writer": dict(asker.identity),
        },
    }


def _reject(made: Made, stage: str, step: int, reason: str, reply: Reply, **held: Any) -> None:
    row = {"stage": stage, "step": step, "reason": reason, **held, "answer": reply.text, "request": reply.key}
    made.rejected.append(row)


def _task_id(step: int) -> str:
    return f"made_{step:06d}"
