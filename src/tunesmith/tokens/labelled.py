"""Labelled texts -> token ids whose last token is where a classifier reads: the end token, or the template's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.errors import DataError
from tunesmith.records import Message, Where
from tunesmith.tokens.render import render_prompt
from tunesmith.tokens.template import chat_format, encode_as_text


class TextRenderConfig(Config):
    """How a text is laid before the model."""

    chat_template: bool = False
    """The text as a user's message in the model's chat template, read where the answer would begin; off: the text
    alone, read at the end token behind it."""
    max_length: int | None = Field(None, ge=8)
    """Most tokens of one text with what stands around it; empty: what the model reads."""
    over_length: Literal["error", "drop", "truncate"] = "error"
    """A longer text is an error, left out and counted, or cut at its end (the end token stays) and counted."""

    @model_validator(mode="after")
    def _cut_plain_text_only(self) -> TextRenderConfig:
        if self.chat_template and self.over_length == "truncate":
            raise ValueError("over_length: truncate cuts plain text; with chat_template take drop, or raise max_length")
        return self


@dataclass(frozen=True, slots=True)
class Rendered:
    """ids (T,) int64 of one text; the class is read at the last one."""

    ids: NDArray[np.int64]
    tokens_cut: int = 0


@dataclass(slots=True)
class TextReport:
    """What rendering did: every text is used, cut, or dropped and counted."""

    num_texts: int = 0
    num_tokens: int = 0
    longest_tokens: int = 0
    texts_cut: int = 0
    tokens_cut: int = 0
    texts_dropped: int = 0
    """Texts longer than max_length, left out with over_length: drop."""

    def add(self, rendered: Rendered | None) -> None:
        """Note one text; None is one that was dropped."""
        if rendered is None:
            self.texts_dropped += 1
            return
        self.num_texts += 1
        self.num_tokens += len(rendered.ids)
        self.longest_tokens = max(self.longest_tokens, len(rendered.ids))
        self.texts_cut += rendered.tokens_cut > 0
        self.tokens_cut += rendered.tokens_cut


def render_texts(
    texts: Sequence[str], places: Sequence[Where], tokenizer: Any, config: TextRenderConfig, *, max_tokens: int
) -> tuple[list[Rendered | None], TextReport]:
    """Each text as at most ``max_tokens`` ids, None for one dropped for its length.

    Control tokens that a text spells are ordinary words. Raises DataError for a text that is too long (over_length:
    error) or that the chat template refuses.
    """
    report, out = TextReport(), list[Rendered | None]()
    for text, where in zip(texts, places, strict=True):
        rendered = _render(text, where, tokenizer, config, max_tokens)
        report.add(rendered)
        out.append(rendered)
    return out, report


def _render(text: str, where: Where, tokenizer: Any, config: TextRenderConfig, max_tokens: int) -> Rendered | None:
    before: list[int] = []
    behind: list[int] = []
    if config.chat_template:
        words = render_prompt((Message(role="user", content=text),), tokenizer, where=where).tolist()
    else:
        words = encode_as_text(text, tokenizer, where)
        begin_id, end_id = chat_format(tokenizer).begin_id, tokenizer.eos_token_id
        before = [] if begin_id is None else [begin_id]
        behind = [] if end_id is None else [end_id]
    room = max_tokens - len(before) - len(behind)
    excess = max(0, len(words) - room)
    if excess and config.over_length == "error":
        raise DataError(
            where,
            f"the text has {len(before) + len(words) + len(behind)} tokens, {max_tokens} are allowed.",
            "Shorten it, raise max_length as far as the model reads, or set over_length: drop or truncate.",
        )
    if excess and config.over_length == "drop":
        return None
    ids = np.array([*before, *words[: len(words) - excess], *behind], np.int64)
    return Rendered(ids, excess)
