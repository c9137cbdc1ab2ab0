"""Judges: whoever gives verdicts on cases, asked once for each case and never again for what is in the file.

A judge says something (``Said``): a text, and where its verdict tokens were read, how likely it found each. What that
means (``Ruling``) is read anew every time, so a reader's mistake does not live on in a file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunesmith.errors import DataError, EndpointError, RunError
from tunesmith.evals.rubrics import Case, Rubric, Style, render_case, settings_digest
from tunesmith.evals.verdicts import read_grade
from tunesmith.randomness import derive_seed
from tunesmith.records import Message
from tunesmith.rollout.likelihood import LikelihoodModel
from tunesmith.rollout.marks import final_mark
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer

# A judge of whose first verdicts none can be read is not asked, and paid, any further.
GIVE_UP_AFTER = 20
_PORTION = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a judge said of a case; logprobs: of each of the rubric's labels, in their order, in nats."""

    text: str
    stop_reason: str = "end_of_turn"
    logprobs: tuple[float, ...] = ()
    reason: str = ""
    """Why there is nothing to read, where the judge could not be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The verdict in what was said: a label and a value in the rubric's unit, both None where it cannot be read.

    probabilities: of the labels, given that one of them is the verdict; the value is then the expected one.
    """

    label: str | None
    value: float | None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    said: Said

    def log_odds(self, one: str, other: str) -> float:
        """ln P(one) - ln P(other); only where the verdict tokens were read."""
        names = list(self.probabilities)
        return self.said.logprobs[names.index(one)] - self.said.logprobs[names.index(other)]


class Judge(Protocol):
    """Anything that gives verdicts."""

    style: Style
    num_tries: int
    """How often a case is put whose verdict cannot be read."""
    both_orders: bool
    """Whether a pair is put in both orders; else in one that neither model's name can influence."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What its verdicts depend on besides the case and the wording; no secret is among it."""
        ...

    def ask(self, cases: Sequence[Case], before: Sequence[str | None]) -> Iterator[tuple[int, Said]]:
        """(index into ``cases``, what it says) as verdicts arrive; before: what it said in vain, or None."""
        ...


class LikelihoodJudge:
    """A model whose verdict is read from the probabilities of the verdicts' tokens: even a small one always gives one.

    A case beyond its context is said to be so, and stays without a verdict.
    """

    style: Style = "verdict alone"
    num_tries = 1
    both_orders = True

    def __init__(self, model: LikelihoodModel, *, portion: int = _PORTION) -> None:
        self.model, self.portion = model, portion

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's identity, and that its verdict tokens are read."""
        return {"judge": "verdict tokens", **self.model.identity}

    def ask(self, cases: Sequence[Case], before: Sequence[str | None]) -> Iterator[tuple[int, Said]]:
        """Verdicts in the order of the cases, by portions."""
        for first in range(0, len(cases), self.portion):
            yield from enumerate(self._ask(cases[first : first + self.portion]), first)

    def requests(self, cases: Sequence[Case]) -> list[tuple[tuple[Message, ...], list[str]]]:
        """What the model is asked: how likely it finds each verdict after a case."""
        return [(render_case(case, self.style), [f"[[{label}]]" for label in case.rubric.labels]) for case in cases]

    def _ask(self, cases: Sequence[Case]) -> list[Said]:
        asked = self.requests(cases)
        try:
            scored = self.model.score(asked)
        except DataError as error:
            if len(cases) > 1:
                return [said for case in cases for said in self._ask([case])]
            return [Said(text="", stop_reason="not asked", reason=error.cause)]
        out = []
        for (_, verdicts), likelihoods in zip(asked, scored, strict=True):
            logprobs = tuple(one.logprob for one in likelihoods)
            out.append(Said(text=verdicts[logprobs.index(max(logprobs))], logprobs=logprobs))
        return out


class WriterJudge:
    """A judge that writes its reasons and then the verdict: an endpoint, or a base of ours that generates.

    One whose verdict cannot be read is asked once more for the verdict alone.
    """

    style: Style = "reasons first"
    num_tries = 2
    both_orders = True

    def __init__(self, writer: Writer, sampling: Sampling) -> None:
        self.writer, self.sampling = writer, sampling

    @property
    def identity(self) -> Mapping[str, str]:
        """The writer's identity and how it draws."""
        return {"judge": "written", **self.writer.identity, "sampling": json.dumps(self.sampling.model_dump())}

    def ask(self, cases: Sequence[Case], before: Sequence[str | None]) -> Iterator[tuple[int, Said]]:
        """Verdicts as they arrive. Raises EndpointError after those that had arrived by then."""
        asked = []
        for case, said in zip(cases, before, strict=True):
            messages = render_case(case, self.style)
            row_id = derive_seed(0, "judge", *(turn.content for turn in messages))
            if said is not None:
                names = " or ".join(f"[[{label}]]" for label in case.rubric.labels)
                again = f"I could not read your verdict. Reply with {names} and nothing else."
                messages += (Message(role="assistant", content=said), Message(role="user", content=again))
            asked.append(Asked(messages=messages, row_id=row_id))
        for index, written in self.writer.write(asked, self.sampling):
            yield index, Said(text=written.text, stop_reason=written.stop_reason)


