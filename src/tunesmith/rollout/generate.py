"""Prompts -> Rollouts: the generator protocol and the one that runs on our own base.

Every draw is a function of (seed, row id, sample, position), so the batch a prompt lands in cannot change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.errors import DataError
from tunesmith.kernels.head_loss import Head, logits_of
from tunesmith.models.adapters import adapter_digest
from tunesmith.models.decoding import FastDecoding, start_decoding
from tunesmith.models.packed import PackedWeights, exact_half
from tunesmith.models.roles import Base
from tunesmith.models.token_rows import head_for
from tunesmith.randomness import generator
from tunesmith.records import Rollout, StopReason
from tunesmith.rollout.draw import draw, penalized
from tunesmith.rollout.sampling import Sampling as Sampling
from tunesmith.rollout.sampling import Weights
from tunesmith.rollout.stops import before_stop, half_stop
from tunesmith.runtime import release_memory
from tunesmith.tokens.pack import distinct_rows

# Rows enter together once this part of the places is free: reading one prompt at a time makes poor use of the weights.
ENTER_SHARE = 0.125


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids (T,) with the generation prompt, the row they belong to and the how-manieth sample of it this is.

    For an encoder-decoder model they are the source.
    """

    ids: NDArray[np.int64]
    row_id: int
    sample: int = 0


# (index of the prompt, tokens of its answer so far, their text when asked) -> whether it goes on.
Watch = Callable[[int, int, Callable[[], str]], bool]


class Generator(Protocol):
    """Anything that answers prompts: this process, an endpoint, another engine."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, adapter: str | None = None) -> list[Rollout]:
        """One Rollout a prompt, in the order of the prompts."""
        ...

    def sync(self, adapter: str | None) -> str:
        """Make the generator answer with the adapter's present weights; returns their digest."""
        ...


@dataclass(slots=True)
class TokenCount:
    """Tokens a generator has worked through since it was made."""

    prefilled: int = 0
    generated: int = 0


@dataclass(slots=True)
class _Row:
    prompt: Prompt
    adapter: str | None
    draws: np.random.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: StopReason | None = None
    num_shown: int = 0
    cut: str | None = None


