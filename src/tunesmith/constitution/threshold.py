"""Where a critic's yes begins: a small model says Yes, or No, to nearly all, and each question has a bias of its own.

A principle's demonstrations say of answers whether there is a fault, so they tell the bias without another label: each
is judged as an answer is, the others shown before it, and the threshold lies halfway between the mean log-odds of those
with a fault and of those without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from tunesmith.constitution.asking import Asker
from tunesmith.constitution.critic import Case, ModelCritic
from tunesmith.constitution.principles import Principle
from tunesmith.constitution.revise import Speakers
from tunesmith.feedback.judgements import digest_of
from tunesmith.records import Message


def demonstrated_thresholds(critic: ModelCritic, principles: Sequence[Principle], asker: Asker) -> dict[str, float]:
    """Principle's id -> log-odds in nats above which its verdict is a fault; only those with answers of both kinds.

    The critic's own thresholds play no part. Raises RunError, DiskFullError.
    """
    both = [one for one in principles if len({shown.fault for shown in one.examples}) == 2]
    places = [(one, i) for one in both for i in range(len(one.examples))]
    odds = critic.log_odds([_left_out(one, i) for one, i in places], asker)
    out = {}
    for one in both:
        sides: dict[bool, list[float]] = {True: [], False: []}
        for (principle, i), value in zip(places, odds, strict=True):
            if principle is one and value is not None:
                sides[one.examples[i].fault].append(value)
        if sides[True] and sides[False]:
            out[one.id] = (fmean(sides[True]) + fmean(sides[False])) / 2
    return out


def with_thresholds(speakers: Speakers, weighed: Sequence[Principle], asker: Asker) -> Speakers:
    """The speakers, the critic with thresholds that come from these principles' demonstrations."""
    critic = speakers.critic
    if not weighed or not isinstance(critic, ModelCritic):
        return speakers
    found = demonstrated_thresholds(critic, weighed, asker)
    thresholds = {**{name: round(value, 4) for name, value in found.items()}, **critic.settings.thresholds}
    return replace(speakers, critic=ModelCritic(critic.voice, replace(critic.settings, thresholds=thresholds)))


def num_judged(principles: Sequence[Principle]) -> int:
    """How many demonstrations that takes."""
    return sum(len(one.examples) for one in principles if len({shown.fault for shown in one.examples}) == 2)


def _left_out(principle: Principle, i: int) -> Case:
    """A demonstration as an answer to be judged, the others of its principle shown before it."""
    one = principle.examples[i]
    others = principle.model_copy(update={"examples": (*principle.examples[:i], *principle.examples[i + 1 :])})
    prompt = (Message(role="user", content=one.prompt),)
    return Case(
        prompt=prompt, answer=one.answer, principle=others, key=digest_of([one.prompt, one.answer, principle.id])
    )
