"""Prompts -> diverse candidates in a feedback store: a ladder of temperatures, adapters in turn, no near copies.

A candidate is a slot of its prompt: the slot says which source writes at which temperature, and a draw is a function of
(seed, prompt, slot, how often it was drawn before). Every answer goes into a file beside the store before anything is
done with it, so a killed run goes on without asking twice; what is kept is settled slot by slot from these answers
alone, so it comes to the same store, and more candidates can be asked for later.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.config import Config
from tunesmith.data.bootstrap.rouge import rouge_l
from tunesmith.data.prompts import PromptRow
from tunesmith.evals.results import ResultsFile
from tunesmith.feedback.judgements import answer_of, canonical_json, check_answer, prompt_id_of
from tunesmith.feedback.store import FeedbackStore
from tunesmith.randomness import derive_seed
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer
from tunesmith.runs import hold_file

Place = tuple[int, int]
# What a probe of the pace generates: enough steps to tell a step from the reading of the prompt.
_PROBE_TOKENS = 9


class SampleConfig(Config):
    """How candidates are drawn."""

    prompts: str = Field(min_length=1)
    """File of prompts, or of rows that hold one each."""
    store: str = Field(min_length=1)
    """The feedback store; made where there is none."""
    num_candidates: int = Field(4, ge=1, le=26)
    """Slots of a prompt; more can be asked for later."""
    temperatures: tuple[float, ...] = Field((0.3, 0.6, 0.9, 1.2), min_length=1)
    """Slot i is drawn at the i-th of them, from the first again behind the last; with several writers, see ``rung``."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Smallest set of tokens whose probability reaches this (arXiv:1904.09751)."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens; 0 means all."""
    max_new_tokens: int = Field(128, ge=1)
    """Most tokens of one answer; answers that reach it are kept, and counted as cut."""
    max_rouge_l: float = Field(0.8, gt=0, le=1)
    """An answer this like another one of its prompt, or more, is drawn again."""
    max_redraws: int = Field(3, ge=0, le=99)
    """How often a slot is drawn again before it stays empty."""
    prompts_at_once: int = Field(32, ge=1)
    """Prompts that are answered in one batch."""
    seed: int = Field(0, ge=0)
    """Keys every draw."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> the file's."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A faulty or too long prompt stops the job, or is left out and counted."""

    @field_validator("temperatures")
    @classmethod
    def _in_range(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < one <= 10 for one in temperatures):
            raise ValueError("a temperature is above 0 and at most 10; at 0 a redraw would give the same answer")
        return temperatures

    def settings(self, writers: Sequence[Writer]) -> str:
        """A digest of all that a candidate depends on besides its prompt and its slot."""
        fixed = ("temperatures", "top_p", "top_k", "max_new_tokens", "max_rouge_l", "max_redraws", "seed")
        told = {"writers": [dict(one.identity) for one in writers], **{key: getattr(self, key) for key in fixed}}
        return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:16]

    def rung(self, slot: int, num_writers: int) -> tuple[int, float]:
        """(which writer, at which temperature) a slot is drawn; together all combinations come before one repeats."""
        num_rungs = len(self.temperatures)
        # Where the two numbers share a factor, going round both would meet some combinations only.
        shift = slot // math.lcm(num_rungs, num_writers) % math.gcd(num_rungs, num_writers)
        return slot % num_writers, self.temperatures[(slot + shift) % num_rungs]

    def sampling(self, temperature: float) -> Sampling:
        """What a writer is told."""
        return Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What the answers so far decide of one prompt: kept places, why others were turned down, what to draw next."""

    kept: tuple[Place, ...]
    turned_down: Mapping[str, int]
    empty_slots: int
    needs: tuple[Place, ...]


@dataclass(slots=True, kw_only=True)
class Sampled:
    """What a run has come to."""

    prompts: int = 0
    wanted: int = 0
    kept: int = 0
    settled: int = 0
    empty_slots: int = 0
    cut: int = 0
    turned_down: Counter[str] = field(default_factory=Counter)
    drawn: int = 0
    found: int = 0
    new_tokens: int = 0
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {name: getattr(self, name) for name in self.__slots__} | {"turned_down": dict(self.turned_down)}


