"""The judge as an instrument: how far it agrees with people, and what recorded verdicts say of it.

Read top to bottom: load, ask, compare, file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.errors import ConfigError
from tunesmith.evals.contests import cases_of, hold
from tunesmith.evals.judge import Judge, Progress, hear
from tunesmith.evals.judge_agreement import agreement_facts, agreement_on_pairs, bounded_text, file_agreement
from tunesmith.evals.judge_rows import PeopleJudged, load_judged, load_verdicts
from tunesmith.evals.judge_stats import judge_statistics, win_rates
from tunesmith.evals.rubrics import Case, Rubric, find_rubric
from tunesmith.evals.verdicts import PAIR_FORMATS
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.judge_open import JudgeSettings, Keyboard, describe_judge, open_judge
from tunesmith.rollout.results import ResultsFile
from tunesmith.runs import hold_file, machine_summary

VERDICTS_FILE = "verdicts.jsonl"


class CalibrateConfig(ModelConfig, JudgeSettings):
    """What ``tunesmith judge calibrate`` can be told."""

    rows: str = Field(min_length=1)
    """Answers that people judged, or preference pairs for the rubric of pairs."""
    rubric: str
    """pair, grade, refusal, outcome, harm, or a .yaml file with a rubric of one's own."""
    limit: int | None = Field(None, ge=1)
    """First rows of the file; empty: all."""


