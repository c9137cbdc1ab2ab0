"""Messages -> text -> token ids through a model's chat template, without letting a row's words become control tokens.

Control tokens come from the template alone. Where a message spells one ("<|im_end|>"), those characters are encoded as
ordinary text, so a row can neither forge a turn nor end one early; the text itself is kept to the letter. The same
holds for what is typed in chat, since training and use share these functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import jinja2

from tunesmith.errors import DataError
from tunesmith.records import Message, Where

# For base models without a template: plain text that needs no new tokens. Headers end in a line break, since few
# vocabularies merge across one, and the tokenizer's own eos ends every assistant turn.
DEFAULT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] + '\\n\\n' }}"
    "{%- else -%}{{ message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{%- if message['role'] == 'assistant' -%}{{ eos_token or '' }}{%- endif -%}{{ '\\n\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:\\n' }}{%- endif -%}"
)
# Noncharacters, which Unicode keeps for use inside a program: they stand around control tokens spelled by a row.
SPELLED, SPELLED_END = "\ufdd0", "\ufdd1"
# What a template can raise: its own refusals, and faults of its making.
TEMPLATE_ERRORS = (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError, IndexError)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What a tokenizer and its template make of a conversation.

    template: the Jinja text. control_ids: the tokens that steer the model, by their text. spelled finds those in a
    message; written finds those the template wrote (group 1), passing over marked ones. begin_id: what the tokenizer
    puts before plain text, if anything. tails: ids of the texts behind a prompt's last control token, met so far.
    """

    template: str
    control_ids: Mapping[str, int]
    spelled: re.Pattern[str]
    written: re.Pattern[str]
    begin_id: int | None
    control_set: frozenset[int]
    first_letters: frozenset[str]
    tails: dict[tuple[str, str], list[int]] = field(default_factory=dict)


_known: WeakKeyDictionary[Any, tuple[Any, ChatFormat]] = WeakKeyDictionary()


def chat_format(tokenizer: Any) -> ChatFormat:
    """The format of a tokenizer, worked out once for each template it has had."""
    known = _known.get(tokenizer)
    if known is None or known[0] != tokenizer.chat_template:
        known = (tokenizer.chat_template, _read_format(tokenizer))
        _known[tokenizer] = known
    return known[1]


def _read_format(tokenizer: Any) -> ChatFormat:
    bos = tokenizer.bos_token_id
    begin_id = bos if bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos] else None
    if tokenizer.chat_template:
        template = str(tokenizer.get_chat_template())
    else:
        template = ("{{ bos_token }}" if begin_id is not None else "") + DEFAULT_TEMPLATE
    added = [token for token in tokenizer.added_tokens_decoder.values() if not str(token).isspace()]
    texts = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    # Some models do not mark the tokens around their turns as special.
    around_turns = _around_turns(tokenizer, template)
    texts |= {str(token) for token in added if str(token) in around_turns}
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    # Without control tokens the pattern must match nowhere rather than everywhere.
    any_control = "|".join(map(re.escape, longest_first)) or "(?!)"
    control_ids = {text: int(tokenizer.convert_tokens_to_ids(text)) for text in longest_first}
    return ChatFormat(
        template=template,
        control_ids=control_ids,
        control_set=frozenset(control_ids.values()),
        first_letters=frozenset(text[0] for text in longest_first),
        spelled=re.compile(any_control),
        written=re.compile(f"{SPELLED}[^{SPELLED_END}]*{SPELLED_END}|({any_control})"),
        begin_id=begin_id,
    )


def _around_turns(tokenizer: Any, template: str) -> str:
    """What the template writes before an assistant turn and after its words; tokens for thoughts stand between."""
    asked = [{"role": "user", "content": "a"}]
    try:
        before = _render(tokenizer, template, asked, (), generation=True)
        whole = _render(tokenizer, template, [*asked, {"role": "assistant", "content": "zqz"}], (), generation=False)
    except TEMPLATE_ERRORS:
        # A template that refuses even this is reported with the first row, where there is a place to name.
        return ""
    return before + whole.rpartition("zqz")[2]


