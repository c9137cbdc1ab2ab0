"""The gradient of a pack's loss with respect to what its tokens are embedded as: where a search over tokens looks.

Shape letters: T tokens, D width, N tokens in the loss, V vocabulary, R rows of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tunesmith.models.forward import forward
from tunesmith.models.roles import Base
from tunesmith.tokens.pack import Packed


def input_gradients(base: Base, packed: Packed) -> tuple[Tensor, Tensor]:
    """(logprobs_N in the order of ``packed.loss_pairs()``, gradient (T, D) of minus their sum at the embeddings).

    Of roots alone, for on the reference path a shared segment is embedded once a path. No parameter gets a gradient.
    """
    if not packed.only_roots:
        raise ValueError("the gradient at the embeddings is that of roots")
    with torch.enable_grad(), _embeddings_as_leaves(base) as leaves:
        logprobs_N, _ = forward(base, packed, "target_logprobs")
        grads = torch.autograd.grad(-logprobs_N.sum(), leaves)
    return logprobs_N.detach(), torch.cat([grad.reshape(-1, grad.shape[-1]) for grad in grads])


def embedding_rows(base: Base, ids_R: Tensor) -> Tensor:
    """(R, D): what the base embeds some tokens as; the gradient of a one-hot input is the embedding's times these."""
    with torch.no_grad():
        return base.model.get_input_embeddings()(ids_R.to(base.device))  # type: ignore[no-any-return]


@contextmanager
def _embeddings_as_leaves(base: Base) -> Iterator[list[Tensor]]:
    """What the embedding module gives inside the block, as tensors that gradients are asked of, in order.

    A hook serves the fast path and transformers' own modules alike, and neither needs an argument for this one use.
    """
    leaves: list[Tensor] = []

    def as_leaf(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
        leaves.append(embedded.detach().requires_grad_())
        return leaves[-1]

    handle = base.model.get_input_embeddings().register_forward_hook(as_leaf)
    try:
        yield leaves
    finally:
        handle.remove()