def run_calibrate(
    config: CalibrateConfig,
    say: Callable[[str], None],
    keyboard: Keyboard | None = None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Ask the judge what people were asked, compare, file the agreement; returns what ``--json`` prints."""
    began = time.perf_counter()
    rubric = find_rubric(config.rubric)
    people = load_judged(config.rows, rubric, config.limit)
    judge, notes = open_judge(config, config, keyboard=keyboard)
    results = ResultsFile(Path(config.calibrations) / VERDICTS_FILE)
    num = len(cases_of(people.contests, judge, rubric)) if rubric.scale == "pair" else len(people.talks)
    for note in [*notes, f"{num} verdicts are asked of the judge; those that lie in {results.path} are used again."]:
        say(note)
    results.path.parent.mkdir(parents=True, exist_ok=True)
    with hold_file(results.path):
        compared = _compare(people, judge, rubric, results, config.give_up_after, on_progress)
    who = describe_judge(judge, {rubric.name: rubric}, config.calibrations)
    facts = {
        **compared,
        "rubric": rubric.name,
        "source": Path(config.rows).name,
        "rows": {"source": config.rows, "digest": people.digest, "limit": config.limit},
        "judge": who["identity"],
        "digest": _digest(who, rubric),
        "machine": machine_summary(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    data = people.digest if config.limit is None else f"{people.digest} first {config.limit}"
    filed = {"identity": who["identity"], "rubric": rubric.model_dump(), "style": judge.style}
    facts["file"] = str(file_agreement(Path(config.calibrations), facts["digest"], filed, data, facts))
    return facts


def _compare(
    people: PeopleJudged,
    judge: Judge,
    rubric: Rubric,
    results: ResultsFile,
    give_up_after: int,
    on_progress: Progress,
) -> dict[str, Any]:
    if rubric.scale != "pair":
        cases = [Case(rubric=rubric, shown=(talk,)) for talk in people.talks]
        rulings = hear(judge, cases, results, give_up_after=give_up_after, on_progress=on_progress)
        return agreement_facts(rubric, people.labelled, rulings)
    decisions = hold(people.contests, judge, results, rubric, give_up_after=give_up_after, on_progress=on_progress)
    # Named by who was preferred: the share of the first place is the judge's, not the people's.
    verdicts = [verdict for one in decisions for verdict in one.verdicts]
    return {**agreement_on_pairs([one.told for one in decisions]), "manners": judge_statistics(verdicts).as_dict()}


def _digest(who: dict[str, Any], rubric: Rubric) -> str:
    return str(who["digests"][rubric.name])


def describe_calibration(facts: dict[str, Any]) -> list[str]:
    """What a terminal shows at the end."""
    undecided = f", {facts['people_undecided']} left out: people were split" if facts.get("people_undecided") else ""
    lines = [
        f"{facts['num']} of {facts['source']} judged by {facts['judge'].get('model', facts['judge']['judge'])}, rubric "
        f"{facts['rubric']}; {facts['unparsed']} unparsed{undecided}.",
        f"agreement with people: {facts['main']}",
    ]
    if "recall" in facts:
        for label, one in facts["recall"].items():
            share = f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
            lines.append(f"  of the {one['num']} that people call '{label}' it says so of {share}")
        lines.append(f"  it said: {', '.join(f'{label} {count}' for label, count in facts['said'].items())}")
    if facts.get("auc"):
        auc = facts["auc"]
        lines.append(f"  area under the curve: {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}] (a coin: 0.5)")
    if "alpha_of_people" in facts:
        own = facts["alpha_of_people"]
        lines.append(f"  alpha of people among themselves {own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]")
    if "manners" in facts:
        lines += describe_manners(facts["manners"])
    return [*lines, f"filed in {facts['file']} ({facts['seconds']} s)"]


def run_stats(source: str, text_format: str = "letters") -> dict[str, Any]:
    """Counts, position bias, self-consistency and win rates of recorded verdicts. Raises ConfigError, DataError."""
    if text_format not in PAIR_FORMATS:
        raise ConfigError("--format", f"'{text_format}' is no form of verdict.", f"Use {', '.join(PAIR_FORMATS)}.")
    recorded = load_verdicts(source, text_format)
    rates = win_rates(recorded.verdicts)
    return {
        "source": source,
        "digest": recorded.digest,
        "num": len(recorded.verdicts),
        "num_texts": recorded.num_texts,
        "differing": [{"place": place, "read": read, "recorded": old} for place, read, old in recorded.differing],
        **judge_statistics(recorded.verdicts).as_dict(),
        "win_rates": {name: one.as_dict() | {"text": bounded_text(one, percent=True)} for name, one in rates.items()},
    }


def describe_stats(facts: dict[str, Any]) -> list[str]:
    """What a terminal shows: the instrument first, then what it measured."""
    lines = [f"{facts['num']} verdicts of {facts['source']}"]
    if facts["num_texts"]:
        differing = facts["differing"]
        lines.append(f"{facts['num_texts']} were read from texts; {len(differing)} differ from what is recorded.")
        lines += [f"  {one['place']}: read {one['read']}, recorded {one['recorded']}" for one in differing[:5]]
    lines += [*describe_manners(facts), "win rates, a tie one half, both orders averaged (judge: not calibrated):"]
    return [*lines, *(f"  {name}: {one['text']} of {one['num']}" for name, one in facts["win_rates"].items())]


def describe_manners(facts: dict[str, Any]) -> list[str]:
    """Position bias and self-consistency as ``JudgeStatistics.as_dict`` holds them."""

    def share(name: str) -> str:
        one = facts[name]
        return f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]" if one else "none"

    counts = facts["counts"]
    lines = [", ".join(f"{counts[name]} {name}" for name in ("first", "second", "tie", "unparsed"))]
    fair = "50 % without position bias" if facts["balanced"] else "not all pairs were shown in both orders"
    lines.append(f"  prefers the answer shown first: {share('prefers_first')} of the decided ({fair})")
    if facts["num_pairs"]:
        lines += [
            f"  {facts['num_pairs']} pairs in both orders: {share('consistent')} consistent, {share('reversed')} "
            f"reversed ({facts['reversed_to_first']} to the first place, {facts['reversed_to_second']} to the second), "
            f"{facts['half']} a tie in one order, {facts['unparsed_pairs']} unparsed in one",
            f"  agreement of the two orders beyond chance: kappa {_kappa(facts['kappa'])}",
        ]
    if facts["repeated"]:
        lines.append(f"  {facts['repeated']} asked again in the same order: {share('repeats_agree')} alike")
    return lines


def _kappa(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return f"undefined: {one['reason']}"
    return f"{one['value']:.3f}" if one["low"] is None else f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
