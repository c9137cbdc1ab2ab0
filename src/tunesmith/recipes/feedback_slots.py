"""The slots of a prompt: which source answers at which temperature, and what the answers so far decide."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.config import Config
from tunesmith.data.bootstrap.rouge import rouge_l
from tunesmith.feedback.judgements import answer_of, canonical_json, check_answer
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Writer

# (slot, how often it was drawn before).
Place = tuple[int, int]


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
