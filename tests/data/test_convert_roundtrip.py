"""messages -> a target -> messages: equal wherever the target can hold the row, refused wherever it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data import write
from tunesmith.data.check import RowError
from tunesmith.data.convert import convert
from tunesmith.data.shape import Shape, to_record
from tunesmith.data.sources import ReadOptions
from tunesmith.data.write import TARGETS, Form, Target, choose_form, meaning, to_row
from tunesmith.records import Conversation, Message, Preference, Where

WHERE = Where("rows.jsonl", 1)
DROP = ReadOptions(drop_bad_rows=True)
# Any text that a row may hold: no half surrogate, no NUL, not blank. Marks of the formats come up often.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12),
    st.sampled_from(
        ["Human: x", "a\n\nAssistant: b", " a", "b\n", 'c,"d"\r\ne', "\r", "null", "a\n\n\nb", "AI:", "[]", "="]
    ),
).filter(lambda text: bool(text.strip()))
PLAIN = st.text("abc xyz-", min_size=1, max_size=8).map(lambda text: f"a{text}a")


@st.composite
def chats(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXTS) -> dict[str, Any]:
    """A row of messages that can be trained on."""
    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({"role": "system", "content": draw(texts)})
    exchanges = draw(st.sampled_from([1, 1, 2, 3]))
    for i in range(exchanges):
        turns.append({"role": "user", "content": draw(texts)})
        answer = {"role": "assistant", "content": draw(texts)}
        if i < exchanges - 1 and draw(st.booleans()):
            answer["train"] = False
        turns.append(answer)
    tools = {"tools": [{"name": draw(texts)}]} if draw(st.integers(0, 4)) == 0 else {}
    return {"messages": turns, **tools}


def record_of(row: dict[str, Any], shape: Shape = "messages") -> Conversation:
    record = to_record(row, shape, WHERE, 0)
    assert isinstance(record, Conversation)
    return record


def can_hold(row: dict[str, Any], target: Target) -> bool:
    """What each target holds of plain texts, said anew and from the row alone."""
    turns = row["messages"]
    flags = [turn for turn in turns if "train" in turn]
    if target == "alpaca":
        return sum(turn["role"] == "user" for turn in turns) == 1 and not flags and "tools" not in row
    if target == "text":
        return turns[0]["role"] != "system" and not flags and "tools" not in row
    return target != "preference"


SHAPES: dict[Target, Shape] = {
    "messages": "messages", "alpaca": "alpaca", "prompt-completion": "prompt-completion", "sharegpt": "sharegpt",
    "text": "transcript",
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(chats(), min_size=1, max_size=3), st.sampled_from(list(SHAPES)))
def test_a_row_that_is_written_reads_back_as_it_was(rows: list[dict[str, Any]], target: Target) -> None:
    records = [record_of(row) for row in rows]
    form = choose_form(records, target, ".jsonl")
    for row, record in zip(rows, records, strict=True):
        try:
            out = to_row(record, form)
        except RowError:
            assert target in ("text", "alpaca")
            continue
        assert can_hold(row, target)
        back = record_of(json.loads(json.dumps(out)), SHAPES[target])
        assert [(m.role, m.content) for m in back.messages] == [(t["role"], t["content"]) for t in row["messages"]]
        assert [m.train for m in back.messages if m.role == "assistant"] == [
            turn.get("train", True) for turn in row["messages"] if turn["role"] == "assistant"
        ]
        assert list(back.tools) == row.get("tools", [])
        assert list(out) == [name for name in form.columns if name in out] + (["tools"] if "tools" in out else [])


@settings(max_examples=100, deadline=None)
@given(st.lists(chats(PLAIN), min_size=1, max_size=3), st.sampled_from(TARGETS))
def test_a_row_is_refused_only_where_the_target_cannot_hold_it(rows: list[dict[str, Any]], target: Target) -> None:
    records = [record_of(row) for row in rows]
    form = choose_form(records, target, ".jsonl")
    for row, record in zip(rows, records, strict=True):
        if can_hold(row, target):
            to_row(record, form)
        else:
            with pytest.raises(RowError) as caught:
                to_row(record, form)
            assert caught.value.fix.endswith(".")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(chats(), min_size=1, max_size=4),
    st.sampled_from(list(SHAPES)),
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]),
)
def test_files_of_every_kind_come_back(tmp_path: Path, rows: list[dict[str, Any]], target: Target, suffix: str) -> None:
    if suffix == ".csv" and target in ("messages", "sharegpt"):
        return
    first, there, back = tmp_path / "rows.jsonl", tmp_path / f"there{suffix}", tmp_path / "back.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    expected = [meaning(record_of(row)) for row in rows if writes(row, rows, target, suffix)]
    if not expected:
        return
    done = convert(str(first), there, target, DROP, overwrite=True)
    assert done.rows_read == done.rows_written + sum(done.rows_dropped.values())
    convert(str(there), back, "messages", ReadOptions(), shape=SHAPES[target], overwrite=True)
    found = [meaning(record_of(json.loads(line))) for line in back.read_text(encoding="utf-8").split("\n")[:-1]]
    assert found == expected


def writes(row: dict[str, Any], rows: list[dict[str, Any]], target: Target, suffix: str) -> bool:
    form = choose_form([record_of(each) for each in rows], target, suffix)
    try:
        to_row(record_of(row), form)
    except RowError:
        return False
    return True


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]))
def test_documents_come_back(tmp_path: Path, texts: list[str], suffix: str) -> None:
    first, there, back = tmp_path / "rows.jsonl", tmp_path / f"there{suffix}", tmp_path / "back.jsonl"
    first.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    convert(str(first), there, "text", ReadOptions(), overwrite=True)
    convert(str(there), back, "text", ReadOptions(), overwrite=True)
    assert [json.loads(line)["text"] for line in back.read_text(encoding="utf-8").split("\n")[:-1]] == texts


SIDES = st.one_of(
    st.tuples(TEXTS).map(lambda t: [t[0]]), st.lists(TEXTS, min_size=3, max_size=3)
)  # answers of one turn, or of an answer, a question and an answer


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=1) | st.lists(TEXTS, min_size=3, max_size=3), SIDES, SIDES, st.booleans())
def test_pairs_come_back(prompt: list[str], chosen: list[str], rejected: list[str], system: bool) -> None:
    def turns(texts: list[str], first: int, train: bool) -> tuple[Message, ...]:
        roles = ("user", "assistant")
        return tuple(
            Message(role=roles[(i + first) % 2], content=text, train=train or roles[(i + first) % 2] == "user")
            for i, text in enumerate(texts)
        )

    if chosen == rejected:
        return
    head = (Message(role="system", content="s"),) if system else ()
    pair = Preference(
        prompt=head + turns(prompt, 0, False),
        chosen=turns(chosen, 1, True),
        rejected=turns(rejected, 1, True),
        row_id=0,
        where=WHERE,
    )
    form = choose_form([pair], "preference", ".jsonl")
    # Writing reads back by itself; one text alone cannot be mistaken for a dialogue of several turns.
    row = to_row(pair, form)
    assert form.as_messages == (len(prompt) + len(chosen) + len(rejected) > 3)
    assert isinstance(row["prompt"], list) == form.as_messages


def test_a_writer_that_loses_something_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a "}]})

    def strips(record: Any, form: Form) -> dict[str, Any]:
        return {"messages": [{"role": m.role, "content": m.content.strip()} for m in record.messages]}

    monkeypatch.setitem(write._WRITERS, "messages", strips)
    with pytest.raises(RowError, match="take the row for something else"):
        to_row(record, Form("messages", ".jsonl"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("hi\nHuman: and you?", "read back, the last turn is the user's"),
        ("hello ", "read back, a text differs"),
        ("a\nAssistant: b", "read back, two assistant turns"),
        ("a\nAI: b", "read back, lines begin both"),
    ],
)
def test_a_transcript_that_would_read_otherwise_is_refused(content: str, says: str) -> None:
    record = record_of({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]})
    with pytest.raises(RowError) as caught:
        to_row(record, Form("text", ".jsonl"))
    assert "a reader of text would take the row for something else" in caught.value.cause
    assert says in caught.value.cause
    # Behind the speaker's name it begins no line.
    record = record_of({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "AI: x"}]})
    assert to_row(record, Form("text", ".jsonl")) == {"text": "Human: hi\n\nAssistant: AI: x"}


def test_a_prompt_that_looks_like_a_dialogue_is_written_as_a_turn() -> None:
    def pair(prompt: str) -> Preference:
        answers = [(Message(role="assistant", content=text),) for text in ("a", "b")]
        question = (Message(role="user", content=prompt),)
        return Preference(prompt=question, chosen=answers[0], rejected=answers[1], row_id=0, where=WHERE)

    dialogue = pair("Human: x\n\nAssistant:")
    assert not choose_form([pair("x")], "preference", ".jsonl").as_messages
    form = choose_form([pair("x"), dialogue], "preference", ".jsonl")
    assert to_row(dialogue, form)["prompt"] == [{"role": "user", "content": "Human: x\n\nAssistant:"}]
    with pytest.raises(RowError, match="something else"):
        to_row(dialogue, choose_form([dialogue], "preference", ".csv"))
