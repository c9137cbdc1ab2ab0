"""Runs the attempts of a campaign against one target, side by side.

In each round all attempts that are not over say what they ask, and what they ask of one role is answered in one batch.
An attempt is written when it is over. A campaign that was stopped runs its attacks again on the answers that are there
(``calls.py``), so it comes to the same attempts, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.feedback.judgements import digest_of
from tunesmith.records import Message
from tunesmith.redteam.attack import Ask, AskAttacker, AskJudge, AskTarget, Heard, Steps
from tunesmith.redteam.attempt_rows import attempt_row, message_rows
from tunesmith.redteam.attempts import Attempt, Try
from tunesmith.redteam.calls import Call, Calls, Judged, Speaker, Spent, judged_case
from tunesmith.redteam.judgement import Case, Judgement
from tunesmith.redteam.judges import JudgeByKind
from tunesmith.redteam.plan import Planned
from tunesmith.rollout.results import ResultsFile


@dataclass(slots=True, kw_only=True)
class Counts:
    """How far a campaign has come with one target; an attempt that ends early has its other answers done."""

    attempts: int = 0
    attempts_done: int = 0
    answers: int = 0
    answers_done: int = 0
    spent: Spent


@dataclass(slots=True, kw_only=True)
class _Going:
    """An attempt that is under way: what it asks now, and what came of what it asked before."""

    plan: Planned
    key: str
    steps: Steps
    asks: tuple[Ask, ...] = ()
    tries: list[Try] = field(default_factory=list)
    counted: Any = None
    num_calls: dict[str, int] = field(default_factory=lambda: {"target": 0, "attacker": 0, "judge": 0})
    num_rounds: int = 0
    ended: str = ""


# (attempt's place in the round, ask's place in the attempt).
_Place = tuple[int, int]


class Driver:
    """Attempts against one target; the files of ``calls`` and ``attempts`` may be shared by several targets."""

    def __init__(
        self,
        *,
        target: Speaker,
        judge: JudgeByKind,
        attacker: Speaker | None = None,
        calls: ResultsFile,
        attempts: ResultsFile,
        progress: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        self.target, self.judge, self.attacker, self.attempts = target, judge, attacker, attempts
        self.calls, self.progress = Calls(calls, self._heard), progress
        self.counts = Counts(spent=self.calls.spent)
        # Answers of attempts that are over, and in the present round those of the others.
        self._settled = self._now = 0

    def key_of(self, plan: Planned) -> str:
        """Digest of all that an attempt depends on."""
        judge = dict(self.judge.of(plan.goal.kind).identity)
        told: dict[str, Any] = {**plan.identity, "target": self.target.identity, "judge": judge}
        if plan.attack.num_attacker_calls and self.attacker is not None:
            told["attacker"] = self.attacker.identity
            # It draws even where the target takes the likeliest token, and then by the cut-offs of its own speaker.
            cuts = [self.attacker.sampling.top_p, self.attacker.sampling.top_k]
            if not self.attacker.sampling.temperature and cuts != [1.0, 0]:
                told["attacker_cuts"] = cuts
        return digest_of(told)

    def first_calls(self, plan: Planned) -> list[tuple[str, Call]]:
        """(role, call) of what an attempt asks models for first; nothing is asked."""
        one = _Going(plan=plan, key="", steps=plan.start())
        _advance(one, None)
        one.steps.close()
        return [
            (_role(ask), self._call(one, j, ask)) for j, ask in enumerate(one.asks) if not isinstance(ask, AskJudge)
        ]

    def run(self, plans: Sequence[Planned]) -> list[str]:
        """Make the attempts that are not in the file yet; returns the keys of all, in the order of the plans.

        Raises ConfigError where an attack needs an attacker and there is none; EndpointError, DiskFullError, RunError.
        """
        if self.attacker is None and (needy := sorted({p.attack.name for p in plans if p.attack.num_attacker_calls})):
            raise ConfigError("attacks", f"no model is there to write for {', '.join(needy)}.", "Name an attacker.")
        by_key = {self.key_of(plan): plan for plan in plans}
        self.counts.attempts, self.counts.answers = len(by_key), sum(map(num_answers, by_key.values()))
        there = [plan for key, plan in by_key.items() if key in self.attempts]
        self.counts.attempts_done, self._settled = len(there), sum(map(num_answers, there))
        going = [
            _Going(plan=plan, key=key, steps=plan.start()) for key, plan in by_key.items() if key not in self.attempts
        ]
        for one in going:
            _advance(one, None)
        going = self._write_ended(going)
        while going:
            self._round(going)
            going = self._write_ended(going)
        return [self.key_of(plan) for plan in plans]

    def _round(self, going: Sequence[_Going]) -> None:
        """Answer what is asked, judge what counts, and let every attempt ask on."""
        calls = self._answer(going)
        cases: dict[_Place, Judged] = {}
        for i, one in enumerate(going):
            for j, ask in enumerate(() if one.ended else one.asks):
                if isinstance(ask, AskJudge):
                    cases[i, j] = self._case(one, ask.messages, ask.answer)
                elif isinstance(ask, AskTarget) and ask.counts:
                    row = self.calls[calls[i, j].key]
                    withheld = row["stop_reason"] == "content_filter"
                    cases[i, j] = self._case(one, ask.messages, row["answer"], withheld=withheld)
        judged = self.calls.judge(self.judge, cases.values())
        for i, one in enumerate(going):
            if one.ended:
                one.steps.close()
                continue
            heard = []
            for j in range(len(one.asks)):
                judgement = judged[cases[i, j].key] if (i, j) in cases else None
                heard.append(self._hear(one, calls.get((i, j)), judgement))
            _advance(one, tuple(heard))

    def _answer(self, going: Sequence[_Going]) -> dict[_Place, Call]:
        """Have every answer that is asked for in the file; an attempt that asks what cannot be answered ends."""
        calls: dict[_Place, Call] = {}
        for i, one in enumerate(going):
            for j, ask in enumerate(one.asks):
                if isinstance(ask, AskJudge):
                    continue
                call = self._call(one, j, ask)
                calls[i, j] = call
                if call.key not in self.calls:
                    speaker = self._speaker(ask)
                    one.ended = one.ended or speaker.why_not(call.messages, call.sampling.max_new_tokens)
        for role, who in (("attacker", self.attacker), ("target", self.target)):
            if who is not None:
                asked = [
                    call for (i, j), call in calls.items() if _role(going[i].asks[j]) == role and not going[i].ended
                ]
                self.calls.ask(role, who, asked)
        return calls

    def _call(self, one: _Going, place: int, ask: AskTarget | AskAttacker) -> Call:
        if isinstance(ask, AskTarget):
            drawn = (one.plan.row_id, one.num_rounds, place)
            return self.target.call(_under(one.plan.goal.system, ask.messages), drawn)
        # The same request is rewritten alike whoever is attacked with it.
        draw = (one.plan.seed, ask.draw, digest_of(message_rows(ask.messages)))
        how = {"max_new_tokens": ask.max_new_tokens, "temperature": ask.temperature}
        return self._speaker(ask).call(ask.messages, draw, **how)

    def _speaker(self, ask: AskTarget | AskAttacker) -> Speaker:
        speaker = self.target if isinstance(ask, AskTarget) else self.attacker
        assert speaker is not None
        return speaker

    def _case(self, one: _Going, messages: Sequence[Message], answer: str, *, withheld: bool = False) -> Judged:
        case = Case(goal=one.plan.goal, prompt=messages[-1].content, answer=answer)
        return judged_case(self.judge.of(case.goal.kind), case, withheld=withheld)

    def _hear(self, one: _Going, call: Call | None, judgement: Judgement | None) -> Heard:
        """The reply to one ask; of the target's, one that is judged is a try."""
        if call is None:
            return Heard(judgement=judgement)
        row = self.calls[call.key]
        if judgement is not None:
            stop = row["stop_reason"]
            one.tries.append(Try(messages=call.messages, answer=row["answer"], stop_reason=stop, judgement=judgement))
        return Heard(text=row["answer"], stop_reason=row["stop_reason"])

    def _write_ended(self, going: Sequence[_Going]) -> list[_Going]:
        """Write the attempts that are over, in the order of the plans; returns those that are not."""
        over = [one for one in going if one.ended or not one.asks]
        rest = [one for one in going if one.asks and not one.ended]
        if over:
            self.attempts.append([attempt_row(self._attempt(one)) for one in over])
        self.counts.attempts_done += len(over)
        self._settled += sum(num_answers(one.plan) for one in over)
        # What is asked next is not answered yet.
        self._now = sum(_num_asked(one) - sum(not isinstance(ask, AskJudge) for ask in one.asks) for one in rest)
        self._heard(0)
        return rest

    def _heard(self, number: int) -> None:
        self._now += number
        self.counts.answers_done = min(self._settled + self._now, self.counts.answers)
        self.progress(self.counts)

    def _attempt(self, one: _Going) -> Attempt:
        plan = one.plan
        details: dict[str, Any] = {"calls": one.num_calls, "rounds": one.num_rounds}
        if one.counted is not None:
            details["counted"] = dict(one.counted)
        if plan.replay_of:
            details["replay_of"] = plan.replay_of
        if plan.attack.num_attacker_calls and self.attacker is not None:
            details["attacker"] = dict(self.attacker.writer.identity)
        if one.ended and one.tries:
            details["ended"] = one.ended
        return Attempt(
            key=one.key,
            goal=plan.goal,
            attack=plan.attack.name,
            family=plan.attack.family,
            converters=plan.converters,
            index=plan.index,
            seed=plan.seed,
            request=plan.request,
            tries=tuple(one.tries),
            target=dict(self.target.writer.identity),
            judge=dict(self.judge.of(plan.goal.kind).identity),
            skipped="" if one.tries else one.ended or "the attack asked nothing that counts",
            details=details,
        )


