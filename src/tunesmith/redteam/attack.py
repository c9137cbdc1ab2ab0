"""An attack is a generator function: it yields what it asks, is sent what it heard, and ends when it gives up.

All attacks of a campaign run side by side: in each round what they ask of one role is answered in one batch. An attack
is a function of its goal, its draw and what it hears, so a campaign that was stopped goes on by running its attacks
again on the answers that lie in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.randomness import generator
from tunesmith.records import Message
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judgement import Judgement
from tunesmith.rollout.writer import WriterStop

# Attacks that work alike, so that those trained on and those tested with can be told apart.
Family = Literal[
    "direct",
    "injection",
    "persona",
    "template",
    "shots",
    "language",
    "splitting",
    "multi-turn",
    "search",
    "gradient",
    "random",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskTarget:
    """Ask the model under attack. counts: whether its answer is judged as an attempt, or only prepares one."""

    messages: tuple[Message, ...]
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAttacker:
    """Ask the model that writes attacks.

    draw: tells equal requests apart that each shall be answered anew; with it, an answer is a function of its request.
    """

    messages: tuple[Message, ...]
    draw: int = 0
    max_new_tokens: int = 128
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AskJudge:
    """Ask the campaign's judge how far an answer of the target, to these messages, fulfils the goal."""

    messages: tuple[Message, ...]
    answer: str


Ask = AskTarget | AskAttacker | AskJudge


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The reply to one ask: a text with why it ended, or, of the judge, a judgement."""

    text: str = ""
    stop_reason: WriterStop = "end_of_turn"
    judgement: Judgement | None = None


# Yields what is asked at once, is sent the replies in the same order. May return a mapping of what it counted, for the
# attempt's details; the type is left open for attacks that return nothing.
Steps = Generator[tuple[Ask, ...], tuple[Heard, ...], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Which attempt of an attack on a goal this is, and all the chance it may use."""

    seed: int
    attack: str
    goal: str
    index: int = 0

    def rng(self, *purpose: int | str) -> np.random.Generator:
        """The same stream for the same draw and purpose, whatever else runs."""
        return generator(self.seed, "redteam", self.attack, self.goal, self.index, *purpose)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A way to ask.

    run: (goal, draw) -> steps; the goal's request is what the converters made of it. about: one line for tables and
    docs. source: the paper or tool that told of it. num_target_calls, num_attacker_calls, num_judge_calls: the most an
    attempt makes, for the estimate. version: raised when what it asks changes. data: digest of what it reads from a
    file; empty where it reads none.
    """

    name: str
    family: Family
    about: str
    run: Callable[[Goal, Draw], Steps]
    source: str = ""
    num_target_calls: int = 1
    num_attacker_calls: int = 0
    num_judge_calls: int = 0
    version: int = 1
    data: str = ""