def settle(
    num_slots: int,
    max_redraws: int,
    max_rouge_l: float,
    answer: Callable[[int, int], Mapping[str, Any] | None],
    others: Sequence[str] = (),
) -> Settled:
    """Decide slot by slot, each against the slots before it and ``others``, as far as the answers go.

    So what is decided of a slot depends neither on later slots nor on how far an earlier run had come. ``answer``
    gives a draw's row, or None where it is not drawn yet.
    """
    kept, texts, down, empty = list[Place](), list(others), Counter[str](), 0
    for slot in range(num_slots):
        for draw in range(max_redraws + 1):
            row = answer(slot, draw)
            if row is None:
                ahead = [(later, 0) for later in range(slot + 1, num_slots) if answer(later, 0) is None]
                needs = ((slot, draw), *ahead)
                return Settled(kept=tuple(kept), turned_down=down, empty_slots=empty, needs=needs)
            cause = fault_of(row, texts, max_rouge_l)
            if cause is None:
                kept.append((slot, draw))
                texts.append(row["answer"])
                break
            down[cause] += 1
        else:
            empty += 1
    return Settled(kept=tuple(kept), turned_down=down, empty_slots=empty, needs=())


def fault_of(row: Mapping[str, Any], texts: Sequence[str], max_rouge_l: float) -> str | None:
    """Why an answer is no candidate beside these texts; None where it is one."""
    text = row["answer"]
    if row["stop_reason"] == "content_filter":
        return "withheld by the endpoint"
    if not text.strip():
        return "empty"
    try:
        check_answer(answer_of(text))
    except ValueError:
        return "not storable"
    # A text without letters has no ROUGE-L with anything.
    if any(text.strip() == other.strip() or rouge_l(text, other) >= max_rouge_l for other in texts):
        return "near copy of another answer"
    return None


