"""The last stage of a constitution's run: base and tuned models on the same prompts.

Read top to bottom: what is asked, everybody's answers into one results file, the judge, the facts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.prompts import load_prompts
from tunesmith.errors import DataError
from tunesmith.evals.contests import Contest, Decision, hold, prefers_longer
from tunesmith.evals.judge_agreement import agreement_line
from tunesmith.evals.judge_stats import bounded_rate, judge_statistics, limits
from tunesmith.evals.kept import (
    creative_task,
    helpful_task,
    load_scenarios,
    prompt_items,
    reference_items,
    reference_task,
    scenario_task,
)
from tunesmith.evals.rubrics import PAIR, settings_digest
from tunesmith.evals.run import Answer, TaskResult, run_task
from tunesmith.evals.subject import Subject, local_subject
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.suites.catalogue import find_suite
from tunesmith.evals.task import Item, Task, subset
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig
from tunesmith.models.roles import Base
from tunesmith.progress import Bar
from tunesmith.recipes.constitution_evaluate_config import ConstitutionEvaluateConfig, ReferenceRows
from tunesmith.recipes.constitution_evaluate_facts import Job, evaluation_facts, plain
from tunesmith.recipes.constitution_run_prompts import prompts_where
from tunesmith.recipes.judge_open import open_judge
from tunesmith.records import Conversation, Message
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.refusal import detector_digest
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.runs import atomic_write_text
from tunesmith.stats import wilson_interval

RESULTS_FILE, VERDICTS_FILE, EVALUATION_FILE = "results.jsonl", "verdicts.jsonl", "evaluation.json"
# Keys of the config, and with dashes the suites' names.
SETS = ("advbench", "harmbench", "xstest_safe", "xstest_unsafe")
EXAMPLES = files("tunesmith.data.examples").joinpath("constitution")


def run_evaluation(
    config: ConstitutionEvaluateConfig,
    base: Base,
    adapters: Mapping[str, Path],
    folder: Path,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    results: Path | None = None,
) -> dict[str, Any]:
    """Measure the base and what the stages left, write evaluation.json; returns what that holds.

    adapters: stage -> folder, in the order they were trained; the last is the final one. Every answer lies in
    results.jsonl (or ``results``) under all it depends on, so a killed stage goes on, and an unchanged model is never
    asked again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # 1. What is asked, and who answers.
    jobs = jobs_of(config, seed)
    generator = LocalGenerator(base)
    subjects = [local_subject(base, generator, None, "base")]
    for label in measured_stages(config, adapters):
        role = load_adapter(base, adapters[label], f"measured_{label}")
        subjects.append(local_subject(base, generator, role.adapter, label))
    # 2. Everybody's answers.
    path = results or folder / RESULTS_FILE
    answered = {job.task.name: {one.label: _answer(job, one, path) for one in subjects} for job in jobs}
    # 3. The judge, on harmless requests.
    judged = {}
    if config.helpful is not None and config.helpful.num_judged and len(subjects) > 1:
        say("the judge compares helpful answers …")
        judged = _judged(config, base, answered["helpful"], config.helpful.num_judged, folder / VERDICTS_FILE)
    # 4. The facts.
    facts = evaluation_facts(jobs, answered, [one.label for one in subjects], judged)
    atomic_write_text(folder / EVALUATION_FILE, json.dumps(facts, indent=1, default=plain) + "\n")
    return dict(json.loads(json.dumps(facts, default=plain)))


def measured_stages(config: ConstitutionEvaluateConfig, adapters: Mapping[str, Path]) -> list[str]:
    """The stages whose adapters are measured, each once; one that was skipped is left out."""
    last = list(adapters)[-1:]
    named = [stage for one in config.measured for stage in (last if one == "final" else [one])]
    return [stage for stage in adapters if stage in named]


def jobs_of(config: ConstitutionEvaluateConfig, seed: int) -> list[Job]:
    """What every model is asked. Raises DataError and ConfigError for sets that are not there."""
    greedy = Sampling(max_new_tokens=config.max_new_tokens)
    jobs = [
        Job(task=safety_task(suite, config, limit, seed), sampling=greedy, headline=suite.headline)
        for name in SETS
        if (limit := getattr(config, name))
        for suite in [find_suite(name.replace("_", "-"))]
    ]
    if config.helpful is not None:
        what = config.helpful
        where = what.where if what.prompts else {**what.where, "split": "held_out"}
        rows = prompts_where(what.prompts or str(EXAMPLES / "harmless.jsonl"), what.columns, where)
        items = prompt_items("helpful", [one.messages for one in rows[: what.num]])
        jobs.append(Job(task=helpful_task(items), sampling=greedy, headline="refused"))
    if config.reference is not None:
        task = reference_task(_reference_items(config.reference, seed))
        jobs.append(Job(task=task, sampling=greedy, headline="nats_per_token"))
    if config.creative is not None:
        how = config.creative
        prompts = load_prompts(how.prompts or str(EXAMPLES / "creative.jsonl"), limit=how.num)
        items = prompt_items("creative", [one.messages for one in prompts])
        sampling = Sampling(max_new_tokens=how.max_new_tokens, temperature=how.temperature, seed=seed)
        jobs.append(Job(task=creative_task(items, how.num_samples), sampling=sampling, headline="alike"))
    if config.scenarios is not None:
        ours = config.scenarios == "ours"
        scenarios = load_scenarios(Path(str(EXAMPLES / "scenarios.yaml")) if ours else Path(config.scenarios))
        sampling = Sampling(max_new_tokens=config.scenario_max_new_tokens)
        jobs.append(
            Job(task=scenario_task(scenarios), sampling=sampling, headline="passed", scenarios=tuple(scenarios))
        )
    return jobs


