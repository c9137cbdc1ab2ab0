"""A suffix that makes an answer begin as wanted: greedy coordinate gradient, and two searches without gradients.

Zou et al. 2023, arXiv:2307.15043, algorithm 1: the gradient of the loss of the opening at the one-hot suffix tells
which swaps of a token may lower it; some of them, drawn at random, are measured, and the best is taken. Goals are
searched side by side; in a pack the candidates of one goal share the prompt and all of the suffix before their swap.
Unlike the paper, a step that found nothing better keeps what it had: with few candidates most steps are such.
Shape letters: L tokens of a suffix, A allowed tokens, D width, K likeliest swaps of a place, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tunesmith.config import Config
from tunesmith.errors import DataError, ModelError
from tunesmith.models.forward import scored_targets
from tunesmith.models.input_gradient import embedding_rows, input_gradients
from tunesmith.models.roles import Base
from tunesmith.randomness import generator
from tunesmith.records import Example, Where
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.suffix_tokens import Ids, Slots, allowed_tokens, slots_of
from tunesmith.tokens.pack import ROOT, micro_batches, pack

# gcg: swaps the gradient names. random-search: any swaps, the best is kept. random-suffix: fresh suffixes each time.
# none: the request as it is, measured once.
Method = Literal["gcg", "random-search", "random-suffix", "none"]
Stop = Literal["reached", "steps", "tokens"]

# Drawn for each candidate that is wanted before a step goes on with fewer: the filter turns down a third to a half.
_DRAWS = 20
_WHERE = Where("suffix")


class SearchConfig(Config):
    """How long a suffix is searched and how widely."""

    suffix_tokens: int = Field(20, ge=1)
    """Length of the suffix."""
    opening_tokens: int | None = Field(None, ge=1)
    """Tokens of the opening that count; empty: all of them."""
    steps: int = Field(50, ge=1)
    """Most steps a goal."""
    candidates: int = Field(32, ge=1)
    """Suffixes measured in a step; the searches without gradients measure as many."""
    top_k: int = Field(64, ge=1)
    """gcg: the swaps of a place that are drawn from, those with the steepest gradient."""
    forward_tokens: int | None = Field(None, ge=1)
    """Most tokens a goal may put through the model; a backward pass counts as one more forward. Empty: no bound."""
    pack_tokens: int = Field(4096, ge=64)
    """Tokens in one pass, for memory alone."""
    seed: int = 0
    """Keys every draw together with goal, method and step."""


@dataclass(slots=True, kw_only=True)
class Search:
    """One goal's search: where it stands, and what it has cost.

    loss: nats a token of the opening, behind the suffix. curve: (suffixes measured, tokens, loss) after each step, the
    first before any. reached: every token of the opening was the likeliest, so a greedy answer begins with it. tried:
    what was measured, none of which can be better than what is kept.
    """

    slots: Slots
    method: Method
    suffix: Ids
    loss: float = float("inf")
    reached: bool = False
    step: int = 0
    measured: int = 0
    num_tokens: int = 0
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    stop: Stop | None = None
    tried: set[Ids] = field(default_factory=set)

    @property
    def text(self) -> str:
        """The suffix as it is typed behind the request."""
        return self.slots.text(self.suffix)


def search_suffixes(
    base: Base,
    adapter: str | None,
    goals: Sequence[Goal],
    method: Method,
    config: SearchConfig,
    on_step: Callable[[Sequence[Search]], None] = lambda _: None,
) -> list[Search]:
    """Search a suffix for each goal, all of them side by side; in their order.

    on_step: told of all of them after each step. Raises ModelError for an encoder-decoder model, DataError for a goal
    without an opening, one that takes no suffix and one beyond the context.
    """
    if base.is_encoder_decoder:
        fix = "Attack a causal model."
        raise ModelError(base.resolved.name, "an encoder-decoder model has no place for a suffix search.", fix)
    tokenizer = base.tokenizer_of(adapter)
    searches = []
    for goal in goals:
        num_suffix = 0 if method == "none" else config.suffix_tokens
        slots = slots_of(goal, tokenizer, num_suffix_tokens=num_suffix, max_opening_tokens=config.opening_tokens)
        if slots.num_tokens > (limit := base.context_tokens_of(adapter)):
            cause = f"needs {slots.num_tokens} tokens with suffix and opening, the model reads {limit}."
            raise DataError(goal.where or f"goal {goal.id}", cause, "Shorten it.")
        searches.append(Search(slots=slots, method=method, suffix=slots.start))
    allowed_A = allowed_tokens(tokenizer, base.model.get_input_embeddings().weight.shape[0])
    _measure(base, adapter, searches, [[one.suffix] for one in searches], config)
    while running := [one for one in searches if one.stop is None]:
        swaps = _swaps(base, adapter, running, allowed_A, config) if method == "gcg" else [None] * len(running)
        _measure(
            base,
            adapter,
            running,
            [_candidates(one, ids_LK, allowed_A, config) for one, ids_LK in zip(running, swaps, strict=True)],
            config,
        )
        on_step(searches)
    return searches


def _swaps(
    base: Base, adapter: str | None, searches: Sequence[Search], allowed_A: NDArray[np.int64], config: SearchConfig
) -> list[NDArray[np.int64] | None]:
    """For each search the ids (L, K) whose one-hot input has the steepest descent at each place of its suffix."""
    rows_AD = embedding_rows(base, torch.from_numpy(allowed_A))
    examples = [_example(one.slots, one.suffix) for one in searches]
    out: list[NDArray[np.int64] | None] = [None] * len(searches)
    for batch in micro_batches([len(example.ids) for example in examples], config.pack_tokens):
        packed = pack([examples[i] for i in batch], adapter)
        _, grads_TD = input_gradients(base, packed)
        # Virtual tokens of a soft prompt are embedded elsewhere; the rows are the pack's own.
        for i, start in zip(batch, packed.start_S, strict=True):
            first = start + len(searches[i].slots.before)
            grads_LA = onehot_gradients(grads_TD[first : first + len(searches[i].suffix)], rows_AD)
            best_LK = grads_LA.topk(min(config.top_k, len(allowed_A)), largest=False).indices
            out[i] = allowed_A[best_LK.cpu().numpy()]
            searches[i].num_tokens += 2 * len(examples[i].ids)
    return out


def onehot_gradients(grads_LD: Tensor, rows_AD: Tensor) -> Tensor:
    """(L, A): the derivative of the loss by the weight of each allowed token in the one-hot input of each place."""
    return grads_LD.to(rows_AD.dtype) @ rows_AD.T


def _candidates(
    search: Search, swaps_LK: NDArray[np.int64] | None, allowed_A: NDArray[np.int64], config: SearchConfig
) -> list[Ids]:
    """Suffixes not measured before, each of which its text is read as again; fewer where too many are turned down."""
    rng = generator(config.seed, "gcg", search.method, search.slots.goal.id, search.step)
    found: dict[Ids, None] = {}
    drawn_before = set(search.tried)
    for _ in range(_DRAWS * config.candidates):
        if len(found) == config.candidates:
            break
        if search.method == "random-suffix":
            drawn = tuple(rng.choice(allowed_A, len(search.suffix)).tolist())
        else:
            place = int(rng.integers(len(search.suffix)))
            choices = allowed_A if swaps_LK is None else swaps_LK[place]
            drawn = (*search.suffix[:place], int(rng.choice(choices)), *search.suffix[place + 1 :])
        if drawn in drawn_before:
            continue
        drawn_before.add(drawn)
        if search.slots.reads_back(drawn):
            found[drawn] = None
    return list(found)


def _measure(
    base: Base,
    adapter: str | None,
    searches: Sequence[Search],
    candidates: Sequence[Sequence[Ids]],
    config: SearchConfig,
) -> None:
    """Measure each search's candidates and let it take the best: one that reaches the opening, else a lower loss."""
    forests = [
        (number, part, *suffix_forest(search.slots, search.suffix, part))
        for number, (search, own) in enumerate(zip(searches, candidates, strict=True))
        for part in _parts(search, own, config.pack_tokens)
    ]
    found: list[list[tuple[bool, float, Ids]]] = [[] for _ in searches]
    sizes = [sum(len(segment.ids) for segment in segments) for _, _, segments, _ in forests]
    for batch in micro_batches(sizes, config.pack_tokens):
        segments: list[Example] = []
        parents: list[int] = []
        for number, _, own, own_parents in (forests[i] for i in batch):
            parents += [parent if parent == ROOT else parent + len(segments) for parent in own_parents]
            segments += own
            searches[number].num_tokens += sum(len(segment.ids) for segment in own)
        scores = iter(scored_targets(base, pack(segments, adapter, parents)))
        for number, part, _, _ in (forests[i] for i in batch):
            for suffix in part:
                logprobs, greedy = next(scores)
                found[number].append((not all(greedy), -sum(logprobs) / len(logprobs), suffix))
    for search, measured in zip(searches, found, strict=True):
        _take_best(search, measured, config)


