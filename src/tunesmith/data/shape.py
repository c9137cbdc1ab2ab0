"""Raw rows -> Conversations and Documents: the shape is told from the columns, and can be stated instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from tunesmith.errors import DataError
from tunesmith.records import ROLES, Conversation, Document, Message, Role, Where

Shape = Literal["messages", "sharegpt", "alpaca", "prompt-completion", "input-output", "transcript", "text"]
SHAPES: tuple[str, ...] = get_args(Shape)
SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
}
# The columns that tell a shape; answers may be called either way.
SIGNS: dict[str, list[set[str]]] = {
    "messages": [{"messages"}],
    "sharegpt": [{"conversations"}],
    "alpaca": [{"instruction", "output"}, {"instruction", "response"}],
    "prompt-completion": [{"prompt", "completion"}, {"prompt", "response"}],
    "input-output": [{"input", "output"}],
    "transcript": [{"transcript"}],
    "text": [{"text"}],
}
USED_COLUMNS: dict[str, set[str]] = {
    "messages": {"messages", "tools"},
    "sharegpt": {"conversations", "system"},
    "alpaca": {"instruction", "input", "output", "response", "system"},
    "prompt-completion": {"prompt", "completion", "response", "system"},
    "input-output": {"input", "output", "system"},
    "transcript": {"transcript", "text"},
    "text": {"text"},
}
_SPEAKER = re.compile(r"^(Human|User|AI|Assistant|System):[ \t]?", re.MULTILINE)
_SPEAKERS: dict[str, Role] = {
    "Human": "user",
    "User": "user",
    "AI": "assistant",
    "Assistant": "assistant",
    "System": "system",
}


def detect_shape(columns: Iterable[str], where: Where) -> str:
    """The shape of rows with these columns. Raises DataError when none or several fit, naming the way out."""
    have = set(columns)
    fitting = [shape for shape, signs in SIGNS.items() if any(sign <= have for sign in signs)]
    # instruction,input,output also holds input,output; the richer reading is meant.
    if "alpaca" in fitting and "input-output" in fitting:
        fitting.remove("input-output")
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(have))
    if not fitting:
        raise DataError(
            where,
            f"the columns ({listed}) fit no known shape.",
            f"Rename them, map them with data.columns, or set data.shape to one of: {', '.join(SHAPES)}.",
        )
    raise DataError(
        where, f"the columns ({listed}) fit {' and '.join(fitting)}.", f"Set data.shape to {' or '.join(fitting)}."
    )


def to_record(
    row: Mapping[str, Any], shape: str, where: Where, row_id: int, *, merge_same_role: bool = False
) -> Conversation | Document:
    """One row as a record. Raises DataError naming file:line:field when it does not hold what the shape promises."""
    if shape == "text":
        return Document(text=_text(row, "text", where), row_id=row_id, where=where)
    messages = _READERS[shape](row, where)
    tools = row.get("tools") or ()
    if not isinstance(tools, list | tuple):
        raise DataError(where.at("tools"), "must be a list.", "Write the tools' JSON schemas as a list.")
    if merge_same_role:
        messages = _merged(messages)
    _check_turns(messages, where)
    return Conversation(messages=tuple(messages), row_id=row_id, where=where, tools=tuple(tools))


def _text(row: Mapping[str, Any], field: str, where: Where, *, allow_empty: bool = False) -> str:
    if field not in row:
        raise DataError(where.at(field), "the column is missing.", "Add it, or remove the row.")
    value = row[field]
    if not isinstance(value, str):
        raise DataError(where.at(field), f"must be text, not {_type_name(value)}.", "Write it as a string.")
    if not value.strip() and not allow_empty:
        raise DataError(where.at(field), "is empty.", "Fill it in, or remove the row.")
    return value


def _type_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _answer(row: Mapping[str, Any], names: tuple[str, ...], where: Where) -> str:
    present = [name for name in names if name in row]
    if len(present) > 1:
        raise DataError(where.at(present[1]), f"stands beside '{present[0]}'.", "Keep one of the two.")
    return _text(row, present[0] if present else names[0], where)


def _system(row: Mapping[str, Any], where: Where) -> list[Message]:
    if row.get("system") in (None, ""):
        return []
    return [Message(role="system", content=_text(row, "system", where))]


def _from_messages(row: Mapping[str, Any], where: Where, field: str = "messages") -> list[Message]:
    return _turn_list(row.get(field), where.at(field), "role", "content", {role: role for role in ROLES})


def _from_sharegpt(row: Mapping[str, Any], where: Where) -> list[Message]:
    turns = _turn_list(row.get("conversations"), where.at("conversations"), "from", "value", SHAREGPT_ROLES)
    return [*_system(row, where), *turns]


def _turn_list(
    value: Any, where: Where, role_key: str, content_key: str, roles: Mapping[str, Role]
) -> list[Message]:
    if not isinstance(value, list):
        raise DataError(where, f"must be a list of turns, not {_type_name(value)}.", "Write [{...}, {...}].")
    out = []
    for number, turn in enumerate(value):
        place = Where(where.file, where.line, f"{where.field}[{number}]")
        if not isinstance(turn, dict):
            raise DataError(place, f"must be an object, not {_type_name(turn)}.", "Write role and content.")
        name = turn.get(role_key)
        if not isinstance(name, str) or name not in roles:
            known = ", ".join(sorted(roles))
            raise DataError(place, f"{role_key} {name!r} is not one of {known}.", "Rename it.")
        role = roles[name]
        content = turn.get(content_key)
        if not isinstance(content, str):
            raise DataError(place, f"{content_key} must be text, not {_type_name(content)}.", "Write it as a string.")
        if not content.strip():
            raise DataError(place, f"the {role}'s {content_key} is empty.", "Fill it in, or remove the row.")
        train = turn.get("train", turn.get("loss", True))
        if not isinstance(train, bool):
            raise DataError(place, f"train must be true or false, not {train!r}.", "Write true or false.")
        out.append(Message(role=role, content=content, train=train))
    return out


def _from_alpaca(row: Mapping[str, Any], where: Where) -> list[Message]:
    question = _text(row, "instruction", where)
    if row.get("input") not in (None, ""):
        question += "\n\n" + _text(row, "input", where, allow_empty=True)
    answer = _answer(row, ("output", "response"), where)
    return [*_system(row, where), Message(role="user", content=question), Message(role="assistant", content=answer)]


def _from_prompt_completion(row: Mapping[str, Any], where: Where) -> list[Message]:
    out = _system(row, where)
    if isinstance(row.get("prompt"), list):
        out += _from_messages(row, where, "prompt")
    else:
        out.append(Message(role="user", content=_text(row, "prompt", where)))
    completion = "completion" if "completion" in row else "response"
    if isinstance(row.get(completion), list):
        return out + _from_messages(row, where, completion)
    return [*out, Message(role="assistant", content=_answer(row, ("completion", "response"), where))]


def _from_input_output(row: Mapping[str, Any], where: Where) -> list[Message]:
    question, answer = _text(row, "input", where), _text(row, "output", where)
    return [*_system(row, where), Message(role="user", content=question), Message(role="assistant", content=answer)]


def _from_transcript(row: Mapping[str, Any], where: Where) -> list[Message]:
    field = "transcript" if "transcript" in row else "text"
    text = _text(row, field, where)
    marks = list(_SPEAKER.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise DataError(where.at(field), "does not begin with a speaker.", "Begin lines with 'Human:' and 'AI:'.")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    out = []
    for mark, end in zip(marks, ends, strict=True):
        content = text[mark.end() : end].strip()
        if not content:
            raise DataError(where.at(field), f"a turn of '{mark[1]}' is empty.", "Fill it in, or remove it.")
        out.append(Message(role=_SPEAKERS[mark[1]], content=content))
    return out


_READERS: dict[str, Callable[[Mapping[str, Any], Where], list[Message]]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "prompt-completion": _from_prompt_completion,
    "input-output": _from_input_output,
    "transcript": _from_transcript,
}


def _merged(messages: list[Message]) -> list[Message]:
    out: list[Message] = []
    for message in messages:
        if out and out[-1].role == message.role and message.role != "tool":
            joined = f"{out[-1].content}\n\n{message.content}"
            out[-1] = Message(role=message.role, content=joined, train=out[-1].train and message.train)
        else:
            out.append(message)
    return out


def _check_turns(messages: list[Message], where: Where) -> None:
    spoken = [message for message in messages if message.role != "system"]
    if not spoken:
        raise DataError(where, "holds only system messages.", "Add a user and an assistant turn.")
    if not any(message.role == "assistant" and message.train for message in messages):
        raise DataError(where, "no assistant turn to learn from.", "Add one, or remove the row.")
    if any(message.role == "system" for message in messages[1:]):
        raise DataError(where, "a system message stands after the first turn.", "Move it to the front.")
    if messages[-1].role != "assistant":
        raise DataError(where, f"ends with a {messages[-1].role} turn.", "End with the assistant's answer.")
    if spoken[0].role == "assistant":
        raise DataError(where, "begins with an assistant turn.", "Begin with what the user said.")
    for first, second in zip(messages, messages[1:], strict=False):
        if first.role == second.role and first.role != "tool":
            raise DataError(
                where,
                f"two {first.role} turns stand in a row.",
                "Join them, or set data.merge_same_role: true, which puts a blank line between them.",
            )