def num_answers(plan: Planned) -> int:
    """The most answers an attempt asks of models."""
    return plan.attack.num_target_calls + plan.attack.num_attacker_calls


def _num_asked(one: _Going) -> int:
    return one.num_calls["target"] + one.num_calls["attacker"]


def _advance(one: _Going, heard: tuple[Heard, ...] | None) -> None:
    """Let an attempt go on to what it asks next, or to its end. Raises ValueError where it asks more than it says."""
    try:
        one.asks = next(one.steps) if heard is None else one.steps.send(heard)
    except StopIteration as end:
        one.asks, one.counted = (), end.value
        return
    attack = one.plan.attack
    if not one.asks:
        raise ValueError(f"the attack {attack.name} asks nothing; one that is over returns")
    one.num_rounds += 1
    for ask in one.asks:
        one.num_calls[_role(ask)] += 1
    most = (attack.num_target_calls, attack.num_attacker_calls, attack.num_judge_calls)
    if any(number > limit for number, limit in zip(one.num_calls.values(), most, strict=True)):
        raise ValueError(f"the attack {attack.name} asks more than it says: {one.num_calls}, not {most}")


def _role(ask: Ask) -> str:
    if isinstance(ask, AskTarget):
        return "target"
    return "attacker" if isinstance(ask, AskAttacker) else "judge"


def _under(system: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages under the target's system message, unless an attack has put one of its own."""
    if not system or messages[0].role == "system":
        return messages
    return (Message(role="system", content=system), *messages)
