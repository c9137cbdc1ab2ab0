"""Which task an example of a mixture belongs to, and which of the task's rows it takes: functions of (seed, place).

Letters: M tasks, N examples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.randomness import generator, permutation

# Examples over which the shares are met: in each block a share s is given floor or ceil of s times this.
BLOCK = 100


def rates_by_size(num_rows: Sequence[int], *, cap: int | None, temperature: float) -> NDArray[np.float64]:
    """Examples-proportional mixing: rate ~ min(rows, cap) ^ (1 / temperature), (M,) float64 with sum 1.

    Temperature 1 keeps the proportions, a large one makes the tasks equal. Source: T5, arXiv:1910.10683 section 3.5.2.
    Raises ValueError for a task without rows.
    """
    if min(num_rows, default=0) < 1:
        raise ValueError("every task needs a row")
    sizes = np.minimum(np.asarray(num_rows, np.float64), np.inf if cap is None else cap)
    return rates_by_weight(sizes.tolist(), temperature=temperature)


def rates_by_weight(weights: Sequence[float], *, temperature: float) -> NDArray[np.float64]:
    """rate ~ weight ^ (1 / temperature), (M,) float64 with sum 1; a task of weight 0 keeps it.

    Raises ValueError for negative weights, for none above 0, and for a temperature that is not above 0.
    """
    array = np.asarray(weights, np.float64)
    if not (np.isfinite(array).all() and (array >= 0).all() and array.sum() > 0 and temperature > 0):
        raise ValueError("weights must be at least 0, one of them above 0, and the temperature above 0")
    # Over the largest: a small temperature raises to a large power, which must not overflow.
    scaled = np.where(array > 0, (array / array.max()) ** (1 / temperature), 0.0)
    return np.asarray(scaled / scaled.sum(), np.float64)


def choose(shares: tuple[float, ...], place: int, seed: int, purpose: str, *keys: int | str) -> int:
    """Which of several the place-th draw takes, by their shares; a share of 0 is never taken."""
    return int(_block(shares, place // BLOCK, seed, purpose, *keys)[place % BLOCK])


@functools.lru_cache(maxsize=4096)
def _block(shares: tuple[float, ...], block: int, seed: int, purpose: str, *keys: int | str) -> NDArray[np.int64]:
    """The choices of one block, (BLOCK,) int64: systematic sampling in a drawn order.

    Equally spaced points with one common random offset hit each share's interval floor or ceil of its length times
    BLOCK, so the shares hold closely over every stretch of examples and not only in expectation. Source: Madow and
    Madow 1944, Annals of Mathematical Statistics 15:1.
    """
    draws = generator(seed, purpose, *keys, block)
    points = (np.arange(BLOCK) + draws.random()) / BLOCK
    chosen = np.searchsorted(np.cumsum(shares), points, side="right")
    # Rounding may leave the sum of the shares below the last point.
    last = max(i for i, share in enumerate(shares) if share > 0)
    return np.minimum(chosen, last)[draws.permutation(BLOCK)].astype(np.int64)


class Schedule:
    """Example -> its task and the number of examples that the task has before it.

    rates: (M,). What the i-th example is does not depend on how many follow it: a longer schedule begins with the
    shorter one.
    """

    def __init__(self, rates: NDArray[np.float64], num_examples: int, seed: int) -> None:
        shares = tuple(float(rate) for rate in rates)
        blocks = [_block(shares, b, seed, "mixture_task") for b in range(-(-num_examples // BLOCK))]
        self.task_N = np.concatenate(blocks)[:num_examples]
        self.ordinal_N = np.zeros(num_examples, np.int64)
        for task in range(len(shares)):
            mine = self.task_N == task
            self.ordinal_N[mine] = np.arange(int(mine.sum()))

    def __len__(self) -> int:
        return len(self.task_N)


def row_of(ordinal: int, num_rows: int, seed: int, task: str) -> int:
    """The row that a task's ordinal-th example takes: every row once in each pass over the task, in a new order."""
    return _order(num_rows, seed, task, ordinal // num_rows)[ordinal % num_rows]


@functools.lru_cache(maxsize=64)
def _order(num_rows: int, seed: int, task: str, epoch: int) -> list[int]:
    return permutation(num_rows, seed, "mixture_rows", task, epoch)
