"""Who labels pairs by principles: a model by its verdict tokens, an address that writes, or a control without eyes.

A principle is put to a judge as a rubric of pairs, so that the asking, the memory of it and the reading of texts are
those of every other judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

from tunesmith.constitution.label import Opinion, demonstration_pairs, opinion_of_odds
from tunesmith.constitution.principles import Principle
from tunesmith.evals.judge import Ruling, Said
from tunesmith.evals.rubrics import Case, Rubric, Shot, Style
from tunesmith.randomness import generator
from tunesmith.records import Message

Control = Literal["random", "first", "length"]
CONTROLS: tuple[Control, ...] = get_args(Control)
Turns = tuple[Message, ...]


def principle_rubric(principle: Principle) -> Rubric:
    """The question whether one answer keeps a principle better than the other."""
    ask = (
        f"Which of the two answers keeps this rule better? The rule: {principle.text.strip()} Neither the order of the "
        "answers nor their length is a merit. The verdict is A or B for the better one, C if neither is better."
    )
    return Rubric(name=principle.id, ask=ask, labels={"A": 1.0, "B": 0.0, "C": 0.5}, scale="pair")


def cases_of_pair(
    principle: Principle, prompt: Turns, answers: tuple[Turns, Turns], num_demonstrations: int
) -> tuple[Case, Case]:
    """The pair in both orders, behind the same demonstrations of the principle."""
    rubric = principle_rubric(principle)
    shots = tuple(
        Shot(case=Case(rubric=rubric, shown=(_talk(asked, a), _talk(asked, b))), label=label, reason=why)
        for asked, a, b, label, why in demonstration_pairs(principle, num_demonstrations)
    )
    first, second = ((*prompt, *answer) for answer in answers)
    return (
        Case(rubric=rubric, shown=(first, second), shots=shots),
        Case(rubric=rubric, shown=(second, first), shots=shots),
    )


def _talk(prompt: str, answer: str) -> Turns:
    return Message(role="user", content=prompt), Message(role="assistant", content=answer)


def opinion_of(principle: str, first: Ruling, second: Ruling) -> Opinion:
    """What a judge said of a pair, shown in its order and the other way round."""
    if first.probabilities and second.probabilities:
        return opinion_of_odds(principle, first.log_odds("A", "B"), second.log_odds("A", "B"))
    # The second order's verdict is told for the answer that stood first there.
    worth = first.value, None if second.value is None else 1 - second.value
    unread = [one for one in (first, second) if one.value is None]
    return Opinion(principle=principle, worth=worth, reasons=tuple(_reason(one) for one in unread))


def _reason(ruling: Ruling) -> str:
    if ruling.said.stop_reason == "not asked":
        return "longer than the judge's context"
    return {"content_filter": "withheld by the endpoint", "length": "cut off"}.get(
        ruling.said.stop_reason, "no verdict"
    )


class ControlJudge:
    """A judge that reads nothing: what its labels still show is no judgement of the answers.

    random: log-odds drawn for each showing. first: always 2 nats for the place A. length: prefers the longer answer, by
    the logarithm of the ratio of characters.
    """

    style: Style = "verdict alone"
    num_tries = 1
    both_orders = True

    def __init__(self, control: Control, seed: int) -> None:
        self.control, self.seed = control, seed
        self._odds: Callable[[Case], float] = {"random": self._random, "first": _first, "length": _length}[control]

    @property
    def identity(self) -> Mapping[str, str]:
        """The control's name and what keys it."""
        return {"judge": "control", "model": f"control-{self.control}", "seed": str(self.seed)}

    def ask(self, cases: Sequence[Case], before: Sequence[str | None]) -> Iterator[tuple[int, Said]]:
        """Verdicts in the order of the cases."""
        for index, case in enumerate(cases):
            odds = self._odds(case)
            # A third label so unlikely that it is never the verdict.
            yield index, Said(text="[[A]]" if odds > 0 else "[[B]]", logprobs=(odds / 2, -odds / 2, -99.0))

    def _random(self, case: Case) -> float:
        texts = [turn.content for talk in case.shown for turn in talk]
        return float(generator(self.seed, "control_judge", case.rubric.name, *texts).normal())


def _first(case: Case) -> float:
    return 2.0


def _length(case: Case) -> float:
    a, b = (len(talk[-1].content) for talk in case.shown)
    return math.log(a / b)
