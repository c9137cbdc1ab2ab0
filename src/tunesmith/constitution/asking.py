"""Questions with a memory: what a writer said or a likelihood was once is never asked, or paid for, again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.errors import DataError
from tunesmith.feedback.judgements import canonical_json
from tunesmith.records import Message
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer, WriterStop

if TYPE_CHECKING:  # It brings torch, which an endpoint does not need.
    from tunesmith.rollout.likelihood import LikelihoodModel

# Continuations scored between two writes to the disk.
_PORTION = 16


def _always(messages: Sequence[Message], max_new_tokens: int) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Who speaks: a writer, and where it is a model of ours, its likelihoods and whether a request fits its context.

    fits: (messages, most new tokens) -> whether both have room; an endpoint does not tell beforehand.
    """

    writer: Writer
    likelihood: LikelihoodModel | None = None
    fits: Callable[[Sequence[Message], int], bool] = _always


@dataclass(frozen=True, slots=True)
class Reply:
    """What was written, and why it ended."""

    text: str
    stop_reason: WriterStop


class Asker:
    """Asks through a results file; counts by stage what was asked now and what was found there.

    num_tokens, num_cut: of both together, tokens and answers that ran to their limit. told: called after every answer
    that is new.
    """

    def __init__(self, results: ResultsFile, told: Callable[[], None] = lambda: None) -> None:
        self.results, self.told = results, told
        self.num_asked: Counter[str] = Counter()
        self.num_found: Counter[str] = Counter()
        self.num_tokens: Counter[str] = Counter()
        self.num_cut: Counter[str] = Counter()
        self._counted = set[str]()

    def write(
        self, stage: str, writer: Writer, asked: Sequence[Asked], sampling: Sampling, tags: Sequence[Mapping[str, str]]
    ) -> list[Reply]:
        """One reply a request, in order; each is on the disk before the next is taken. Equal requests are asked once.

        tags: what a reader of the file should know of each request. Raises EndpointError, DiskFullError, RunError.
        """
        keys = [self._write_key(writer, one, sampling) for one in asked]
        missing = self._missing(stage, keys)
        places = list(missing.values())
        for index, written in writer.write([asked[i] for i in places], sampling) if places else ():
            i = places[index]
            row = {
                "key": keys[i],
                "answer": written.text,
                "stop_reason": written.stop_reason,
                "stage": stage,
                **tags[i],
                "sampling": sampling.model_dump(),
                **writer.identity,
                "details": dict(written.details),
            }
            self._keep(stage, row)
        self._count(stage, keys)
        return [Reply(self.results[key]["answer"], self.results[key]["stop_reason"]) for key in keys]

    def score(
        self,
        stage: str,
        model: LikelihoodModel,
        asked: Sequence[tuple[Sequence[Message], Sequence[str]]],
        tags: Sequence[Mapping[str, str]],
    ) -> list[tuple[float, ...] | None]:
        """Nats of each continuation, in order; None for a request that the model cannot read."""
        told = dict(model.identity)
        keys = [_digest([told, _said(messages), list(words)]) for messages, words in asked]
        places = list(self._missing(stage, keys).values())
        for first in range(0, len(places), _PORTION):
            part = places[first : first + _PORTION]
            for i, scores in zip(part, _scored(model, [asked[i] for i in part]), strict=True):
                row = {"key": keys[i], "answer": "", "stop_reason": "end_of_turn" if scores else "not asked"}
                self._keep(stage, {**row, "stage": stage, **tags[i], "logprobs": list(scores or ()), **told})
        return [tuple(self.results[key]["logprobs"]) or None for key in keys]

    def is_known(self, writer: Writer, one: Asked, sampling: Sampling) -> bool:
        """Whether a request was answered before."""
        return self._write_key(writer, one, sampling) in self.results

    def _write_key(self, writer: Writer, one: Asked, sampling: Sampling) -> str:
        """A digest of all that an answer depends on, so that it is never taken for another one."""
        return _digest([dict(writer.identity), sampling.model_dump(), one.row_id, _said(one.messages)])

    def _missing(self, stage: str, keys: Sequence[str]) -> dict[str, int]:
        """Key -> place of what is not in the file; the first of equal ones."""
        out = dict[str, int]()
        for i, key in enumerate(keys):
            if key in self.results:
                self.num_found[stage] += 1
            else:
                out.setdefault(key, i)
        return out

    def _keep(self, stage: str, row: Mapping[str, object]) -> None:
        self.results.append([row])
        self.num_asked[stage] += 1
        self.told()

    def _count(self, stage: str, keys: Sequence[str]) -> None:
        """Tokens by what the writer reported, and answers that ran to their limit, whichever run paid for them."""
        for key in keys:
            if key not in self._counted:
                self._counted.add(key)
                self.num_cut[stage] += self.results[key]["stop_reason"] == "length"
                details = self.results[key]["details"]
                self.num_tokens.update({name: number for name, number in details.items() if type(number) is int})


def _scored(
    model: LikelihoodModel, asked: Sequence[tuple[Sequence[Message], Sequence[str]]]
) -> list[tuple[float, ...] | None]:
    try:
        return [tuple(one.logprob for one in row) for row in model.score(asked)]
    except DataError:
        # One of them is beyond the context, or the template refuses it: find out which.
        if len(asked) > 1:
            return [row for one in asked for row in _scored(model, [one])]
        return [None]


def _said(messages: Sequence[Message]) -> list[list[str]]:
    return [[turn.role, turn.content] for turn in messages]


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()
