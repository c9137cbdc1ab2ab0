"""Self-Instruct (arXiv:2212.10560): seeds -> new instructions -> kind -> instances -> filters -> rows with lineage.

The loop is a replay: every request is a function of the seeds, the settings and the answers before it, and answers are
looked up in ``requests.jsonl`` before anybody is asked. A stopped or killed run goes on by being run again, and the
same cache gives the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.bootstrap.filters import FilterConfig, instance_fault, instances_faults, instruction_fault
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
from tunesmith.data.bootstrap.seeds import Instance, Task, read_seeds
from tunesmith.errors import EndpointError, RunError
from tunesmith.evals.results import ResultsFile
from tunesmith.recipes.bootstrap_ask import Asker, Reply
from tunesmith.rollout.writer import Writer
from tunesmith.runs import RECIPE_FILE, RECORD_FILE, Run, atomic_write_text

ROWS_FILE, REJECTED_FILE, REQUESTS_FILE = "data.jsonl", "rejected.jsonl", "requests.jsonl"
# What may differ from the run that a folder holds: how far to go, not how.
HOW_FAR = ("num", "max_idle_requests")
Stop = Literal["", "num", "idle", "interrupted"]


class BootstrapConfig(Config):
    """How new rows are made."""

    seeds: str = Field(min_length=1)
    """Seed tasks: Self-Instruct's or Alpaca's columns."""
    output_dir: str = Field(min_length=1)
    """Folder of the rows, the turned-down answers, the requests and the report."""
    writer: dict[str, str]
    """Who writes, as the writer itself says."""
    num: int = Field(500, ge=1)
    """Rows wanted."""
    seed: int = Field(0, ge=0)
    """Keys which seeds are shown and every draw of the writer."""
    scheme: Literal["paper", "small"] = "paper"
    """paper: the writer is asked for the kind of a task, and for input and output at once. small, for models that
    cannot do that: the kind by a rule on words, and the output by giving the writer the task itself."""
    num_shown: int = Field(8, ge=1)
    """Tasks shown in a request for a new one."""
    num_made_shown: int = Field(2, ge=0)
    """How many of them are machine-made, once there are some."""
    num_shots: int = Field(4, ge=1)
    """Instances shown in a request for an instance."""
    requests_at_once: int = Field(8, ge=1)
    """New instructions asked for in one round; they see the same machine-made tasks."""
    max_idle_requests: int = Field(200, ge=1)
    """Stop after so many requests for instructions without a new row."""
    max_instances: int = Field(3, ge=1)
    """Rows of one instruction at most."""
    temperature: float = Field(0.7, ge=0, le=10)
    """Of every request but the question for the kind, which is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Of every request but the question for the kind."""
    max_instruction_tokens: int = Field(96, ge=1)
    """Longest answer to a request for an instruction; one that is cut off is turned down."""
    max_instance_tokens: int = Field(384, ge=1)
    """Longest answer to a request for an instance or an output; one that is cut off is turned down."""
    filters: FilterConfig = FilterConfig()
    """Limits of what is kept."""

    def check_seeds(self) -> None:
        """Raise DataError where the seeds cannot be read."""
        read_seeds(self.seeds)


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


@contextmanager
def make_rows(
    config: BootstrapConfig, writer: Writer, progress: Callable[[Made, Asker], None] = lambda made, asker: None
) -> Iterator[tuple[Made, Asker, list[Task]]]:
    """Make rows in ``config.output_dir`` and give (what was made, who was asked, the seeds); the folder is held.

    Ctrl-C and an error of the writer save what there is; the first is noted in ``stopped``, the second goes on its way.
    Raises RunError for a folder that holds another run, DataError, EndpointError, DiskFullError.
    """
    seeds, digest = read_seeds(config.seeds)
    folder = Path(config.output_dir)
    recipe = {**config.model_dump(mode="json"), "seeds_digest": digest}
    _refuse_other(folder, recipe)
    with Run.create(folder, recipe, resume=True) as run:
        asker = Asker(writer, ResultsFile(folder / REQUESTS_FILE), config)
        made = Made()
        try:
            _loop(config, seeds, asker, made, progress)
        except KeyboardInterrupt:
            made.stopped = "interrupted"
        except EndpointError as error:
            fix = f"{error.fix} What was answered is kept; the same command goes on."
            raise EndpointError(error.place, error.cause, fix) from None
        finally:
            save_rows(folder, made)
        yield made, asker, seeds
        run.finish({"rows": len(made.rows), "rejected": len(made.rejected), "stopped": made.stopped})


def _refuse_other(folder: Path, recipe: dict[str, Any]) -> None:
    """Raise RunError where the folder holds a run of another kind, other seeds, another writer or other settings."""
    if not (folder / RECORD_FILE).exists() or not (folder / RECIPE_FILE).exists():
        return
    earlier = _read_recipe(folder / RECIPE_FILE)
    differing = sorted(
        key for key in {*earlier, *recipe} - {*HOW_FAR, "output_dir", "seeds"} if earlier.get(key) != recipe.get(key)
    )
    if differing:
        raise RunError(
            folder,
            f"holds a run with other settings ({', '.join(differing)}).",
            "Choose another --output; to go on, give the same settings.",
        )


def _read_recipe(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return dict(tree) if isinstance(tree, dict) else {}


def save_rows(folder: Path, made: Made) -> None:
    """Write the rows and the turned-down answers, each file whole. Raises DiskFullError."""
    for name, rows in ((ROWS_FILE, made.rows), (REJECTED_FILE, made.rejected)):
        # ASCII escapes keep a line a line, and lone surrogates writable, whatever a model said.
        atomic_write_text(folder / name, "".join(json.dumps(row) + "\n" for row in rows))


def _loop(
    config: BootstrapConfig,
    seeds: Sequence[Task],
    asker: Asker,
    made: Made,
    progress: Callable[[Made, Asker], None],
) -> None:
    """Rounds until there are enough rows, or none has come for too long."""
    pool = Pool()
    for task in seeds:
        pool.add(task.id, task.instruction)
    step = 0
    while not made.stopped:
        steps = range(step, step + config.requests_at_once)
        step = steps.stop
        before = len(made.rows)
        candidates = _new_instructions(config, seeds, asker, made, pool, steps)
        candidates = _kinds(config, seeds, asker, made, candidates)
        for candidate, instances, request in _instances(config, seeds, asker, made, candidates):
            _keep(config, made, asker, candidate, instances, request)
        made.num_instruction_requests = step
        made.num_idle_requests = 0 if len(made.rows) > before else made.num_idle_requests + len(steps)
        made.stopped = _end_of(config, made)
        progress(made, asker)


def _end_of(config: BootstrapConfig, made: Made) -> Stop:
    """Why the run is at its end; empty where it is not."""
    if len(made.rows) >= config.num:
        return "num"
    return "idle" if made.num_idle_requests >= config.max_idle_requests else ""


def _new_instructions(
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


def _kinds(
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


def _instances(
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


def _keep(
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
