"""Bits per byte: how well a model predicts text, comparable across vocabularies, as loss per token is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.models.roles import Base
from tunesmith.records import Where
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.tokens.continuation import text_examples


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


def bits_per_byte(
    base: Base, adapter: str | None, texts: Sequence[str], *, max_tokens: int, micro_batch_tokens: int = 1024
) -> BitsPerByte:
    """Total nats / ln 2 / UTF-8 bytes of texts under the adapter's own tokenizer.

    A text beyond max_tokens is cut into chunks that share one token. It is the probability of the one segmentation the
    tokenizer makes, so an upper limit of the bits of the text. Raises ValueError without text.
    """
    if not texts:
        raise ValueError("no texts to measure")
    tokenizer = base.tokenizer_of(adapter)
    chunks = [
        chunk
        for number, text in enumerate(texts)
        for chunk in text_examples(
            text, tokenizer, max_tokens=max_tokens, where=Where("text", number + 1), row_id=number
        )
    ]
    model = LocalLikelihood(base, adapter, micro_batch_tokens=micro_batch_tokens)
    nats = [0.0] * len(texts)
    for chunk, (one,) in zip(chunks, model.score_examples([[chunk] for chunk in chunks]), strict=True):
        nats[chunk.row_id] -= one.logprob
    return BitsPerByte(
        bits_N=tuple(value / math.log(2) for value in nats),
        bytes_N=tuple(len(text.encode()) for text in texts),
        num_tokens=sum(chunk.num_loss_tokens for chunk in chunks),
    )
