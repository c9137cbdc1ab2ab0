"""Answers and judgements by a digest of all they depend on: what was asked once is not asked again.

Every answer is on the disk before anything is done with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import EndpointError
from tunesmith.feedback.judgements import digest_of
from tunesmith.records import Message
from tunesmith.redteam.attempt_rows import goal_row, judgement_row, message_rows, read_judgement
from tunesmith.redteam.judgement import Case, Judge, Judgement
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer, Written

CALLS_FILE = "calls.jsonl"
# Who withholds so many answers, and gives none, is not asked any further.
GIVE_UP_AFTER = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who answers in a role, and how.

    why_not: says why messages cannot be answered with so many new tokens, such as a prompt beyond the context; empty
    where they can. portion: answers asked for together. whole: a portion of which an answer is missing is asked whole,
    so that a model of ours computes in the same batches after a stop; whoever is paid by the answer is not asked twice.
    """

    writer: Writer
    sampling: Sampling
    why_not: Callable[[Sequence[Message], int], str] = lambda messages, max_new_tokens: ""
    portion: int = 128
    whole: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on besides the messages and the draw."""
        return {**self.writer.identity, "sampling": _what_counts(self.sampling)}

    def call(self, messages: tuple[Message, ...], draw: Sequence[int | str], **sampling: Any) -> Call:
        """A question; ``draw`` keys the answer's chance, where it has one, ``sampling`` overrides the speaker's own."""
        how = self.sampling.model_copy(update=sampling)
        drawn = list(draw) if how.temperature else []
        told = {
            "writer": dict(self.writer.identity),
            "sampling": _what_counts(how),
            "messages": message_rows(messages),
            "drawn": drawn,
        }
        return Call(key=digest_of(told), messages=messages, row_id=int(digest_of(drawn)[:15], 16), sampling=how)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One question, under the digest of all its answer depends on."""

    key: str
    messages: tuple[Message, ...]
    row_id: int
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A case, under the digest of all its judgement depends on; withheld: the target's side kept the answer back."""

    key: str
    case: Case
    withheld: bool


@dataclass(slots=True, kw_only=True)
class Spent:
    """Answers asked for, those known from before, and what the new ones took."""

    asked: int = 0
    found: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0


class Calls:
    """The file of answers; ``heard`` is told how many answers have just been found or given."""

    def __init__(self, results: ResultsFile, heard: Callable[[int], None] = lambda number: None) -> None:
        self.results, self.heard, self.spent = results, heard, Spent()
        self._withheld = self._given = 0

    def __contains__(self, key: str) -> bool:
        return key in self.results

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        return self.results[key]

    def ask(self, role: str, speaker: Speaker, calls: Iterable[Call]) -> None:
        """Have the answers of these calls in the file. Raises EndpointError, DataError, DiskFullError, RunError."""
        by_sampling = dict[Sampling, dict[str, Call]]()
        for call in calls:
            by_sampling.setdefault(call.sampling, {})[call.key] = call
        for sampling, alike in by_sampling.items():
            todo = list(alike.values())
            for start in range(0, len(todo), speaker.portion):
                self._ask_portion(role, speaker, sampling, todo[start : start + speaker.portion])

    def _ask_portion(self, role: str, speaker: Speaker, sampling: Sampling, portion: Sequence[Call]) -> None:
        missing = [call for call in portion if call.key not in self]
        self.spent.found += len(portion) - len(missing)
        if missing:
            asked = portion if speaker.whole else missing
            questions = [Asked(messages=call.messages, row_id=call.row_id) for call in asked]
            for index, written in speaker.writer.write(questions, sampling):
                if asked[index].key not in self:
                    self._keep(role, speaker, asked[index], written)
                    # Of a model of ours the answers of a portion come at once.
                    if not speaker.whole:
                        self.heard(1)
        self.heard(len(portion) if speaker.whole else len(portion) - len(missing))

    def _keep(self, role: str, speaker: Speaker, call: Call, written: Written) -> None:
        """Write an answer down and count it. Raises EndpointError where nothing but withheld answers has come."""
        row = {
            "key": call.key,
            "answer": written.text,
            "stop_reason": written.stop_reason,
            "role": role,
            "details": dict(written.details),
        }
        # Of a target's messages the attempts tell.
        self.results.append([row if role == "target" else {**row, "messages": message_rows(call.messages)}])
        self.spent.asked += 1
        self.spent.prompt_tokens += int(written.details.get("prompt_tokens") or 0)
        self.spent.new_tokens += int(written.details.get("new_tokens") or 0)
        withheld = written.stop_reason == "content_filter"
        self._withheld, self._given = self._withheld + withheld, self._given + (not withheld)
        if not self._given and self._withheld >= GIVE_UP_AFTER:
            reason = str(written.details.get("refused") or "it withholds them")
            place = speaker.writer.identity.get("endpoint", role)
            raise EndpointError(place, f"gave none of {self._withheld} answers: {reason}.", "Check what it serves.")

    def judge(self, judge: Judge, judged: Iterable[Judged]) -> dict[str, Judgement]:
        """The judgement of each case, by its key; what was withheld is a refusal, and no judge is asked."""
        out, todo = {}, dict[str, Case]()
        for one in judged:
            if one.withheld:
                out[one.key] = Judgement(kind="refuse", success=False, score=0.0, details={"withheld": True})
            elif (row := self.results.get(one.key)) is not None:
                out[one.key] = read_judgement(json.loads(row["answer"]))
            else:
                todo[one.key] = one.case
        keys = list(todo)
        for index, judgement in judge.judge([todo[key] for key in keys]) if todo else ():
            answer = json.dumps(judgement_row(judgement), sort_keys=True)
            self.results.append([{"key": keys[index], "answer": answer, "stop_reason": "judged", "role": "judge"}])
            out[keys[index]] = judgement
        return out


def judged_case(judge: Judge, case: Case, *, withheld: bool = False) -> Judged:
    """A case to be judged, under its digest."""
    told = {"goal": goal_row(case.goal), "prompt": case.prompt, "answer": case.answer, "withheld": withheld}
    return Judged(key=digest_of({"judge": dict(judge.identity), **told}), case=case, withheld=withheld)


def _what_counts(sampling: Sampling) -> dict[str, Any]:
    """What an answer depends on: where the likeliest token is taken, neither seed nor cut-offs."""
    if sampling.temperature == 0:
        return {"max_new_tokens": sampling.max_new_tokens, "temperature": 0}
    return sampling.model_dump()