def _take_best(search: Search, found: Sequence[tuple[bool, float, Ids]], config: SearchConfig) -> None:
    search.measured += len(found)
    search.tried.update(suffix for _, _, suffix in found)
    if found:
        missed, loss, suffix = min(found)
        if not missed or loss < search.loss:
            search.reached, search.loss, search.suffix = not missed, loss, suffix
    search.curve.append((search.measured, search.num_tokens, round(search.loss, 6)))
    if search.reached:
        search.stop = "reached"
    elif config.forward_tokens is not None and search.num_tokens >= config.forward_tokens:
        search.stop = "tokens"
    elif search.method == "none" or len(search.curve) > config.steps:
        search.stop = "steps"
    search.step = len(search.curve)


def _parts(search: Search, candidates: Sequence[Ids], pack_tokens: int) -> Iterator[Sequence[Ids]]:
    """Candidates, those alike in their beginning together, in parts that one pack holds if they shared nothing."""
    own = len(search.suffix) + len(search.slots.after) + len(search.slots.opening)
    size = max(1, (pack_tokens - len(search.slots.before)) // own)
    order = sorted(candidates, key=lambda suffix: (num_shared(search.suffix, suffix), suffix))
    for first in range(0, len(order), size):
        yield order[first : first + size]


def num_shared(current: Ids, suffix: Ids) -> int:
    """Tokens at the beginning that are alike."""
    return next((i for i, (a, b) in enumerate(zip(current, suffix, strict=True)) if a != b), len(current))


def suffix_forest(slots: Slots, current: Ids, candidates: Sequence[Ids]) -> tuple[list[Example], list[int]]:
    """(segments, parents) of candidates, in their order: each a tail below what it shares with the current suffix.

    What is shared is a chain, prompt first, cut where a candidate leaves it.
    """
    segments: list[Example] = []
    parents: list[int] = []
    trunk = (*slots.before, *current)
    segment_to: dict[int, int] = {}
    done = 0
    for shared in sorted({num_shared(current, suffix) for suffix in candidates}):
        end = len(slots.before) + shared
        parents.append(len(segments) - 1 if segments else ROOT)
        segment_to[shared] = len(segments)
        segments.append(_segment(trunk[done:end], 0))
        done = end
    for suffix in candidates:
        shared = num_shared(current, suffix)
        parents.append(segment_to[shared])
        segments.append(_segment((*suffix[shared:], *slots.after, *slots.opening), len(slots.opening)))
    return segments, parents


def _example(slots: Slots, suffix: Ids) -> Example:
    return _segment((*slots.before, *suffix, *slots.after, *slots.opening), len(slots.opening))


def _segment(ids: Ids, num_loss: int) -> Example:
    weight = np.zeros(len(ids), np.float32)
    weight[len(ids) - num_loss :] = 1.0
    return Example(ids=np.array(ids, np.int64), loss_weight=weight, row_id=0, where=_WHERE)
