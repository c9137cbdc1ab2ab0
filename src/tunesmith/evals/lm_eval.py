"""Tasks of lm-evaluation-harness on our models, their values item by item as with our own tasks."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.errors import DataError, MissingExtraError
from tunesmith.evals.lm_eval_model import harness_model, harness_parts
from tunesmith.evals.run import Answer, TaskResult
from tunesmith.evals.subject import Subject
from tunesmith.evals.task import Item, Reply, Request, Task
from tunesmith.records import Message, Verdict
from tunesmith.rollout.results import ResultsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessResult:
    """One task of the harness: our result, the figures the harness itself reports, and contexts it had to cut.

    left_out: metrics the harness computes over all items together, which have no value an item.
    """

    result: TaskResult
    reported: Mapping[str, float]
    left_out: tuple[str, ...]
    num_cut: int


def lm_eval_suite(
    name: str,
    subject: Subject,
    results_path: Path,
    *,
    limit: int | None = None,
    num_shots: int | None = None,
    chat_template: bool = False,
    seed: int = 1234,
    on_progress: Callable[[int, int], None] = lambda done, asked: None,
) -> list[HarnessResult]:
    """Run a task, group or tag of lm-evaluation-harness by its name, or a task file (.yaml) of one's own.

    limit: items of each task, its first ones. num_shots: instead of the task's own, unless that is a fixed 0. seed:
    which examples are shown. Replies are kept in the results file, as with ``run_task``. A task by name reads its data
    from the hub; a file may name local data. Raises MissingExtraError, and DataError for an unknown task, data that
    cannot be read, a task that runs programs, and a subject that is not on this machine.
    """
    parts = harness_parts(subject, ResultsFile(results_path))
    parts.seed, parts.on_progress = seed, on_progress
    model = harness_model(parts)
    with _own_random_state(seed):
        tasks = _load(name, num_shots, seed)
        out = []
        for task_name, task in tasks.items():
            parts.num_cut = 0
            parts.seen.clear()
            found = _evaluate(model, task_name, task, limit, chat_template)
            found["losses"] = {metric for metric, more in task.higher_is_better().items() if not more}
            out.append(_result(task_name, found, subject.label, parts.num_cut))
    return out


def _load(name: str, num_shots: int | None, seed: int) -> dict[str, Any]:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtraError(
            "lm-eval", "lm-evaluation-harness is not installed.", "pip install 'tunesmith[eval]'"
        ) from None
    is_file = Path(name).is_file()
    manager = TaskManager(include_defaults=not is_file)
    try:
        loaded: dict[str, Any] = dict(manager.load([name])["tasks"])
    except KeyError:
        near = get_close_matches(name, manager.all_tasks, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "lm-eval ls tasks shows them all."
        raise DataError(f"lm-eval:{name}", "no such task and no such file.", hint) from None
    except OSError as error:
        raise DataError(
            f"lm-eval:{name}",
            f"its data cannot be read: {error}",
            "Fetch them while there is a network, or use a file.",
        ) from None
    for task_name, task in loaded.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise DataError(f"lm-eval:{task_name}", "it runs programs a model wrote.", "Use lm-eval itself, contained.")
        own = task.get_config("num_fewshot")
        if num_shots is not None and own != 0:
            task.set_config(key="num_fewshot", value=num_shots)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return loaded


def _evaluate(model: Any, name: str, task: Any, limit: int | None, chat_template: bool) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate

    found = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}, "groups": {}, "group_map": {}},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )
    return {key: found[key][name] for key in ("results", "samples", "versions")}


def _result(name: str, found: Mapping[str, Any], label: str, num_cut: int) -> HarnessResult:
    by_item: dict[int, list[Mapping[str, Any]]] = {}
    for sample in found["samples"]:
        by_item.setdefault(sample["doc_id"], []).append(sample)
    answers, left_out, losses = [], set(), set()
    for doc_id in sorted(by_item):
        values: dict[str, float] = {}
        for sample in by_item[doc_id]:
            behind = "" if sample["filter"] == "none" else f",{sample['filter']}"
            for metric in sample["metrics"]:
                own = item_values(metric, sample[metric])
                values |= {f"{key}{behind}": value for key, value in own.items()}
                left_out |= set() if own else {f"{metric}{behind}"}
                # Its perplexity is told as a log-probability, of which more is better.
                losses |= {f"{metric}{behind}"} if metric in found["losses"] and metric in own else set()
        answers.append(_answer(by_item[doc_id][0], values))
    names = list(dict.fromkeys(key for answer in answers for key in answer.verdict.values))
    is_ratio = "bits" in names and "bytes" in names
    metrics = [key for key in names if key not in ("bits", "bytes")]
    if not metrics:
        raise DataError(f"lm-eval:{name}", f"no metric with a value an item, but {sorted(left_out)}.", "Use lm-eval.")
    verdicts = {answer.item.id: answer.verdict for answer in answers}
    replies = [answer.reply for answer in answers]
    task = Task(
        name=f"lm-eval:{name}",
        version=_version(found["versions"]),
        items=tuple(answer.item for answer in answers),
        # The harness has asked and judged already.
        solver=lambda items, generate: replies,
        scorer=lambda item, reply: verdicts[item.id],
        metrics=tuple(metrics),
        ratios={"bits_per_byte": ("bits", "bytes")} if is_ratio else {},
        losses=frozenset(losses),
    )
    reported = {
        key.removesuffix(",none"): float(value)
        for key, value in found["results"].items()
        if isinstance(value, int | float) and "_stderr" not in key
    }
    return HarnessResult(
        result=TaskResult(task=task, label=label, answers=tuple(answers)),
        reported=reported,
        left_out=tuple(sorted(left_out)),
        num_cut=num_cut,
    )


def item_values(metric: str, value: Any) -> dict[str, float]:
    """One metric of one item: a number as it is, bits per byte with its two parts; nothing for what is no number."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        # The harness's perplexity is made of log-likelihoods, whose mean is none.
        return {"logprob" if metric == "perplexity" else metric: float(value)}
    if metric == "bits_per_byte":
        nats, num_bytes = value
        bits, size = -float(nats) / math.log(2), float(num_bytes)
        return {"bits": bits, "bytes": size, metric: bits / size if size else 0.0}
    return {}


def _answer(sample: Mapping[str, Any], values: Mapping[str, float]) -> Answer:
    arguments: Sequence[Sequence[Any]] = sample["arguments"]
    said = [responses[0] for responses in sample["resps"]]
    prompt = (Message(role="user", content=str(arguments[0][0])),)
    continuations = tuple(one[1] for one in arguments if len(one) > 1 and isinstance(one[1], str))
    item = Item(
        id=str(sample["doc_id"]),
        messages=prompt,
        target=str(sample["target"]),
        metadata={"doc": sample["doc"]},
        choices=continuations,
    )
    reply = Reply(
        request=Request(item=item, messages=prompt, continuations=continuations),
        text=said[0] if isinstance(said[0], str) else "",
    )
    return Answer(item=item, reply=reply, verdict=Verdict(values=dict(values), details={"responses": said}))


def _version(version: Any) -> int:
    try:
        return int(float(version))
    except (TypeError, ValueError):
        return 0


@contextlib.contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Tasks of the harness draw from the global generators: seeded within, as they were afterwards."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