def asked_digest(config: ConstitutionEvaluateConfig, seed: int) -> str:
    """A digest of all that is asked and of the rules that read the answers, whatever files they come from.

    Raises as ``jobs_of``.
    """
    told = [
        [job.task.name, job.task.version, job.sampling.model_dump(mode="json"), [asdict(one) for one in job.task.items],
         [one.model_dump(mode="json") for one in job.scenarios]]
        for job in jobs_of(config, seed)
    ]  # fmt: skip
    return hashlib.sha256(json.dumps([detector_digest(), told], default=str).encode()).hexdigest()


def safety_task(suite: Suite, config: ConstitutionEvaluateConfig, limit: int, seed: int) -> Task:
    """A suite of requests on both of its parts: nothing is chosen here, so that no row need be kept for it."""
    parts = [suite.build(SuiteConfig(data_dir=config.data_dir, split=split)) for split in ("test", "validation")]
    items = [item for part in parts for item in part.items]
    return replace(parts[0], items=subset(items, min(limit, len(items)), seed))


def _reference_items(how: ReferenceRows, seed: int) -> list[Item]:
    data = load_data(DataConfig(train=how.rows, columns=how.columns, validation_share=0, cache=False), seed=seed)
    items = reference_items("reference", [row for row in data.train if isinstance(row, Conversation)])
    if not items:
        raise DataError(how.rows, "holds no request with an answer.", "Name rows of conversations.")
    return list(subset(items, min(how.num, len(items)), seed))


def _answer(job: Job, subject: Subject, path: Path) -> TaskResult:
    """Everybody's answers to one task, with a bar that begins where an earlier run was stopped."""
    with ExitStack() as stack:
        bar: list[Bar] = []

        def tell(done: int, asked: int) -> None:
            if not bar:
                bar.append(stack.enter_context(Bar(asked, f"{job.task.name}, {subject.label}: answer", first=done)))
            elif done > 0:
                bar[0].update(done)

        return run_task(job.task, subject, job.sampling, path, on_progress=tell)


def _judged(
    config: ConstitutionEvaluateConfig, base: Base, results: Mapping[str, TaskResult], num: int, path: Path
) -> dict[str, Any]:
    """Tuned against base on the same harmless requests, each pair in both orders; by label."""
    judge, notes = open_judge(config.judge, ModelConfig(model_name_or_path=base.resolved.name), base)
    verdicts, before = ResultsFile(path), results["base"]
    agreement = agreement_line(Path(config.judge.calibrations), settings_digest(judge.identity, PAIR, judge.style))
    out: dict[str, Any] = {}
    for label, after in results.items():
        if label == "base":
            continue
        contests = [
            Contest(question=one.item.id, turn=1, labels=(label, "base"), talks=(_talk(other), _talk(one)))
            for one, other in list(zip(before.answers, after.answers, strict=True))[:num]
        ]
        decisions = hold(contests, judge, verdicts, give_up_after=config.judge.give_up_after)
        out[label] = _match_facts(decisions)
    return {
        "judge": judge.identity.get("model", judge.identity["judge"]), "agreement": agreement, "notes": notes, **out,
    }  # fmt: skip


def _match_facts(decisions: Sequence[Decision]) -> dict[str, Any]:
    verdicts = [verdict for one in decisions for verdict in one.verdicts]
    # Where all answers are the same nobody was asked.
    manners = judge_statistics(verdicts).as_dict() if verdicts else {}
    outcomes, _ = prefers_longer(decisions)
    return {
        "num": len(decisions),
        "same_answer": sum(not one.verdicts for one in decisions),
        "win_rate": bounded_rate([one.told for one in decisions]).as_dict(),
        "prefers_first": manners.get("prefers_first"),
        "consistent": manners.get("consistent"),
        "prefers_longer": limits(wilson_interval(round(sum(outcomes)), len(outcomes))) if outcomes else None,
    }


def _talk(answer: Answer) -> tuple[Message, ...]:
    return (*answer.item.messages, Message(role="assistant", content=answer.text))
