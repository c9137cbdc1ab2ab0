"""What the searches of a model-driven attack share: budgets, proposals of the attacker, frames where it fails, counts.

A search is a function of what it hears: the same replies lead to the same next asks, so a stopped campaign goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from pydantic import Field

from tunesmith.config import Config, load_config
from tunesmith.constitution.garbage import fold
from tunesmith.randomness import derive_seed
from tunesmith.redteam.attack import Ask, AskAttacker, AskJudge, AskTarget, Draw, Heard
from tunesmith.redteam.attacker import (
    STRATEGIES,
    Proposal,
    Strategy,
    Tried,
    attacker_messages,
    read_proposal,
    says_no,
    topic_messages,
)
from tunesmith.redteam.attacks_single import opened, user
from tunesmith.redteam.goals import Goal

T = TypeVar("T")
C = TypeVar("C", bound="SearchConfig")
# A part of an attack's steps, with what it comes to.
Part = Generator[tuple[Ask, ...], tuple[Heard, ...], T]


class SearchConfig(Config):
    """What a search asks of its attacker, and what it lets pass."""

    attacker_tokens: int = Field(64, ge=8)
    """Most tokens of one text of the attacker."""
    attacker_temperature: float = Field(0.7, ge=0, le=10)
    """How freely the attacker writes."""
    keep_last: int = Field(2, ge=0)
    """Earlier tries, with the target's answers and scores, that the attacker is shown."""
    answer_characters: int = Field(400, ge=0)
    """Of each of those answers; the rest is marked as left out."""
    topic: Literal["words", "asked", "none"] = "words"
    """How a message that no longer asks for the goal is told: by the words it shares with it, by these and by asking
    the attacker's model yes or no, or not at all."""
    least_shared: float = Field(0.3, ge=0, le=1)
    """Of the goal's words of matter, the share a message must have."""


@dataclass(frozen=True, slots=True)
class Line:
    """Where a search stands: a way to persuade, the branch taken at each depth, and what was tried on the way here."""

    strategy: Strategy
    place: tuple[int, ...] = ()
    tried: tuple[Tried, ...] = ()

    @property
    def score(self) -> float:
        """How far its last answer went."""
        return self.tried[-1].judgement.score if self.tried else 0.0


