"""The search on tiny models: what it measures, what it counts, that it gets where random suffixes do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.conftest import build_tokenizer
from tunesmith.errors import DataError
from tunesmith.models.forward import scored_targets
from tunesmith.redteam import gcg
from tunesmith.redteam.gcg import Method, Search, SearchConfig, num_shared, search_suffixes, suffix_forest
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.suffix_tokens import Ids, allowed_tokens, slots_of
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling
from tunesmith.tokens.pack import pack

SMALL = SearchConfig(suffix_tokens=5, steps=4, candidates=6, top_k=8)


def _goal(name: str = "poem", opening: str = "Sure", system: str = "") -> Goal:
    return Goal(id=name, request=f"Write a {name}.", category="none", source="test", opening=opening, system=system)


def test_a_suffix_counts_only_where_its_text_is_read_as_its_tokens() -> None:
    tokenizer = build_tokenizer()
    slots = slots_of(_goal(system="Be brief."), tokenizer, num_suffix_tokens=4)
    t, h, th = (tokenizer.convert_tokens_to_ids(text) for text in ("t", "h", "th"))
    assert slots.reads_back((th, t, t, h)) is False
    assert slots.reads_back((th, t, t, t)) is True
    # The request ends with a full stop, which nothing grows together with; "e" and "r" would.
    glued = slots_of(
        Goal(id="a", request="Take", category="", source="", opening="Sure"), tokenizer, num_suffix_tokens=2
    )
    r = tokenizer.convert_tokens_to_ids("r")
    assert glued.reads_back((r, t)) is False
    assert glued.reads_back((t, r)) is True
    ids = (*slots.before, th, t, t, t, *slots.after)
    assert "Be brief." in tokenizer.decode(ids) and "Write a poem.thttt<|im_end|>" in tokenizer.decode(ids)
    assert tokenizer.decode(slots.opening) == "Sure"


def test_what_a_suffix_may_hold_can_be_typed() -> None:
    tokenizer = build_tokenizer()
    allowed = allowed_tokens(tokenizer, 272).tolist()
    texts = [tokenizer.decode([i]) for i in allowed]
    assert all(text.isascii() and text.isprintable() and text for text in texts)
    assert {"the", " a", "!"} <= set(texts) and not {"<|im_end|>", "\n", "\ufffd"} & set(texts)
    assert max(allowed_tokens(tokenizer, 100)) < 100 <= max(allowed)


def test_a_shared_beginning_changes_no_score(load: Callable[..., Any]) -> None:
    base = load()
    slots = slots_of(_goal(), base.tokenizer, num_suffix_tokens=5)
    current: Ids = (70, 71, 72, 73, 74)
    suffixes: list[Ids] = [current, (9, 71, 72, 73, 74), (70, 71, 9, 73, 74), (70, 71, 8, 73, 74), (1, 2, 3, 4, 5)]
    segments, parents = suffix_forest(slots, current, suffixes)
    alone = [gcg._example(slots, suffix) for suffix in suffixes]
    shared, whole = scored_targets(base, pack(segments, None, parents)), scored_targets(base, pack(alone))
    for one, other in zip(shared, whole, strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-9)
        assert one[1] == other[1]
    assert len({round(sum(one[0]), 6) for one in shared}) == len(suffixes)
    # Two of them share all in front of their third token, one all of it.
    tail = len(slots.after) + len(slots.opening)
    assert sum(len(segment.ids) for segment in segments) == len(slots.before) + 5 + 5 * tail + 5 + 5 + 3 + 3
    assert [num_shared(current, suffix) for suffix in suffixes] == [5, 0, 2, 2, 0]


def _counted(base: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that every pass of the search takes; a gradient's count twice."""
    seen: list[int] = []

    def scored(base: Any, packed: Any) -> Any:
        seen.append(packed.num_tokens)
        return scored_targets(base, packed)

    def gradients(base: Any, packed: Any) -> Any:
        from tunesmith.models.input_gradient import input_gradients

        seen.append(2 * packed.num_tokens)
        return input_gradients(base, packed)

    monkeypatch.setattr(gcg, "scored_targets", scored)
    monkeypatch.setattr(gcg, "input_gradients", gradients)
    return seen


