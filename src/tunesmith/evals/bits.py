"""Bits per byte: how well a model predicts text, comparable across vocabularies, as loss per token is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunesmith.models.forward import forward
from tunesmith.models.roles import Base
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import micro_batches, pack
from tunesmith.tokens.template import encode_as_text


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsPerByte:
    """bits_N and bytes_N of each text, in order; num_tokens are the tokens that were predicted."""

    bits_N: tuple[float, ...]
    bytes_N: tuple[int, ...]
    num_tokens: int

    @property
    def value(self) -> float:
        """Bits of all texts over their UTF-8 bytes."""
        return sum(self.bits_N) / sum(self.bytes_N)

    @property
    def each_N(self) -> list[float]:
        """Bits per byte of each text."""
        return [bits / size for bits, size in zip(self.bits_N, self.bytes_N, strict=True)]


@torch.no_grad()
def bits_per_byte(
    base: Base, adapter: str | None, texts: Sequence[str], *, max_tokens: int, micro_batch_tokens: int = 1024
) -> BitsPerByte:
    """Total nats / ln 2 / UTF-8 bytes of texts under the adapter's own tokenizer.

    The begin (else the end) token stands before each text, so that its first token is predicted too; the end of the
    text is not. A text beyond max_tokens is cut into chunks that share one token. It is the probability of the one
    segmentation the tokenizer makes, so an upper limit of the bits of the text. Raises ValueError without text.
    """
    if not texts:
        raise ValueError("no texts to measure")
    tokenizer = base.tokenizer_of(adapter)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    chunks: list[Example] = []
    for number, text in enumerate(texts):
        ids = [start, *encode_as_text(text, tokenizer, Where("text", number + 1))]
        for at in range(0, len(ids) - 1, max_tokens - 1):
            piece = np.array(ids[at : at + max_tokens], np.int64)
            weight = np.ones(len(piece), np.float32)
            weight[0] = 0.0
            chunks.append(Example(ids=piece, loss_weight=weight, row_id=number, where=Where("text", number + 1)))
    nats = [0.0] * len(texts)
    for batch in micro_batches([chunk.num_tokens for chunk in chunks], micro_batch_tokens):
        logprobs_N, _ = forward(base, pack([chunks[i] for i in batch], adapter), "reference_logprobs")
        values, at = logprobs_N.double().cpu().numpy(), 0
        for i in batch:
            nats[chunks[i].row_id] -= float(values[at : at + chunks[i].num_loss_tokens].sum())
            at += chunks[i].num_loss_tokens
    return BitsPerByte(
        bits_N=tuple(value / math.log(2) for value in nats),
        bytes_N=tuple(len(text.encode()) for text in texts),
        num_tokens=sum(chunk.num_loss_tokens for chunk in chunks),
    )