@dataclass(slots=True)
class Search:
    """One attempt: what it may do, what it put to the target so far, and what it counted."""

    goal: Goal
    draw: Draw
    config: SearchConfig
    frames: list[Strategy] = field(default_factory=list)
    put: set[str] = field(default_factory=set)
    tries: list[dict[str, Any]] = field(default_factory=list)
    num_attacker_texts: int = 0
    num_cut: int = 0
    readings: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    num_frames: int = 0

    def __post_init__(self) -> None:
        order = self.draw.rng("strategies").permutation(len(STRATEGIES))
        self.frames = [STRATEGIES[i] for i in order]

    def root(self) -> Line:
        """Where nothing was tried yet."""
        return Line(self.frames[0])

    def branch(self, line: Line, number: int) -> Line:
        """One way to go on from a line; from the root each takes another strategy, as long as there are any."""
        strategy = line.strategy if line.place else self.frames[number % len(self.frames)]
        return Line(strategy, (*line.place, number), line.tried)

    def propose(self, lines: Sequence[Line]) -> Part[list[Proposal]]:
        """Let the attacker write one message for each line; faults are found and counted, none is repaired here."""
        config, draw = self.config, self.draw
        asks = tuple(
            AskAttacker(
                messages=attacker_messages(
                    self.goal,
                    line.strategy,
                    line.tried[max(0, len(line.tried) - config.keep_last) :],
                    most_characters=config.answer_characters,
                ),
                draw=derive_seed(draw.seed, "attacker", draw.attack, draw.goal, draw.index, *line.place),
                max_new_tokens=config.attacker_tokens,
                temperature=config.attacker_temperature,
            )
            for line in lines
        )
        least_shared = 0.0 if config.topic == "none" else config.least_shared
        heard = yield asks
        proposals = [read_proposal(one, self.goal, least_shared=least_shared) for one in heard]
        if config.topic == "asked":
            proposals = yield from self._ask_topic(proposals)
        seen, out = set(self.put), list[Proposal]()
        for proposal in proposals:
            fault = proposal.fault or ("repeat" if fold(proposal.prompt) in seen else None)
            seen.add(fold(proposal.prompt))
            out.append(replace(proposal, fault=fault))
            self.readings[proposal.reading] += 1
            self.num_cut += proposal.was_cut
            if fault:
                self.faults[fault] += 1
        self.num_attacker_texts += len(out)
        return out

    def _ask_topic(self, proposals: Sequence[Proposal]) -> Part[list[Proposal]]:
        """Ask whether each sound message asks for the goal."""
        sound = [i for i, proposal in enumerate(proposals) if not proposal.fault]
        out = list(proposals)
        if sound:
            asks = (topic_messages(self.goal, proposals[i].prompt) for i in sound)
            heard = yield tuple(AskAttacker(messages=one, max_new_tokens=4, temperature=0.0) for one in asks)
            for i, one in zip(sound, heard, strict=True):
                if says_no(one.text):
                    out[i] = replace(out[i], fault="off topic")
        return out

    def frame(self) -> Proposal:
        """A message without the attacker: the next frame around the request, then frames within frames.

        The first 6 + 6 * 5 differ.
        """
        number, count = self.num_frames, len(self.frames)
        self.num_frames += 1
        outer = self.frames[number % count]
        inner = self.frames[(number % count + number // count) % count] if number >= count else None
        if inner is None or inner == outer:
            return Proposal(prompt=outer.apply(self.goal.request), reading="frame", frame=outer.name)
        prompt = outer.apply(inner.apply(self.goal.request))
        return Proposal(prompt=prompt, reading="frame", frame=f"{outer.name} around {inner.name}")

    def put_to_target(self, lines: Sequence[Line], proposals: Sequence[Proposal]) -> Part[list[Line]]:
        """Ask the target one message a line, fresh each time, and have the answers judged: the lines with one more."""
        told = tuple(opened(self.goal, user(proposal.prompt)) for proposal in proposals)
        answers = yield tuple(AskTarget(messages=messages) for messages in told)
        rulings = yield tuple(
            AskJudge(messages=messages, answer=answer.text) for messages, answer in zip(told, answers, strict=True)
        )
        out = []
        for line, proposal, answer, ruling in zip(lines, proposals, answers, rulings, strict=True):
            if ruling.judgement is None:
                raise ValueError("a judge was asked and no judgement was sent")
            tried = Tried(prompt=proposal.prompt, answer=answer.text, judgement=ruling.judgement)
            out.append(Line(line.strategy, line.place, (*line.tried, tried)))
            self.put.add(fold(proposal.prompt))
            strategy = proposal.frame or line.strategy.name
            self.tries.append({"place": list(line.place), "strategy": strategy, "reading": proposal.reading})
        return out

    def details(self) -> dict[str, Any]:
        """What was counted, for the attempt's record; ``tries`` tells in their order how each message came about."""
        return {
            "attacker_texts": self.num_attacker_texts,
            "cut": self.num_cut,
            "readings": dict(sorted(self.readings.items())),
            "faults": dict(sorted(self.faults.items())),
            "frames": self.num_frames,
            "tries": self.tries,
        }


def name_of(name: str, config: SearchConfig) -> str:
    """An attack's name, with the settings that are not the usual ones: what is recorded is what is asked for."""
    usual = type(config)().model_dump()
    changed = {key: value for key, value in config.model_dump().items() if value != usual[key]}
    return f"{name}:{','.join(f'{key}={value}' for key, value in changed.items())}" if changed else name


def settings_from(kind: type[C], text: str) -> C:
    """Settings as they stand in an attack's name, ``key=value`` with commas between. Raises ConfigError."""
    return load_config(kind, None, [part.strip() for part in text.split(",") if part.strip()])[0]


def succeeded(lines: Sequence[Line]) -> bool:
    """Whether the last answer of any line gave what was wanted."""
    return any(line.tried[-1].judgement.success for line in lines)
