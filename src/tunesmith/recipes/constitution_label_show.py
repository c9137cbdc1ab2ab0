"""What a person sees of ``tunesmith constitution label``: estimates before, and the last lines."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

from tunesmith.data.check import shown
from tunesmith.evals.judge import Judge, LikelihoodJudge, hear, missing_cases
from tunesmith.evals.rubrics import Case, render_case
from tunesmith.progress import clock
from tunesmith.recipes.constitution_judges import ControlJudge, EachJudge
from tunesmith.recipes.constitution_label_config import LabelConfig, Labelled
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.results import ResultsFile

# Characters of a token, where nobody counts them.
_CHARACTERS = 4


def drawing_estimate(config: LabelConfig, num_prompts: int, num_lacking: int) -> str:
    """What is known before anything is opened: prompts, those without a pair, and the most questions there can be."""
    lack = f"{num_lacking} lack two candidates that differ"
    if num_lacking:
        lack += f": {config.num_candidates} are drawn for each" if config.draw else " and are left out"
    number = config.num_principles
    by = "one principle that applies" if number == 1 else f"up to {number} principles that apply"
    pairs, most = "all pairs", ""
    if config.pairs != "all":
        asked = num_prompts - (0 if config.draw else num_lacking)
        pairs, most = "a pair", f": at most {2 * number * asked} questions"
    return (
        f"{num_prompts} prompts, of which {lack}; then the judge reads {pairs} of each by {by}, in both orders{most}."
    )


def judging_estimate(judge: Judge, cases: Sequence[Case], results: ResultsFile) -> str:
    """How much the judge is to read, and for a model of ours how long that takes, told from the first question."""
    missing = missing_cases(judge, cases, results)
    text = f"{len(cases)} questions to the judge, {len(cases) - len(missing)} of them answered before"
    if not missing:
        return f"{text}."
    if isinstance(judge, LikelihoodJudge | EachJudge) and isinstance(judge.model, LocalLikelihood):
        first, size = (judge.model.num_tokens_of(judge.requests(some)) for some in (missing[:1], missing))
        began = time.perf_counter()
        # Its answer is kept, so that the probe is no work done twice.
        hear(judge, missing[:1], results, give_up_after=0)
        seconds = (time.perf_counter() - began) / first * (size - first)
        return f"{text}; {size:,} tokens to read, about {clock(seconds)}."
    if isinstance(judge, ControlJudge):
        return f"{text}."
    size = sum(len(turn.content) for case in missing for turn in render_case(case, judge.style)) // _CHARACTERS
    return f"{text}; about {size:,} tokens to read in {len(missing)} requests."


def planned(num_prompts: int, to_draw: int) -> Labelled:
    """What --plan --json prints."""
    return Labelled(facts={"prompts": num_prompts, "candidates_to_draw": to_draw}, planned=True)


def describe(labelled: Labelled, config: LabelConfig) -> list[str]:
    """The last lines: what was stored, what the labels are like, and the next command."""
    facts = labelled.facts
    if labelled.planned:
        return []
    if "pairs" not in facts:
        return ["Stopped while drawing; the same command goes on, and draws nothing twice."]
    new, before = facts["stored"]["new"], facts["stored"]["before"]
    lines = [
        f"{facts['kept']} of {facts['pairs']} pairs of {facts['prompts']['number']} prompts are labelled by "
        f"{shown(facts['annotator'])} in {config.store} ({new} now, {before} before)."
    ]
    if facts["ruled"]:
        lines.append(f"{facts['ruled']} of them by a rule: of two answers to a harmless prompt one declined")
    for cause, number in facts["left_out"].items():
        lines.append(f"left out: {number} x {cause}")
    if facts["near_copies"]:
        lines.append(f"never paired: {facts['near_copies']} x near copies (ROUGE-L {config.max_rouge_l:g} or more)")
    if facts["ties"]:
        lines.append(f"ties, not stored: {facts['ties']} with |2p - 1| below {config.tie_margin:g}")
    if facts["unread_opinions"]:
        reasons = ", ".join(f"{number} x {reason}" for reason, number in facts["unread_reasons"].items())
        lines.append(
            f"unread: {facts['unread_opinions']} opinions ({reasons}); {facts['unread_pairs']} pairs have no label"
        )
    if facts["decisive"] is not None:
        lines.append(f"decisive: mean |2p - 1| {facts['decisive']:.3f} (0: a coin, 1: certain)")
    lines += _describe_place(facts)
    lines += [
        f"  {name}: {one['read']} of {one['asked']} read"
        + (f", decisive {one['decisive']:.3f}, {one['turned']} turned" if one["decisive"] is not None else "")
        for name, one in facts["principles"].items()
    ]
    if facts["others_labels"]:
        lines.append(
            f"{facts['others_labels']} of the pairs have labels of other models or settings too; `prefer` adds them up."
        )
    tokens, seconds = facts["tokens"], facts["seconds"]
    lines.append(
        f"{tokens['drawn']} tokens drawn in {seconds['drawing']} s, {tokens['judged']} read by the judge in "
        f"{seconds['judging']} s"
    )
    if labelled.interrupted:
        return [*lines, "Stopped; the same command goes on, and asks nothing twice."]
    store = shlex.quote(config.store)
    return [
        *lines,
        f"every word of the judge: {facts['labels_file']}",
        f"wrote {facts['summary_file']}",
        f"next: tunesmith feedback prefer preferences --store {store}",
    ]


def _describe_place(facts: dict[str, Any]) -> list[str]:
    lines = []
    if facts["position_bias"] is not None:
        one = facts["position_bias"]
        lines.append(
            f"position bias, cancelled: {one['value']:+.3f} nats [{one['low']:+.3f}, {one['high']:+.3f}] of log-odds "
            "towards the answer shown first"
        )
    if facts["prefers_first"] is not None:
        lines.append(f"verdicts for the answer shown first: {_percent(facts['prefers_first'])} (50 % without bias)")
    if facts["turned"] is not None:
        lines.append(f"verdicts that turn with the order: {_percent(facts['turned'])} of {facts['two_orders']}")
        if facts["turned"]["value"] > 0.5:
            lines.append(
                "  the place says more than the answers: take a stronger judge, or --judge each for a small one"
            )
    return lines


def _percent(one: dict[str, float]) -> str:
    return f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
