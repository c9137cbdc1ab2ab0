"""Critics: whoever says of an answer whether a principle finds a fault in it, and what is wrong.

A model of ours is asked for its verdict by the likelihood of two continuations, so that it always gives one; one that
only writes marks it, and what cannot be read is asked for again, a bounded number of times, and is then *no verdict*,
which is counted and never taken for "nothing found". Two controls tell what a critic's judgement is worth: one that
draws verdicts, one that refuses everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tunesmith.constitution.asking import Asker, Reply, Voice
from tunesmith.constitution.garbage import NOT_STORABLE, fault_of, whole_sentences
from tunesmith.constitution.principles import Demonstration, Principle
from tunesmith.constitution.wording import (
    AGAIN,
    FAULT,
    FINE,
    NO,
    YES,
    Style,
    Turns,
    Verdict,
    critique_turns,
    verdict_turns,
    without_marks,
)
from tunesmith.feedback.judgements import digest_of
from tunesmith.randomness import derive_seed, generator
from tunesmith.records import Critique, Message
from tunesmith.rollout.marks import final_mark
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked

# What the control answers to everything.
REFUSAL = "I'm sorry, but I can't help with that."
TOO_LONG, NO_VERDICT = "longer than the context", "no verdict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An answer to a prompt, and the principle it is held against. key: digest of all three."""

    prompt: tuple[Message, ...]
    answer: str
    principle: Principle
    key: str


class Critic(Protocol):
    """Anything that criticises answers."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What its critiques depend on besides the cases; no secret is among it."""
        ...

    def criticise(self, cases: Sequence[Case], asker: Asker) -> list[Critique]:
        """One critique a case, in order. Raises EndpointError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSettings:
    """How a critic that is a model is asked.

    threshold: log-odds in nats above which a verdict read from tokens is a fault; ``thresholds`` states it for single
    principles, by id. verdict: where it stands; unless that is behind or marked, only what is found is put in words.
    max_retries: how often more a critique that is no use, or a verdict that cannot be read, is asked for.
    max_demonstrations: fewer are shown where more do not fit.
    """

    sampling: Sampling
    style: Style = "turns"
    threshold: float = 0.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict = "opening"
    max_retries: int = 1
    max_demonstrations: int = 2

    def as_identity(self) -> dict[str, str]:
        """For a critic's identity: all that changes what it says."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "sampling"}
        values["thresholds"] = dict(sorted(self.thresholds.items()))
        return {**{name: str(value) for name, value in values.items()}, "sampling": self.sampling.model_dump_json()}


