"""The AI-feedback phase: prompts -> candidates -> a judge's soft labels by principles, in the feedback store.

Read top to bottom: read, draw what lacks, pair, ask the judge in both orders, store. A stopped or killed job goes on by
being run again: candidates are drawn once (``feedback_sample``), what the judge said lies in a file beside the store
before anything is done with it, and a label has an id of its own. Keys are in ``constitution_label_config.py``, judges
in ``constitution_judges.py``, the words of the terminal in ``constitution_label_show.py``. Source: arXiv:2212.08073.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tunesmith.constitution.label import Labeller, PairLabel, label_facts
from tunesmith.constitution.principles import load_constitution
from tunesmith.data.prompts import load_prompts
from tunesmith.evals.judge import Judge, hear
from tunesmith.evals.rubrics import settings_digest
from tunesmith.feedback.store import FeedbackStore
from tunesmith.models.adapters import drop_adapter
from tunesmith.models.roles import Base
from tunesmith.recipes.constitution_judges import opinion_of, principle_rubric
from tunesmith.recipes.constitution_label_config import LabelConfig as LabelConfig
from tunesmith.recipes.constitution_label_config import Labelled as Labelled
from tunesmith.recipes.constitution_label_config import labels_file
from tunesmith.recipes.constitution_label_open import open_labelling_judge
from tunesmith.recipes.constitution_label_show import drawing_estimate, judging_estimate, planned
from tunesmith.recipes.constitution_label_work import (
    Pair,
    Progress,
    Say,
    Work,
    draw_what_lacks,
    harmless_of,
    lacks,
    pairs_of,
)
from tunesmith.rollout.refusal import detector_digest
from tunesmith.rollout.results import ResultsFile
from tunesmith.runs import atomic_write_text, hold_file, machine_summary

# Pairs whose labels are stored together; a job that is stopped asks nothing twice, whatever their number.
_PAIRS_AT_ONCE = 16


def run_label(
    config: LabelConfig,
    say: Say,
    on_progress: Progress = lambda what, done, total: None,
    *,
    base: Base | None = None,
    plan: bool = False,
) -> Labelled:
    """Label the prompts' pairs and give the facts, which are written too.

    base: one that is in memory; adapters put on it are taken off again. plan: only say how much there is to do. Raises
    ConfigError, DataError (nothing to compare), ModelError, EndpointError (an endpoint that fails, or whose first
    verdicts cannot be read), RunError; what was drawn and judged before is kept.
    """
    began = time.perf_counter()
    constitution = load_constitution(config.constitution)
    loaded = load_prompts(config.prompts, config.columns, limit=config.limit, on_bad_row=config.on_bad_row)
    for note in loaded.notes():
        say(note)
    harmless = harmless_of(config)
    before = set(base.methods) if base is not None else set[str]()
    with ExitStack() as stack:
        store = stack.enter_context(FeedbackStore.open(config.store, create=True))
        # Two at once would each ask what the other has asked.
        stack.enter_context(hold_file(labels_file(store.path)))
        work = Work(config, store, loaded.prompts, constitution, base, say, on_progress, harmless=harmless)
        try:
            return _run(work, loaded.digest, began, plan=plan)
        finally:
            if base is not None:
                for name in set(base.methods) - before:
                    drop_adapter(base, name)


def _run(work: Work, digest: str, began: float, *, plan: bool) -> Labelled:
    say, config = work.say, work.config
    say(drawing_estimate(config, len(work.prompts), sum(lacks(work, one, None) for one in work.prompts)))
    if plan and not config.draw:
        return planned(len(work.prompts), 0)
    draw_what_lacks(work, plan=plan)
    if plan:
        return planned(len(work.prompts), work.num_to_draw)
    if work.sampled is not None and work.sampled.interrupted:
        return Labelled(facts={"sampled": work.sampled.as_dict()}, interrupted=True)
    drawn_at = time.perf_counter()
    pairs = pairs_of(work)
    judge, tokens, notes = open_labelling_judge(config, work.constitution, work.base)
    for note in notes:
        say(note)
    labeller = _labeller(work, judge)
    results = ResultsFile(labels_file(work.store.path))
    say(judging_estimate(judge, [case for pair in pairs for case in pair.cases], results))
    labels, stored, interrupted = judge_pairs(work, judge, labeller, pairs, results)
    facts = {
        "store": str(work.store.path),
        "prompts": {"source": config.prompts, "digest": digest, "number": len(work.prompts)},
        "left_out": dict(work.left_out),
        "near_copies": work.near_copies,
        "ruled": sum(pair.ruled is not None for pair in pairs),
        **label_facts(labels, config, config.seed),
        "stored": stored,
        "annotator": labeller.annotator,
        "judge": dict(labeller.judge),
        "constitution": labeller.describe(),
        "settings": dict(labeller.settings),
        "others_labels": _others_labels(work, labeller, labels),
        "sampled": None if work.sampled is None else work.sampled.as_dict(),
        "tokens": {"drawn": 0 if work.sampled is None else work.sampled.new_tokens, "judged": tokens()},
        "seconds": {"drawing": round(drawn_at - began, 1), "judging": round(time.perf_counter() - drawn_at, 1)},
        "labels_file": str(results.path),
        "machine": machine_summary(),
    }
    config.summary_file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(config.summary_file, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    return Labelled(facts=facts | {"summary_file": str(config.summary_file)}, interrupted=interrupted)


def _labeller(work: Work, judge: Judge) -> Labeller:
    """Who labels, by all that a label depends on."""
    config = work.config
    wording = [
        settings_digest(judge.identity, principle_rubric(one), judge.style) for one in work.constitution.principles
    ]
    return Labeller(
        judge=judge.identity,
        constitution=work.constitution,
        settings={
            "num_principles": config.num_principles,
            "demonstrations": config.demonstrations,
            "clamp": config.clamp and list(config.clamp),
            "seed": config.seed,
            "wording": wording,
            **({"harmless": detector_digest()} if config.harmless else {}),
        },
    )


def judge_pairs(
    work: Work, judge: Judge, labeller: Labeller, pairs: Sequence[Pair], results: ResultsFile
) -> tuple[list[PairLabel], dict[str, int], bool]:
    """(labels, how many were stored now and before, whether Ctrl-C ended it); stored portion by portion."""
    config = work.config
    labels, stored, total = list[PairLabel](), {"new": 0, "before": 0}, sum(len(pair.cases) for pair in pairs)
    done = 0
    try:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            portion = pairs[start : start + _PAIRS_AT_ONCE]
            cases = [case for pair in portion for case in pair.cases]
            rulings = iter(
                hear(
                    judge,
                    cases,
                    results,
                    give_up_after=config.give_up_after,
                    on_progress=lambda now, of, done=done: work.on_progress("judging", done + min(now, of), total),  # type: ignore[misc]
                )
            )
            done += len(cases)
            work.on_progress("judging", done, total)
            with work.store.transaction():
                for pair in portion:
                    opinions = [opinion_of(one.id, next(rulings), next(rulings)) for one in pair.principles]
                    opinions += [pair.ruled] if pair.ruled else []
                    label = PairLabel(prompt_id=pair.prompt_id, candidates=pair.candidates, opinions=tuple(opinions))
                    labels.append(label)
                    put = labeller.store(work.store, label, config)
                    if put is not None:
                        stored["new" if put else "before"] += 1
    except KeyboardInterrupt:
        return labels, stored, True
    return labels, stored, False


def _others_labels(work: Work, labeller: Labeller, labels: Sequence[PairLabel]) -> int:
    """How many of the pairs other models' judgements stand on: `prefer` counts them beside these."""
    pairs = {frozenset(one.candidates) for one in labels}
    judged = {
        frozenset(one.candidates)
        for one in work.store.judgements(kind="comparison")
        if one.source == "ai" and one.annotator != labeller.annotator
    }
    return len(pairs & judged)
