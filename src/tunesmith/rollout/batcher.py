"""Requests from many threads, answered together: one worker, one generator call for all that wait and fit.

A request's draws depend on its own seed, so that its answer does not depend on whom it is answered with.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import DataError, TunesmithError
from tunesmith.records import Message
from tunesmith.rollout.chat_api import Finish, RequestError
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.stops import before_stop, half_stop
from tunesmith.tokens.render import render_prompt

# A first request waits so long for company: clients that send many at once send them within it.
_GATHER_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Further text of one of a request's answers."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """All answers of a request (text, why it ended), and the tokens read and answered."""

    answers: tuple[tuple[str, Finish], ...]
    num_prompt_tokens: int
    num_new_tokens: int
    digest: str


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request on its way; ``events`` ends with Answered or an error.

    adapter: name on the base, None for the base. limit: most new tokens, None for what the batcher allows. gone: set
    where nobody waits any more.
    """

    messages: tuple[Message, ...]
    adapter: str | None
    limit: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    num_answers: int = 1
    stops: tuple[str, ...] = ()
    in_pieces: bool = False
    events: queue.SimpleQueue[Piece | Answered | RequestError] = field(default_factory=queue.SimpleQueue)
    gone: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True, kw_only=True)
class _Row:
    """One answer under way."""

    job: Job
    choice: int
    prompt: Prompt
    limit: int
    shown: str = ""
    cut: str | None = None

    def hear(self, num_tokens: int, text: Callable[[], str]) -> bool:
        """Note what there is, pass on what is sure; whether the answer goes on."""
        if self.job.stops or self.job.in_pieces:
            so_far = text()
            self.cut = before_stop(so_far, self.job.stops)
            self.show(so_far)
        return self.cut is None and num_tokens < self.limit

    def show(self, text: str, *, ended: bool = False) -> None:
        """Pass on what of the text cannot change any more: half a character or half a stop waits."""
        if not self.job.in_pieces:
            return
        if self.cut is not None:
            sure = self.cut
        elif ended:
            sure = text
        else:
            sure = text.rstrip("\ufffd")
            sure = sure[: len(sure) - half_stop(sure, self.job.stops)]
        if sure.startswith(self.shown) and len(sure) > len(self.shown):
            self.job.events.put(Piece(choice=self.choice, text=sure[len(self.shown) :]))
            self.shown = sure


