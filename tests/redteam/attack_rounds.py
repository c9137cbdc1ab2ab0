"""Drives one attack by hand, round by round, with scripted roles, and notes all that was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.records import Message
from tunesmith.redteam.attack import Ask, AskAttacker, AskJudge, AskTarget, Attack, Draw, Heard
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judgement import Judgement

Answer = Callable[[Sequence[Message]], str | Heard]


@dataclass(slots=True)
class Driven:
    """What an attack asked, round by round, and what it returned."""

    rounds: list[tuple[Ask, ...]] = field(default_factory=list)
    counted: Any = None

    def asks(self, kind: type) -> list[Any]:
        return [ask for asks in self.rounds for ask in asks if isinstance(ask, kind)]

    @property
    def prompts(self) -> list[str]:
        """The last message of each ask of the target."""
        return [ask.messages[-1].content for ask in self.asks(AskTarget)]

    @property
    def shapes(self) -> list[str]:
        """Who was asked in each round, and how often: "attacker 2"."""
        names = {AskTarget: "target", AskAttacker: "attacker", AskJudge: "judge"}
        return [f"{names[type(asks[0])]} {len(asks)}" for asks in self.rounds]


def drive(
    attack: Attack,
    goal: Goal,
    *,
    target: Answer = lambda messages: "no",
    attacker: Answer = lambda messages: "",
    judge: Callable[[str], float] = lambda answer: 0.0,
    draw: Draw | None = None,
    most_rounds: int = 50,
) -> Driven:
    """Run an attack to its end; judge: answer -> score, of which 1 is a success."""
    out = Driven()
    steps = attack.run(goal, draw or Draw(seed=0, attack=attack.name, goal=goal.id))
    heard: tuple[Heard, ...] | None = None
    for _ in range(most_rounds):
        try:
            asks = next(steps) if heard is None else steps.send(heard)
        except StopIteration as end:
            out.counted = end.value
            return out
        out.rounds.append(asks)
        heard = tuple(_hear(ask, target, attacker, judge) for ask in asks)
    raise AssertionError(f"{attack.name} did not end in {most_rounds} rounds")


def tagged(text: str) -> str:
    """An attacker's text in the format it is asked for."""
    return f"<prompt>{text}</prompt>"


def _hear(ask: Ask, target: Answer, attacker: Answer, judge: Callable[[str], float]) -> Heard:
    if isinstance(ask, AskJudge):
        score = judge(ask.answer)
        kind = "comply" if score == 1 else "partly" if score else "refuse"
        return Heard(judgement=Judgement(kind=kind, success=score == 1, score=score))  # type: ignore[arg-type]
    said = (target if isinstance(ask, AskTarget) else attacker)(ask.messages)
    return said if isinstance(said, Heard) else Heard(text=said)
