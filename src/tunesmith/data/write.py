"""Records -> rows of a target format; a row that would be read back as something else is refused, never bent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tunesmith.data.check import RowError
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.hh import is_hh_prompt
from tunesmith.data.shape import Shape, to_record
from tunesmith.records import Conversation, Document, Message, Preference

Target = Literal["messages", "alpaca", "prompt-completion", "sharegpt", "preference", "text"]
TARGETS: tuple[Target, ...] = get_args(Target)
Record = Conversation | Document | Preference
_ONE_EXCHANGE_FIX = "Convert to messages, sharegpt or prompt-completion, which hold them; or drop the row."
_SHAREGPT_NAMES = {"user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Form:
    """How all rows of one file are written, so that every row has the same columns of the same types."""

    target: Target
    suffix: str
    as_messages: bool = False
    """Prompts and answers are lists of turns: some row has more than a user's turn and an answer."""
    has_system: bool = False
    """Texts are written, and a column ``system`` beside them."""
    has_ranks: bool = False
    """A column ``ranks`` holds the rank of each assistant turn, from a message tree."""

    @property
    def columns(self) -> list[str]:
        """The columns in their order."""
        names = {
            "messages": ["messages"],
            "alpaca": ["instruction", "input", "output"],
            "prompt-completion": ["prompt", "completion"],
            "sharegpt": ["conversations"],
            "preference": ["prompt", "chosen", "rejected"],
            "text": ["text"],
        }[self.target]
        return [*(["system"] if self.has_system else []), *names, *(["ranks"] if self.has_ranks else [])]


def choose_form(records: Iterable[Record], target: Target, suffix: str, *, has_ranks: bool = False) -> Form:
    """Look at all records once: texts where every one of them fits, else turns; a cell of CSV holds a text only."""
    as_messages = has_system = False
    if target in ("alpaca", "prompt-completion", "preference"):
        for record in records:
            if isinstance(record, Document):
                continue
            parts = _parts(record)
            has_system = has_system or parts[0][0].role == "system"
            as_messages = as_messages or not _is_plain(parts) or _has_tools(record)
            # As a text it would be read as a dialogue of several turns.
            as_messages = as_messages or (target == "preference" and is_hh_prompt(parts[0][-1].content))
    turns = as_messages and target != "alpaca" and suffix != ".csv"
    return Form(target, suffix, turns, has_system and not turns, has_ranks and suffix != ".csv")


def to_row(record: Record, form: Form) -> dict[str, Any]:
    """A record as a row. Raises RowError with what the target, or the kind of file, cannot hold."""
    _refuse_kind(record, form)
    row = _WRITERS[form.target](record, form)
    check_reads_back(row, record, form)
    return row


def _refuse_kind(record: Record, form: Form) -> None:
    where = record.where
    if isinstance(record, Document):
        if form.target != "text":
            fix = "Convert to text; if the text is a transcript, pass --shape transcript."
            raise RowError(where, f"raw text is no conversation, which {form.target} needs.", fix)
    elif isinstance(record, Conversation):
        if form.target == "preference":
            raise RowError(where, "one answer alone makes no preference.", "Give rows with two answers to a prompt.")
        if record.tools and (form.target in ("alpaca", "text") or form.suffix in (".csv", ".parquet")):
            place = form.target if form.target in ("alpaca", "text") else form.suffix
            fix = "Convert to messages in a .jsonl or .json file, which hold them."
            raise RowError(where, f"the row's tools have no place in {place}.", fix)


def _parts(record: Conversation | Preference) -> list[tuple[Message, ...]]:
    """Prompt and answers; the answer of a conversation is its last turn."""
    if isinstance(record, Preference):
        return [record.prompt, record.chosen, record.rejected]
    return [record.messages[:-1], record.messages[-1:]]


def _is_plain(parts: list[tuple[Message, ...]]) -> bool:
    """Whether texts say it all: a user's turn, perhaps behind a system turn, and answers of one trained turn."""
    prompt, *answers = parts
    roles = [message.role for message in prompt]
    return roles in (["user"], ["system", "user"]) and all(
        len(answer) == 1 and answer[0].role == "assistant" and answer[0].train for answer in answers
    )


def _has_tools(record: Record) -> bool:
    return isinstance(record, Conversation) and bool(record.tools)


def _turn(message: Message, *, default_train: bool = True) -> dict[str, Any]:
    """A turn as an object; ``train`` is written where it is not what a reader takes it for."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "assistant" and message.train != default_train:
        turn["train"] = message.train
    return turn


def _tools(record: Record) -> dict[str, Any]:
    return {"tools": [dict(tool) for tool in record.tools]} if isinstance(record, Conversation) and record.tools else {}


def _texts(record: Conversation | Preference, form: Form) -> tuple[dict[str, Any], list[str]]:
    """The column ``system``, and the texts of the user's turn and of the answers. Raises RowError for more turns."""
    parts = _parts(record)
    if not _is_plain(parts):
        name = form.target if form.target == "alpaca" else f"{form.target} in {form.suffix}"
        answers = parts[1:]
        if [message.role for message in parts[0] if message.role != "system"] == ["user"] and all(
            len(answer) == 1 for answer in answers
        ):
            fix = "Convert to messages or sharegpt, which hold the flag; or drop the row."
            raise RowError(record.where, f"{name} cannot keep a turn out of the loss.", fix)
        raise RowError(record.where, f"{name} holds one exchange, not several turns.", _ONE_EXCHANGE_FIX)
    prompt, *answers = parts
    system = {"system": prompt[0].content if len(prompt) == 2 else ""} if form.has_system else {}
    return system, [prompt[-1].content, *(answer[0].content for answer in answers)]


