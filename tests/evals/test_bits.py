"""Bits per byte: against transformers' own log-probabilities, and the same for one text cut in two ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tunesmith.evals.bits import bits_per_byte

TEXTS = ["the other théâtre", "a", "on the other hand, " * 6]


def test_bits_are_the_nats_of_transformers_over_ln_2(load: Callable[..., Any]) -> None:
    base = load("llama")
    measured = bits_per_byte(base, None, TEXTS, max_tokens=256)
    for text, bits, size in zip(TEXTS, measured.bits_N, measured.bytes_N, strict=True):
        ids = torch.tensor([base.tokenizer.eos_token_id, *base.tokenizer(text)["input_ids"]])
        logprobs = torch.log_softmax(base.model(ids[None]).logits[0, :-1].double(), -1).gather(1, ids[1:, None])
        assert bits == pytest.approx(-float(logprobs.sum()) / math.log(2), rel=1e-6)
        assert size == len(text.encode())
    assert measured.value == pytest.approx(sum(measured.bits_N) / sum(measured.bytes_N))
    assert measured.num_tokens == sum(len(base.tokenizer(text)["input_ids"]) for text in TEXTS)


def test_chunks_and_batches_lose_no_token(load: Callable[..., Any]) -> None:
    base = load("llama")
    whole, small = (bits_per_byte(base, None, TEXTS, max_tokens=256, micro_batch_tokens=n) for n in (4000, 64))
    assert whole.bits_N == pytest.approx(small.bits_N, rel=1e-9)
    chunked = bits_per_byte(base, None, TEXTS, max_tokens=9)
    assert chunked.num_tokens == whole.num_tokens
    assert chunked.bits_N[2] != pytest.approx(whole.bits_N[2], rel=1e-6), "shorter context, other bits"
    with pytest.raises(ValueError, match="no texts"):
        bits_per_byte(base, None, [], max_tokens=9)
