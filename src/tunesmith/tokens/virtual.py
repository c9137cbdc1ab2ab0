"""Virtual tokens in a pack: learned ones that stand before the first word of every row of an adapter.

They are one root segment for each adapter, however many rows it has: the rows' roots become its children, so that a
forest's rules of sight and position hold for them as for any prompt that rows share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import torch

from tunesmith.tokens.pack import ROOT, Packed


def with_virtual(packed: Packed, num_virtual: Mapping[str, int]) -> Packed:
    """The pack behind its virtual segments; its own tokens follow in their old order, at the end.

    num_virtual: adapter -> virtual tokens of each of its paths; those of adapters without rows here are left out.
    Virtual tokens have id 0, no loss and row id -1. Raises ValueError where a path has such an adapter and another one.
    """
    names = [str(name) for name in dict.fromkeys(packed.adapter_S) if num_virtual.get(str(name), 0)]
    if not names:
        return packed
    _refuse_mixed_paths(packed, names)
    added, lengths = len(names), [num_virtual[name] for name in names]
    total = sum(lengths)
    place = {name: number for number, name in enumerate(names)}
    parents = [
        parent + added if parent != ROOT else place.get(str(adapter), ROOT)
        for parent, adapter in zip(packed.parent_S, packed.adapter_S, strict=True)
    ]
    shifts = [num_virtual[str(adapter)] if str(adapter) in place else 0 for adapter in packed.adapter_S]
    shift_T = torch.tensor(shifts).repeat_interleave(torch.tensor(packed.length_S)).to(packed.positions_T.device)
    first_positions = torch.cat([torch.arange(n) for n in lengths]).to(packed.positions_T.device)
    return replace(
        packed,
        ids_T=torch.cat([packed.ids_T.new_zeros(total), packed.ids_T]),
        positions_T=torch.cat([first_positions, packed.positions_T + shift_T]),
        loss_weight_T=torch.cat([packed.loss_weight_T.new_zeros(total), packed.loss_weight_T]),
        start_S=(*accumulate(lengths[:-1], initial=0), *(start + total for start in packed.start_S)),
        length_S=(*lengths, *packed.length_S),
        parent_S=(*[ROOT] * added, *parents),
        adapter_S=(*names, *packed.adapter_S),
        num_virtual_S=(*lengths, *packed.num_virtual_S),
        row_id_S=(*[-1] * added, *packed.row_id_S),
    )


def _refuse_mixed_paths(packed: Packed, names: list[str]) -> None:
    for segment, parent in enumerate(packed.parent_S):
        pair = {packed.adapter_S[segment], packed.adapter_S[parent]} if parent != ROOT else set()
        if len(pair) > 1 and pair.intersection(names):
            raise ValueError(f"segment {segment} goes on with another adapter than its prompt, one with virtual tokens")
