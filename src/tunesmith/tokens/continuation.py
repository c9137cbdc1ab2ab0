"""Context and what might follow it, as token ids: what a log-likelihood is asked of.

Both are tokenised together, so that the boundary is the one the model would read; a continuation begins at the first
token that its letters change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.errors import DataError
from tunesmith.records import Conversation, Example, Message, Where
from tunesmith.tokens.render import RenderConfig, render
from tunesmith.tokens.template import apply_template, encode, encode_as_text, mark
from tunesmith.tokens.text_to_text import text_to_text_of

# Between messages where no chat template is applied.
BETWEEN_MESSAGES = "\n\n"


def continuation_examples(
    messages: Sequence[Message], continuations: Sequence[str], tokenizer: Any, *, chat_template: bool, where: Where
) -> list[Example]:
    """One Example a continuation: the loss weight of its tokens is 1, of all before them 0; no end of turn is added.

    chat_template: continuations begin the assistant's turn; else they follow the messages' bare text, after a blank
    unless one is there. Raises DataError for an empty continuation, and where a template refuses the messages.
    """
    if not messages:
        raise DataError(where, "no context stands before the continuation.", "Ask for the text as a whole.")
    if text_to_text_of(tokenizer) is not None:
        return [_of_source(messages, words, tokenizer, where) for words in continuations]
    if chat_template:
        before, joint = apply_template(tokenizer, messages, where, generation=True), ""
    else:
        before = raw_context(messages, tokenizer, where)
        words_before = before.rstrip()
        # A blank belongs to the word behind it in nearly every vocabulary.
        before, joint = words_before, before[len(words_before) :]
    prompt = encode(before, tokenizer, where)
    out = []
    for words in continuations:
        blank = joint or ("" if chat_template or words[:1].isspace() else " ")
        ids = encode(before + blank + mark(words, tokenizer, where), tokenizer, where)
        differs = np.flatnonzero(np.array(ids[: len(prompt)]) != np.array(prompt[: len(ids)]))
        begin = int(differs[0]) if len(differs) else len(prompt)
        if not words or len(ids) <= begin:
            raise DataError(where, f"the continuation {words!r} has no token of its own.", "Leave it out.")
        if begin == 0:
            raise DataError(where, "no token stands before the continuation.", "Give the question some words.")
        weight = np.zeros(len(ids), np.float32)
        weight[begin:] = 1.0
        out.append(Example(ids=np.array(ids, np.int64), loss_weight=weight, row_id=0, where=where))
    return out


def raw_context(messages: Sequence[Message], tokenizer: Any, where: Where) -> str:
    """The messages' words without a template, an empty line between two; begin token first where it is the custom."""
    text = BETWEEN_MESSAGES.join(mark(message.content, tokenizer, where) for message in messages)
    begin = tokenizer.bos_token if getattr(tokenizer, "add_bos_token", False) else None
    return f"{begin or ''}{text}"


def text_examples(text: str, tokenizer: Any, *, max_tokens: int, where: Where, row_id: int = 0) -> list[Example]:
    """A text to be predicted whole, in chunks of at most ``max_tokens`` that share one token.

    The begin (else the end) token stands before it, so that its first token is predicted too; its end is not.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = [start, *encode_as_text(text, tokenizer, where)]
    out = []
    for at in range(0, len(ids) - 1, max_tokens - 1):
        piece = np.array(ids[at : at + max_tokens], np.int64)
        weight = np.ones(len(piece), np.float32)
        weight[0] = 0.0
        out.append(Example(ids=piece, loss_weight=weight, row_id=row_id, where=where))
    return out


def _of_source(messages: Sequence[Message], words: str, tokenizer: Any, where: Where) -> Example:
    """An encoder reads the context; the decoder's end token is not asked for."""
    turns = (*messages, Message(role="assistant", content=words))
    record = Conversation(messages=turns, row_id=0, where=where)
    (example,) = render(record, tokenizer, RenderConfig(), max_tokens=2**20)
    asked = np.flatnonzero(example.loss_weight)
    if len(asked) < 2:
        raise DataError(where, f"the continuation {words!r} has no token of its own.", "Leave it out.")
    return Example(
        ids=example.ids[: asked[-1]],
        loss_weight=example.loss_weight[: asked[-1]],
        row_id=0,
        where=where,
        source_ids=example.source_ids,
    )
