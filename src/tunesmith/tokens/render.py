"""Conversation -> token ids and loss weights, through the model's own chat template.

The loss covers exactly what the assistant says and the token that ends its turn. What inference would feed the model
before a turn is an exact prefix of what training feeds it; where a template rewrites earlier turns (reasoning
models drop old thoughts), each assistant turn becomes an example of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.config import Config
from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Example, Message, Where

# For base models without a template: plain text that needs no new tokens; the tokenizer's eos ends a turn.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


class RenderConfig(Config):
    """How long a row may be and what happens to a longer one."""

    max_length: int | None = Field(None, ge=8)
    """Most tokens of one row; empty: what the model reads."""
    over_length: Literal["error", "drop", "truncate"] = "error"
    """A longer row is an error, dropped and counted, or cut at its end; raw text is split, losing nothing."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One assistant turn inside a text: where it begins, and where its end-of-turn token ends."""

    begin: int
    end: int
    has_end_token: bool
    train: bool


def render(record: Conversation | Document, tokenizer: Any, config: RenderConfig, *, max_tokens: int) -> list[Example]:
    """Tokens of one record with at most ``max_tokens`` each; an empty list is a row dropped for its length.

    Raises DataError for a row that is too long (over_length: error), that the template refuses, that spells one of
    the tokenizer's control tokens, or that leaves nothing in the loss.
    """
    if isinstance(record, Document):
        return _render_document(record, tokenizer, max_tokens)
    _refuse_control_tokens(record, tokenizer)
    out = []
    for text, turns in _texts(record, tokenizer):
        example = _tokenise(record, text, turns, tokenizer)
        fitted = _fit(example, config.over_length, max_tokens)
        if fitted is None:
            return []
        if fitted.num_loss_tokens == 0:
            raise DataError(record.where, "no token of this row is in the loss.", "Raise max_length or set train: true.")
        out.append(fitted)
    return out


def render_prompt(messages: Sequence[Message], tokenizer: Any) -> NDArray[np.int64]:
    """Token ids (T,) of a conversation up to where the assistant is to speak."""
    text = _apply(tokenizer, messages, Where("prompt"), generation=True)
    return np.array(_ids(tokenizer, text), np.int64)


def template_of(tokenizer: Any) -> str:
    """The chat template in use: the model's own, or the documented default."""
    return str(tokenizer.chat_template or DEFAULT_TEMPLATE)


def _apply(tokenizer: Any, messages: Sequence[Message], where: Where, *, generation: bool = False) -> str:
    rows = [{"role": message.role, "content": message.content} for message in messages]
    try:
        # transformers renders in a sandbox that cannot reach attributes of Python objects.
        return str(
            tokenizer.apply_chat_template(
                rows, tokenize=False, add_generation_prompt=generation, chat_template=template_of(tokenizer)
            )
        )
    except jinja2.exceptions.TemplateError as error:
        raise DataError(
            where,
            f"the model's chat template refuses this conversation: {str(error).rstrip('.')}.",
            "Reorder the turns, or move the system message into the first user turn.",
        ) from None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _texts(record: Conversation, tokenizer: Any) -> list[tuple[str, list[_Turn]]]:
    """One text with all its turns where the template keeps prefixes, else one text a trained turn."""
    messages, where = record.messages, record.where
    assistant = [i for i, message in enumerate(messages) if message.role == "assistant"]
    last = assistant[-1] + 1
    full = _apply(tokenizer, messages[:last], where)
    turns = []
    for i in assistant:
        before = _apply(tokenizer, messages[:i], where, generation=True)
        through = full if i + 1 == last else _apply(tokenizer, messages[: i + 1], where)
        if not (full.startswith(before) and full.startswith(through) and through.startswith(before)):
            return _one_text_a_turn(record, tokenizer, assistant)
        turns.append(_turn(full, len(before), len(through), messages[i].train, tokenizer))
    return [(full, turns)]


def _one_text_a_turn(record: Conversation, tokenizer: Any, assistant: list[int]) -> list[tuple[str, list[_Turn]]]:
    out = []
    for i in assistant:
        if not record.messages[i].train:
            continue
        before = _apply(tokenizer, record.messages[:i], record.where, generation=True)
        through = _apply(tokenizer, record.messages[: i + 1], record.where)
        if not through.startswith(before):
            raise DataError(
                record.where,
                f"the template writes something else before assistant turn {i + 1} in training than in use.",
                "Give the model a chat template whose generation prompt opens the assistant's turn.",
            )
        out.append((through, [_turn(through, len(before), len(through), True, tokenizer)]))
    if not out:
        raise DataError(record.where, "no token of this row is in the loss.", "Set train: true on a turn.")
    return out


