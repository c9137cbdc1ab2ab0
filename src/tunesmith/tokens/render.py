"""Conversation -> token ids and loss weights, through the model's own chat template.

The loss covers exactly what the assistant says and the token that ends its turn. What inference would feed the model
before a turn is, token for token, what training feeds it. Where one sequence cannot hold that for all turns, because
the template rewrites earlier ones (reasoning models drop old thoughts), ends none, or the tokenizer merges across the
turn's beginning, each trained turn becomes an example of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.config import Config
from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Example, Message, Where
from tunesmith.tokens.draft import Draft, draft, draft_many, prompt_tokens
from tunesmith.tokens.template import apply_template, chat_format, encode, encode_as_text, encode_many, mark, plain
from tunesmith.tokens.text_to_text import render_text_to_text, source_ids, text_to_text_of

# The place of what is asked rather than read from a file.
PROMPT = Where("prompt")
# Enough for a fast tokenizer to spread over the cores, few enough to hold.
RECORDS_AT_ONCE = 64


class RenderConfig(Config):
    """How long a row may be and what happens to a longer one."""

    max_length: int | None = Field(None, ge=8)
    """Most tokens of one row, for an encoder-decoder model of source and target each; empty: what the model reads."""
    over_length: Literal["error", "drop", "truncate"] = "error"
    """A longer chat is an error, dropped and counted, or cut at its end; raw text is split, losing nothing."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """An assistant turn in a text, by characters; end_token stands at words_end, or is None where nothing ends it."""

    begin: int
    words_end: int
    end_token: str | None


def render_many(
    records: Iterable[Conversation | Document], tokenizer: Any, config: RenderConfig, *, max_tokens: int
) -> Iterator[list[Example]]:
    """``render`` for each record, in order, drafting and encoding some dozens at a time."""
    source = iter(records)
    while batch := list(itertools.islice(source, RECORDS_AT_ONCE)):
        # An encoder-decoder model's rows have no template to draft.
        chats = [record for record in batch if isinstance(record, Conversation) and _is_trained(record)]
        drafts = draft_many(chats, tokenizer) if text_to_text_of(tokenizer) is None else None
        known: dict[int, tuple[Draft, list[int]]] = {}
        if drafts is not None:
            ids = encode_many([d.full for d in drafts], tokenizer, [d.record.where for d in drafts])
            known = {id(d.record): (d, i) for d, i in zip(drafts, ids, strict=True)}
        for record in batch:
            yield render(record, tokenizer, config, max_tokens=max_tokens, drafted=known.get(id(record)))


def render(
    record: Conversation | Document,
    tokenizer: Any,
    config: RenderConfig,
    *,
    max_tokens: int,
    drafted: tuple[Draft, list[int]] | None = None,
) -> list[Example]:
    """Examples of one record with at most ``max_tokens`` each; an empty list is a row dropped for its length.

    Usually one; several for a long document, and for a conversation whose turns need one each. Raises DataError for a
    row that is too long (over_length: error), that the template refuses or rewrites, or that leaves nothing in the
    loss. drafted: the conversation's texts and the ids of the full one, where they are known already.
    """
    form = text_to_text_of(tokenizer)
    if form is not None:
        return render_text_to_text(record, tokenizer, form, over_length=config.over_length, max_tokens=max_tokens)
    if isinstance(record, Document):
        return _render_document(record, tokenizer, max_tokens)
    if not _is_trained(record):
        raise DataError(record.where, "no token of this row is in the loss.", "Set train: true on an assistant turn.")
    if drafted is None:
        text = draft(record, tokenizer)
        drafted = text, encode(text.full, tokenizer, record.where)
    whole = _whole(*drafted, tokenizer)
    examples = [whole] if whole is not None else _one_each(record, tokenizer)
    longest = max(example.num_tokens for example in examples)
    if longest <= max_tokens:
        return examples
    if config.over_length == "error":
        raise DataError(
            record.where,
            f"the row has {longest} tokens, {max_tokens} are allowed.",
            "Shorten it, raise max_length as far as the model reads, or set over_length: drop or truncate.",
        )
    return [] if config.over_length == "drop" else _truncate(examples, max_tokens)


def render_prompt(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    where: Where = PROMPT,
) -> NDArray[np.int64]:
    """Token ids (T,) of a conversation up to where the assistant is to speak; what an encoder reads, if there is one.

    Training sees exactly these before the answer. Raises DataError when the template refuses the conversation.
    """
    form = text_to_text_of(tokenizer)
    if form is not None:
        if tools:
            raise DataError(where, "an encoder-decoder model has no place for tools.", "Describe them in the text.")
        return source_ids(messages, tokenizer, form, where)
    text = apply_template(tokenizer, messages, where, generation=True, tools=tools)
    return np.array(encode(text, tokenizer, where), np.int64)


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that ends an assistant's turn in training, which need not be the tokenizer's eos; None for none."""
    if text_to_text_of(tokenizer) is not None:
        return None
    turns = (Message(role="user", content="Hi"), Message(role="assistant", content="Hi"))
    try:
        (example,) = render(
            Conversation(messages=turns, row_id=0, where=Where("end of turn")),
            tokenizer,
            RenderConfig(),
            max_tokens=2**20,
        )
    except DataError:
        return None
    last = int(example.ids[np.flatnonzero(example.loss_weight)[-1]])
    return last if last in chat_format(tokenizer).control_set else None


