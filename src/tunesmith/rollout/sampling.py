"""How tokens are chosen; without torch, since an endpoint is told the same as our own generator."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from tunesmith.config import Config

# What tokens are decoded with: the base's weights as they are, in fp16, or in 8 bits; auto chooses.
Weights = Literal["auto", "full", "half", "int8"]

# Settings younger than the first stored answers, and what they are where nobody sets them.
LATER: dict[str, Any] = {"min_p": 0.0, "repetition_penalty": 1.0, "stop": ()}


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
    min_p: float = Field(0.0, ge=0, le=1)
    """Only tokens of at least this share of the likeliest one's probability (arXiv:2407.01082); acts first."""
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    """Above 1 lowers the logits of tokens that stand in the prompt or the answer (arXiv:1909.05858)."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they and what follows are no part of it."""
    seed: int = 0
    """Keys every draw together with the row's id."""

    @field_validator("stop")
    @classmethod
    def _has_texts(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if not all(stop):
            raise ValueError("a stop is a text that is not empty")
        return stop

    @model_serializer(mode="wrap")
    def _without_idle(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written where it says something: answers kept before have keys without it."""
        told: dict[str, Any] = whole(self)
        return {key: value for key, value in told.items() if key not in LATER or getattr(self, key) != LATER[key]}