class ModelCritic:
    """A critic that is a model: ``voice`` writes its critiques, and gives its verdicts by likelihood where it can."""

    def __init__(self, voice: Voice, settings: CriticSettings) -> None:
        if voice.likelihood is None:
            settings = replace(settings, verdict="marked")
        self.voice, self.settings = voice, settings
        self._identity = {"critic": "model", **voice.writer.identity, **settings.as_identity()}
        self._who = who(self._identity)

    @property
    def identity(self) -> Mapping[str, str]:
        """The writer's identity, and how it is asked."""
        return self._identity

    def criticise(self, cases: Sequence[Case], asker: Asker) -> list[Critique]:
        """Verdict and words for each case; where the verdict comes first, words for what is found alone."""
        blank = [Critique(principle=case.principle.id, found=None, who=self._who) for case in cases]
        if self.settings.verdict == "marked":
            return self._marked(blank, cases, asker)
        if self.settings.verdict == "behind":
            return self._judged(self._in_words(blank, cases, asker), cases, asker)
        critiques = self._judged(blank, cases, asker)
        found = [i for i, one in enumerate(critiques) if one.found]
        worded = self._in_words([critiques[i] for i in found], [cases[i] for i in found], asker)
        for i, one in zip(found, worded, strict=True):
            critiques[i] = one
        return critiques

    def log_odds(self, cases: Sequence[Case], asker: Asker) -> list[float | None]:
        """ln P(Yes) - ln P(No) of each case before any critique, no threshold taken off; None for one too long."""
        return [odds for odds, _ in self._odds(cases, [""] * len(cases), asker)]

    def _judged(self, critiques: Sequence[Critique], cases: Sequence[Case], asker: Asker) -> list[Critique]:
        """The critiques with a verdict by the likelihood of Yes and No; those that are no use stay as they are."""
        out, todo = list(critiques), [i for i, one in enumerate(critiques) if not one.outcome]
        told = self._odds([cases[i] for i in todo], [critiques[i].text for i in todo], asker)
        for i, (odds, number) in zip(todo, told, strict=True):
            shown = critiques[i].num_demonstrations if self.settings.verdict == "behind" else number
            if odds is None:
                out[i] = replace(critiques[i], outcome=TOO_LONG, num_demonstrations=shown)
                continue
            score = odds - self.settings.thresholds.get(cases[i].principle.id, self.settings.threshold)
            out[i] = replace(critiques[i], found=score > 0, score=score, num_demonstrations=shown)
        return out

    def _odds(self, cases: Sequence[Case], critiques: Sequence[str], asker: Asker) -> list[tuple[float | None, int]]:
        """(log-odds of Yes against No, demonstrations shown) of each case."""
        assert self.voice.likelihood is not None
        style, verdict = self.settings.style, self.settings.verdict
        asked, shots = list[tuple[Turns, tuple[str, str]]](), list[int]()
        for case, words in zip(cases, critiques, strict=True):

            def turns(shown: Sequence[Demonstration], case: Case = case, words: str = words) -> Turns:
                return verdict_turns(style, verdict, case.prompt, case.answer, case.principle, shown, words)

            messages, number = self._fitting(case, turns, 2)
            asked.append((messages, (YES, NO)))
            shots.append(number)
        scores = asker.score("verdict", self.voice.likelihood, asked, [_tags(case) for case in cases])
        return [(None if one is None else one[0] - one[1], n) for one, n in zip(scores, shots, strict=True)]

    def _in_words(self, critiques: Sequence[Critique], cases: Sequence[Case], asker: Asker) -> list[Critique]:
        """The critiques with words; ``outcome`` says of those without any why, after the tries it may take."""
        out, todo = list(critiques), list(range(len(cases)))
        for attempt in range(num_tries(self.settings.sampling, self.settings.max_retries)):
            asked, places = list[Asked](), list[int]()
            for i in todo:
                messages, number = self._request(cases[i])
                out[i] = replace(out[i], num_demonstrations=number)
                if not self.voice.fits(messages, self.settings.sampling.max_new_tokens):
                    out[i] = replace(out[i], outcome=TOO_LONG)
                    continue
                places.append(i)
                asked.append(Asked(messages=messages, row_id=_row_id("constitution_critique", cases[i], attempt)))
            replies = asker.write(
                "critique", self.voice.writer, asked, self.settings.sampling, [_tags(cases[i]) for i in places]
            )
            for i, one, reply in zip(places, asked, replies, strict=True):
                out[i] = _with_words(out[i], cases[i], one.messages[-1].content, reply)
            todo = [i for i in places if out[i].outcome]
        return out

    def _marked(self, critiques: Sequence[Critique], cases: Sequence[Case], asker: Asker) -> list[Critique]:
        """The critiques with their verdict as their text marks it; one that cannot be read is asked for by itself."""
        out = self._in_words(critiques, cases, asker)
        for attempt in range(self.settings.max_retries + 1):
            for i, one in enumerate(out):
                if one.found is None and one.outcome in ("", NO_VERDICT):
                    mark = final_mark(one.text, lambda inner: inner.lower() in (FAULT, FINE))
                    found = None if mark is None else mark.lower() == FAULT
                    out[i] = replace(one, found=found, outcome=NO_VERDICT if found is None else "")
            todo = [i for i, one in enumerate(out) if one.outcome == NO_VERDICT]
            if not todo or attempt == self.settings.max_retries:
                return [replace(one, text=without_marks(one.text)) for one in out]
            asked = [self._again(cases[i], out[i], attempt) for i in todo]
            replies = asker.write(
                "verdict", self.voice.writer, asked, self.settings.sampling, [_tags(cases[i]) for i in todo]
            )
            for i, reply in zip(todo, replies, strict=True):
                out[i] = replace(out[i], text=f"{out[i].text}\n{_encodable(reply.text)}")
        raise AssertionError("the last try returns")

    def _again(self, case: Case, one: Critique, attempt: int) -> Asked:
        said = (Message(role="assistant", content=one.text), Message(role="user", content=AGAIN))
        messages = (*self._request(case)[0], *said)
        return Asked(messages=messages, row_id=_row_id("constitution_verdict", case, attempt))

    def _request(self, case: Case) -> tuple[Turns, int]:
        style, verdict = self.settings.style, self.settings.verdict

        def turns(shown: Sequence[Demonstration]) -> Turns:
            return critique_turns(style, verdict, case.prompt, case.answer, case.principle, shown)

        return self._fitting(case, turns, self.settings.sampling.max_new_tokens)

    def _fitting(
        self, case: Case, turns: Callable[[Sequence[Demonstration]], Turns], max_new_tokens: int
    ) -> tuple[Turns, int]:
        """The request with as many demonstrations as fit, and their number; with none whether it fits or not."""
        return fitting(self.voice, case.principle.examples[: self.settings.max_demonstrations], turns, max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCritic:
    """The control that finds a fault with probability ``p``, whatever the answer says; its words are the principle's.

    A verdict is a function of the seed, the answer and the principle.
    """

    p: float = 0.5
    seed: int = 0

    @property
    def identity(self) -> Mapping[str, str]:
        """That it draws, how often it finds something, and the seed."""
        return {"critic": "random", "p": repr(self.p), "seed": str(self.seed)}

    def criticise(self, cases: Sequence[Case], asker: Asker) -> list[Critique]:
        """A drawn verdict a case."""
        out = []
        for case in cases:
            found = bool(generator(self.seed, "constitution_random_critic", case.key).random() < self.p)
            words = case.principle.text if found else ""
            out.append(Critique(principle=case.principle.id, found=found, who=who(self.identity), text=words))
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysRefuse:
    """The control under which every answer becomes one refusal; no model is asked."""

    refusal: str = REFUSAL

    @property
    def identity(self) -> Mapping[str, str]:
        """That it refuses, and in which words."""
        return {"critic": "always-refuse", "refusal": self.refusal}

    def criticise(self, cases: Sequence[Case], asker: Asker) -> list[Critique]:
        """A fault in all that is not the refusal yet, and the refusal in its place."""
        return [
            Critique(
                principle=case.principle.id,
                found=case.answer != self.refusal,
                who=who(self.identity),
                text=case.principle.text,
                revision=self.refusal,
            )
            for case in cases
        ]


def who(identity: Mapping[str, str]) -> str:
    """The digest under which records name a critic or a writer."""
    return digest_of(dict(identity))


def num_tries(sampling: Sampling, max_retries: int) -> int:
    """How often the same is asked for; what is greedy says the same again."""
    return 1 if sampling.temperature == 0 else max_retries + 1


def fitting(
    voice: Voice,
    shown: Sequence[Demonstration],
    turns: Callable[[Sequence[Demonstration]], Turns],
    max_new_tokens: int,
) -> tuple[Turns, int]:
    """The request with as many of the demonstrations as leave room, and how many those are; the first ones are kept."""
    for number in range(len(shown), 0, -1):
        messages = turns(shown[:number])
        if voice.fits(messages, max_new_tokens):
            return messages, number
    return turns(()), 0


def _with_words(one: Critique, case: Case, request: str, reply: Reply) -> Critique:
    text = whole_sentences(reply.text) if reply.stop_reason == "length" else reply.text.strip()
    others = {"the answer": case.answer, "the prompt": case.prompt[-1].content, "the request": request}
    fault = fault_of(text, reply.stop_reason, case.principle.critique_request, others)
    return replace(one, text="" if fault == NOT_STORABLE else text, outcome=fault or "")


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().strip()


def _row_id(purpose: str, case: Case, attempt: int) -> int:
    return derive_seed(0, purpose, case.key, attempt)


def _tags(case: Case) -> dict[str, str]:
    return {"case": case.key, "principle": case.principle.id}