def template_notes(tokenizer: Any) -> list[str]:
    """What a user should know of the template in use: sentences, none where there is nothing to say."""
    if text_to_text_of(tokenizer) is not None:
        return ["encoder-decoder model: what the user said is the source, what the assistant said the target."]
    notes = []
    if not tokenizer.chat_template:
        notes.append("the model has no chat template; tunesmith's plain one is used (User:/Assistant: lines).")
    messages = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    record = Conversation(messages=messages * 2, row_id=0, where=Where("chat template"))
    try:
        text = apply_template(tokenizer, messages, record.where)
        before = apply_template(tokenizer, messages[:1], record.where, generation=True)
        ends = _turn(text, len(before), len(text), messages[1], tokenizer, record.where).end_token is not None
        drafted = draft(record, tokenizer)
        whole = _whole(drafted, encode(drafted.full, tokenizer, record.where), tokenizer) is not None
    except DataError as error:
        return [*notes, error.cause]
    if not ends:
        notes.append("the chat template ends no assistant turn; the tokenizer's eos is put there.")
    if not whole:
        notes.append("each trained turn becomes an example of its own, with the turns before it as its prompt.")
    return notes


def _is_trained(record: Conversation) -> bool:
    return any(message.role == "assistant" and message.train for message in record.messages)


def _whole(text: Draft, ids: list[int], tokenizer: Any) -> Example | None:
    """All turns in one sequence, or None where that would not be what inference sees."""
    record, full = text.record, text.full
    messages, where = record.messages, record.where
    _check_nothing_left_out(replace(record, messages=messages[: text.assistant[-1] + 1]), full, tokenizer)
    weight = np.zeros(len(ids), np.float32)
    for i, before, through in zip(text.assistant, text.before, text.through, strict=True):
        if not (through.startswith(before) and full.startswith(through)):
            return None
        turn = _turn(full, len(before), len(through), messages[i], tokenizer, where)
        begin = prompt_tokens(before, ids, tokenizer, record)
        if turn.end_token is None or begin is None:
            return None
        end = ids.index(chat_format(tokenizer).control_ids[turn.end_token], begin)
        weight[max(begin, 1) : end + 1] = float(messages[i].train)
    return Example(ids=np.array(ids, np.int64), loss_weight=weight, row_id=record.row_id, where=where)


def _one_each(record: Conversation, tokenizer: Any) -> list[Example]:
    """One example for each trained turn, ending with it."""
    out = []
    for i, message in enumerate(record.messages):
        if message.role != "assistant" or not message.train:
            continue
        where, tools = record.where, record.tools
        before = apply_template(tokenizer, record.messages[:i], where, generation=True, tools=tools)
        through = apply_template(tokenizer, record.messages[: i + 1], where, tools=tools)
        if not through.startswith(before):
            raise DataError(
                where,
                f"the chat template writes something else before message {i + 1} in training than in use.",
                "Give the model a chat template whose generation prompt opens the assistant's turn.",
            )
        turn = _turn(through, len(before), len(through), message, tokenizer, where)
        prompt = encode(before, tokenizer, where)
        ids = encode(through[: turn.words_end], tokenizer, where)
        if ids[: len(prompt)] != prompt:
            ids = prompt + _continuation(prompt, ids, through[turn.begin : turn.words_end], tokenizer, where)
        form = chat_format(tokenizer)
        end_id = tokenizer.eos_token_id if turn.end_token is None else form.control_ids[turn.end_token]
        weight = np.ones(len(ids) + (end_id is not None), np.float32)
        weight[: max(len(prompt), 1)] = 0.0
        out.append(
            Example(
                ids=np.array(ids if end_id is None else [*ids, end_id], np.int64),
                loss_weight=weight,
                row_id=record.row_id,
                where=where,
                end_in_loss=end_id is not None,
            )
        )
    return out


