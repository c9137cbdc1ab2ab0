"""Prompts -> diverse candidates in a feedback store: a ladder of temperatures, adapters in turn, no near copies.

A candidate is a slot of its prompt: the slot says which source writes at which temperature, and a draw is a function of
(seed, prompt, slot, how often it was drawn before). Every answer goes into a file beside the store before anything is
done with it, so a killed run goes on without asking twice; what is kept is settled slot by slot from these answers
alone, so it comes to the same store, and more candidates can be asked for later. Keys and slots are in
``feedback_slots.py``.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.data.prompts import PromptRow
from tunesmith.feedback.judgements import canonical_json, prompt_id_of
from tunesmith.feedback.store import FeedbackStore
from tunesmith.randomness import derive_seed
from tunesmith.recipes.feedback_slots import Place, SampleConfig, Settled, settle
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer
from tunesmith.runs import hold_file

# What a probe of the pace generates: enough steps to tell a step from the reading of the prompt.
_PROBE_TOKENS = 9


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
