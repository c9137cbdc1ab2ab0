"""Raw rows -> Conversations and Documents: the shape is told from the columns, and can be stated instead."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from tunesmith.data.check import RowError, shown
from tunesmith.data.convertible import convertible_shapes, refuse_convertible
from tunesmith.data.parse import json_type
from tunesmith.errors import DataError
from tunesmith.records import ROLES, Conversation, Document, Message, Role, Where

Shape = Literal["messages", "alpaca", "prompt-completion", "input-output", "text", "sharegpt", "transcript"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
# The columns that tell a shape: any of these sets.
_SIGNS: dict[Shape, list[set[str]]] = {
    "messages": [{"messages"}],
    "alpaca": [{"instruction", "output"}, {"instruction", "response"}],
    "prompt-completion": [{"prompt", "completion"}, {"prompt", "response"}, {"prompt", "output"}],
    "input-output": [{"input", "output"}],
    "text": [{"text"}],
    "sharegpt": [{"conversations"}],
    "transcript": [{"transcript"}],
}
# What each shape reads; columns in one group mean the same, the first being the name we document.
_FIELDS: dict[Shape, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",), ("tools",)),
    "alpaca": (("instruction",), ("input", "context"), ("output", "response"), ("system",)),
    "prompt-completion": (("prompt",), ("completion", "response", "output"), ("system",), ("tools",)),
    "input-output": (("input",), ("output",), ("system",)),
    "text": (("text",),),
    "sharegpt": (("conversations",), ("system",), ("tools",)),
    "transcript": (("transcript", "text"), ("system",)),
}
FIELD_NAMES = frozenset(name for groups in _FIELDS.values() for group in groups for name in group)
_CHAT_ROLES: dict[str, Role] = {role: role for role in ROLES}
_SHAREGPT_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", **_CHAT_ROLES}
_SPEAKER = re.compile(r"^(Human|AI|Assistant):[ \t]?", re.MULTILINE)
_NO_ANSWER_FIX = "Add the assistant's answer, or remove the row."


def fitting_shapes(columns: Iterable[str]) -> list[Shape]:
    """All shapes that rows with these columns may have."""
    return list(_fitting(frozenset(columns)))


@functools.lru_cache(maxsize=256)
def _fitting(have: frozenset[str]) -> tuple[Shape, ...]:
    fitting = [shape for shape in SHAPES if any(sign <= have for sign in _SIGNS[shape])]
    # instruction,input,output holds input,output too; the reading that uses all three is meant.
    fitting = [shape for shape in fitting if not (shape == "input-output" and "alpaca" in fitting)]
    # The text of a message that has a speaker and a time, or stands in a tree, is no document.
    is_part = {"chat-export", "tree-messages"} & set(convertible_shapes(have))
    return tuple(shape for shape in fitting if not (shape == "text" and is_part))


def detect_shape(columns: Iterable[str], place: Where) -> Shape:
    """The shape of rows with these columns. Raises DataError when none or several fit, naming the way out."""
    have = sorted(columns)
    fitting = fitting_shapes(have)
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(map(shown, have)) or "none"
    if fitting:
        raise DataError(
            place,
            f"the columns ({listed}) fit more than one shape: {' and '.join(fitting)}.",
            f"Say which is meant with data.shape: {' or '.join(fitting)}.",
        )
    if {"role", "content"} <= set(have) or {"from", "value"} <= set(have):
        raise DataError(place, "the rows are single turns.", 'Write one conversation a row: {"messages": [...]}.')
    refuse_convertible(have, place)
    raise DataError(
        place,
        f"the columns ({listed}) fit no known shape.",
        "Map them with data.columns, for example {prompt: question, completion: answer}, "
        f"or rename them; the shapes are {', '.join(SHAPES)}.",
    )


def drop_aliases(row: dict[str, Any], name: str, shape: Shape) -> dict[str, Any]:
    """The row without the other names that ``shape`` knows for a column, since the user has named the one meant."""
    group = next((group for group in _FIELDS[shape] if name in group), ())
    return {key: value for key, value in row.items() if key == name or key not in group}


def reads_column(shape: Shape, name: str) -> bool:
    """Whether a shape has a use for a column of that name."""
    return any(name in group for group in _FIELDS[shape])


def unused_fields(row: Mapping[str, Any], shape: Shape) -> set[str]:
    """Columns of a row that its shape does not read, and keys of its turns as ``messages[].name``."""
    used = {group[0] for group in _FIELDS[shape] if group[0] in row}
    used |= {name for group in _FIELDS[shape] for name in group[1:] if group[0] not in row}
    out = {name for name in row if name not in used}
    keys = {"from", "value"} if shape == "sharegpt" else {"role", "content"}
    for name in used & {"messages", "conversations", "prompt", "completion", "response", "output"}:
        for turn in row[name] if isinstance(row.get(name), list) else ():
            out |= {f"{name}[].{key}" for key in turn if key not in keys | {"train", "loss"} and turn[key] is not None}
    return out


def to_record(
    row: Mapping[str, Any], shape: Shape, where: Where, row_id: int, *, merge_same_role: bool = False
) -> Conversation | Document:
    """One row as a record.

    Two turns of one speaker in a row are refused, unless ``merge_same_role`` joins them with a blank line. Raises
    RowError naming file:line:field when the row does not hold what the shape promises or leaves nothing to train on.
    """
    if shape == "text":
        return Document(text=_text(row, "text", where), row_id=row_id, where=where)
    messages = _READERS[shape](row, where)
    if merge_same_role:
        messages = merge_turns(messages, where)
    check_turns(messages, where)
    tools = _tools(row, where) if reads_column(shape, "tools") else ()
    return Conversation(messages=tuple(messages), row_id=row_id, where=where, tools=tools)


def _text(row: Mapping[str, Any], name: str, where: Where) -> str:
    if name not in row:
        raise RowError(where.at(name), "the column is missing.", "Add it, or map it with data.columns.")
    return filled_text(row[name], where.at(name))


def filled_text(value: Any, where: Where) -> str:
    """A value that is text and not empty; raises RowError for any other."""
    if not isinstance(value, str):
        raise RowError(where, "text is expected.", "Write it as a string.", detail=f"it is {json_type(value)}")
    if not value.strip():
        raise RowError(where, "the text is empty.", "Fill it in, or remove the row.")
    return value


def _one_of(row: Mapping[str, Any], names: tuple[str, ...], where: Where) -> str:
    """Which of several names for one column the row uses; the first when it uses none."""
    present = [name for name in names if name in row]
    if len(present) > 1:
        raise RowError(
            where.at(present[1]),
            f"'{present[0]}' and '{present[1]}' mean the same.",
            f"Remove one, or choose with data.columns: {{{present[0]}: {present[0]}}}.",
        )
    return present[0] if present else names[0]


def _system(row: Mapping[str, Any], where: Where) -> list[Message]:
    """The optional column ``system``; null and the empty string mean that there is none."""
    if row.get("system") in (None, ""):
        return []
    return [Message(role="system", content=_text(row, "system", where))]


def _tools(row: Mapping[str, Any], where: Where) -> tuple[Mapping[str, Any], ...]:
    tools = row.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(where.at("tools"), "a list of objects is expected.", "Write the tools' JSON schemas as a list.")
    return tuple(tools)


def _from_messages(row: Mapping[str, Any], where: Where) -> list[Message]:
    return read_turns(row, "messages", where)


def _from_sharegpt(row: Mapping[str, Any], where: Where) -> list[Message]:
    return [*_system(row, where), *read_turns(row, "conversations", where, ("from", "value"), _SHAREGPT_ROLES)]


def read_turns(
    row: Mapping[str, Any],
    name: str,
    where: Where,
    keys: tuple[str, str] = ("role", "content"),
    roles: Mapping[str, Role] = _CHAT_ROLES,
    *,
    default_train: bool = True,
) -> list[Message]:
    """The turns of a column that holds a list of them; raises RowError naming the turn and its key."""
    if name not in row:
        raise RowError(where.at(name), "the column is missing.", "Add it, or map it with data.columns.")
    value = row[name]
    if not isinstance(value, list):
        fix = f'Write [{{"{keys[0]}": ..., "{keys[1]}": ...}}, ...]; a string that holds JSON is not read.'
        raise RowError(where.at(name), "a list of turns is expected.", fix, detail=f"it is {json_type(value)}")
    if not value:
        raise RowError(where.at(name), "the list of turns is empty.", "Fill it in, or remove the row.")
    return [
        _turn(turn, where.at(f"{name}[{i}]"), keys, roles, default_train=default_train) for i, turn in enumerate(value)
    ]


def _turn(turn: Any, where: Where, keys: tuple[str, str], roles: Mapping[str, Role], *, default_train: bool) -> Message:
    role_key, content_key = keys
    if not isinstance(turn, dict):
        fix = f'Write {{"{role_key}": ..., "{content_key}": ...}}.'
        raise RowError(where, "a turn must be an object.", fix, detail=f"it is {json_type(turn)}")
    for key in keys:
        if key not in turn:
            other = "{messages: conversations}" if role_key == "from" else "{conversations: messages}"
            raise RowError(
                where,
                f"the turn has no '{key}'.",
                f"Add it; turns with the keys of the other chat shape are mapped with data.columns: {other}.",
            )
    name, place = turn[role_key], where.at(f"{where.field}.{content_key}")
    if not isinstance(name, str) or name not in roles:
        detail = f"it is '{shown(name)}'" if isinstance(name, str) else f"it is {json_type(name)}"
        raise RowError(
            where.at(f"{where.field}.{role_key}"), "the role is unknown.", f"Use {', '.join(roles)}.", detail=detail
        )
    role = roles[name]
    if turn.get("tool_calls"):
        raise RowError(where, "tool calls are not read.", "Write the call into the assistant's text.")
    content = turn[content_key]
    if isinstance(content, str) and not content.strip():
        fix = "Fill it in, or remove the row." if role in ("user", "assistant") else "Remove the turn."
        raise RowError(place, f"the {role}'s text is empty.", fix)
    train = _train_flag(turn, role, where, default_train)
    return Message(role=role, content=filled_text(content, place), train=train)


def _train_flag(turn: Mapping[str, Any], role: Role, where: Where, default: bool) -> bool:
    """``train``, or ``loss`` as other tools call it; null, which tables put where nothing was said, means not given."""
    given = [key for key in ("train", "loss") if turn.get(key) is not None]
    if not given:
        return default
    place = where.at(f"{where.field}.{given[0]}")
    if len(given) > 1:
        raise RowError(where, "'train' and 'loss' mean the same.", "Keep one of the two.")
    value = turn[given[0]]
    if not isinstance(value, bool):
        raise RowError(place, "true or false is expected.", "Write true or false, without quotes.")
    if value and role != "assistant":
        raise RowError(place, f"a {role} turn cannot be trained on.", "Only the assistant's turns are; remove the key.")
    return value


def _exchange(row: Mapping[str, Any], where: Where, question: str, answer: str) -> list[Message]:
    return [*_system(row, where), Message(role="user", content=question), Message(role="assistant", content=answer)]


def _from_alpaca(row: Mapping[str, Any], where: Where) -> list[Message]:
    """The user says the instruction and, after a blank line, the input if there is one."""
    question = _text(row, "instruction", where)
    extra = _one_of(row, ("input", "context"), where)
    if row.get(extra) is not None and not (isinstance(row[extra], str) and not row[extra].strip()):
        question += "\n\n" + _text(row, extra, where)
    return _exchange(row, where, question, _text(row, _one_of(row, ("output", "response"), where), where))


def _from_input_output(row: Mapping[str, Any], where: Where) -> list[Message]:
    return _exchange(row, where, _text(row, "input", where), _text(row, "output", where))


def _from_prompt_completion(row: Mapping[str, Any], where: Where) -> list[Message]:
    """Both may be a string or a list of turns; an answer inside the prompt is not trained on unless it says so."""
    answer = _one_of(row, ("completion", "response", "output"), where)
    if isinstance(row.get("prompt"), list):
        prompt = read_turns(row, "prompt", where, default_train=False)
    else:
        prompt = [Message(role="user", content=_text(row, "prompt", where))]
    if isinstance(row.get(answer), list):
        completion = read_turns(row, answer, where)
    else:
        completion = [Message(role="assistant", content=_text(row, answer, where))]
    return [*_system(row, where), *prompt, *completion]


def _from_transcript(row: Mapping[str, Any], where: Where) -> list[Message]:
    """Lines that begin with a speaker open a turn; the white space around a turn is not part of it."""
    name = "transcript" if "transcript" in row or "text" not in row else "text"
    text, place = _text(row, name, where), where.at(name)
    marks = list(_SPEAKER.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        fix = "Begin turns with 'Human:' and 'AI:' or 'Assistant:'; put a system prompt into the column 'system'."
        raise RowError(place, "the transcript does not begin with a speaker.", fix)
    if len({mark[1] for mark in marks} - {"Human"}) > 1:
        fix = "Use one name for the assistant; inside a text, do not begin a line with the other."
        raise RowError(place, "lines begin both with 'AI:' and with 'Assistant:'.", fix)
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    out = []
    for i, (mark, end) in enumerate(zip(marks, ends, strict=True)):
        content = text[mark.end() : end].strip()
        if not content:
            detail = f"turn {i + 1}, '{mark[1]}:'"
            raise RowError(place, "a turn of the transcript is empty.", "Fill it in, or remove it.", detail=detail)
        out.append(Message(role="user" if mark[1] == "Human" else "assistant", content=content))
    return [*_system(row, where), *out]


_READERS: dict[Shape, Callable[[Mapping[str, Any], Where], list[Message]]] = {
    "messages": _from_messages,
    "alpaca": _from_alpaca,
    "prompt-completion": _from_prompt_completion,
    "input-output": _from_input_output,
    "sharegpt": _from_sharegpt,
    "transcript": _from_transcript,
}


def merge_turns(messages: list[Message], where: Where) -> list[Message]:
    """Neighbouring turns of one speaker joined with a blank line; results of several tools stay apart."""
    out: list[Message] = []
    for message in messages:
        if not out or out[-1].role != message.role or message.role == "tool":
            out.append(message)
            continue
        if message.role == "assistant" and out[-1].train != message.train:
            raise RowError(
                where, "two turns to be joined differ in 'train'.", "Give both the same value, or join them yourself."
            )
        joined = f"{out[-1].content}\n\n{message.content}"
        out[-1] = Message(role=message.role, content=joined, train=message.train)
    return out


def check_turns(messages: list[Message], where: Where) -> None:
    """Raise RowError unless the turns make a conversation that can be trained on."""
    spoken = [message for message in messages if message.role != "system"]
    if not spoken:
        raise RowError(where, "there are only system messages.", "Add a user and an assistant turn.")
    if not any(message.role == "assistant" for message in spoken):
        raise RowError(where, "there is no assistant turn.", _NO_ANSWER_FIX)
    for first, second in itertools.pairwise(messages):
        if first.role == second.role and first.role != "tool":
            raise RowError(
                where,
                f"two {first.role} turns stand in a row.",
                "Merge them, or set data.merge_same_role: true, which joins them with a blank line.",
            )
    if any(message.role == "system" for message in messages[1:]):
        raise RowError(where, "a system message is not the first message.", "Move it to the front.")
    if spoken[0].role != "user":
        raise RowError(where, f"the conversation begins with the {spoken[0].role}.", "Begin with what the user says.")
    if messages[-1].role != "assistant":
        raise RowError(
            where, f"the last turn is the {messages[-1].role}'s.", "Remove it, or add the assistant's answer."
        )
    if not any(message.train for message in messages if message.role == "assistant"):
        raise RowError(where, "no assistant turn is trained on.", "Set train: true on one, or remove the row.")
