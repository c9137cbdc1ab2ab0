"""Who labels pairs by principles: a model by its verdict tokens, an address that writes, or a control without eyes.

A principle is put to a judge as a rubric of pairs, so that the asking, the memory of it and the reading of texts are
those of every other judge. A model too small to compare two answers may still tell of each whether it breaks the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

from tunesmith.constitution.label import Opinion, demonstration_pairs, opinion_of_odds
from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.constitution.wording import NO, YES, verdict_turns
from tunesmith.errors import DataError
from tunesmith.evals.judge import Ruling, Said
from tunesmith.evals.rubrics import Case, Rubric, Shot, Style
from tunesmith.feedback.judgements import digest_of
from tunesmith.randomness import generator
from tunesmith.records import Message
from tunesmith.rollout.likelihood import LikelihoodModel

EACH = "each"
Control = Literal["random", "first", "length"]
CONTROLS: tuple[Control, ...] = get_args(Control)
Turns = tuple[Message, ...]
Request = tuple[Turns, tuple[str, str]]
# Cases between two writes to the disk.
_PORTION = 16


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


class EachJudge:
    """A model that reads each answer by itself and says how likely it breaks the rule.

    With s = ln P(Yes) - ln P(No) after that question, the log-odds that A is the better one are s(B) - s(A), Bradley
    and Terry's model with strengths -s. What a model adds for Yes cancels, and there is no place to prefer.
    """

    style: Style = "verdict alone"
    num_tries = 1
    both_orders = True

    def __init__(self, model: LikelihoodModel, constitution: Constitution, num_demonstrations: int) -> None:
        self.model, self.constitution, self.num_demonstrations = model, constitution, num_demonstrations
        probe = (Message(role="user", content="user"),)
        told = [self._turns(probe, "answer", one.id) for one in constitution.principles]
        wording = digest_of([[turn.content for turn in turns] for turns in told])
        # Of one sitting: the other order of a pair asks of the same two answers.
        self._known: dict[Turns, float | None] = {}
        self._identity = {"judge": "each answer by itself", **model.identity, "wording": wording}

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's identity, and a digest of all its questions with their demonstrations."""
        return self._identity

    def requests(self, cases: Sequence[Case]) -> list[Request]:
        """What the model is asked: each answer by each principle once, however often it is shown."""
        asked = {self._of(case, talk): None for case in cases for talk in case.shown}
        return [(turns, (YES, NO)) for turns in asked]

    def ask(self, cases: Sequence[Case], before: Sequence[str | None]) -> Iterator[tuple[int, Said]]:
        """Verdicts in the order of the cases, by portions."""
        for first in range(0, len(cases), _PORTION):
            portion = cases[first : first + _PORTION]
            self._known |= self._scores([one for one in self.requests(portion) if one[0] not in self._known])
            for index, case in enumerate(portion, first):
                a, b = (self._known[self._of(case, talk)] for talk in case.shown)
                if a is None or b is None:
                    yield index, Said(text="", stop_reason="not asked", reason="longer than the judge's context")
                else:
                    yield index, Said(text="[[A]]" if b > a else "[[B]]", logprobs=_logprobs(b - a))

    def _scores(self, asked: Sequence[Request]) -> dict[Turns, float | None]:
        try:
            scored = self.model.score(asked)
        except DataError:
            if len(asked) == 1:
                return {asked[0][0]: None}
            # One of several is longer than the context.
            return {turns: score for one in asked for turns, score in self._scores([one]).items()}
        return {turns: yes.logprob - no.logprob for (turns, _), (yes, no) in zip(asked, scored, strict=True)}

    def _of(self, case: Case, talk: Turns) -> Turns:
        return self._turns(talk[:-1], talk[-1].content, case.rubric.name)

    def _turns(self, prompt: Turns, answer: str, principle_id: str) -> Turns:
        principle = self.constitution[principle_id]
        shown = principle.examples[: self.num_demonstrations]
        return verdict_turns("turns", "question", prompt, answer, principle, shown)


def _logprobs(odds: float) -> tuple[float, float, float]:
    """Of A, B and a third label so unlikely that it is never the verdict."""
    return odds / 2, -odds / 2, -99.0 - abs(odds)


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
            yield index, Said(text="[[A]]" if odds > 0 else "[[B]]", logprobs=_logprobs(odds))

    def _random(self, case: Case) -> float:
        texts = [turn.content for talk in case.shown for turn in talk]
        return float(generator(self.seed, "control_judge", case.rubric.name, *texts).normal())


def _first(case: Case) -> float:
    return 2.0


def _length(case: Case) -> float:
    a, b = (len(talk[-1].content) for talk in case.shown)
    return math.log(a / b)