class LocalGenerator:
    """Answers on our own base, in batches bounded by rows and by cache slots.

    weights: what a token is decoded with, see ``PackedWeights``; adapters act on any of them. auto: half where that
    holds the base's own numbers (``exact_half``), else full.
    """

    def __init__(
        self, base: Base, *, max_rows: int = 32, max_cache_tokens: int = 8_192, weights: Weights = "auto"
    ) -> None:
        self.base, self.max_rows, self.max_cache_tokens = base, max_rows, max_cache_tokens
        self.weights = weights
        self._packed = PackedWeights(base, weights) if weights in ("half", "int8") else None
        if weights == "auto":
            # Now, so that whoever times its answers does not time this.
            exact_half(base)
        self.tokens = TokenCount()

    @property
    def packed(self) -> PackedWeights | None:
        """The packed weights that answer; None where the base's own do."""
        return exact_half(self.base) if self.weights == "auto" else self._packed

    def sync(self, adapter: str | None) -> str:
        """The weights are shared with training, so nothing moves; returns the digest of what would answer now.

        Packed weights with other numbers than the base's are named in it.
        """
        digest = adapter_digest(self.base, adapter)
        return digest if self._packed is None or self._packed.exact else f"{digest}+{self._packed.kind}"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, adapter: str | None = None) -> list[Rollout]:
        """One Rollout a prompt, in the order of the prompts. Raises DataError for a prompt beyond the context."""
        return self.generate_mixed(prompts, sampling, [adapter] * len(prompts))

    def generate_mixed(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        adapters: Sequence[str | None],
        watch: Watch | None = None,
    ) -> list[Rollout]:
        """As ``generate`` with an adapter for each prompt; several of them answer in one batch, on the one base.

        An answer is what its adapter alone would give. watch: hears of every token, and may end an answer with it,
        whose stop reason then is length; its place goes to the next prompt.
        """
        digests = {adapter: self.sync(adapter) for adapter in set(adapters)}
        rollouts: dict[int, Rollout] = {}
        for size, batch in self._batches(prompts, sampling, adapters):
            rows = [_Row(prompts[i], adapters[i], _draws(sampling, prompts[i])) for i in batch]
            for _ in self._decode(rows, sampling, size):
                if watch is not None:
                    self._show(rows, batch, watch)
            for i, row in zip(batch, rows, strict=True):
                rollouts[i] = self._finish(row, digests[row.adapter])
            release_memory()
        return [rollouts[i] for i in range(len(prompts))]

    def _show(self, rows: Sequence[_Row], numbers: Sequence[int], watch: Watch) -> None:
        """Tell of the rows that have a new token."""
        for number, row in zip(numbers, rows, strict=True):
            if len(row.ids) == row.num_shown:
                continue
            row.num_shown = len(row.ids)
            goes_on = watch(number, row.num_shown, partial(self._text, row))
            if not goes_on and row.stop is None:
                row.stop = "length"

    def stream(self, prompt: Prompt, sampling: Sampling, adapter: str | None = None) -> Iterator[str]:
        """Pieces of the answer's text as they come; together they are the whole answer."""
        row = _Row(prompt, adapter, _draws(sampling, prompt))
        self._check_length(prompt, sampling, adapter)
        shown = ""
        for _ in self._decode([row], sampling, 1):
            text = self._text(row)
            text = text[: len(text) - half_stop(text, sampling.stop)] if row.cut is None else text
            # A character whose bytes are not all there yet decodes to U+FFFD: wait for the rest.
            if text.startswith(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        rest = self._text(row)
        if rest != shown:
            yield rest[len(shown) :]

    def _batches(
        self, prompts: Sequence[Prompt], sampling: Sampling, adapters: Sequence[str | None]
    ) -> Iterator[tuple[int, list[int]]]:
        """(rows at once, rows that share a cache): neighbours in length, within max_rows and max_cache_tokens.

        On the fast path more rows share a cache than fit into it at once, and enter as others end; those that are so
        short that twice as many would fit have a cache of their own. Adapters share one too, unless they have new
        tokens: their logits have no common width.
        """
        for prompt, adapter in zip(prompts, adapters, strict=True):
            self._check_length(prompt, sampling, adapter)
        vocabulary = [adapter if adapter in self.base.token_rows else None for adapter in adapters]
        order = sorted(range(len(prompts)), key=lambda i: (vocabulary[i] or "", -len(prompts[i].ids), i))
        virtual = max((self.base.num_virtual_of(adapter) for adapter in adapters), default=0)

        def at_once(i: int) -> int:
            slots = virtual + len(prompts[i].ids) + sampling.max_new_tokens
            return max(1, min(self.max_rows, self.max_cache_tokens // slots))

        while order:
            size = at_once(order[0])
            alike = [i for i in order if vocabulary[i] == vocabulary[order[0]]]
            if self.base.decoder is None:
                batch = alike[:size]
            else:
                batch = alike[:size] + [i for i in alike[size:] if at_once(i) < 2 * size]
            yield size, batch
            order = order[len(batch) :]

    def tokens_needed(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """Context that a prompt takes with the longest answer to it."""
        if self.base.is_encoder_decoder:
            # Source and answer lie in two streams, each with the whole context.
            return max(prompt_tokens, len(self.base.decoder_prefix) + max_new_tokens)
        return prompt_tokens + max_new_tokens

    def _check_length(self, prompt: Prompt, sampling: Sampling, adapter: str | None) -> None:
        need = self.tokens_needed(len(prompt.ids), sampling.max_new_tokens)
        limit = self.base.context_tokens_of(adapter)
        if need > limit:
            raise DataError(
                f"prompt {prompt.row_id}",
                f"needs {need} tokens with its answer, the model reads {limit}{_behind(self.base, adapter)}.",
                "Shorten it or lower max_new_tokens.",
            )

    def _decode(self, rows: list[_Row], sampling: Sampling, size: int) -> Iterator[None]:
        """Answer the rows, at most ``size`` at a time: where some have ended, the next ones enter."""
        running, waiting = rows[:size], rows[size:]
        prompts, adapters = self._asked(running)
        packed = self.packed
        stepping = None if packed is None else packed.decoder()
        longest = max(self.base.num_virtual_of(row.adapter) + len(row.prompt.ids) for row in rows)
        room = {"num_rows": len(running), "num_slots": longest + sampling.max_new_tokens}
        state, hidden_BD = start_decoding(self.base, prompts, sampling.max_new_tokens, adapters, stepping, **room)
        with torch.no_grad():
            head, _, _ = head_for(self.base.token_rows, self.base.head, adapters, "none")
        if packed is not None and head is self.base.head:
            head = packed.head
        # Rows of a batch have one vocabulary, and with it one tokenizer.
        end_ids = self.base.end_ids_of(adapters[0])
        while True:
            ids = _choose(end_ids, self._logits(hidden_BD, head), running, sampling)
            self.tokens.generated += len(ids)
            for row in running if sampling.stop else ():
                self._end_at_stop(row, sampling.stop)
            yield
            going = [i for i, row in enumerate(running) if row.stop is None]
            if not going and not waiting:
                return
            if len(going) < len(running):
                state.keep(going)
                running = [running[i] for i in going]
            hidden = []
            if running:
                hidden.append(state.step(torch.tensor([row.ids[-1] for row in running], device=self.base.device)))
            if waiting and size - len(running) >= size * ENTER_SHARE:
                assert isinstance(state, FastDecoding)
                entering, waiting = waiting[: size - len(running)], waiting[size - len(running) :]
                hidden.append(state.enter(*self._asked(entering)))
                running = running + entering
            hidden_BD = torch.cat(hidden)

    def _asked(self, rows: Sequence[_Row]) -> tuple[list[NDArray[np.int64]], list[str | None]]:
        """Prompts and adapters of rows about to be read, which are counted."""
        prompts, adapters = [row.prompt.ids for row in rows], [row.adapter for row in rows]
        self.tokens.prefilled += sum(len(prompts[row]) for row in distinct_rows(prompts, adapters)[0])
        return prompts, adapters

    def _logits(self, hidden_BD: Tensor, head: Head) -> Tensor:
        """A product's rounding may depend on how many rows it has: on the reference path each has its own."""
        rows = [hidden_BD] if self.base.decoder is not None else torch.split(hidden_BD, 1)
        return torch.cat([logits_of(row, head) for row in rows])

    def _end_at_stop(self, row: _Row, stops: Sequence[str]) -> None:
        """End an answer that has come to a stop text, and cut it there."""
        tokenizer = self.base.tokenizer_of(row.adapter)
        # A new token ends a stop within so many; most of them have no more than its last letters.
        last = row.ids[-max(map(len, stops)) - 8 :]
        tail = tokenizer.decode(last, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if any(stop in tail for stop in stops):
            row.cut = before_stop(self._text(row), stops)
            row.stop = row.stop if row.cut is None else "end_of_turn"

    def _text(self, row: _Row) -> str:
        if row.cut is not None:
            return row.cut
        ids = row.ids[:-1] if row.stop == "end_of_turn" else row.ids
        tokenizer = self.base.tokenizer_of(row.adapter)
        return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _finish(self, row: _Row, digest: str) -> Rollout:
        return Rollout(
            prompt_ids=row.prompt.ids,
            ids=np.array(row.ids, np.int64),
            logprobs=np.array(row.logprobs, np.float32),
            text=self._text(row),
            stop_reason=row.stop or "length",
            adapter_digest=digest,
            row_id=row.prompt.row_id,
        )


def _behind(base: Base, adapter: str | None) -> str:
    """What takes a part of the context away, in words."""
    number = base.num_virtual_of(adapter)
    return f" behind {number} virtual tokens" if number else ""


def _draws(sampling: Sampling, prompt: Prompt) -> np.random.Generator:
    return generator(sampling.seed, "sampling", prompt.row_id, prompt.sample)


def _choose(end_ids: frozenset[int], logits_BV: Tensor, rows: list[_Row], sampling: Sampling) -> list[int]:
    """Pick each row's next token, note the model's own log-probability of it, and end rows that are done."""
    told_BV = logits_BV
    if sampling.repetition_penalty != 1:
        seen = [[*row.prompt.ids.tolist(), *row.ids] for row in rows]
        told_BV = penalized(logits_BV, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        chosen_B = told_BV.argmax(-1)
    else:
        uniform_B = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64, device=logits_BV.device)
        chosen_B = draw(told_BV, uniform_B, sampling)
    logprob_B = logits_BV.gather(1, chosen_B[:, None]).squeeze(1) - torch.logsumexp(logits_BV, dim=-1)
    ids = chosen_B.tolist()
    for row, token, logprob in zip(rows, ids, logprob_B.tolist(), strict=True):
        row.ids.append(token)
        row.logprobs.append(logprob)
        if token in end_ids:
            row.stop = "end_of_turn"
        elif len(row.ids) >= sampling.max_new_tokens:
            row.stop = "length"
    return ids
