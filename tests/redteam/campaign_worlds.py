"""Scripted targets, attackers and judges, and attacks of every shape, for tests of a campaign."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tunesmith.records import Message
from tunesmith.redteam.attack import AskAttacker, AskJudge, AskTarget, Attack, Draw, Steps
from tunesmith.redteam.calls import Speaker
from tunesmith.redteam.driver import Driver
from tunesmith.redteam.goals import Goal, GoalKind
from tunesmith.redteam.judgement import Case, Judgement
from tunesmith.redteam.judges import JudgeByKind
from tunesmith.redteam.plan import Planned, plan_attempts
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written

KINDS: tuple[GoalKind, ...] = get_args(GoalKind)


class Killed(BaseException):
    """Stands for a process that dies."""


class Scripted:
    """Answers by a function of the messages; notes its batches, and dies or fails before an answer that is told."""

    def __init__(self, name: str, answer: Callable[[Sequence[Message]], str], *, dies_at: int = -1) -> None:
        self.name, self.answer, self.dies_at = name, answer, dies_at
        self.batches: list[list[str]] = []
        self.row_ids: list[int] = []
        self.num_given = 0

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": self.name, "model_digest": self.name, "adapter_digest": "none"}

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        self.batches.append([one.messages[-1].content for one in asked])
        self.row_ids += [one.row_id for one in asked]
        # From the last to the first: a driver must not count on an order.
        for index in reversed(range(len(asked))):
            if self.num_given == self.dies_at:
                raise Killed
            self.num_given += 1
            text = self.answer(asked[index].messages)
            stop = "content_filter" if text == "withheld" else "end_of_turn"
            yield index, Written(text=text, stop_reason=stop, details={"prompt_tokens": 7, "new_tokens": 3})  # type: ignore[arg-type]


class YesJudge:
    """An answer that begins with yes is a success; notes what it was asked."""

    def __init__(self, version: str = "1") -> None:
        self.version, self.cases = version, list[Case]()

    @property
    def identity(self) -> Mapping[str, str]:
        return {"judge": "yes", "version": self.version}

    def judge(self, cases: Sequence[Case]) -> Iterator[tuple[int, Judgement]]:
        self.cases += cases
        for index in reversed(range(len(cases))):
            yes = cases[index].answer.startswith("yes")
            kind = "comply" if yes else "refuse"
            yield index, Judgement(kind=kind, success=yes, score=float(yes), details={"judge": "yes"})  # type: ignore[arg-type]


def hashed_answer(messages: Sequence[Message]) -> str:
    """A third of all conversations is answered with yes."""
    text = "".join(one.content for one in messages)
    digest = hashlib.sha256(text.encode()).digest()[0]
    return f"{'yes' if digest % 3 == 0 else 'no'} {digest}"


def user(text: str) -> Message:
    return Message(role="user", content=text)


def direct(goal: Goal, draw: Draw) -> Steps:
    yield (AskTarget(messages=(user(goal.request),)),)


def drawn(goal: Goal, draw: Draw) -> Steps:
    yield (AskTarget(messages=(user(f"{draw.rng().integers(1000)} {goal.request}"),)),)


def two_turns(goal: Goal, draw: Draw) -> Steps:
    """A first question that only prepares the second."""
    opening = user("hello")
    (heard,) = yield (AskTarget(messages=(opening,), counts=False),)
    yield (AskTarget(messages=(opening, Message(role="assistant", content=heard.text), user(goal.request))),)


def climbing(goal: Goal, draw: Draw) -> Steps:
    """Rewrites until the judge is content, at most three times, with two prompts at once."""
    told = goal.request
    for _ in range(3):
        (written,) = yield (AskAttacker(messages=(user(f"rewrite {told}"),), max_new_tokens=9, temperature=0.5),)
        asked = [(user(f"{written.text} {end}"),) for end in "ab"]
        heard = yield tuple(AskTarget(messages=one) for one in asked)
        said = yield tuple(AskJudge(messages=one, answer=reply.text) for one, reply in zip(asked, heard, strict=True))
        if any(one.judgement is not None and one.judgement.success for one in said):
            return
        told = written.text


ATTACKS = {
    "direct": Attack(name="direct", family="direct", about="as it is", run=direct),
    "drawn": Attack(name="drawn", family="template", about="by chance", run=drawn),
    "two-turns": Attack(name="two-turns", family="multi-turn", about="two", run=two_turns, num_target_calls=2),
    "climbing": Attack(
        name="climbing", family="search", about="climbs", run=climbing,
        num_target_calls=6, num_attacker_calls=3, num_judge_calls=6,
    ),
}  # fmt: skip


def goals(number: int = 6) -> list[Goal]:
    """Harmful goals, and of kind safe every third one."""
    return [
        Goal(
            id=f"g{i}", request=f"request {i}", category="test", source="made", kind="safe" if i % 3 == 2 else "harmful"
        )
        for i in range(number)
    ]


def planned(attacks: Sequence[str] = tuple(ATTACKS), **how: Any) -> list[Planned]:
    how = {"convert": lambda chain, text, rng: f"{'+'.join(chain)}({text})", "plain": ATTACKS["direct"], **how}
    return plan_attempts(how.pop("goals", goals()), [ATTACKS[name] for name in attacks], **how)


def driver(
    folder: Path,
    *,
    target: Scripted | None = None,
    attacker: Scripted | None = None,
    judge: YesJudge | None = None,
    portion: int = 4,
    temperature: float = 0.0,
    **how: Any,
) -> Driver:
    """A driver on scripted writers and the files of a folder."""
    sampling = Sampling(max_new_tokens=8, temperature=temperature)
    speaker = {key: how.pop(key) for key in ("whole", "why_not") if key in how}
    return Driver(
        target=Speaker(
            writer=target or Scripted("target", hashed_answer), sampling=sampling, portion=portion, **speaker
        ),
        judge=JudgeByKind(dict.fromkeys(KINDS, judge or YesJudge())),
        attacker=Speaker(
            writer=attacker or Scripted("attacker", lambda m: f"w{len(m[-1].content)}"), sampling=sampling
        ),
        calls=ResultsFile(folder / "calls.jsonl"),
        attempts=ResultsFile(folder / "attempts.jsonl"),
        **how,
    )
