"""Rows -> records: what each shape means, which columns tell it, and every row that cannot be trained on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.check import RowError
from tunesmith.data.shape import SHAPES, Shape, detect_shape, to_record, unused_fields
from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Where

WHERE = Where("rows.jsonl", 7)
U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
S = {"role": "system", "content": "be kind"}


def turns(row: dict[str, Any], shape: Shape, *, merge: bool = False) -> list[tuple[str, str, bool]]:
    record = to_record(row, shape, WHERE, 4, merge_same_role=merge)
    assert isinstance(record, Conversation)
    assert (record.row_id, record.where) == (4, WHERE)
    return [(m.role, m.content, m.train) for m in record.messages]


def fault(row: dict[str, Any], shape: Shape, *, merge: bool = False) -> RowError:
    with pytest.raises(RowError) as caught:
        to_record(row, shape, WHERE, 0, merge_same_role=merge)
    assert caught.value.cause.endswith(".")
    assert caught.value.fix.endswith(".")
    return caught.value


@pytest.mark.parametrize(
    ("row", "shape", "expected"),
    [
        ({"messages": [S, U, A]}, "messages", ["system:be kind", "user:hi", "assistant:hello"]),
        ({"instruction": "do", "input": "this", "output": "done"}, "alpaca", ["user:do\n\nthis", "assistant:done"]),
        ({"instruction": "do", "input": "", "output": "done"}, "alpaca", ["user:do", "assistant:done"]),
        ({"instruction": "do", "input": None, "response": "done"}, "alpaca", ["user:do", "assistant:done"]),
        ({"instruction": "do", "context": "a", "response": "b"}, "alpaca", ["user:do\n\na", "assistant:b"]),
        ({"prompt": "p", "completion": " c\n"}, "prompt-completion", ["user:p", "assistant: c\n"]),
        ({"prompt": "p", "response": "c"}, "prompt-completion", ["user:p", "assistant:c"]),
        ({"prompt": [S, U], "completion": [A]}, "prompt-completion", ["system:be kind", "user:hi", "assistant:hello"]),
        (
            {"system": "s", "prompt": "p", "completion": [A]},
            "prompt-completion",
            ["system:s", "user:p", "assistant:hello"],
        ),
        ({"input": "i", "output": "o"}, "input-output", ["user:i", "assistant:o"]),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}], "system": "s"},
            "sharegpt",
            ["system:s", "user:x", "assistant:y"],
        ),
        (
            {"conversations": [{"from": "user", "value": "x"}, {"from": "assistant", "value": "y"}], "system": ""},
            "sharegpt",
            ["user:x", "assistant:y"],
        ),
        (
            {"transcript": "\n\nHuman: a\nb\n\nAI: c\nHuman:d\nAI: Human: e"},
            "transcript",
            ["user:a\nb", "assistant:c", "user:d", "assistant:Human: e"],
        ),
        ({"transcript": "Human: a\nAssistant: b", "system": "s"}, "transcript", ["system:s", "user:a", "assistant:b"]),
    ],
)
def test_each_shape_becomes_the_conversation_it_means(row: dict[str, Any], shape: Shape, expected: list[str]) -> None:
    assert [f"{role}:{content}" for role, content, _ in turns(row, shape)] == expected
    assert detect_shape(row, WHERE) == shape


def test_text_is_a_document_and_a_transcript_only_when_told() -> None:
    row = {"text": "Human: a\nAI: b"}
    assert detect_shape(row, WHERE) == "text"
    assert to_record(row, "text", WHERE, 1) == Document(text=row["text"], row_id=1, where=WHERE)
    assert turns(row, "transcript") == [("user", "a", True), ("assistant", "b", True)]


# Detection -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (["messages", "text"], ["messages", "text"]),
        (["prompt", "completion", "text"], ["prompt-completion", "text"]),
        (["prompt", "input", "output"], ["prompt-completion", "input-output"]),
        (["instruction", "input", "output", "text"], ["alpaca", "text"]),
        (["messages", "conversations"], ["messages", "sharegpt"]),
    ],
)
def test_columns_that_fit_two_shapes_are_refused_with_both_named(columns: list[str], named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        detect_shape(columns, WHERE)
    assert " and ".join(named) in caught.value.cause
    assert f"data.shape: {' or '.join(named)}" in caught.value.fix


def test_columns_that_fit_nothing_name_the_way_out() -> None:
    with pytest.raises(DataError) as caught:
        detect_shape(["question", "answer\x1b[31m"], WHERE)
    assert caught.value.place == "rows.jsonl:7"
    assert "(answer\\x1b[31m, question)" in caught.value.cause
    assert "data.columns" in caught.value.fix
    assert all(shape in caught.value.fix for shape in SHAPES)
    with pytest.raises(DataError, match="single turns"):
        detect_shape(["role", "content"], WHERE)


def test_extra_columns_do_not_hide_a_shape() -> None:
    assert detect_shape(["id", "messages", "source"], WHERE) == "messages"
    assert detect_shape(["instruction", "input", "output", "chosen", "rejected"], WHERE) == "alpaca"


def test_what_is_not_used_is_listed() -> None:
    row = {"messages": [{**U, "name": "Ann", "weight": None}, {**A, "train": True}], "id": 3, "tools": []}
    assert unused_fields(row, "messages") == {"id", "messages[].name"}
    assert unused_fields({"transcript": "", "text": ""}, "transcript") == {"text"}
    assert unused_fields({"text": "", "label": 1}, "text") == {"label"}


# Turns that are trained on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["train", "loss"])
def test_a_turn_can_be_kept_out_of_the_loss(key: str) -> None:
    row = {"messages": [U, {**A, key: False}, U, A, U, {**A, key: None}]}
    assert [train for role, _, train in turns(row, "messages") if role == "assistant"] == [False, True, True]


def test_answers_inside_a_prompt_are_not_trained_on_unless_it_says_so() -> None:
    row = {"prompt": [U, A, U, {**A, "train": True}, U], "completion": [A]}
    flags = [train for role, _, train in turns(row, "prompt-completion") if role == "assistant"]
    assert flags == [False, True, True]


def test_two_turns_of_one_speaker_are_joined_only_when_asked() -> None:
    row = {"messages": [U, U, A, A]}
    error = fault(row, "messages")
    assert error.cause == "two user turns stand in a row."
    assert "data.merge_same_role: true" in error.fix
    assert turns(row, "messages", merge=True) == [("user", "hi\n\nhi", True), ("assistant", "hello\n\nhello", True)]
    mixed = {"messages": [U, A, {**A, "train": False}]}
    assert "differ in 'train'" in fault(mixed, "messages", merge=True).cause


def test_several_tool_results_stand_apart() -> None:
    tool = {"role": "tool", "content": "4"}
    row = {"messages": [U, A, tool, tool, A], "tools": [{"name": "add"}]}
    assert [role for role, *_ in turns(row, "messages", merge=True)] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    record = to_record(row, "messages", WHERE, 0)
    assert isinstance(record, Conversation)
    assert record.tools == ({"name": "add"},)


# Rows that cannot be trained on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape", "field", "cause"),
    [
        ({"prompt": "p"}, "prompt-completion", "completion", "the column is missing"),
        ({"input": "p"}, "input-output", "output", "the column is missing"),
        ({}, "messages", "messages", "the column is missing"),
        ({"prompt": "p", "completion": 4}, "prompt-completion", "completion", "text is expected (it is a number)"),
        ({"prompt": True, "completion": "c"}, "prompt-completion", "prompt", "text is expected (it is true or false)"),
        ({"prompt": "p", "completion": None}, "prompt-completion", "completion", "text is expected (it is null)"),
        ({"text": ["a"]}, "text", "text", "text is expected (it is a list)"),
        ({"text": " \n"}, "text", "text", "the text is empty"),
        ({"prompt": "p", "completion": ""}, "prompt-completion", "completion", "the text is empty"),
        ({"prompt": "p", "completion": " \n\t"}, "prompt-completion", "completion", "the text is empty"),
        ({"instruction": "i", "input": 3, "output": "o"}, "alpaca", "input", "text is expected"),
        ({"instruction": "i", "output": "o", "response": "r"}, "alpaca", "response", "mean the same"),
        ({"instruction": "i", "input": "a", "context": "b", "output": "o"}, "alpaca", "context", "mean the same"),
        ({"messages": "[]"}, "messages", "messages", "a list of turns is expected (it is a string)"),
        ({"messages": []}, "messages", "messages", "the list of turns is empty"),
        ({"messages": [U, "hello"]}, "messages", "messages[1]", "a turn must be an object"),
        ({"messages": [U, {"role": "assistant"}]}, "messages", "messages[1]", "the turn has no 'content'"),
        ({"messages": [{"from": "human", "value": "x"}]}, "messages", "messages[0]", "the turn has no 'role'"),
        ({"messages": [U, {**A, "content": 5}]}, "messages", "messages[1].content", "text is expected"),
        ({"messages": [U, {**A, "content": " "}]}, "messages", "messages[1].content", "the assistant's text is empty"),
        ({"messages": [U, {**A, "role": "bot\n"}]}, "messages", "messages[1].role", "unknown (it is 'bot\\n')"),
        ({"messages": [U, {**A, "role": 1}]}, "messages", "messages[1].role", "unknown (it is a number)"),
        ({"messages": [U, {**A, "train": "no"}]}, "messages", "messages[1].train", "true or false is expected"),
        ({"messages": [U, {**A, "loss": 0}]}, "messages", "messages[1].loss", "true or false is expected"),
        ({"messages": [U, {**A, "loss": True, "train": True}]}, "messages", "messages[1]", "mean the same"),
        ({"messages": [{**U, "train": True}, A]}, "messages", "messages[0].train", "cannot be trained on"),
        ({"messages": [U, {**A, "tool_calls": [{}]}]}, "messages", "messages[1]", "tool calls are not read"),
        ({"messages": [S]}, "messages", None, "only system messages"),
        ({"messages": [S, U]}, "messages", None, "no assistant turn"),
        ({"messages": [U, S, A]}, "messages", None, "a system message is not the first"),
        ({"messages": [S, S, U, A]}, "messages", None, "two system turns"),
        ({"messages": [U, U, A]}, "messages", None, "two user turns stand in a row"),
        ({"messages": [U, A, A]}, "messages", None, "two assistant turns stand in a row"),
        ({"messages": [S, A]}, "messages", None, "begins with the assistant"),
        ({"messages": [U, A, U]}, "messages", None, "the last turn is the user's"),
        ({"messages": [U, {**A, "train": False}]}, "messages", None, "no assistant turn is trained on"),
        ({"messages": [U, A], "tools": "x"}, "messages", "tools", "a list of objects is expected"),
        ({"prompt": [U], "completion": []}, "prompt-completion", "completion", "the list of turns is empty"),
        ({"conversations": [{"from": "bard", "value": "x"}]}, "sharegpt", "conversations[0].from", "unknown"),
        ({"conversations": [U, A]}, "sharegpt", "conversations[0]", "the turn has no 'from'"),
        ({"transcript": "hello\nHuman: x\nAI: y"}, "transcript", "transcript", "does not begin with a speaker"),
        ({"transcript": "Human: x\nAI:\nHuman: z\nAI: y"}, "transcript", "transcript", "empty (turn 2, 'AI:')"),
        ({"transcript": "Human: x\nAI: y\nAssistant: z"}, "transcript", "transcript", "both with 'AI:' and with"),
        ({"text": "Human: x"}, "transcript", None, "no assistant turn"),
        ({"system": 4, "input": "x", "output": "y"}, "input-output", "system", "text is expected"),
    ],
)
def test_bad_rows_name_line_field_cause_and_fix(
    row: dict[str, Any], shape: Shape, field: str | None, cause: str
) -> None:
    error = fault(row, shape)
    assert error.place == ("rows.jsonl:7" if field is None else f"rows.jsonl:7:{field}")
    assert cause in error.cause


TURN = st.builds(
    lambda role, content, train: {"role": role, "content": content} | ({} if train is None else {"train": train}),
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.sampled_from(["a", "b c", "\n\nd", " "]),
    st.sampled_from([None, False, None]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TURN, max_size=6), st.booleans())
def test_whatever_is_accepted_is_a_trainable_conversation(messages: list[dict[str, Any]], merge: bool) -> None:
    try:
        out = turns({"messages": messages}, "messages", merge=merge)
    except RowError:
        return
    roles = [role for role, *_ in out]
    assert roles[-1] == "assistant"
    assert roles[1 if roles[0] == "system" else 0] == "user"
    assert "system" not in roles[1:]
    assert all(a != b or a == "tool" for a, b in itertools.pairwise(roles))
    assert any(train for role, _, train in out if role == "assistant")
    # Nothing that was said is lost, merged or not.
    assert "\n\n".join(content for _, content, _ in out) == "\n\n".join(turn["content"] for turn in messages)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["human", "gpt"]), st.sampled_from(["a", "b"])), min_size=1, max_size=5),
)
def test_one_conversation_reads_alike_in_three_shapes(said: list[tuple[str, str]]) -> None:
    roles = {"human": "user", "gpt": "assistant"}
    speakers = {"human": "Human", "gpt": "AI"}
    rows: list[tuple[dict[str, Any], Shape]] = [
        ({"messages": [{"role": roles[who], "content": what} for who, what in said]}, "messages"),
        ({"conversations": [{"from": who, "value": what} for who, what in said]}, "sharegpt"),
        ({"transcript": "\n".join(f"{speakers[who]}: {what}" for who, what in said)}, "transcript"),
    ]
    outcomes = []
    for row, shape in rows:
        try:
            outcomes.append(str(turns(row, shape)))
        except RowError as error:
            outcomes.append(error.cause)
    assert len(set(outcomes)) == 1
