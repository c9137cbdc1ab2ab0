"""Prompts that are tried before anybody tunes: the rows' own, the user's, and a few that any task admits of.

What ours say comes from the training rows alone: keys, labels and lengths of the answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith.evals.advise.answers import Answers
from tunesmith.records import Message

# Stands for the question in a prompt of the user's.
SLOT = "{input}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A way to ask. system: replaces the row's system message (or with ``adds`` follows it); around: holds {input}."""

    name: str
    system: str = ""
    adds: bool = False
    around: str = ""


def wordings_of(answers: Answers, prompts: Sequence[str] = ()) -> tuple[Wording, ...]:
    """The rows as they are, the user's prompts in their order, and ours for this kind of answers."""
    mine = [
        Wording(name=f"your prompt {i}", around=text if SLOT in text else "", system="" if SLOT in text else text)
        for i, text in enumerate(prompts, 1)
    ]
    brief = "Answer with the answer alone: no greeting, no explanation."
    return (
        Wording(name="the rows as they are"),
        *mine,
        Wording(name="ours: brief", system=brief, adds=True),
        Wording(name="ours: form", system=_form(answers), adds=True),
        Wording(name="ours: form after the question", around=f"{SLOT}\n\n{_form(answers)}"),
    )


def _form(answers: Answers) -> str:
    if answers.kind == "json":
        parts = []
        for key in answers.fields:
            values = answers.values.get(key)
            parts.append(f"{json.dumps(key)}: {' or '.join(values) if values else '...'}")
        return f"Answer with one JSON object and nothing else: {{{', '.join(parts)}}}"
    if answers.kind == "label":
        return f"Answer with exactly one of these labels and nothing else: {', '.join(answers.values[''])}"
    if answers.kind == "number":
        return "Answer with one number and nothing else."
    return f"Answer in at most {answers.longest_words} words."


def worded(messages: Sequence[Message], wording: Wording) -> tuple[Message, ...]:
    """A question's messages in a wording; what {input} stands for is the last user message."""
    system = [message for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    if wording.system:
        own = f"{system[0].content}\n\n" if system and wording.adds else ""
        system = [Message(role="system", content=own + wording.system), *(system[1:] if wording.adds else [])]
    if wording.around:
        last = max(i for i, message in enumerate(rest) if message.role == "user")
        rest[last] = replace(rest[last], content=wording.around.replace(SLOT, rest[last].content))
    return (*system, *rest)