def _turn(text: str, begin: int, end: int, train: bool, tokenizer: Any) -> _Turn:
    """The end-of-turn token is the first control token after the assistant's words."""
    found = [(text.find(token, begin, end), token) for token in _control_tokens(tokenizer)]
    found = [(at, token) for at, token in found if at >= 0]
    if not found:
        return _Turn(begin, begin + len(text[begin:end].rstrip()), False, train)
    at, token = min(found, key=lambda pair: (pair[0], -len(pair[1])))
    return _Turn(begin, at + len(token), True, train)


def _control_tokens(tokenizer: Any) -> list[str]:
    """Texts of the tokens that steer the model: specials, and what was added as special."""
    cached = getattr(tokenizer, "_tunesmith_control_tokens", None)
    if cached is None:
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        cached = sorted({*tokenizer.all_special_tokens, *added}, key=lambda token: (-len(token), token))
        tokenizer._tunesmith_control_tokens = cached
    return list(cached)


def _refuse_control_tokens(record: Conversation, tokenizer: Any) -> None:
    """A row that spells '<|im_end|>' could forge a turn."""
    for number, message in enumerate(record.messages):
        for token in _control_tokens(tokenizer):
            if token in message.content:
                raise DataError(
                    record.where.at(f"messages[{number}]"),
                    f"the text spells the model's control token {token!r}.",
                    "Remove it or write it differently.",
                )


def _tokenise(record: Conversation, text: str, turns: list[_Turn], tokenizer: Any) -> Example:
    """Ids and weights; a token is in the loss when it lies inside a trained turn.

    The whole text is tokenised at once, and checked: what comes before each turn must tokenise to the same ids alone,
    since that is what inference sees. Where merges reach over that edge, the text is tokenised piece by piece.
    """
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(whole["input_ids"]), whole["offset_mapping"]
    starts = [next((k for k, (a, _) in enumerate(offsets) if a >= turn.begin), len(ids)) for turn in turns]
    ends = [next((k for k, (a, _) in enumerate(offsets) if a >= turn.end), len(ids)) for turn in turns]
    aligned = all(
        ids[:start] == _ids(tokenizer, text[: turn.begin]) and (end == 0 or offsets[end - 1][1] <= turn.end)
        for turn, start, end in zip(turns, starts, ends, strict=True)
    )
    if not aligned:
        ids, starts, ends = _by_pieces(text, turns, tokenizer)
    if not turns[-1].has_end_token and tokenizer.eos_token_id is not None:
        # The template ends no turn; without an end the model would never stop.
        ids = [*ids[: ends[-1]], tokenizer.eos_token_id]
        ends[-1] += 1
    weight = np.zeros(len(ids), np.float32)
    for turn, start, end in zip(turns, starts, ends, strict=True):
        weight[max(start, 1) : end] = 1.0 if turn.train else 0.0
    return Example(
        ids=np.array(ids, np.int64),
        loss_weight=weight,
        row_id=record.row_id,
        where=record.where,
        end_in_loss=all(turn.has_end_token for turn in turns[:-1] if turn.train) and bool(weight[ends[-1] - 1]),
    )


def _by_pieces(text: str, turns: list[_Turn], tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    ids: list[int] = []
    starts, ends, at = [], [], 0
    for turn in turns:
        ids += _ids(tokenizer, text[at : turn.begin])
        starts.append(len(ids))
        ids += _ids(tokenizer, text[turn.begin : turn.end])
        ends.append(len(ids))
        at = turn.end
    return ids + (_ids(tokenizer, text[at:]) if at < len(text) else []), starts, ends


def _fit(example: Example, over_length: str, max_tokens: int) -> Example | None:
    excess = example.num_tokens - max_tokens
    if excess <= 0:
        return example
    if over_length == "error":
        raise DataError(
            example.where,
            f"the row has {example.num_tokens} tokens, {max_tokens} are allowed.",
            "Raise max_length, or set over_length: drop or truncate.",
        )
    if over_length == "drop":
        return None
    lost = int(np.count_nonzero(example.loss_weight[max_tokens:]))
    return Example(
        ids=example.ids[:max_tokens],
        loss_weight=example.loss_weight[:max_tokens],
        row_id=example.row_id,
        where=example.where,
        end_in_loss=example.end_in_loss and lost == 0,
        tokens_cut=excess,
    )


def _render_document(record: Document, tokenizer: Any, max_tokens: int) -> list[Example]:
    """Raw text: the tokenizer's own start token if it has one, an eos at the end, consecutive chunks if long."""
    ids = list(tokenizer(record.text)["input_ids"])
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    if len(ids) < 2:
        raise DataError(record.where, "the text has no token to predict.", "Remove the row.")
    out = []
    for begin in range(0, len(ids), max_tokens):
        # A chunk of one token has nothing to predict; one token of overlap keeps it in the loss.
        chunk = ids[begin : begin + max_tokens] if len(ids) - begin > 1 else ids[begin - 1 :]
        weight = np.ones(len(chunk), np.float32)
        weight[0] = 0.0
        out.append(
            Example(ids=np.array(chunk, np.int64), loss_weight=weight, row_id=record.row_id, where=record.where)
        )
    return out