def ruling(rubric: Rubric, said: Said) -> Ruling:
    """The verdict in what was said, by the rubric's labels."""
    if said.logprobs:
        highest = max(said.logprobs)
        weights = [math.exp(logprob - highest) for logprob in said.logprobs]
        share = {label: weight / sum(weights) for label, weight in zip(rubric.labels, weights, strict=True)}
        # Rounding must not carry an expected value past the ends of the scale.
        value = min(max(sum(share[label] * rubric.labels[label] for label in share), rubric.least), rubric.most)
        label = list(share)[said.logprobs.index(highest)]
        return Ruling(label=label, value=value, probabilities=share, said=said)
    if _labels_are_values(rubric):
        # Between the whole grades a judge may give parts of them.
        grade = read_grade(said.text, rubric.least, rubric.most)
        return Ruling(label=None if grade is None else f"{grade:g}", value=grade, said=said)
    names = {label.upper(): label for label in rubric.labels}
    mark = final_mark(said.text, lambda inner: inner.upper() in names)
    if mark is not None:
        return Ruling(label=names[mark.upper()], value=rubric.labels[names[mark.upper()]], said=said)
    return Ruling(label=None, value=None, said=said)


def _ruling_on(case: Case, judge: Judge, said: Said) -> Ruling:
    """The ruling; none for a judge that says its question again, at whose end a verdict stands as an example."""
    if said.logprobs:
        return ruling(case.rubric, said)
    example = render_case(case, judge.style)[-1].content.rpartition("\n\n")[2].split()
    is_echo = said.text.split()[-len(example) :] == example
    return Ruling(label=None, value=None, said=said) if is_echo else ruling(case.rubric, said)


def _labels_are_values(rubric: Rubric) -> bool:
    return rubric.scale == "number" and all(label == f"{value:g}" for label, value in rubric.labels.items())


Progress = Callable[[int, int], None]


def hear(
    judge: Judge,
    cases: Sequence[Case],
    results: ResultsFile,
    *,
    give_up_after: int = GIVE_UP_AFTER,
    on_progress: Progress = lambda done, total: None,
) -> list[Ruling]:
    """The judge's ruling on every case, in their order; what lies in the file is not asked again.

    Each verdict is on the disk before the next is waited for. Equal cases are asked once. Raises EndpointError as the
    judge does, and when nothing it said so far can be read (``give_up_after`` verdicts; 0: never); RunError when a
    person ended the sitting.
    """
    rulings: dict[int, Ruling] = {}
    before: list[str | None] = [None] * len(cases)
    digests = {case.rubric.name: settings_digest(judge.identity, case.rubric, judge.style) for case in cases}
    todo = list(range(len(cases)))
    for attempt in range(judge.num_tries):
        keys = {i: _key(digests[cases[i].rubric.name], judge, cases[i], attempt, before[i]) for i in todo}
        _ask_missing(judge, cases, before, keys, attempt, results, give_up_after, on_progress)
        for i in todo:
            said = _from_row(results[keys[i]])
            rulings[i] = _ruling_on(cases[i], judge, said)
            before[i] = said.text
        todo = [i for i in todo if rulings[i].value is None and rulings[i].said.stop_reason != "content_filter"]
    return [rulings[i] for i in range(len(cases))]


def missing_cases(judge: Judge, cases: Sequence[Case], results: ResultsFile) -> list[Case]:
    """Cases that the judge was not asked yet, each once; those it is asked again, unread, are not among them."""
    digests = {case.rubric.name: settings_digest(judge.identity, case.rubric, judge.style) for case in cases}
    keyed = {_key(digests[case.rubric.name], judge, case, 0, None): case for case in cases}
    return [case for key, case in keyed.items() if key not in results]


def _ask_missing(
    judge: Judge,
    cases: Sequence[Case],
    before: Sequence[str | None],
    keys: Mapping[int, str],
    attempt: int,
    results: ResultsFile,
    give_up_after: int,
    on_progress: Progress,
) -> None:
    missing = {key: i for i, key in keys.items() if key not in results}
    known = {key: i for i, key in keys.items() if key in results}
    heard = [_ruling_on(cases[i], judge, _from_row(results[key])).value for key, i in known.items()]
    places, total = list(missing.values()), len(set(keys.values()))
    _stop_if_garbage(judge, heard, give_up_after if attempt == 0 else 0)
    for index, said in judge.ask([cases[i] for i in places], [before[i] for i in places]):
        i = places[index]
        results.append([_as_row(keys[i], cases[i], attempt, said, judge)])
        heard.append(_ruling_on(cases[i], judge, said).value)
        _stop_if_garbage(judge, heard, give_up_after if attempt == 0 else 0)
        on_progress(total - sum(key not in results for key in missing), total)
    if left := sum(key not in results for key in missing):
        raise RunError(results.path, f"{total - left} of {total} cases are judged.", "The same command goes on.")


def _stop_if_garbage(judge: Judge, heard: Sequence[float | None], give_up_after: int) -> None:
    if give_up_after and len(heard) >= give_up_after and all(value is None for value in heard):
        raise EndpointError(
            f"judge {judge.identity.get('model', '')}",
            f"of {len(heard)} verdicts none can be read.",
            "Look at what it said in the file of verdicts; take a stronger judge.",
        )


def _key(digest: str, judge: Judge, case: Case, attempt: int, before: str | None) -> str:
    rendered = [turn.content for turn in render_case(case, judge.style)]
    return hashlib.sha256(json.dumps([digest, rendered, attempt, before]).encode()).hexdigest()


def _as_row(key: str, case: Case, attempt: int, said: Said, judge: Judge) -> dict[str, Any]:
    return {
        "key": key,
        "answer": said.text,
        "stop_reason": said.stop_reason,
        "logprobs": list(said.logprobs),
        "reason": said.reason,
        "rubric": case.rubric.name,
        "attempt": attempt,
        "judge": judge.identity.get("model", judge.identity["judge"]),
    }


def _from_row(row: Mapping[str, Any]) -> Said:
    return Said(
        text=row["answer"],
        stop_reason=row["stop_reason"],
        logprobs=tuple(row["logprobs"]),
        reason=row.get("reason", ""),
    )
