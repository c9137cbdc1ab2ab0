"""Graphs of decoded tokens: what is replayed is the token itself, whatever rows end or enter. Without a GPU the graph
is one that works its token through again, into the same place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tunesmith.models.decoding import FastDecoding
from tunesmith.models.step_graphs import StepGraphs, _Captured, _rounded


class Replayed(StepGraphs):
    """Captures by remembering what to do."""

    replays, width = 0, 0

    def _capture(self, token: Callable[..., Tensor], key: tuple[str | None, int, int], device: torch.device) -> None:
        ids_R, slot_R = (torch.zeros(key[1], dtype=torch.int64) for _ in range(2))
        # Nothing is worked through yet: what it would write is not there.
        hidden_RD = torch.full((key[1], self.width), torch.nan)
        graphs = self

        class Graph:
            def replay(self) -> None:
                graphs.replays += 1
                hidden_RD.copy_(token(ids_R, slot_R, key[2], key[0]))

        self._captured[key] = _Captured(Graph(), ids_R, slot_R, hidden_RD)  # type: ignore[arg-type]


@torch.no_grad()
def decoded(base: Any, room: tuple[int, int], graphs: StepGraphs | None) -> list[Tensor]:
    """Hidden states of rows that enter, go on, end and enter again."""
    draws = np.random.default_rng(0)
    state = FastDecoding(base, base.decoder, room)
    state.graphs = graphs
    out = [state.enter([draws.integers(3, 260, n) for n in (5, 9, 3)], [None] * 3)]

    def steps(count: int) -> None:
        out.extend(state.step(torch.from_numpy(draws.integers(3, 260, len(state.adapter_B)))) for _ in range(count))

    steps(5)
    state.keep([2, 0])
    steps(4)
    out.append(state.enter([draws.integers(3, 260, n) for n in (4, 7)], [None] * 2))
    steps(6)
    return out


def test_a_replayed_token_is_the_token(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    base = load("llama", "float32")
    monkeypatch.setattr("tunesmith.models.step_graphs.SLOTS_AT_ONCE", 8)
    room = (5, 40)
    graphs = Replayed(room)
    graphs.width = base.model.config.hidden_size
    found, wanted = decoded(base, room, graphs), decoded(base, room, None)
    assert graphs.replays >= 6
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_rows_of_a_graph() -> None:
    assert [_rounded(rows) for rows in (1, 2, 3, 5, 8, 9, 31, 32, 33)] == [1, 2, 4, 8, 8, 16, 32, 32, 40]
