"""Where virtual tokens stand in a pack: once an adapter, before every path of it, whatever the forest."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.records import Example, Where
from tunesmith.tokens.pack import ROOT, Packed, pack
from tunesmith.tokens.virtual import with_virtual

VIRTUAL = {"one": 3, "two": 1, "elsewhere": 5}


@st.composite
def forests(draw: st.DrawFn) -> Packed:
    number = draw(st.integers(1, 7))
    parents = [draw(st.integers(ROOT, s - 1)) for s in range(number)]
    adapters: list[str | None] = []
    for parent in parents:
        own = draw(st.sampled_from(["one", "two", "low", None]))
        adapters.append(own if parent == ROOT else adapters[parent])
    examples = [
        Example(
            ids=np.arange(n) + 10 * s, loss_weight=np.r_[0, np.ones(n - 1)].astype(np.float32), row_id=s,
            where=Where("t", s),
        )
        for s, n in enumerate(draw(st.lists(st.integers(1, 5), min_size=number, max_size=number)))
    ]  # fmt: skip
    return dataclasses.replace(pack(examples, None, parents), adapter_S=tuple(adapters))


@given(forests())
def test_every_path_begins_with_its_virtual_tokens(packed: Packed) -> None:
    laid = with_virtual(packed, VIRTUAL)
    present = [name for name in dict.fromkeys(packed.adapter_S) if name in ("one", "two")]
    added = laid.num_segments - packed.num_segments
    assert laid.adapter_S[:added] == tuple(present)
    assert laid.num_virtual_S == (*(VIRTUAL[str(name)] for name in present), *[0] * packed.num_segments)
    own = slice(laid.num_tokens - packed.num_tokens, None)
    for name in ("ids_T", "loss_weight_T"):
        assert torch.equal(getattr(laid, name)[own], getattr(packed, name))
    for segment, adapter in enumerate(packed.adapter_S):
        path = laid.path_tokens(segment + added)
        number = VIRTUAL[str(adapter)] if adapter in present else 0
        # Positions run on from the first virtual token, and behind them is the path as it was.
        assert laid.positions_T[path].tolist() == list(range(len(path)))
        assert laid.ids_T[path][number:].tolist() == packed.ids_T[packed.path_tokens(segment)].tolist()
        assert path[:number].tolist() == [t for s in laid.ancestors(segment + added)[:1] if number
                                          for t in range(laid.start_S[s], laid.start_S[s] + number)]  # fmt: skip
    # The same pairs of the loss, moved by what stands before them.
    before, after = packed.loss_pairs(), laid.loss_pairs()
    assert torch.equal(after[0], before[0] + laid.num_tokens - packed.num_tokens)
    assert torch.equal(after[1], before[1])
    assert (laid is packed) == (not present)