def apply_template(
    tokenizer: Any,
    messages: Sequence[Message],
    where: Where,
    *,
    generation: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The conversation as text, optionally up to where the assistant is to speak; spelled control tokens are marked.

    Raises DataError when the template refuses the conversation.
    """
    if not messages:
        raise DataError(where, "begins with an assistant turn.", "Begin with what the user said.")
    rows = _rows(messages, tokenizer, where)
    _check_tools(tools, tokenizer, where)
    template = str(tokenizer.get_chat_template(tools=list(tools))) if tools and tokenizer.chat_template else None
    try:
        return _render(tokenizer, template or chat_format(tokenizer).template, rows, tools, generation=generation)
    except TEMPLATE_ERRORS as error:
        system = " Move the system message into the first user turn." if rows[0]["role"] == "system" else ""
        raise DataError(
            where,
            f"the model's chat template refuses this conversation: {str(error).rstrip('.')}.",
            f"Let user and assistant take turns, the user first.{system}",
        ) from None


def apply_template_many(
    tokenizer: Any, conversations: Sequence[Sequence[Message]], places: Sequence[Where], *, generation: bool
) -> list[str] | None:
    """``apply_template`` for many at once; None where it refuses one of them, which it then says of that one alone."""
    if not all(conversations):
        return None
    rows = [_rows(messages, tokenizer, where) for messages, where in zip(conversations, places, strict=True)]
    try:
        texts = tokenizer.apply_chat_template(
            rows,
            tokenize=False,
            add_generation_prompt=generation,
            chat_template=chat_format(tokenizer).template,
        )
    except TEMPLATE_ERRORS:
        return None
    return [str(text) for text in texts]


def _rows(messages: Sequence[Message], tokenizer: Any, where: Where) -> list[dict[str, str]]:
    return [{"role": message.role, "content": mark(message.content, tokenizer, where)} for message in messages]


def _render(
    tokenizer: Any,
    template: str,
    rows: list[dict[str, str]],
    tools: Sequence[Mapping[str, Any]],
    *,
    generation: bool,
) -> str:
    # transformers renders in a sandbox: a template can neither change its input nor reach Python's internals.
    return str(
        tokenizer.apply_chat_template(
            rows,
            tools=[dict(tool) for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=generation,
            chat_template=template,
        )
    )


def mark(text: str, tokenizer: Any, where: Where) -> str:
    """The text with noncharacters around every control token it spells."""
    form = chat_format(tokenizer)
    # Most texts hold no letter a control token begins with; the pattern would look at every one of theirs.
    if not any(letter in text for letter in form.first_letters) or not form.spelled.search(text):
        return text
    if SPELLED in text or SPELLED_END in text:
        raise DataError(where, "holds a noncharacter (U+FDD0 or U+FDD1) beside a control token.", "Remove it.")
    return form.spelled.sub(lambda match: f"{SPELLED}{match[0]}{SPELLED_END}", text)


def _check_tools(tools: Sequence[Mapping[str, Any]], tokenizer: Any, where: Where) -> None:
    if not tools:
        return
    if found := chat_format(tokenizer).spelled.search(json.dumps([dict(tool) for tool in tools], ensure_ascii=False)):
        raise DataError(where.at("tools"), f"spells the model's control token {found[0]!r}.", "Write it differently.")


def encode(text: str, tokenizer: Any, where: Where) -> list[int]:
    """Token ids of rendered text; what is marked becomes the tokens of its letters. No bos or eos is added."""
    if SPELLED not in text:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    ids: list[int] = []
    # Split at the marks; a mark that lost its partner (templates cut and trim) only ends a piece.
    for piece in re.split(f"({SPELLED}[^{SPELLED_END}]*{SPELLED_END})|[{SPELLED}{SPELLED_END}]", text):
        if piece and piece.startswith(SPELLED):
            ids += encode_as_text(piece[1:-1], tokenizer, where)
        elif piece:
            ids += encode(piece, tokenizer, where)
    return ids


def encode_many(texts: Sequence[str], tokenizer: Any, places: Sequence[Where]) -> list[list[int]]:
    """``encode`` for many texts; those without marks in one call, which a fast tokenizer spreads over the cores."""
    bare = [i for i, text in enumerate(texts) if SPELLED not in text]
    done = (
        tokenizer([texts[i] for i in bare], add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        if bare
        else []
    )
    known = dict(zip(bare, done, strict=True))
    return [
        known[i] if i in known else encode(text, tokenizer, where)
        for i, (text, where) in enumerate(zip(texts, places, strict=True))
    ]


def encode_as_text(text: str, tokenizer: Any, where: Where) -> list[int]:
    """Token ids of text in which control tokens are ordinary words. No bos or eos is added.

    Raises DataError where the tokenizer cannot but read a control token.
    """
    ids = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])
    form = chat_format(tokenizer)
    for match in form.spelled.finditer(text):
        if form.control_ids[match[0]] in ids:
            raise DataError(
                where,
                f"spells the model's control token {match[0]!r}, which its tokenizer cannot read as plain text.",
                "Remove it or write it differently.",
            )
    return ids


def plain(text: str) -> str:
    """Rendered text without its marks."""
    return text.replace(SPELLED, "").replace(SPELLED_END, "")
