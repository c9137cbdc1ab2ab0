"""The one batch shape: a packed forest.

A flat token sequence is cut into segments; a segment may have a parent. A token attends causally within its
segment and fully to its ancestors, and positions run along the path from the root. Supervised rows are roots;
a preference pair is a prompt with two children; n samples of one prompt are n children. No padding exists.

Shape letters: T tokens of the pack, S segments, N (source, target) pairs that carry loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.records import Example, Where

ROOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A packed forest.

    ids_T: int64 token ids. positions_T: int64, counted from the root of each path. loss_weight_T: float32, the
    weight of predicting token t from its predecessor on the path. start_S and length_S cut the sequence;
    parent_S is the index of the parent segment or ROOT, always smaller than the segment's own index.
    adapter_S: adapter name or None for the bare base. num_virtual_S: the length of a segment of virtual tokens, which
    only the forward pass lays (``tokens/virtual.py``), 0 for one of words. row_id_S: the source row, which keys all
    randomness. source: the encoder's stream for encoder-decoder models.
    """

    ids_T: Tensor
    positions_T: Tensor
    loss_weight_T: Tensor
    start_S: tuple[int, ...]
    length_S: tuple[int, ...]
    parent_S: tuple[int, ...]
    adapter_S: tuple[str | None, ...]
    num_virtual_S: tuple[int, ...]
    row_id_S: tuple[int, ...]
    source: Packed | None = None

    @property
    def num_tokens(self) -> int:
        return int(self.ids_T.shape[0])

    @property
    def num_segments(self) -> int:
        return len(self.start_S)

    @property
    def only_roots(self) -> bool:
        return all(parent == ROOT for parent in self.parent_S)

    def ancestors(self, segment: int) -> list[int]:
        """The segments above one segment, root first."""
        path = []
        while (segment := self.parent_S[segment]) != ROOT:
            path.append(segment)
        return path[::-1]

    def path_tokens(self, segment: int) -> Tensor:
        """Indices of the tokens from the root of a segment's path to the segment's end, on the pack's device."""
        path = [*self.ancestors(segment), segment]
        pieces = [torch.arange(self.start_S[s], self.start_S[s] + self.length_S[s]) for s in path]
        return torch.cat(pieces).to(self.ids_T.device)

    def adapter_runs(self) -> list[tuple[int, int, str | None]]:
        """(first token, end token, adapter) for each stretch of neighbouring segments with one adapter."""
        runs: list[tuple[int, int, str | None]] = []
        for start, length, adapter in zip(self.start_S, self.length_S, self.adapter_S, strict=True):
            if runs and runs[-1][2] == adapter:
                runs[-1] = (runs[-1][0], start + length, adapter)
            else:
                runs.append((start, start + length, adapter))
        return runs

    def loss_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(source_N, target_N, weight_N): hidden state source_N predicts token target_N with weight_N > 0.

        The source of a segment's first token is the last token of its parent; a root's first token has none.
        """
        predecessor_T = torch.arange(-1, self.num_tokens - 1, device=self.ids_T.device)
        for start, parent in zip(self.start_S, self.parent_S, strict=True):
            predecessor_T[start] = ROOT if parent == ROOT else self.start_S[parent] + self.length_S[parent] - 1
        index_N = torch.nonzero(self.loss_weight_T != 0).squeeze(1)
        source_N = predecessor_T[index_N]
        assert bool((source_N >= 0).all()), "a root's first token cannot be in the loss"
        return source_N, self.ids_T[index_N], self.loss_weight_T[index_N]

    def num_loss_tokens_S(self) -> list[int]:
        """How many of ``loss_pairs`` belong to each segment, in its order; segments without any are left out."""
        pieces = torch.split(self.loss_weight_T, list(self.length_S))
        return [count for piece in pieces if (count := int(torch.count_nonzero(piece)))]

    def to(self, device: torch.device | str) -> Packed:
        """The same pack with its tensors on another device."""
        return Packed(
            ids_T=self.ids_T.to(device),
            positions_T=self.positions_T.to(device),
            loss_weight_T=self.loss_weight_T.to(device),
            start_S=self.start_S,
            length_S=self.length_S,
            parent_S=self.parent_S,
            adapter_S=self.adapter_S,
            num_virtual_S=self.num_virtual_S,
            row_id_S=self.row_id_S,
            source=None if self.source is None else self.source.to(device),
        )


def pack(examples: Sequence[Example], adapter: str | None = None, parents: Sequence[int] | None = None) -> Packed:
    """Lay examples end to end; without ``parents`` every example is a root.

    parents: for each example the index of its parent example or ROOT; a parent stands before its children.
    """
    if not examples:
        raise ValueError("nothing to pack")
    parents = [ROOT] * len(examples) if parents is None else list(parents)
    if any(not ROOT <= parent < index for index, parent in enumerate(parents)) or len(parents) != len(examples):
        raise ValueError("a parent must stand before its children")
    lengths = [len(example.ids) for example in examples]
    starts = [0, *np.cumsum(lengths)[:-1].tolist()]
    first_positions: list[int] = []
    for parent in parents:
        first_positions.append(0 if parent == ROOT else first_positions[parent] + lengths[parent])
    positions = [np.arange(first, first + n) for first, n in zip(first_positions, lengths, strict=True)]
    return Packed(
        ids_T=torch.from_numpy(np.concatenate([example.ids for example in examples]).astype(np.int64)),
        positions_T=torch.from_numpy(np.concatenate(positions).astype(np.int64)),
        loss_weight_T=torch.from_numpy(np.concatenate([e.loss_weight for e in examples]).astype(np.float32)),
        start_S=tuple(starts),
        length_S=tuple(lengths),
        parent_S=tuple(parents),
        adapter_S=(adapter,) * len(examples),
        num_virtual_S=(0,) * len(examples),
        row_id_S=tuple(example.row_id for example in examples),
        source=_pack_sources(examples, adapter),
    )


def _pack_sources(examples: Sequence[Example], adapter: str | None) -> Packed | None:
    """The encoder's stream, one root an example in the same order; None for a causal model."""
    sources = [example.source_ids for example in examples if example.source_ids is not None]
    if len(sources) not in (0, len(examples)):
        raise ValueError("examples with and without a source cannot share a pack")
    return pack_prompts(sources, [example.row_id for example in examples], adapter) if sources else None


