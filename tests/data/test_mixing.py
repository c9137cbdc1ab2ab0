"""Shares of tasks against numbers worked out by hand, and the schedule that meets them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.mixing import BLOCK, Schedule, choose, rates_by_size, rates_by_weight, row_of

# rows, cap, temperature -> rates by hand: min(rows, cap) ^ (1 / T), divided by the sum.
GOLDENS = [
    ((100, 300, 1600), None, 1.0, (0.05, 0.15, 0.8)),
    ((100, 300, 1600), 400, 1.0, (0.125, 0.375, 0.5)),
    ((100, 400, 2500), None, 2.0, (10 / 80, 20 / 80, 50 / 80)),
    ((100, 300, 1600), 400, 2.0, (0.2113249, 0.3660254, 0.4226497)),
    ((8, 27, 64), None, 3.0, (2 / 9, 3 / 9, 4 / 9)),
    ((1, 3), None, 0.5, (0.1, 0.9)),
    ((5, 500, 50_000), 5, 1.0, (1 / 3, 1 / 3, 1 / 3)),
]


@pytest.mark.parametrize(("rows", "cap", "temperature", "expected"), GOLDENS)
def test_rates_by_hand(rows: tuple[int, ...], cap: int | None, temperature: float, expected: tuple[float, ...]) -> None:
    assert rates_by_size(rows, cap=cap, temperature=temperature) == pytest.approx(expected, abs=1e-7)


def test_a_forgotten_cap_or_temperature_would_be_seen() -> None:
    for rows, cap, temperature, expected in GOLDENS:
        if cap is not None:
            assert rates_by_size(rows, cap=None, temperature=temperature) != pytest.approx(expected, abs=1e-2)
        if temperature != 1.0:
            assert rates_by_size(rows, cap=cap, temperature=1.0) != pytest.approx(expected, abs=1e-2)
            # Dividing by the temperature instead of taking its root changes nothing at all, and so would be wrong.
            assert rates_by_size(rows, cap=cap, temperature=1 / temperature) != pytest.approx(expected, abs=1e-2)


def test_weights() -> None:
    assert rates_by_weight([1, 3], temperature=1) == pytest.approx([0.25, 0.75])
    assert rates_by_weight([1, 0, 4], temperature=2) == pytest.approx([1 / 3, 0, 2 / 3])
    assert rates_by_weight([1, 5, 9], temperature=1000) == pytest.approx([1 / 3] * 3, abs=1e-3)
    # The largest task takes all, and nothing overflows.
    assert rates_by_weight([1e6, 2e6], temperature=1e-3) == pytest.approx([0, 1])


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [math.nan, 1], [math.inf, 1]])
def test_weights_that_mean_nothing(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        rates_by_weight(weights, temperature=1)
    with pytest.raises(ValueError, match="temperature above 0"):
        rates_by_weight([1], temperature=0)
    with pytest.raises(ValueError, match="needs a row"):
        rates_by_size([3, 0], cap=None, temperature=1)


SHARES = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any)


@given(SHARES, st.integers(0, 2**31), st.integers(0, 5))
@settings(max_examples=60)
def test_every_block_holds_floor_or_ceil_of_each_share(weights: list[int], seed: int, block: int) -> None:
    shares = tuple(weight / sum(weights) for weight in weights)
    places = range(block * BLOCK, (block + 1) * BLOCK)
    counts = Counter(choose(shares, place, seed, "test") for place in places)
    for i, share in enumerate(shares):
        exact = BLOCK * share
        assert math.floor(exact + 1e-9) <= counts[i] <= math.ceil(exact - 1e-9), (i, share)
        assert share > 0 or counts[i] == 0


def test_shares_of_a_long_mixture_are_exact_where_a_coin_would_miss() -> None:
    schedule = Schedule(np.array([0.5, 0.25, 0.25]), 1000, seed=3)
    assert np.bincount(schedule.task_N).tolist() == [500, 250, 250]
    # Control: independent draws with the same shares do not meet them.
    coin = np.random.default_rng(3).choice(3, 1000, p=[0.5, 0.25, 0.25])
    assert np.bincount(coin).tolist() != [500, 250, 250]
    # The order is drawn anew for every block.
    assert schedule.task_N[:BLOCK].tolist() != schedule.task_N[BLOCK : 2 * BLOCK].tolist()


@given(SHARES, st.integers(1, 350), st.integers(0, 300), st.integers(0, 99))
@settings(max_examples=40)
def test_a_longer_mixture_begins_with_the_shorter_one(weights: list[int], size: int, more: int, seed: int) -> None:
    rates = np.array(weights, float) / sum(weights)
    short, long = Schedule(rates, size, seed), Schedule(rates, size + more, seed)
    assert long.task_N[:size].tolist() == short.task_N.tolist()
    assert long.ordinal_N[:size].tolist() == short.ordinal_N.tolist()
    for task in range(len(weights)):
        assert long.ordinal_N[long.task_N == task].tolist() == list(range(int((long.task_N == task).sum())))


@given(st.integers(1, 40), st.integers(0, 4), st.integers(0, 99))
@settings(max_examples=40)
def test_every_pass_over_a_task_takes_each_row_once(num_rows: int, epoch: int, seed: int) -> None:
    taken = [row_of(epoch * num_rows + i, num_rows, seed, "a") for i in range(num_rows)]
    assert sorted(taken) == list(range(num_rows))


def test_passes_and_tasks_have_orders_of_their_own() -> None:
    def order(epoch: int, task: str = "a", seed: int = 0) -> list[int]:
        return [row_of(epoch * 20 + i, 20, seed, task) for i in range(20)]

    assert order(0) == order(0)
    assert len({tuple(order(*which)) for which in ((0,), (1,), (0, "b"), (0, "a", 1))}) == 4