@pytest.mark.parametrize("method", ["gcg", "random-search", "random-suffix"])
def test_the_controls_measure_as_many(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    base = load()
    seen = _counted(base, monkeypatch)
    told: list[list[int]] = []
    goals = [_goal(), _goal("letter", "Of course")]
    found = search_suffixes(base, None, goals, method, SMALL, lambda all_: told.append([one.step for one in all_]))
    assert [one.measured for one in found] == [1 + 4 * 6] * 2
    assert told == [[2, 2], [3, 3], [4, 4], [5, 5]]
    assert sum(seen) == sum(one.num_tokens for one in found)
    for one in found:
        assert one.stop == "steps" and one.slots.reads_back(one.suffix)
        losses = [point[2] for point in one.curve]
        assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
        again = scored_targets(base, pack([gcg._example(one.slots, one.suffix)]))[0][0]
        assert one.loss == pytest.approx(-sum(again) / len(again), rel=1e-9)
    # Goals do not know of each other, nor of how much a pack holds.
    for config in (SMALL, SMALL.model_copy(update={"pack_tokens": 64})):
        assert search_suffixes(base, None, goals[1:], method, config)[0].suffix == found[1].suffix
    other = search_suffixes(base, None, goals[1:], method, SMALL.model_copy(update={"seed": 1}))[0]
    assert other.suffix != found[1].suffix


def _mean_loss(found: Sequence[Search]) -> float:
    return float(np.mean([one.loss for one in found]))


def test_the_gradient_beats_chance_at_the_same_number_of_measurements(load: Callable[..., Any]) -> None:
    base, goals = load(), [_goal(name, opening) for name, opening in (("a", "Sure"), ("b", "Yes"), ("c", "Here"))]
    config = SearchConfig(suffix_tokens=8, steps=12, candidates=8, top_k=16)
    by_gradient, by_swaps, by_chance = (
        search_suffixes(base, None, goals, method, config) for method in ("gcg", "random-search", "random-suffix")
    )
    assert _mean_loss(by_gradient) < _mean_loss(by_swaps) < _mean_loss(by_chance)


def _answer_behind(base: Any, search: Search, suffix: Ids) -> str:
    ids = np.array([*search.slots.before, *suffix, *search.slots.after])
    return LocalGenerator(base).generate([Prompt(ids=ids, row_id=0)], Sampling(max_new_tokens=3))[0].text


def test_it_stops_where_a_greedy_answer_begins_as_wanted(load: Callable[..., Any]) -> None:
    base = load("qwen3")
    (plain,) = search_suffixes(base, None, [_goal()], "random-suffix", SMALL)
    first = _answer_behind(base, plain, plain.slots.start)[:1]
    draws = np.random.default_rng(0)
    letters = [base.tokenizer.convert_tokens_to_ids(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    openings = (_answer_behind(base, plain, tuple(draws.choice(letters, 5).tolist()))[:1] for _ in range(40))
    # One that some other suffix leads to, so that there is something to find.
    opening = next(text for text in openings if text.isascii() and text.isprintable() and text != first)
    config = SearchConfig(suffix_tokens=5, steps=40, candidates=16, top_k=32)
    (found,) = search_suffixes(base, None, [_goal(opening=opening)], "gcg", config)
    assert found.reached and found.stop == "reached" and found.measured < 1 + 40 * 16
    assert _answer_behind(base, found, found.suffix).startswith(opening)


def test_a_bound_in_tokens_ends_it(load: Callable[..., Any]) -> None:
    base = load()
    (free,) = search_suffixes(base, None, [_goal()], "gcg", SMALL)
    bound = free.curve[2][1]
    (found,) = search_suffixes(base, None, [_goal()], "gcg", SMALL.model_copy(update={"forward_tokens": bound}))
    assert found.stop == "tokens" and found.curve == free.curve[:3]


def test_without_a_suffix_the_request_is_measured_once(load: Callable[..., Any]) -> None:
    (found,) = search_suffixes(load(), None, [_goal()], "none", SMALL)
    assert (found.text, found.measured, found.stop) == ("", 1, "steps")
    assert found.num_tokens == found.slots.num_tokens


def test_what_cannot_be_searched_is_told(load: Callable[..., Any]) -> None:
    base = load()
    with pytest.raises(DataError, match="no opening"):
        search_suffixes(base, None, [_goal(opening=" ")], "gcg", SMALL)
    with pytest.raises(DataError, match=r"needs \d+ tokens .* reads 256"):
        search_suffixes(base, None, [_goal(opening="Sure " * 60)], "gcg", SMALL)
    t5 = load()
    t5.decoder_prefix = (0,)
    with pytest.raises(Exception, match="encoder-decoder"):
        search_suffixes(t5, None, [_goal()], "gcg", SMALL)