class Batcher:
    """Answers jobs on one generator, in one thread.

    max_new_tokens: of an answer whose request does not say. max_waiting: jobs beyond which a new one is refused.
    max_rows: answers in one call.
    """

    def __init__(
        self, generator: LocalGenerator, *, max_new_tokens: int = 256, max_waiting: int = 256, max_rows: int = 64
    ) -> None:
        self.generator, self.max_new_tokens = generator, max_new_tokens
        self.max_waiting, self.max_rows = max_waiting, max_rows
        self.num_calls = 0
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._worker.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises RequestError where too many wait, or nothing is answered any more."""
        with self._changed:
            if self._closed:
                raise _closing()
            if len(self._waiting) >= self.max_waiting:
                raise RequestError(
                    429, f"{self.max_waiting} requests are waiting.", "Ask for less at once.", retry_after=2
                )
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Answer nothing any more: what waits gets an error, what is under way ends with its next token."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify()
        for job in waiting:
            job.events.put(_closing())
        self._worker.join(timeout=30)

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            rows = self._rows(jobs)
            try:
                if rows:
                    self._answer(rows)
            except Exception as error:
                # A fault of one batch is told to those who wait for it; the server goes on.
                for job in {id(row.job): row.job for row in rows}.values():
                    job.events.put(_failed(error))

    def _next(self) -> list[Job] | None:
        """The jobs that wait, oldest first, those of the oldest one's sampling; None when closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
        time.sleep(_GATHER_SECONDS)
        with self._changed:
            if self._closed:
                return None
            self._waiting = [job for job in self._waiting if not job.gone.is_set()]
            alike: list[Job] = []
            others: list[Job] = []
            room = self.max_rows
            for job in self._waiting:
                fits = not alike or (_kind(job) == _kind(alike[0]) and job.num_answers <= room)
                (alike if fits else others).append(job)
                room -= job.num_answers if fits else 0
            self._waiting = others
            return alike

    def _rows(self, jobs: Sequence[Job]) -> list[_Row]:
        """The answers to give now. Jobs whose limits do not fit beside the others' go back to the queue."""
        rows: list[_Row] = []
        later: list[Job] = []
        longest: dict[str | None, int] = {}
        most = 0
        for job in jobs:
            try:
                ids, limit = self._room(job)
            except RequestError as error:
                job.events.put(error)
                continue
            except Exception as error:
                # What a template or a tokenizer chokes on is told to who sent it; the worker must outlive it.
                job.events.put(_failed(error))
                continue
            needs = {**longest, job.adapter: max(len(ids), longest.get(job.adapter, 0))}
            if not all(self._fits(adapter, length, max(most, limit)) for adapter, length in needs.items()):
                later.append(job)
                continue
            longest, most = needs, max(most, limit)
            for choice in range(job.num_answers):
                prompt = Prompt(ids=ids, row_id=job.seed, sample=choice)
                rows.append(_Row(job=job, choice=choice, prompt=prompt, limit=limit))
        self._put_back(later)
        return rows

    def _answer(self, rows: Sequence[_Row]) -> None:
        """Answer rows of one sampling in one call; each stops at its own limit."""
        first = rows[0].job
        sampling = Sampling(
            max_new_tokens=max(row.limit for row in rows),
            temperature=first.temperature,
            top_p=first.top_p,
            top_k=first.top_k,
            min_p=first.min_p,
            repetition_penalty=first.repetition_penalty,
            seed=0,
        )

        def watch(number: int, num_tokens: int, text: Callable[[], str]) -> bool:
            row = rows[number]
            return row.hear(num_tokens, text) and not self._closed and not row.job.gone.is_set()

        self.num_calls += 1
        adapters = [row.job.adapter for row in rows]
        rollouts = self.generator.generate_mixed([row.prompt for row in rows], sampling, adapters, watch)
        told: dict[int, list[tuple[_Row, Any]]] = {}
        for row, rollout in zip(rows, rollouts, strict=True):
            told.setdefault(id(row.job), []).append((row, rollout))
        for pairs in told.values():
            self._tell(pairs)

    def _tell(self, pairs: Sequence[tuple[_Row, Any]]) -> None:
        """Give a job its answers."""
        job = pairs[0][0].job
        if self._closed and any(r.stop_reason == "length" and len(r.ids) < row.limit for row, r in pairs):
            job.events.put(_closing())
            return
        answers: list[tuple[str, Finish]] = []
        for row, rollout in pairs:
            row.cut = before_stop(rollout.text, job.stops)
            row.show(rollout.text, ended=True)
            ended: Finish = "stop" if row.cut is not None or rollout.stop_reason == "end_of_turn" else "length"
            answers.append((rollout.text if row.cut is None else row.cut, ended))
        done = Answered(
            answers=tuple(answers),
            num_prompt_tokens=len(pairs[0][1].prompt_ids),
            num_new_tokens=sum(len(rollout.ids) for _, rollout in pairs),
            digest=pairs[0][1].adapter_digest,
        )
        job.events.put(done)

    def _room(self, job: Job) -> tuple[Any, int]:
        """The prompt's tokens and the most its answers may have. Raises RequestError for one beyond the context."""
        try:
            ids = render_prompt(job.messages, self.generator.base.tokenizer_of(job.adapter))
        except DataError as error:
            raise RequestError(400, error.cause, error.fix) from None
        wanted = self.max_new_tokens if job.limit is None else job.limit
        while job.limit is None and wanted > 1 and not self._fits(job.adapter, len(ids), wanted):
            wanted -= 1
        if not self._fits(job.adapter, len(ids), wanted):
            context = self.generator.base.context_tokens_of(job.adapter)
            raise RequestError(
                400,
                f"the messages have {len(ids)} tokens and the answer up to {wanted}; the model reads {context}.",
                "Shorten the messages or lower max_tokens.",
                code="context_length_exceeded",
            )
        return ids, wanted

    def _fits(self, adapter: str | None, num_prompt: int, num_new: int) -> bool:
        return self.generator.tokens_needed(num_prompt, num_new) <= self.generator.base.context_tokens_of(adapter)

    def _put_back(self, jobs: Sequence[Job]) -> None:
        with self._changed:
            if not self._closed:
                self._waiting = [*jobs, *self._waiting]
                return
        for job in jobs:
            job.events.put(_closing())


def _kind(job: Job) -> Mapping[str, float]:
    """What a generator call has one of."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: getattr(job, name) for name in names}


def _failed(error: Exception) -> RequestError:
    said = error.cause if isinstance(error, TunesmithError) else f"{type(error).__name__}: {error}"
    return RequestError(500, f"answering failed: {said}", "Look at the server's log.")


def _closing() -> RequestError:
    return RequestError(503, "the server is stopping.", "Ask again when it runs.")
