"""An adapter with new tokens: rows made from the mean of what the tokens were before, or read from PEFT's files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tunesmith.errors import AdapterMismatchError, ModelError
from tunesmith.models.resolve import tokenizer_digest
from tunesmith.models.roles import Base
from tunesmith.models.token_rows import PEFT_SUFFIX, TokenRows, mean_rows


def add_token_rows(base: Base, name: str, tokenizer: Any, made_of: Mapping[int, Sequence[int]]) -> TokenRows:
    """Give the adapter ``name``, which may come later, new rows; the base and its other adapters see none of it.

    made_of: new id -> ids of the base's tokens whose mean its rows start from. Raises ModelError for a head with bias
    and for an encoder-decoder model.
    """
    _refuse_two_sides(base)
    ids = sorted(made_of)
    old = [made_of[i] for i in ids]
    module, output = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    with tempfile.TemporaryDirectory(prefix="tunesmith-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        digest = tokenizer_digest(Path(folder), base.resolved.name)
    base.token_rows[name] = TokenRows(
        base.model,
        ids,
        embedding_RD=mean_rows(module.weight, old),
        head_RD=mean_rows(output.weight, old),
        tokenizer=tokenizer,
        tokenizer_digest=digest,
    )
    return base.token_rows[name]


def read_token_rows(base: Base, name: str, folder: Path, indices: Any, written_digest: str | None) -> None:
    """Lay the rows PEFT calls ``trainable_token_indices`` over the base, with the tokenizer beside them.

    indices: ids, or a module's name -> ids. The values follow with the adapter's tensors. Raises AdapterMismatchError
    when the tokenizer is not the one the provenance names, ModelError when embedding and head have different ids or
    none, and for an encoder-decoder model.
    """
    _refuse_two_sides(base)
    lists = list(indices.values()) if isinstance(indices, dict) else [indices]
    if not lists or not lists[0]:
        raise ModelError(folder, "names no token to train (trainable_token_indices).", "Take that setting out.")
    if any(ids != lists[0] for ids in lists):
        raise ModelError(folder, "trains other tokens in the head than in the embedding.", "Train the same in both.")
    tokenizer, digest = base.tokenizer, base.resolved.tokenizer_digest
    if (folder / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        digest = tokenizer_digest(folder, str(folder))
    if written_digest is not None and digest != written_digest:
        raise AdapterMismatchError(
            folder,
            f"was trained with tokenizer {written_digest}, but the one beside it is {digest}.",
            "Copy the adapter's folder again, tokenizer files included.",
        )
    # It renders with the template beside it, which must be the base's: the provenance says that of the base alone.
    if written_digest is not None and tokenizer.chat_template != base.tokenizer.chat_template:
        raise AdapterMismatchError(
            folder,
            "was trained with the base's chat template, but the one beside it is another.",
            "Copy the adapter's folder again, chat_template.jinja included.",
        )
    width = int(base.model.get_input_embeddings().weight.shape[1])
    zeros = torch.zeros(len(lists[0]), width)
    base.token_rows[name] = TokenRows(
        base.model, lists[0], embedding_RD=zeros, head_RD=zeros, tokenizer=tokenizer, tokenizer_digest=digest
    )


def _refuse_two_sides(base: Base) -> None:
    if base.is_encoder_decoder:
        raise ModelError(
            base.resolved.name,
            "tokens of an encoder-decoder model have no rows of their own yet.",
            "Use a causal model.",
        )


def is_token_row(key: str) -> bool:
    """Whether a tensor of an adapter's file holds rows of new tokens."""
    return key.endswith(PEFT_SUFFIX)
