"""Which attempts a campaign makes: goals x attacks x converters x draws, and replays of recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.feedback.judgements import digest_of
from tunesmith.redteam.attack import AskTarget, Attack, Draw, Steps
from tunesmith.redteam.attempt_rows import goal_row
from tunesmith.redteam.attempts import Attempt
from tunesmith.redteam.goals import ATTACKED, Goal

# (names of a chain, text, chance) -> the text that the chain makes of it.
Convert = Callable[[Sequence[str], str, np.random.Generator], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One attempt to be made. request: the goal's after the converters; replay_of: key of the attempt it repeats."""

    goal: Goal
    attack: Attack
    converters: tuple[str, ...] = ()
    index: int = 0
    seed: int = 0
    request: str
    replay_of: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """All that an attempt depends on besides who is attacked, who attacks and who judges."""
        return {
            "goal": goal_row(self.goal),
            "attack": [self.attack.name, self.attack.version, *([self.attack.data] if self.attack.data else [])],
            "converters": list(self.converters),
            "index": self.index,
            "seed": self.seed,
            "request": self.request,
            "replay_of": self.replay_of,
        }

    @property
    def draw(self) -> Draw:
        """The attempt's chance, the same for every target and every chain."""
        return Draw(seed=self.seed, attack=self.attack.name, goal=self.goal.id, index=self.index)

    @property
    def row_id(self) -> int:
        """Keys the draws of sampled answers: the same for every target, so that two of them are compared in pairs."""
        return int(digest_of(self.identity)[:15], 16)

    def start(self) -> Steps:
        """The attack's steps; it sees the request that the converters made."""
        return self.attack.run(replace(self.goal, request=self.request), self.draw)


def plan_attempts(
    goals: Sequence[Goal],
    attacks: Sequence[Attack],
    *,
    plain: Attack,
    chains: Sequence[tuple[str, ...]] = (),
    convert: Convert,
    converted_attacks: Sequence[str] = ("direct",),
    num_attempts: int = 1,
    seed: int = 0,
) -> list[Planned]:
    """Every goal that is to be turned down by every attack, chains before those named; the others by ``plain``.

    plain: asks as anybody would.
    """
    out = []
    for goal in goals:
        for attack in attacks if goal.kind in ATTACKED else [plain]:
            told = chains if goal.kind in ATTACKED and attack.name in converted_attacks else ()
            for chain in dict.fromkeys(((), *told)):
                for index in range(num_attempts):
                    draw = Draw(seed=seed, attack=attack.name, goal=goal.id, index=index)
                    request = convert(chain, goal.request, draw.rng("converters", *chain)) if chain else goal.request
                    out.append(
                        Planned(goal=goal, attack=attack, converters=chain, index=index, seed=seed, request=request)
                    )
    return out


def plan_replay(attempts: Sequence[Attempt], attacks: Mapping[str, Attack]) -> list[Planned]:
    """The recorded attempts again, their prompts as they were; nothing of them is adapted to what is now heard.

    attacks: by name, of which the versions are taken. An attempt that asked nothing stays out.
    """
    return [
        Planned(
            goal=one.goal,
            attack=Attack(
                name=one.attack,
                family=one.family,
                about="recorded prompts",
                run=_asks_again(one),
                num_target_calls=len(one.tries),
                version=attacks[one.attack].version if one.attack in attacks else 1,
            ),
            converters=one.converters,
            index=one.index,
            seed=one.seed,
            request=one.request,
            replay_of=one.key,
        )
        for one in attempts
        if one.tries
    ]


def _asks_again(attempt: Attempt) -> Callable[[Goal, Draw], Steps]:
    def run(goal: Goal, draw: Draw) -> Steps:
        yield tuple(AskTarget(messages=one.messages) for one in attempt.tries)

    return run
