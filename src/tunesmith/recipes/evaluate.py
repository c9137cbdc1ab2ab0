"""``tunesmith eval``: measure a model on suites, compare it on the same items, report.

Read top to bottom: config (``evaluate_config.py``), load, estimate, run, compare, write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import EndpointError
from tunesmith.evals.compare_many import TaskComparison, compare_many, less_is_better
from tunesmith.evals.replay import FACTS_FILE, RESULTS_FILE, refuse_other
from tunesmith.recipes.evaluate_config import EvalConfig
from tunesmith.recipes.evaluate_facts import item_rows, pick_examples, subject_facts, suite_facts
from tunesmith.recipes.evaluate_harness import measure_harness, split_suites
from tunesmith.recipes.evaluate_measure import Measured, choose_shots, estimate, measure, plans_to_try
from tunesmith.recipes.evaluate_open import Opened, Plan, find_suites, make_plan, open_subjects
from tunesmith.reports.evaluate import REPORT_FILE, TEXT_FILE, sentence, write_eval_report
from tunesmith.runs import atomic_write_text, hold_file, machine_summary

ITEMS_FILE = "items.jsonl"


def run_eval(config: EvalConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the whole job; returns what ``--json`` prints. Ctrl-C keeps what was answered and returns interrupted."""
    began = time.perf_counter()
    folder = Path(config.output_dir)
    refuse_other(folder / FACTS_FILE, config.asked(), overwrite=config.overwrite_output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results_path = folder / RESULTS_FILE
    with hold_file(results_path):
        # 1. Load: who is measured, on what. What will be refused is refused here, before an hour of answers.
        opened = open_subjects(config)
        for note in opened.notes:
            say(note)
        names, harness = split_suites(config, opened)
        suites = find_suites(names, opened.subjects, select_shots=bool(config.select_shots))
        tried = {suite.name: plans_to_try(config, suite) for suite in suites}
        most = max(config.select_shots, default=None)
        plans = [make_plan(config, suite, shots=most) for suite in suites]
        replayed = [] if config.select_shots else replay_all(plans, opened)
        try:
            # 2. What it will take.
            jobs = [(plan, plan if most is None else tried[plan.suite.name][most]) for plan in plans]
            jobs += [(plan, plan) for own in tried.values() for plan in own.values()]
            expected = estimate(jobs, opened.subjects, results_path, say)
            if harness:
                say(f"not in this estimate: {', '.join(harness)}, which the harness asks by itself.")
            if config.estimate_only:
                return {"estimate": expected.as_dict(), "output_dir": str(folder)}

            # 3. Run: shots are chosen on validation, then the test items are asked once.
            if config.select_shots:
                choices = [choose_shots(s, tried[s.name], opened.subjects, results_path, say) for s in suites]
                chosen = zip(suites, choices, strict=True)
                plans = [make_plan(config, suite, shots=choice.chosen, choice=choice) for suite, choice in chosen]
                replayed = replay_all(plans, opened)
            measured = measure_all(plans, opened, replayed, results_path, say)
            for name in harness:
                for plan, own in measure_harness(config, name, opened.subjects, results_path):
                    if plan.suite.name in {one.suite.name for one in plans}:
                        say(f"{plan.suite.name} is also part of an earlier suite; it is counted once.")
                        continue
                    plans, measured = [*plans, plan], [*measured, own]
                    for one in own:
                        say(figure(plan, one))
        except KeyboardInterrupt:
            return {"interrupted": True, "output_dir": str(folder), "replies": _num_lines(results_path)}
        except EndpointError as error:
            fix = f"{error.fix} What was answered is kept: the same command goes on from there."
            raise EndpointError(error.place, error.cause, fix) from None

        # 4. Compare: the measured one minus each other, on every suite; Holm over all of them.
        comparisons = compare_all(plans, measured)

        # 5. Write.
        facts = all_facts(config, opened, plans, measured, comparisons) | {
            "estimate": expected.as_dict(),
            "machine": machine_summary(),
            "seconds": round(time.perf_counter() - began, 1),
        }
        write_result(folder, config, facts, plans, measured)
    return facts


def replay_all(plans: Sequence[Plan], opened: Opened) -> list[list[Measured]]:
    """Each plan's result of every earlier evaluation. Raises DataError where one was asked something else."""
    return [
        [Measured(result=one.result(plan.task, plan.sampling, plan.settings)) for one in opened.earlier]
        for plan in plans
    ]


def measure_all(
    plans: Sequence[Plan],
    opened: Opened,
    replayed: Sequence[Sequence[Measured]],
    results_path: Path,
    say: Callable[[str], None],
) -> list[list[Measured]]:
    """Every plan for every subject, the measured one first, then what was replayed; says each figure as it comes."""
    out = []
    for plan, earlier in zip(plans, replayed, strict=True):
        own = []
        for subject in opened.subjects:
            own.append(measure(plan, subject, results_path))
            say(figure(plan, own[-1]))
        out.append([*own, *earlier])
    return out


def figure(plan: Plan, measured: Measured) -> str:
    """The headline of one subject on one suite with its interval, and chance beside it."""
    headline = plan.suite.headline
    chance = plan.task.chance.get(headline)
    against = "" if chance is None else f", chance {chance:.3f}"
    return f"{plan.suite.name}, {measured.result.label}: {headline} {measured.result.interval(headline)}{against}"


def compare_all(plans: Sequence[Plan], measured: Sequence[Sequence[Measured]]) -> list[TaskComparison]:
    """The measured subject minus each other one on every suite; Holm's correction is over all of these."""
    pairs = [(other.result, own[0].result) for own in measured for other in own[1:]]
    return compare_many(pairs, {plan.task.name: plan.suite.headline for plan in plans}) if pairs else []


def all_facts(
    config: EvalConfig,
    opened: Opened,
    plans: Sequence[Plan],
    measured: Sequence[Sequence[Measured]],
    comparisons: Sequence[TaskComparison],
) -> dict[str, Any]:
    """What eval.json holds, but for what it took."""
    return {
        "asked": config.asked(),
        "subjects": subject_facts(opened.subjects, opened.earlier),
        "suites": [
            suite_facts(plan, own, [one for one in comparisons if one.task == plan.task.name])
            for plan, own in zip(plans, measured, strict=True)
        ],
        "tests": len(comparisons),
    }


def write_result(
    folder: Path,
    config: EvalConfig,
    facts: Mapping[str, Any],
    plans: Sequence[Plan],
    measured: Sequence[Sequence[Measured]],
) -> None:
    """Write eval.json, items.jsonl, report.html and report.md. Raises DiskFullError."""
    rows, examples = [], {}
    for plan, own in zip(plans, measured, strict=True):
        of_suite = item_rows(plan, [one.result for one in own])
        labels, headline = [one.result.label for one in own], plan.suite.headline
        less = less_is_better(plan.task, headline)
        examples[plan.suite.name] = pick_examples(of_suite, headline, labels, config.num_examples, less_is_better=less)
        rows += of_suite
    atomic_write_text(folder / ITEMS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
    atomic_write_text(folder / FACTS_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    write_eval_report(folder, facts, examples)


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def describe(facts: Mapping[str, Any], folder: Path) -> list[str]:
    """What a terminal shows at the end: every comparison in a sentence, and what was written."""
    lines = [sentence(one, facts["tests"]) for suite in facts["suites"] for one in suite["comparisons"]]
    written = ", ".join(str(folder / name) for name in (REPORT_FILE, TEXT_FILE, FACTS_FILE, ITEMS_FILE))
    return [*lines, f"wrote {written} in {facts['seconds']} s"]
