"""New vocabulary rows of one adapter: owned by the adapter, laid over the frozen embedding when the call names it.

PEFT wraps the embedding of a resized base, lets the active adapter rewrite its rows, and copies the table in every
pass. Here the base is neither resized nor wrapped, so that roles without new tokens keep sharing it; files are PEFT's.
Shape letters: R new rows, V vocabulary of the base, D width, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.kernels.head_loss import Head, WeightGrad

PEFT_SUFFIX = ".token_adapter.trainable_tokens_delta"


class TokenRows:
    """Rows (R, D) for the token ids_R, of the embedding and, where the head is not tied to it, of the head."""

    def __init__(
        self,
        model: Any,
        ids_R: Sequence[int],
        *,
        embedding_RD: Tensor,
        head_RD: Tensor | None,
        tokenizer: Any,
        tokenizer_digest: str,
    ) -> None:
        """Raises ModelError for a model whose head has a bias: PEFT's layout has no place for new entries of it."""
        module, output = model.get_input_embeddings(), model.get_output_embeddings()
        if getattr(output, "bias", None) is not None:
            raise ModelError(
                "new tokens", "the model's head has a bias, which has no place for them.", "Use another base."
            )
        device, dtype = module.weight.device, torch.promote_types(module.weight.dtype, torch.float32)
        self.tokenizer, self.tokenizer_digest = tokenizer, tokenizer_digest
        self.ids_R = torch.tensor(list(ids_R), dtype=torch.int64, device=device)
        self.num_rows_of_base = int(module.weight.shape[0])
        self.tied = output.weight is module.weight
        self.embedding_RD = nn.Parameter(embedding_RD.to(device, dtype).clone())
        self.head_RD = self.embedding_RD
        if not self.tied:
            assert head_RD is not None, "an untied head needs rows of its own"
            self.head_RD = nn.Parameter(head_RD.to(device, dtype).clone())
        self._module = module
        self._names = (_name_of(model, module), _name_of(model, output))
        slot_V = torch.full((self.num_rows,), -1, dtype=torch.int64, device=device)
        slot_V[self.ids_R] = torch.arange(len(self.ids_R), device=device)
        self._slot_V = slot_V

    @property
    def num_rows(self) -> int:
        """Rows the vocabulary has with this adapter: what a plain base is resized to."""
        return max(self.num_rows_of_base, int(self.ids_R.max()) + 1)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Name -> what learns; one entry where the head is tied."""
        own = {"token_rows.embedding": self.embedding_RD}
        return own if self.tied else {**own, "token_rows.head": self.head_RD}

    def embed(self, ids_T: Tensor) -> Tensor:
        """ids (..., T) -> embeddings (..., T, D): ours for the new ids, the frozen base's for all others."""
        slot_T = self._slot_V[ids_T]
        is_new_T1 = (slot_T >= 0)[..., None]
        known_TD = self._module(torch.where(slot_T >= 0, 0, ids_T))
        new_TD = nn.functional.embedding(slot_T.clamp(min=0), self.embedding_RD)
        # Some models scale inside their embedding module, which our rows do not pass through.
        scale = getattr(self._module, "embed_scale", None)
        new_TD = new_TD if scale is None else new_TD * scale
        return torch.where(is_new_T1, new_TD.to(known_TD.dtype), known_TD)

    def head(self, head: Head) -> Head:
        """The head over the whole vocabulary; the new rows are differentiable, the base's stay constants."""
        weight_VD = head.weight_VD.detach()
        missing = self.num_rows - self.num_rows_of_base
        if missing:
            weight_VD = torch.cat([weight_VD, weight_VD.new_zeros(missing, weight_VD.shape[1])])
        return replace(head, weight_VD=weight_VD.index_copy(0, self.ids_R, self.head_RD.to(weight_VD.dtype)))

    def peft_indices(self) -> dict[str, list[int]]:
        """What PEFT calls ``trainable_token_indices``: last part of a module's name -> ids."""
        names = self._names[:1] if self.tied else self._names
        return {name.rpartition(".")[2]: self.ids_R.tolist() for name in names}

    def peft_tensors(self) -> dict[str, Tensor]:
        """The rows under the names of PEFT's files."""
        values = zip(self._names, self.parameters.values(), strict=False)
        return {f"base_model.model.{name}{PEFT_SUFFIX}": p.detach().cpu().contiguous() for name, p in values}

    def load_peft_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of ``peft_tensors`` back, in place."""
        for name, parameter in zip(self._names, self.parameters.values(), strict=False):
            parameter.data.copy_(tensors[f"base_model.model.{name}{PEFT_SUFFIX}"])


def mean_rows(weight_VD: Tensor, old_ids: Sequence[Sequence[int]]) -> Tensor:
    """(R, D): for each new token the mean of the rows of the old tokens it is made of.

    Source: Gee et al. 2022, Fast Vocabulary Transfer for Language Model Compression (EMNLP industry track).
    """
    wide_VD = weight_VD.detach().to(torch.promote_types(weight_VD.dtype, torch.float32))
    return torch.stack([wide_VD[torch.tensor(list(ids))].mean(0) for ids in old_ids])


def _name_of(model: Any, wanted: nn.Module) -> str:
    """A module's name in the bare model, without what PEFT's wrapping adds."""
    return next(str(name) for name, module in model.named_modules() if module is wanted)


def embed_runs(
    rows: Mapping[str, TokenRows], ids_T: Tensor, runs: Sequence[tuple[int, int, str | None]], plain: Any
) -> Tensor | None:
    """Embeddings (T, D) of a pack whose runs name their adapters; None where no adapter of it has new tokens."""
    if not any(name in rows for _, _, name in runs):
        return None
    look_ups = [rows[name].embed if name is not None and name in rows else plain for _, _, name in runs]
    return torch.cat([look_up(ids_T[first:end]) for look_up, (first, end, _) in zip(look_ups, runs, strict=True)])


def head_for(
    rows: Mapping[str, TokenRows], head: Head, adapters: Sequence[str | None], weight_grad: WeightGrad
) -> tuple[Head, WeightGrad, Tensor | None]:
    """(head, weight_grad, rows_R) for tokens of these adapters; the base's own where none of them has new tokens.

    Raises ValueError for a pack that mixes vocabularies: their logits have no common width.
    """
    names = set(adapters)
    if not any(name in rows for name in names):
        return head, weight_grad, None
    if len(names) > 1:
        raise ValueError("a pack cannot mix adapters of different vocabularies at the head")
    own = rows[str(names.pop())]
    learns = own.head_RD.requires_grad and torch.is_grad_enabled()
    return own.head(head), "rows" if learns else "none", own.ids_R
