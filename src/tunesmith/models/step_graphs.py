"""One decoded token as a CUDA graph: its hundreds of kernels begin with one call instead of one each.

A token's work is so little that a GPU waits for the process that starts it (profile in bench/LOG.md). A graph has fixed
addresses, so it is one for each number of rows and of slots seen; both are rounded up, which a mask makes harmless.
Shape letters: B running rows, R rows of a graph, D width.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# A token of this kind that comes so many times is captured: sooner would cost short answers more than it saves them.
CAPTURE_AT = 3
SLOTS_AT_ONCE = 256

# token(ids, slots, slots seen, adapter) -> hidden states (rows, D), in the order of the cache.
Token = Callable[[Tensor, Tensor, int, str | None], Tensor]


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    ids_R: Tensor
    slot_R: Tensor
    hidden_RD: Tensor


class StepGraphs:
    """The graphs of one cache. room: its rows and slots."""

    def __init__(self, room: tuple[int, int]) -> None:
        self._room = room
        self._met: Counter[tuple[str | None, int, int]] = Counter()
        self._captured: dict[tuple[str | None, int, int], _Captured] = {}
        self._pool: Any = None
        self._fault = False

    def __call__(self, token: Token, ids_B: Tensor, slot_B: Tensor, end: int, adapter: str | None) -> Tensor:
        """What ``token`` gives, hidden states (B, D), to be read before the next call."""
        end = min(-(-end // SLOTS_AT_ONCE) * SLOTS_AT_ONCE, self._room[1])
        rows = min(_rounded(len(ids_B)), self._room[0])
        key = (adapter, rows, end)
        self._met[key] += 1
        if self._met[key] == CAPTURE_AT and not self._fault:
            self._capture(token, key, ids_B.device)
        if key not in self._captured:
            return token(ids_B, slot_B, end, adapter)
        one, more = self._captured[key], (0, rows - len(ids_B))
        one.ids_R.copy_(pad(ids_B, more))
        # What rows of no use write goes to places without a row, which are written again before they are read.
        one.slot_R.copy_(pad(slot_B, more))
        one.graph.replay()
        return one.hidden_RD[: len(ids_B)]

    def _capture(self, token: Token, key: tuple[str | None, int, int], device: torch.device) -> None:
        """The same kind of token has been worked through before, so that every kernel is loaded."""
        adapter, rows, end = key
        ids_R, slot_R = (torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(2))
        graph, stream = torch.cuda.CUDAGraph(), _stream(device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        stream.wait_stream(torch.cuda.current_stream(device))
        # cuBLAS keeps a workspace a stream: one made in the graph's memory would hold all of that memory for good.
        torch._C._cuda_clearCublasWorkspaces()
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    hidden_RD = token(ids_R, slot_R, end, adapter)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            self._fault = True
            warnings.warn(f"tokens are decoded without CUDA graphs: {str(error).splitlines()[0]}", stacklevel=2)
            return
        finally:
            torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._captured[key] = _Captured(graph, ids_R, slot_R, hidden_RD)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _rounded(rows: int) -> int:
    """Powers of two up to 8, then multiples of 8: a graph serves many numbers of rows as they end one by one."""
    return 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
