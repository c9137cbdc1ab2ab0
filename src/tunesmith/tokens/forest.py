"""Several answers to one prompt as a tree: the prompt's tokens stand once, each answer is a tail behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tunesmith.records import Example
from tunesmith.tokens.pack import ROOT


def share_prefix(examples: Sequence[Example]) -> tuple[list[Example], list[int]]:
    """Whole examples of one prompt -> [prefix, tail, tail, ...] with their parents, ready for ``pack``.

    The prefix holds the tokens all examples begin with, as far as none of them is in the loss, and at least one of
    them; it carries no loss. A tail ends with its last token in the loss, for nothing behind it is ever seen. Raises
    ValueError for no examples, one with no token in the loss, or examples that share no token.
    """
    if not examples:
        raise ValueError("nothing to share a prefix")
    first_in_loss, end = [], []
    for example in examples:
        trained = np.flatnonzero(example.loss_weight)
        if len(trained) == 0:
            raise ValueError(f"{example.where}: no token is in the loss")
        first_in_loss.append(int(trained[0]))
        end.append(int(trained[-1]) + 1)
    length = min(first_in_loss)
    for example in examples[1:]:
        differs = np.flatnonzero(example.ids[:length] != examples[0].ids[:length])
        length = int(differs[0]) if len(differs) else length
    if length == 0:
        raise ValueError(f"{examples[0].where}: the examples share no token before their answers")
    root = examples[0]
    prefix = replace(root, ids=root.ids[:length], loss_weight=np.zeros(length, np.float32), tokens_cut=0)
    tails = [
        replace(example, ids=example.ids[length:stop], loss_weight=example.loss_weight[length:stop])
        for example, stop in zip(examples, end, strict=True)
    ]
    return [prefix, *tails], [ROOT, *([0] * len(tails))]


def forest_of(groups: Sequence[Sequence[Example]]) -> tuple[list[Example], list[int], list[list[int]]]:
    """Groups of whole examples, each of one prompt -> (segments, parents, the segments of each group's examples)."""
    segments: list[Example] = []
    parents: list[int] = []
    tails: list[list[int]] = []
    for group in groups:
        own, own_parents = share_prefix(group)
        base = len(segments)
        segments += own
        parents += [parent if parent == ROOT else parent + base for parent in own_parents]
        tails.append(list(range(base + 1, base + len(own))))
    return segments, parents, tails


def num_forest_tokens(examples: Sequence[Example]) -> int:
    """Tokens one group takes in a pack: its prefix once and its tails."""
    segments, _ = share_prefix(examples)
    return sum(len(segment.ids) for segment in segments)
