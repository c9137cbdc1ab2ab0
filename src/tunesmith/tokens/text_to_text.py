"""Conversation -> source and target tokens of an encoder-decoder model (T5, BART): plain text, no chat template.

The encoder reads everything before an assistant turn, the decoder learns that turn and the token that ends it; each
trained turn is an example of its own. A single user turn is the source to the letter. Otherwise a system message stands
first, and each turn behind it is a line ``User: ...`` or ``Assistant: ...``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Example, Message, Where
from tunesmith.tokens.template import encode_as_text

# Kept on the tokenizer itself, so that whoever renders with it, in this process or another, renders the same.
ATTRIBUTE = "tunesmith_text_to_text"


@dataclass(frozen=True, slots=True)
class TextToText:
    """How a tokenizer's encoder-decoder model is fed.

    decoder_prefix: what the decoder is given before its first word. before, after: what the tokenizer puts around a
    text, end token included.
    """

    decoder_prefix: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def use_text_to_text(tokenizer: Any, decoder_prefix: Sequence[int]) -> None:
    """Say that a tokenizer is an encoder-decoder model's: what is rendered with it becomes source and target.

    decoder_prefix: the decoder's start token, and the first word where the model's generation config forces one.
    """
    whole, bare = (list(tokenizer("a", add_special_tokens=added)["input_ids"]) for added in (True, False))
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    form = TextToText(tuple(decoder_prefix), tuple(whole[:at]), tuple(whole[at + len(bare) :]))
    setattr(tokenizer, ATTRIBUTE, form)


def text_to_text_of(tokenizer: Any) -> TextToText | None:
    """The format of an encoder-decoder model's tokenizer, None for a causal model's."""
    return getattr(tokenizer, ATTRIBUTE, None)


def source_text(messages: Sequence[Message], where: Where) -> str:
    """What the encoder reads: everything that was said before the answer. Raises DataError when that is nothing."""
    num_system = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    opening = [message.content for message in messages[:num_system]]
    turns = messages[num_system:]
    if not messages:
        raise DataError(where, "begins with an assistant turn.", "Begin with what the user said.")
    if len(turns) == 1 and turns[0].role == "user":
        return "\n".join([*opening, turns[0].content])
    return "\n".join([*opening, *(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)])


def source_ids(messages: Sequence[Message], tokenizer: Any, form: TextToText, where: Where) -> NDArray[np.int64]:
    """Token ids (S,) of the source, with what the tokenizer puts around a text."""
    ids = _words(source_text(messages, where), tokenizer, where, "source")
    return np.array([*form.before, *ids, *form.after], np.int64)


def render_text_to_text(
    record: Conversation | Document,
    tokenizer: Any,
    form: TextToText,
    *,
    over_length: Literal["error", "drop", "truncate"],
    max_tokens: int,
) -> list[Example]:
    """One example a trained assistant turn, source and target of at most ``max_tokens`` each; none: dropped for length.

    Raises DataError for raw text, for rows with tools, without a source or a target, or too long (over_length: error).
    """
    where = record.where
    if isinstance(record, Document):
        raise DataError(
            where,
            "raw text has no source and target, which an encoder-decoder model needs.",
            "Give rows with input and output, or take a causal model.",
        )
    if record.tools:
        raise DataError(
            where.at("tools"), "an encoder-decoder model has no place for tools.", "Describe them in the user's turn."
        )
    trained = [i for i, message in enumerate(record.messages) if message.role == "assistant" and message.train]
    if not trained:
        raise DataError(where, "no token of this row is in the loss.", "Set train: true on an assistant turn.")
    examples = [_example(record, i, tokenizer, form) for i in trained]
    for example in examples:
        for name, ids in (("source", example.source_ids), ("target", example.ids)):
            if ids is None or len(ids) <= max_tokens or over_length == "truncate":
                continue
            if over_length == "drop":
                return []
            raise DataError(
                where,
                f"the row's {name} has {len(ids)} tokens, {max_tokens} are allowed.",
                "Shorten it, raise max_length as far as the model reads, or set over_length: drop or truncate.",
            )
    return [_cut(example, form, max_tokens) for example in examples]


def _example(record: Conversation, turn: int, tokenizer: Any, form: TextToText) -> Example:
    where = record.where
    words = _words(record.messages[turn].content, tokenizer, where, "target")
    ids = [*form.before, *words, *form.after]
    forced = list(form.decoder_prefix[1:])
    if ids[: len(forced)] != forced:
        ids = forced + ids
    eos = tokenizer.eos_token_id
    if eos is not None and ids[-1] != eos:
        ids.append(eos)
    weight = np.ones(len(ids) + 1, np.float32)
    weight[0] = 0.0
    return Example(
        ids=np.array([form.decoder_prefix[0], *ids], np.int64),
        loss_weight=weight,
        row_id=record.row_id,
        where=where,
        end_in_loss=eos is not None,
        source_ids=source_ids(record.messages[:turn], tokenizer, form, where),
    )


def _words(text: str, tokenizer: Any, where: Where, name: str) -> list[int]:
    ids = encode_as_text(text, tokenizer, where)
    if not ids:
        raise DataError(where, f"the {name} has no token.", "Fill it in, or remove the row.")
    return ids


def _cut(example: Example, form: TextToText, max_tokens: int) -> Example:
    """Source and target cut at their ends; the source keeps its end token, a cut target has none to learn."""
    source = example.source_ids
    assert source is not None
    source_excess, excess = max(0, len(source) - max_tokens), max(0, len(example.ids) - max_tokens)
    if not source_excess and not excess:
        return example
    if source_excess:
        kept = max_tokens - len(form.after)
        source = np.concatenate([source[:kept], np.array(form.after, np.int64)])
    return Example(
        ids=example.ids[:max_tokens],
        loss_weight=example.loss_weight[:max_tokens],
        row_id=example.row_id,
        where=example.where,
        end_in_loss=example.end_in_loss and not excess,
        tokens_cut=source_excess + excess,
        source_ids=source,
    )
