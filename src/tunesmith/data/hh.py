"""Dialogues in one string, as HH-RLHF writes them: "\\n\\nHuman: … \\n\\nAssistant: …" (arXiv:2204.05862)."""

from __future__ import annotations

import re

from tunesmith.data.check import RowError
from tunesmith.records import Message, Where

_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_OPENING = re.compile(r"\s*Human:")
_OPEN_END = re.compile(r"\n\nAssistant:\s*\Z")


def is_hh(text: object) -> bool:
    """Whether a value is a dialogue in one string, told by how it begins."""
    return isinstance(text, str) and _OPENING.match(text) is not None


def is_hh_prompt(text: object) -> bool:
    """Whether a value is a dialogue in one string that waits for the assistant's answer."""
    return isinstance(text, str) and is_hh(text) and _OPEN_END.search(text) is not None


def parse_hh(text: str, where: Where, *, train: bool = True) -> list[Message]:
    """The turns of a dialogue; white space around a turn is not part of it. Raises RowError for an empty turn.

    Only a speaker at the beginning or behind a blank line opens a turn, as in the published files.
    """
    text = text.lstrip()
    marks = list(_MARK.finditer(text))
    if not marks or marks[0].start() > 0:
        raise RowError(where, "the dialogue does not begin with 'Human:'.", "Begin it with '\\n\\nHuman: '.")
    turns = []
    for i, mark in enumerate(marks):
        end = marks[i + 1].start() if i + 1 < len(marks) else len(text)
        content = text[mark.end() : end].strip()
        if not content:
            detail = f"turn {i + 1}, '{mark[1]}:'"
            raise RowError(where, "a turn of the dialogue is empty.", "Fill it in, or remove the row.", detail=detail)
        role = mark[1]
        if role == "Human":
            turns.append(Message(role="user", content=content))
        else:
            turns.append(Message(role="assistant", content=content, train=train))
    return turns


def parse_hh_prompt(text: str, where: Where) -> list[Message]:
    """The turns of a prompt that ends with an open 'Assistant:'; its answers are not trained on."""
    return parse_hh(_OPEN_END.sub("", text), where, train=False)
