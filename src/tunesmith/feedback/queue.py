"""What an annotator is asked, in which order: a function of (seed, annotator, what the store holds).

Everybody is asked about the same items, each in an order of their own with the candidates shown in an order of their
own, so that neither fatigue nor the place on the screen falls on the same item for all. A share of the items is asked
again later without a word about it: how often the second answer equals the first is an annotator's self-agreement.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunesmith.feedback.judgements import Judgement, Kind, StoredCandidate, StoredPrompt
from tunesmith.feedback.store import FeedbackStore
from tunesmith.randomness import derive_seed, permutation

# A repeated item comes at least so many items after the first time, so that it is judged anew and not remembered.
REPEAT_GAP = 8
MAX_RANKED = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question: a prompt and its candidates as they are shown, the first being A; ``again`` for a repetition."""

    prompt: StoredPrompt
    candidates: tuple[StoredCandidate, ...]
    again: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The same for every order of the candidates, and for the repetition."""
        return tuple(sorted(candidate.id for candidate in self.candidates))


def plan_queue(
    store: FeedbackStore,
    kind: Kind,
    annotator: str,
    *,
    seed: int = 0,
    per_prompt: int | None = None,
    repeat_share: float = 0.1,
) -> list[Item]:
    """All an annotator is asked of a kind, what is judged already included.

    per_prompt: at most so many items of a prompt, the same ones for every annotator. repeat_share: share of the items
    that is asked again; an item with fewer than REPEAT_GAP behind it never is.
    """
    items = list(_items(store, kind, per_prompt, seed))
    order = _by_hash(items, seed, "label_order", annotator)
    asked = [_shown(item, seed, annotator, again=False) for item in order]
    # Only what has enough behind it can be hidden among other items.
    repeatable = asked[: max(0, len(asked) - REPEAT_GAP)]
    chosen = _by_hash(repeatable, seed, "label_repeat", annotator)[: round(repeat_share * len(asked))]
    again = {item.key for item in chosen}
    out: list[Item] = []
    for place, item in enumerate(asked):
        out.append(item)
        earlier = asked[place - REPEAT_GAP] if place >= REPEAT_GAP else None
        if earlier is not None and earlier.key in again:
            out.append(_shown(earlier, seed, annotator, again=True))
    return out


def open_items(queue: Sequence[Item], made: Sequence[Judgement]) -> list[Item]:
    """The items of a queue that the annotator's judgements of its kind leave open, in their order."""
    first = {tuple(sorted(j.candidates)) for j in made if j.asked_again_of is None}
    again = {tuple(sorted(j.candidates)) for j in made if j.asked_again_of is not None}
    return [item for item in queue if item.key not in (again if item.again else first)]


def _items(store: FeedbackStore, kind: Kind, per_prompt: int | None, seed: int) -> Iterator[Item]:
    for prompt in store.prompts():
        candidates = list(store.candidates(prompt.id))
        if kind == "ranking":
            groups = [tuple(candidates[:MAX_RANKED])] if len(candidates) > 1 else []
        else:
            groups = list(itertools.combinations(candidates, 2 if kind == "comparison" else 1))
        items = [Item(prompt=prompt, candidates=group) for group in groups]
        yield from items if per_prompt is None else _by_hash(items, seed, "label_choice")[:per_prompt]


def _by_hash(items: Sequence[Item], seed: int, purpose: str, *keys: str) -> list[Item]:
    """Items in an order that an item more or less does not shuffle anew."""
    return sorted(items, key=lambda item: derive_seed(seed, purpose, *keys, *item.key))


def _shown(item: Item, seed: int, annotator: str, *, again: bool) -> Item:
    order = permutation(len(item.candidates), seed, "label_shown", annotator, *item.key, "again" if again else "first")
    # From the order of the ids, since that of the store depends on who came first.
    by_id = sorted(item.candidates, key=lambda candidate: candidate.id)
    return Item(prompt=item.prompt, candidates=tuple(by_id[i] for i in order), again=again)
