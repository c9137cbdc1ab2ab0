"""Guards: each one speaks where its sign is there, with its figures, and is silent where it is not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.training.guards import (
    GuardConfig,
    Iteration,
    best_at_kl_budget,
    frontier,
    guard,
    repeated_share,
)

CONFIG = GuardConfig()


def iteration(step: int = 0, **more: Any) -> Iteration:
    healthy: dict[str, Any] = {
        "reward": 0.1, "kl": 1.0, "length": 40.0, "entropy": 2.0, "repetition": 0.05, "reward_std": 0.5,
    }  # fmt: skip
    return Iteration(step=step, **(healthy | more))


def series(**values: Sequence[float]) -> list[Iteration]:
    length = len(next(iter(values.values())))
    return [iteration(i, **{name: column[i] for name, column in values.items()}) for i in range(length)]


def names(history: Sequence[Iteration], config: GuardConfig = CONFIG) -> list[str]:
    return [warned.guard for warned in guard(history, config)]


def test_a_healthy_run_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    history = [
        iteration(
            i,
            reward=0.1 * i,
            kl=0.4 * i,
            length=40 + rng.normal(),
            entropy=2 - 0.05 * i,
            watched={"judge": 5 + 0.05 * i + 0.1 * rng.normal()},
        )
        for i in range(20)
    ]
    assert [names(history[:n]) for n in range(21)] == [[]] * 21


@pytest.mark.parametrize(
    ("guard_name", "values", "figures"),
    [
        ("kl_alarm", {"kl": [1.0, 31.0]}, {"kl": 31.0, "limit": 30.0}),
        ("length_drift", {"length": [40.0] * 3 + [70.0] * 3}, {"first": 40.0, "last": 70.0, "ratio": 1.75}),
        ("length_drift", {"length": [40.0] * 3 + [20.0] * 3}, {"first": 40.0, "last": 20.0, "ratio": 0.5}),
        ("repetition", {"repetition": [0.05] * 3 + [0.3] * 3}, {"first": 0.05, "last": 0.3}),
        ("entropy_collapse", {"entropy": [2.0] * 3 + [0.5] * 3}, {"first": 2.0, "last": 0.5}),
        ("no_signal", {"reward_std": [0.5, 0.0]}, {"reward": 0.1, "reward_std": 0.0}),
    ],
)
def test_a_sign_is_told_with_cause_and_figures(
    guard_name: str, values: dict[str, Any], figures: dict[str, Any]
) -> None:
    history = series(**values)
    (warned,) = guard(history, CONFIG)
    assert warned.guard == guard_name and warned.step == history[-1].step
    assert warned.figures == pytest.approx(figures)
    assert warned.seen.endswith(".") and warned.cause.endswith(".")
    assert str(warned).startswith(f"{guard_name} after {warned.step} updates: ")


@pytest.mark.parametrize(
    "values",
    [
        {"kl": [1.0, 30.0]},
        {"length": [40.0] * 3 + [60.0] * 3},
        {"length": [40.0] * 3 + [27.0] * 3},
        {"repetition": [0.05] * 3 + [0.14] * 3},
        {"repetition": [0.5] * 6},
        {"entropy": [2.0] * 3 + [0.67] * 3},
        {"reward_std": [0.0, 0.5]},
        # Not yet two windows: the beginning is not compared with itself.
        {"length": [40.0, 40.0, 40.0, 90.0, 90.0]},
        {"entropy": [0.0] * 6},
    ],
)
def test_below_its_limit_a_guard_is_silent(values: dict[str, Any]) -> None:
    assert names(series(**values)) == []


def test_limits_are_the_users() -> None:
    history = series(length=[40.0, 50.0])
    assert names(history, GuardConfig(window=1, length_drift=1.2)) == ["length_drift"]
    assert names(history, GuardConfig(window=1, length_drift=1.3)) == []


def watching(reward: Sequence[float], judge: Sequence[float]) -> list[Iteration]:
    return [iteration(i, reward=r, watched={"judge": j}) for i, (r, j) in enumerate(zip(reward, judge, strict=True))]


def test_a_reward_that_rises_while_a_watched_one_falls_is_hacking() -> None:
    rng = np.random.default_rng(1)
    steps = np.arange(16)
    rising, falling = 0.2 * steps + 0.2 * rng.normal(size=16), 5 - 0.2 * steps + 0.2 * rng.normal(size=16)
    (warned,) = guard(watching(rising, falling), CONFIG)
    assert warned.guard == "reward_hacking" and "'judge', which is not trained on, fell by" in warned.seen
    assert warned.figures["reward"] > 0 > warned.figures["watched_judge"]
    # Controls: both rise, both fall, the reward falls, only noise.
    assert names(watching(rising, -falling)) == []
    assert names(watching(-rising, falling)) == []
    assert names(watching(rising, 5 + 0.2 * rng.normal(size=16))) == []
    assert names([iteration(i, reward=r) for i, r in enumerate(rising)]) == []


def test_noise_alone_is_seldom_called_hacking() -> None:
    rng = np.random.default_rng(2)
    alarms = sum(names(watching(rng.normal(size=16), rng.normal(size=16))) != [] for _ in range(400))
    # Two errors up and two down at once: 0.05 % for independent normal series, and a margin for short windows.
    assert alarms <= 4


def test_repetition_is_the_share_of_ngrams_seen_before() -> None:
    assert repeated_share([1, 2, 3, 4, 5]) == 0
    assert repeated_share([7] * 12) == pytest.approx(9 / 10)
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repeated_share([1, 2]) == repeated_share([]) == 0
    assert repeated_share([1, 1, 1], n=1) == pytest.approx(2 / 3)


def test_best_is_by_reward_within_the_budget_not_by_reward_alone() -> None:
    history = series(reward=[0.0, 1.0, 2.0, 1.5, 9.0], kl=[0.0, 1.0, 4.0, 2.0, 50.0])
    best = {budget: best_at_kl_budget(history, budget) for budget in (0.5, 1.0, 3.0, 10.0, 100.0)}
    assert {budget: one.step for budget, one in best.items() if one} == {0.5: 0, 1.0: 1, 3.0: 3, 10.0: 2, 100.0: 4}
    assert best_at_kl_budget(history[1:], 0.5) is None
    assert best_at_kl_budget([], 1.0) is None
    tied = series(reward=[1.0, 1.0, 1.0], kl=[3.0, 2.0, 2.0])
    chosen = best_at_kl_budget(tied, 5.0)
    assert chosen is not None and chosen.step == 1


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 50)), max_size=12), st.floats(0, 60))
def test_the_frontier_holds_the_best_of_every_budget(points: list[tuple[float, float]], budget: float) -> None:
    history = series(reward=[r for r, _ in points], kl=[k for _, k in points]) if points else []
    best, front = best_at_kl_budget(history, budget), frontier(history)
    assert best_at_kl_budget(front, budget) == best
    assert all(a.kl < b.kl and a.reward < b.reward for a, b in itertools.pairwise(front))
