"""What the supervised phase leaves: the log of its steps, rows to train on, rows for a critic, and the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.constitution.principles import Constitution
from tunesmith.constitution.revise import ANSWERED, GOOD, NO_ANSWER, REVISED, STOPS, Chain
from tunesmith.constitution.wording import Style, Verdict, contradicts, critic_row
from tunesmith.records import Message, Revision
from tunesmith.rollout.refusal import read_refusal

# Places told of each kind of garbage.
_PLACES = 5


def step_row(one: Revision) -> dict[str, Any]:
    """A line of the audit log."""
    critique = one.critique
    said = {} if critique is None else {
        "principle": critique.principle,
        "critic": critique.who,
        "found": critique.found,
        "score": None if critique.score is None else round(critique.score, 4),
        "critique": critique.text,
        "demonstrations": critique.num_demonstrations,
    }  # fmt: skip
    return {
        "id": one.id,
        "parent": one.parent,
        "prompt_id": one.prompt_id,
        "where": str(one.where),
        "round": one.round,
        "step": one.step,
        "prompt": turns_of(one.prompt),
        "before": one.before,
        **said,
        "after": one.after,
        "outcome": one.outcome,
        "stopped": one.stopped,
        "who": one.who,
        "constitution": one.constitution,
    }


def sft_rows(
    chains: Sequence[Chain], *, keep_unrevised: bool = False, only_declined: bool = False
) -> list[dict[str, Any]]:
    """The last answer of each prompt as a row of ``messages``, with where it comes from beside it.

    An answer in which nothing was changed is a row for a harmless prompt, and for the others only if told so: that a
    critic found nothing in an answer to a bad request does not make it one to train on. only_declined: nor does that a
    reviser changed it: those of the others that still comply are no rows.
    """
    out = []
    for chain in chains:
        if chain.last.stopped == NO_ANSWER or not (chain.was_revised or chain.question.harmless or keep_unrevised):
            continue
        if only_declined and not chain.question.harmless and not _declines(chain):
            continue
        turns = [*chain.question.messages, Message(role="assistant", content=chain.last.after)]
        provenance = {
            "from": "revision" if chain.was_revised else "own answer",
            "step": chain.last.id,
            "prompt_id": chain.last.prompt_id,
            "constitution": chain.last.constitution,
        }
        out.append({"messages": turns_of(turns), "provenance": provenance})
    return out


def _declines(chain: Chain) -> bool:
    asked = chain.question.messages[-1].content
    return read_refusal(asked, chain.last.after).kind in ("partly", "refuse")


def critic_rows(
    chains: Sequence[Chain], constitution: Constitution, style: Style, verdict: Verdict
) -> list[dict[str, Any]]:
    """Conversations that train a critic to say what this one said, a row each of its verdicts.

    Equal ones once; none where the words open with the other verdict.
    """
    out, seen = list[dict[str, Any]](), set[tuple[Message, ...]]()
    for chain in chains:
        for one in chain.steps:
            if one.critique is None or one.critique.found is None or one.critique.outcome:
                continue
            principle = constitution[one.critique.principle]
            words, found = one.critique.text, one.critique.found
            if contradicts(words, found=found):
                continue
            turns = critic_row(style, verdict, one.prompt, one.before, principle, words, found=found)
            if turns not in seen:
                seen.add(turns)
                provenance = {
                    "step": one.id,
                    "principle": principle.id,
                    "critic": one.critique.who,
                    "constitution": one.constitution,
                }
                out.append({"messages": turns_of(turns), "provenance": provenance})
    return out


def counts_of(chains: Sequence[Chain], constitution: Constitution) -> dict[str, Any]:
    """Per principle and category how often it was asked, found something and changed the answer; stops; garbage.

    ``harmless``: of those, on harmless prompts, where what is found is mostly a false alarm.
    """
    principles = {one.id: _Fired() for one in constitution.principles}
    garbage: dict[str, list[str]] = {}
    for chain in chains:
        for one in chain.steps:
            if one.outcome not in GOOD:
                garbage.setdefault(one.outcome, []).append(str(one.where))
            if one.critique is not None:
                principles[one.critique.principle].add(one, harmless=chain.question.harmless)
    categories: dict[str, _Fired] = {}
    for principle in constitution.principles:
        categories.setdefault(principle.category, _Fired()).join(principles[principle.id])
    stops = Counter(chain.last.stopped for chain in chains)
    return {
        "prompts": sum(not chain.question.harmless for chain in chains),
        "harmless_prompts": sum(chain.question.harmless for chain in chains),
        "answered": sum(chain.steps[0].outcome == ANSWERED for chain in chains),
        "revised": sum(chain.was_revised and not chain.question.harmless for chain in chains),
        "harmless_revised": sum(chain.was_revised and chain.question.harmless for chain in chains),
        "stops": {why: stops[why] for why in STOPS if stops[why]},
        "garbage": {
            what: {"number": len(places), "places": places[:_PLACES]} for what, places in sorted(garbage.items())
        },
        "principles": {name: fired.as_dict() for name, fired in principles.items() if fired.counts["sampled"]},
        "categories": {name: fired.as_dict() for name, fired in categories.items() if fired.counts["sampled"]},
    }


class _Fired:
    """Counts of one principle, or of several."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.harmless: Counter[str] = Counter()

    def add(self, one: Revision, *, harmless: bool) -> None:
        found = one.critique is not None and one.critique.found
        kinds = ["sampled", *(["fired"] if found else []), *(["changed"] if one.outcome == REVISED else [])]
        kinds += ["garbage"] if one.outcome not in GOOD else []
        self.counts.update(kinds)
        if harmless:
            self.harmless.update(kinds)

    def join(self, other: _Fired) -> None:
        self.counts.update(other.counts)
        self.harmless.update(other.harmless)

    def as_dict(self) -> dict[str, Any]:
        kinds = ("sampled", "fired", "changed", "garbage")
        return {**{kind: self.counts[kind] for kind in kinds}, "harmless": {k: self.harmless[k] for k in kinds}}


def turns_of(messages: Sequence[Message]) -> list[Mapping[str, Any]]:
    """Turns as rows hold them; an assistant's turn that is not trained on says so."""
    return [
        {"role": m.role, "content": m.content, **({} if m.train or m.role != "assistant" else {"train": False})}
        for m in messages
    ]