class Sampler:
    """Draws candidates for prompts from writers into an open store."""

    def __init__(
        self,
        config: SampleConfig,
        prompts: Sequence[PromptRow],
        writers: Sequence[Writer],
        store: FeedbackStore,
        progress: Callable[[Sampled], None] = lambda _: None,
    ) -> None:
        self.config, self.prompts, self.writers, self.store = config, prompts, writers, store
        self.progress, self.settings = progress, config.settings(writers)
        self.draws = ResultsFile(draws_file(store.path))
        self.sampled = Sampled(prompts=len(prompts), wanted=len(prompts) * config.num_candidates)

    def run(self) -> Sampled:
        """Sample until every slot is settled; Ctrl-C ends it early and is noted.

        Raises DataError, EndpointError, DiskFullError, RunError; what was answered before is kept.
        """
        out = self.sampled
        try:
            # Two at once would each draw what the other has drawn.
            with hold_file(self.draws.path):
                self.draws = ResultsFile(self.draws.path)
                for start in range(0, len(self.prompts), self.config.prompts_at_once):
                    self._portion(self.prompts[start : start + self.config.prompts_at_once])
        except KeyboardInterrupt:
            out.interrupted = True
        return out

    def missing(self) -> int:
        """Answers that are to be drawn at the least: slots that nothing was drawn for yet."""
        return sum(
            self._row(prompt, slot, 0) is None for prompt in self.prompts for slot in range(self.config.num_candidates)
        )

    def seconds_at_most(self) -> float | None:
        """Predicted seconds for ``missing`` answers of full length, from a short probe; None where none is needed.

        Redraws come on top; answers that end early take less.
        """
        missing = self.missing()
        if not missing:
            return None
        rows = [Asked(messages=one.messages, row_id=0) for one in self.prompts[: self.config.prompts_at_once]]
        one, nine = (self._probe(rows, tokens) for tokens in (1, _PROBE_TOKENS))
        batch = one + max(0.0, nine - one) / (_PROBE_TOKENS - 1) * (self.config.max_new_tokens - 1)
        return batch / len(rows) * missing

    def _probe(self, rows: Sequence[Asked], max_new_tokens: int) -> float:
        began = time.perf_counter()
        for _ in self.writers[0].write(rows, Sampling(max_new_tokens=max_new_tokens)):
            pass
        return time.perf_counter() - began

    def _portion(self, prompts: Sequence[PromptRow]) -> None:
        """Draw for these prompts until all their slots are settled; counts are taken from the last settling."""
        self.sampled.found += sum(
            self._row(prompt, slot, draw) is not None
            for prompt in prompts
            for slot in range(self.config.num_candidates)
            for draw in range(self.config.max_redraws + 1)
        )
        base = replace(self.sampled, turned_down=self.sampled.turned_down.copy())
        others = [self._others(prompt) for prompt in prompts]
        while True:
            settled = [self._settle(prompt, texts) for prompt, texts in zip(prompts, others, strict=True)]
            for prompt, one in zip(prompts, settled, strict=True):
                self._store(prompt, one.kept)
            self._count(base, prompts, settled)
            self.progress(self.sampled)
            wanted = [(prompt, *place) for prompt, one in zip(prompts, settled, strict=True) for place in one.needs]
            if not wanted:
                return
            rung = self._rung(wanted[0][1])
            self._draw(*rung, [one for one in wanted if self._rung(one[1]) == rung])

    def _settle(self, prompt: PromptRow, others: Sequence[str]) -> Settled:
        config = self.config
        return settle(
            config.num_candidates,
            config.max_redraws,
            config.max_rouge_l,
            lambda slot, draw: self._row(prompt, slot, draw),
            others,
        )

    def _others(self, prompt: PromptRow) -> list[str]:
        """Answers the store has of this prompt from elsewhere: other settings, other people's files."""
        there = self.store.candidates(prompt_id_of(prompt.messages))
        return [one.text for one in there if one.sampling.get("settings") != self.settings]

    def _store(self, prompt: PromptRow, kept: Sequence[Place]) -> None:
        """Put what is kept of a prompt into the store; what is there already stays as it is."""
        with self.store.transaction():
            prompt_id = self.store.add_prompt(prompt.messages)
            for slot, draw in kept:
                row = self.draws[self._key(prompt, slot, draw)]
                self.store.add_candidate(
                    prompt_id,
                    row["answer"],
                    model=row["model"],
                    adapter_digest=row["adapter_digest"],
                    sampling={**row["sampling"], "slot": slot, "draw": draw, "settings": self.settings,
                              "stop_reason": row["stop_reason"]},
                    seed=self.config.seed,
                )  # fmt: skip

    def _count(self, base: Sampled, prompts: Sequence[PromptRow], settled: Sequence[Settled]) -> None:
        out = self.sampled
        out.kept = base.kept + sum(len(one.kept) for one in settled)
        out.empty_slots = base.empty_slots + sum(one.empty_slots for one in settled)
        out.settled = out.kept + out.empty_slots
        out.turned_down = base.turned_down.copy()
        for one in settled:
            out.turned_down.update(one.turned_down)
        rows = [self._row(p, *place) for p, one in zip(prompts, settled, strict=True) for place in one.kept]
        out.cut = base.cut + sum(row is not None and row["stop_reason"] == "length" for row in rows)

    def _rung(self, slot: int) -> tuple[int, float]:
        return self.config.rung(slot, len(self.writers))

    def _draw(self, writer: int, temperature: float, wanted: Sequence[tuple[PromptRow, int, int]]) -> None:
        """Ask one writer at one temperature; every answer is on the disk before the next is taken."""
        sampling, source = self.config.sampling(temperature), self.writers[writer]
        asked = [Asked(messages=prompt.messages, row_id=_row_id(prompt, slot, draw)) for prompt, slot, draw in wanted]
        for index, written in source.write(asked, sampling):
            prompt, slot, draw = wanted[index]
            self.draws.append(
                [
                    {
                        "key": self._key(prompt, slot, draw),
                        "answer": written.text,
                        "stop_reason": written.stop_reason,
                        "prompt": prompt_id_of(prompt.messages),
                        "slot": slot,
                        "draw": draw,
                        "sampling": sampling.model_dump(exclude={"seed"}),
                        "seed": sampling.seed,
                        **source.identity,
                        "details": dict(written.details),
                    }
                ]
            )
            self.sampled.drawn += 1
            self.sampled.new_tokens += int(written.details.get("new_tokens", 0))
            self.progress(self.sampled)

    def _row(self, prompt: PromptRow, slot: int, draw: int) -> Mapping[str, Any] | None:
        return self.draws.get(self._key(prompt, slot, draw))

    def _key(self, prompt: PromptRow, slot: int, draw: int) -> str:
        """Names a draw by all it depends on, so that an answer is never taken for another one."""
        writer, temperature = self._rung(slot)
        told = [dict(self.writers[writer].identity), self.config.sampling(temperature).model_dump(mode="json")]
        text = canonical_json([*told, prompt_id_of(prompt.messages), _row_id(prompt, slot, draw)])
        return hashlib.sha256(text.encode()).hexdigest()


def _row_id(prompt: PromptRow, slot: int, draw: int) -> int:
    """What keys a draw beside the seed; the prompt's words, not its line, so that a file may be sorted or joined."""
    return derive_seed(0, "feedback_draw", prompt_id_of(prompt.messages), slot, draw)


def draws_file(store: Path) -> Path:
    """Where the answers of a store's samplings are kept, used or not."""
    return store.with_name(f"{store.name}.draws.jsonl")
