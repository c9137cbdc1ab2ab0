"""Files of prompts: every shape gives the same turns, every fault its place, copies are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_data
from tunesmith.data.check import RowError
from tunesmith.data.prompts import load_prompts
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Message

U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
MORE = {"role": "user", "content": "and?"}
HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant:"


def write(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(messages: tuple[Message, ...]) -> list[str]:
    return [f"{turn.role}: {turn.content}" for turn in messages]


HI, TALK = ["user: hi"], ["user: hi", "assistant: hello", "user: and?"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "hi"}, HI),
        ({"prompt": "hi", "system": "s"}, ["system: s", *HI]),
        ({"prompt": "hi", "system": ""}, HI),
        ({"prompt": [U, A, MORE]}, TALK),
        ({"prompt": HH}, TALK),
        ({"prompt": "hi", "chosen": "a", "rejected": "a"}, HI),
        ({"prompt": "hi", "completion": "x", "label": True}, HI),
        ({"messages": [U]}, HI),
        ({"messages": [U, A]}, HI),
        ({"messages": [U, A, MORE]}, TALK),
        ({"messages": [U, A, MORE, A]}, TALK),
        ({"messages": [{"role": "system", "content": "s"}, U, A]}, ["system: s", *HI]),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "x"}], "system": "s"},
         ["system: s", *HI]),
        ({"instruction": "do", "input": "it", "output": "x"}, ["user: do\n\nit"]),
        ({"instruction": "do", "input": ""}, ["user: do"]),
        ({"input": "hi", "output": "x"}, HI),
        ({"chosen": HH + " a", "rejected": HH + " b"}, TALK),
    ],
)  # fmt: skip
def test_every_shape_gives_its_prompt(row: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    (prompt,) = load_prompts(write(tmp_path, [row]))
    assert said(prompt.messages) == expected
    assert prompt.messages[-1].role == "user"
    # What stands in a prompt is never trained on.
    assert not any(turn.train for turn in prompt.messages if turn.role == "assistant")


@pytest.mark.parametrize(
    ("row", "place", "cause"),
    [
        ({"text": "hi"}, "", "no prompt"),
        ({"prompt": None}, "", "no prompt"),
        ({"prompt": "  "}, ":prompt", "empty"),
        ({"prompt": 3}, ":prompt", "text is expected"),
        ({"prompt": [U, A]}, ":prompt", "ends with the assistant's"),
        ({"prompt": []}, ":prompt", "the list of turns is empty"),
        ({"prompt": [A, U]}, ":prompt", "begins with the assistant"),
        ({"messages": [A]}, ":messages", "nothing before the answer"),
        ({"messages": [U, A, A]}, ":messages", "ends with the assistant's"),
        ({"messages": [U, U]}, ":messages", "two user turns"),
        ({"messages": [U, {"role": "system", "content": "s"}]}, ":messages", "ends with the system's"),
        ({"messages": [{"role": "poet", "content": "s"}]}, ":messages[0].role", "unknown"),
        ({"messages": [U], "prompt": "hi"}, ":prompt", "both hold a prompt"),
        ({"chosen": HH + " a", "rejected": HH + " a"}, ":rejected", "are the same"),
    ],
)
def test_every_fault_names_its_place(row: dict[str, Any], place: str, cause: str, tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "fine"}, row])
    with pytest.raises(RowError) as caught:
        load_prompts(path)
    assert caught.value.place.split(" (")[0] == f"{path}:2{place}"
    assert cause in caught.value.cause and caught.value.fix.endswith(".")
    dropped = load_prompts(path, on_bad_row="drop")
    assert [said(one.messages) for one in dropped] == [["user: fine"]]
    assert sum(dropped.rows_dropped.values()) == 1 and len(dropped.notes()) == 1


def test_faults_are_shown_together(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "a"}, {"prompt": ""}, {"text": "x"}])
    with pytest.raises(DataError, match=r"2 of 3 rows are faulty"):
        load_prompts(path)
    with pytest.raises(DataError, match=r"all 1 rows are faulty"):
        load_prompts(write(tmp_path, [{"prompt": ""}]), on_bad_row="drop")


def test_copies_are_asked_once_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "a"}, {"prompt": "b"}, {"messages": [{"role": "user", "content": "a"}, A]}])
    loaded = load_prompts(path)
    assert [one.row_id for one in loaded] == [0, 1]
    assert (loaded.num_rows, loaded.num_copies) == (3, 1)
    assert loaded.copies == ((f"{path}:3", f"{path}:1"),)
    # A system message makes another prompt of the same words.
    assert load_prompts(write(tmp_path, [{"prompt": "a"}, {"prompt": "a", "system": "s"}])).num_copies == 0


def test_text_holds_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n\n\n\n  second \nthird")
    loaded = load_prompts(path)
    assert [(one.messages[0].content, one.where.line) for one in loaded] == [("first", 1), ("second", 5), ("third", 6)]
    assert len(load_prompts(path, limit=2)) == 2
    path.write_bytes(b"fine\n\xff\n")
    with pytest.raises(RowError, match=r"byte 0xff at offset 5"):
        load_prompts(path)


def test_columns_are_named_as_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "hi", "prompt": "not this"}])
    assert said(load_prompts(path, {"prompt": "question"})[0].messages) == HI
    with pytest.raises(RowError, match="question"):
        load_prompts(write(tmp_path, [{"question": ""}]), {"prompt": "question"})
    with pytest.raises(DataError, match="Did you mean 'question'"):
        load_prompts(write(tmp_path, [{"question": "", "prompt": "x"}]), {"system": "questio"})
    with pytest.raises(ConfigError, match="Did you mean 'prompt'"):
        load_prompts(path, {"promt": "question"})
    both = write(tmp_path, [{"messages": [U], "prompt": "x"}])
    assert said(load_prompts(both, {"messages": "messages"})[0].messages) == HI


def test_the_real_files_give_their_prompts() -> None:
    loaded = load_prompts(shared_data("instructions/preferences.json"))
    assert loaded.num_rows == len(loaded) + loaded.num_copies and len(loaded) > 700
    pairs = load_prompts(shared_data("hh_rlhf/harmless_base.jsonl"), limit=200, on_bad_row="drop")
    assert len(pairs) + pairs.num_copies + sum(pairs.rows_dropped.values()) == 200
    assert all(one.messages[-1].role == "user" for one in pairs)