def _to_messages(record: Record, form: Form) -> dict[str, Any]:
    assert isinstance(record, Conversation)
    return {"messages": [_turn(message) for message in record.messages], **_tools(record)}


def _to_sharegpt(record: Record, form: Form) -> dict[str, Any]:
    assert isinstance(record, Conversation)
    turns = []
    for message in record.messages:
        flag = {"train": False} if message.role == "assistant" and not message.train else {}
        turns.append({"from": _SHAREGPT_NAMES.get(message.role, message.role), "value": message.content, **flag})
    return {"conversations": turns, **_tools(record)}


def _to_alpaca(record: Record, form: Form) -> dict[str, Any]:
    assert isinstance(record, Conversation)
    system, (question, answer) = _texts(record, form)
    return {**system, "instruction": question, "input": "", "output": answer}


def _to_prompt_completion(record: Record, form: Form) -> dict[str, Any]:
    assert isinstance(record, Conversation)
    if form.as_messages:
        prompt, completion = _parts(record)
        out: dict[str, Any] = {"prompt": [_turn(message, default_train=False) for message in prompt]}
        return {**out, "completion": [_turn(message) for message in completion], **_tools(record)}
    system, (question, answer) = _texts(record, form)
    return {**system, "prompt": question, "completion": answer}


def _to_preference(record: Record, form: Form) -> dict[str, Any]:
    assert isinstance(record, Preference)
    names = ("prompt", "chosen", "rejected")
    if form.as_messages:
        prompt, *answers = ([_turn(message) for message in part] for part in _parts(record))
        # A prompt is compared, not trained on, whatever its turns are marked with.
        plain = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
        return dict(zip(names, (plain, *answers), strict=True))
    system, texts = _texts(record, form)
    return {**system, **dict(zip(names, texts, strict=True))}


def _to_text(record: Record, form: Form) -> dict[str, Any]:
    """Raw text as it is, and a conversation as a transcript of ``Human:`` and ``Assistant:``."""
    if isinstance(record, Document):
        return {"text": record.text}
    assert isinstance(record, Conversation)
    where = record.where
    for message in record.messages:
        if message.role in ("system", "tool"):
            fix = "Convert to messages or sharegpt, which hold it; or drop the row."
            raise RowError(where, f"a transcript has no place for a {message.role} turn.", fix)
        if not message.train and message.role == "assistant":
            fix = "Convert to messages or sharegpt, which hold the flag; or drop the row."
            raise RowError(where, "text cannot keep a turn out of the loss.", fix)
    speakers = {"user": "Human", "assistant": "Assistant"}
    return {"text": "\n\n".join(f"{speakers[message.role]}: {message.content}" for message in record.messages)}


_WRITERS: dict[Target, Callable[[Record, Form], dict[str, Any]]] = {
    "messages": _to_messages,
    "alpaca": _to_alpaca,
    "prompt-completion": _to_prompt_completion,
    "sharegpt": _to_sharegpt,
    "preference": _to_preference,
    "text": _to_text,
}


def check_reads_back(row: dict[str, Any], record: Record, form: Form) -> None:
    """Raise RowError unless reading the row gives the record again: what is said, by whom, and what is trained on."""
    fix = "Convert to messages in a .jsonl file, which holds any row; or drop the row."
    cause = f"a reader of {form.target} would take the row for something else."
    back: Record
    try:
        if isinstance(record, Preference):
            feedback = read_feedback(FeedbackRow(row, record.where, record.row_id, {}, False, set()), "preference")
            assert isinstance(feedback, Preference)
            back = feedback
        else:
            shape: Shape = form.target if form.target != "preference" else "messages"
            if form.target == "text" and isinstance(record, Conversation):
                shape = "transcript"
            back = to_record(row, shape, record.where, record.row_id)
    except RowError as error:
        raise RowError(record.where, cause, fix, detail=f"read back, {error.cause.rstrip('.')}") from None
    if meaning(back) != meaning(record):
        raise RowError(record.where, cause, fix, detail="read back, a text differs")


def meaning(record: Record) -> Any:
    """What a record says, without where it was read: equal for records that train alike."""
    if isinstance(record, Document):
        return record.text
    if isinstance(record, Preference):
        answers = [_turns_said(part, flags=True) for part in (record.chosen, record.rejected)]
        return [_turns_said(record.prompt, flags=False), *answers]
    return [_turns_said(record.messages, flags=True), [dict(tool) for tool in record.tools]]


def _turns_said(messages: tuple[Message, ...], *, flags: bool) -> list[tuple[str, str, bool]]:
    # The flag says something at an answer only.
    return [(m.role, m.content, m.train or not flags or m.role != "assistant") for m in messages]
