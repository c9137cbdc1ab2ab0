"""How tokens are chosen; without torch, since an endpoint is told the same as our own generator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.config import Config

# What tokens are decoded with: the base's weights as they are, in fp16, or in 8 bits.
Weights = Literal["auto", "full", "half", "int8"]


class Sampling(Config):
    """How tokens are chosen; temperature 0 is greedy."""

    max_new_tokens: int = Field(256, ge=1)
    """Most tokens of one answer, the end-of-turn token included."""
    temperature: float = Field(0.0, ge=0, le=10)
    """Divides the logits before sampling; 0 takes the likeliest token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Smallest set of tokens whose probability reaches this (arXiv:1904.09751)."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens; 0 means all."""
    seed: int = 0
    """Keys every draw together with the row's id."""