def _turn(text: str, begin: int, end: int, message: Message, tokenizer: Any, where: Where) -> _Turn:
    """Where an assistant's words end in text[begin:end]: at the first control token the template writes there."""
    words = mark(message.content, tokenizer, where)
    found = next((m for m in chat_format(tokenizer).written.finditer(text, begin, end) if m[1]), None)
    if not _says(text[begin:end], words):
        raise DataError(
            where, "the chat template leaves out some of the assistant's words.", "Write the answer without markup."
        )
    if found is None:
        at = text.find(words, begin, end)
        return _Turn(begin, at + len(words) if at >= 0 else begin + len(text[begin:end].rstrip()), None)
    if not _says(text[begin : found.start()], words):
        raise DataError(
            where,
            f"the chat template writes {found[1]!r} between generation prompt and the assistant's words.",
            "Give the model a chat template whose generation prompt opens the assistant's turn.",
        )
    return _Turn(begin, found.start(), found[1])


def _says(text: str, words: str) -> bool:
    """Whether words stand in a text; templates may trim and re-space them."""
    return words.strip() in text or "".join(plain(words).split()) in "".join(plain(text).split())


def _check_nothing_left_out(record: Conversation, text: str, tokenizer: Any) -> None:
    """A template must write what was asked; one that has no place for a system message often drops it in silence."""
    for number, message in enumerate(record.messages):
        if message.role != "assistant" and not _says(text, mark(message.content, tokenizer, record.where)):
            raise DataError(
                record.where.at(f"messages[{number}]"),
                f"the model's chat template leaves out this {message.role} message.",
                "Move its text into a user turn.",
            )
    if record.tools and text == apply_template(tokenizer, record.messages, record.where):
        raise DataError(
            record.where.at("tools"),
            "the model's chat template has no place for tools.",
            "Describe them in the system message.",
        )


def _continuation(prompt: list[int], whole: list[int], words: str, tokenizer: Any, where: Where) -> list[int]:
    """Tokens of the words after a prompt whose last token would merge with them; together they give the same text."""
    anchor = next(iter(chat_format(tokenizer).control_ids), "")
    # SentencePiece puts a space before what begins a text; behind a control token the words do not begin it.
    for candidate in (encode(words, tokenizer, where), encode(anchor + words, tokenizer, where)[bool(anchor) :]):
        if _decode(prompt + candidate, tokenizer) == _decode(whole, tokenizer):
            return candidate
    raise DataError(
        where,
        "the tokenizer merges the chat template's generation prompt with the assistant's first word.",
        "Give the model a chat template whose generation prompt ends in a line break.",
    )


def _decode(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _truncate(examples: list[Example], max_tokens: int) -> list[Example]:
    """Cut at the end; what is cut is counted, also where nothing trainable is left of an example."""
    kept: list[Example] = []
    lost_tokens = 0
    for example in examples:
        excess = max(0, example.num_tokens - max_tokens)
        lost = int(np.count_nonzero(example.loss_weight[max_tokens:]))
        cut = replace(
            example,
            ids=example.ids[:max_tokens],
            loss_weight=example.loss_weight[:max_tokens],
            end_in_loss=example.end_in_loss and lost == 0,
            tokens_cut=excess,
        )
        if cut.num_loss_tokens:
            kept.append(cut)
        else:
            lost_tokens += lost
    if not kept:
        raise DataError(
            examples[0].where,
            f"no token of this row is in the loss once it is cut to {max_tokens} tokens.",
            "Raise max_length, or set over_length: drop.",
        )
    if lost_tokens:
        kept[-1] = replace(kept[-1], end_in_loss=False, tokens_cut=kept[-1].tokens_cut + lost_tokens)
    return kept


def _render_document(record: Document, tokenizer: Any, max_tokens: int) -> list[Example]:
    """Raw text: the tokenizer's own start token if it puts one, an eos at the end, chunks where it is long.

    Neighbouring chunks share one token, so that every token but the first is predicted exactly once.
    """
    begin_id = chat_format(tokenizer).begin_id
    ids = encode_as_text(record.text, tokenizer, record.where)
    if begin_id is not None:
        ids = [begin_id, *ids]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if len(ids) < 2:
        raise DataError(record.where, "the text has no token to predict.", "Remove the row.")
    out = []
    for start in range(0, len(ids) - 1, max_tokens - 1):
        chunk = np.array(ids[start : start + max_tokens], np.int64)
        weight = np.ones(len(chunk), np.float32)
        weight[0] = 0.0
        out.append(Example(ids=chunk, loss_weight=weight, row_id=record.row_id, where=record.where))
    return out