def pack_prompts(prompts: Sequence[NDArray[np.int64]], row_ids: Sequence[int], adapter: str | None) -> Packed:
    """Prompts laid end to end as roots that carry no loss; prompts: one (T,) array of ids each."""
    examples = [
        Example(ids=ids, loss_weight=np.zeros(len(ids), np.float32), row_id=row_id, where=Where("prompt"))
        for ids, row_id in zip(prompts, row_ids, strict=True)
    ]
    return pack(examples, adapter)


def distinct_rows(prompts: Sequence[NDArray[np.int64]], adapter_B: Sequence[str | None]) -> tuple[list[int], list[int]]:
    """(the first row of each different prompt and adapter, for every row the index of its own among them).

    Rows of one adapter stand together, in order of appearance.
    """
    pairs = [(adapter, prompt.tobytes()) for prompt, adapter in zip(prompts, adapter_B, strict=True)]
    first_row: dict[tuple[str | None, bytes], int] = {}
    for row, pair in enumerate(pairs):
        first_row.setdefault(pair, row)
    began = {adapter: adapter_B.index(adapter) for adapter in set(adapter_B)}
    firsts = sorted(first_row.values(), key=lambda row: (began[adapter_B[row]], row))
    number = {pairs[row]: index for index, row in enumerate(firsts)}
    return firsts, [number[pair] for pair in pairs]


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut one step's rows into packs of at most ``max_tokens`` tokens (a longer row stands alone).

    Best-fit decreasing over the lengths (Johnson 1974); how rows are grouped never changes the step, because the
    loss is summed over all of them and divided once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    room: list[int] = []
    for i in order:
        fitting = [b for b in range(len(bins)) if room[b] >= lengths[i]]
        if fitting:
            best = min(fitting, key=lambda b: (room[b], b))
            bins[best].append(i)
            room[best] -= lengths[i]
        else:
            bins.append([i])
            room.append(max_tokens - lengths[i])
    return bins
