"""What the tests of revision share: a small constitution, writers that follow a rule, and a likelihood that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.constitution.asking import Asker, Voice
from tunesmith.constitution.critic import Critic, CriticSettings, ModelCritic
from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.constitution.revise import Chain, Question, ReviseSettings, Speakers, revise
from tunesmith.records import Likelihood, Message, Where
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, WriterStop, Written

CRITIQUE, REVISION = "Say what in this answer is unkind to somebody.", "Write the answer once more, without that."
Say = Callable[[str, Asked], str | tuple[str, WriterStop]]
CONSTITUTION = """
name: small
version: "1"
principles:
  - id: kind
    text: Be kind to everybody.
    category: manners
    critique_request: Say what in this answer is unkind to somebody.
    revision_request: Write the answer once more, without that.
    examples:
      - prompt: Who is she?
        answer: A fool.
        critique: Yes, it insults her.
        revision: Somebody I do not know.
  - id: safe
    text: Keep people out of danger.
    category: danger
    critique_request: Say which part of this answer could hurt somebody.
    revision_request: Write the answer once more, so that it hurts nobody.
"""


def principle(name: str = "kind", **settings: Any) -> Principle:
    fields = {"text": f"Be {name}.", "category": "manners", "critique_request": CRITIQUE, "revision_request": REVISION}
    return Principle(id=name, **{**fields, **settings})


def constitution(*principles: Principle) -> Constitution:
    return Constitution(name="small", version="1", principles=principles or (principle(),))


def question(text: str = "What is he like?", *, harmless: bool = False) -> Question:
    return Question(messages=(Message(role="user", content=text),), where=Where("p.txt", 1), harmless=harmless)


def kind_of(asked: Asked) -> str:
    """answer, critique, verdict or revision, by what is asked for last."""
    last = asked.messages[-1].content
    if "could not read your verdict" in last:
        return "verdict"
    if last.startswith("Write the answer once more"):
        return "revision"
    return "critique" if "Say wh" in last else "answer"


class RuleWriter:
    """Answers by a rule on (kind of request, request); counts, and stops hard behind so many answers."""

    def __init__(self, say: Say, *, fail_after: int | None = None, fail: Callable[[], None] | None = None) -> None:
        self.say, self.fail_after, self.fail = say, fail_after, fail
        self.asked: list[tuple[str, Asked]] = []

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": "rule", "model_digest": "0", "adapter_digest": "none"}

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for index, one in enumerate(asked):
            if self.fail is not None and len(self.asked) == self.fail_after:
                self.fail()
            self.asked.append((kind_of(one), one))
            given = self.say(kind_of(one), one)
            text, stop = given if isinstance(given, tuple) else (given, "end_of_turn")
            yield index, Written(text=text, stop_reason=stop, details={"new_tokens": len(text.split())})


class RuleLikelihood:
    """Yes is likelier by ``odds(request)`` nats."""

    identity = {"model": "rule", "model_digest": "0"}

    def __init__(self, odds: Callable[[str], float]) -> None:
        self.odds, self.asked = odds, list[tuple[Message, ...]]()

    def score(self, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]) -> list[tuple[Likelihood, ...]]:
        out = []
        for messages, words in asked:
            assert list(words) == ["Yes", "No"]
            self.asked.append(tuple(messages))
            odds = self.odds("\n".join(turn.content for turn in messages))
            out.append(tuple(Likelihood(logprob=x, num_tokens=1, greedy=False) for x in (odds - 1.0, -1.0)))
        return out


SAMPLING = Sampling(max_new_tokens=32, temperature=0.7)


def critic_of(writer: RuleWriter, likelihood: RuleLikelihood | None = None, **settings: Any) -> ModelCritic:
    return ModelCritic(
        Voice(writer=writer, likelihood=likelihood),
        CriticSettings(sampling=SAMPLING, **{"style": "quoted", **settings}),
    )


def run(
    folder: Path,
    writer: RuleWriter,
    critic: Critic | None = None,
    questions: Sequence[Question] = (question(),),
    principles: Sequence[Principle] = (principle(),),
    *,
    voice: Voice | None = None,
    **settings: Any,
) -> list[Chain]:
    """The chains; every round takes all the principles in turn."""
    voice = voice or Voice(writer=writer)
    told = {"style": "quoted", "num_rounds": 2, "principles_per_round": len(principles), **settings}
    return revise(
        questions,
        constitution(*principles),
        lambda place, prompt_id, number: tuple(principles),
        Speakers(answers=voice, critic=critic or critic_of(writer), revises=voice),
        ReviseSettings(answer=SAMPLING, revision=SAMPLING, **told),
        Asker(ResultsFile(folder / "requests.jsonl")),
    )
