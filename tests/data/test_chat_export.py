"""Chat exports -> conversations: order, sides, what is left out, and exports that cannot be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tunesmith.data.examples
from tunesmith.data.convert import Converted, convert
from tunesmith.data.sources import ReadOptions
from tunesmith.errors import DataError

EXAMPLE = Path(tunesmith.data.examples.__path__[0]) / "chat_export.csv"
COLUMNS = ("thread", "time", "speaker", "message")


def export(path: Path, rows: list[tuple[Any, ...]], columns: tuple[str, ...] = COLUMNS) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([columns, *rows])
    return path


def run(source: Path, assistant: str = "Oda", **options: Any) -> tuple[Converted, list[list[str]]]:
    output = source.with_name("out.jsonl")
    output.unlink(missing_ok=True)
    options = {"assistants": (assistant,) if assistant else (), **options}
    done = convert(str(source), output, "messages", ReadOptions(**options))
    rows = [json.loads(line)["messages"] for line in output.read_text(encoding="utf-8").splitlines()]
    return done, [[f"{turn['role'][0]}: {turn['content']}" for turn in row] for row in rows]


def refused(source: Path, **options: Any) -> DataError:
    source.with_name("out.jsonl").unlink(missing_ok=True)
    before = set(source.parent.iterdir())
    with pytest.raises(DataError) as caught:
        run(source, **options)
    assert set(source.parent.iterdir()) == before
    return caught.value


def test_the_shipped_export_says_what_it_leaves_out(tmp_path: Path) -> None:
    done = convert(str(EXAMPLE), tmp_path / "out.jsonl", "messages", ReadOptions(assistants=("Oda",)))
    assert (done.rows_read, done.rows_written, done.ignored_columns) == (27, 6, ["channel"])
    assert done.left_out == {
        "message of the user after the last answer": 1,
        "message of the assistant before the first user's": 1,
        "thread without the assistant": 1,
        "thread without a user": 1,
    }
    with EXAMPLE.open(encoding="utf-8", newline="") as stream:
        written = {row["message"] for row in csv.DictReader(stream)}
    text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    turns = [turn for line in text.splitlines() for turn in json.loads(line)["messages"]]
    assert len([said for said in written if any(said in turn["content"] for turn in turns)]) == 27 - 2 - 2 - 1


def test_threads_are_sorted_by_time_and_neighbours_joined(tmp_path: Path) -> None:
    rows = [
        (2, "2024-01-02T10:00:00Z", "Ben", "late"),
        (1, "2024-01-01T10:05:00+01:00", "Oda", "two"),
        (1, "2024-01-01T09:01:00Z", "Ben", "one"),
        (1, "2024-01-01T09:06:00Z", "Oda", "three"),
        (2, "2024-01-02T10:00:00Z", "Oda", "same minute, after it in the file"),
    ]
    source = export(tmp_path / "chat.json", rows)
    assert run(source)[1] == [["u: late", "a: same minute, after it in the file"], ["u: one", "a: two\nthree"]]
    assert run(source, separator=" | ")[1][1] == ["u: one", "a: two | three"]
    # Seen from the other side, the answer that nobody waited for is the user's.
    assert "2: thread without an answer to the user" in refused(source, assistants=("Ben",)).cause


def test_several_people_may_be_the_assistant_and_columns_have_any_name(tmp_path: Path) -> None:
    columns = ("room", "when", "who", "said", "text")
    rows = [("r", "1.5", "x", "q", "-"), ("r", "2", "Ana", "a", "-"), ("r", "3", "Ben", "b", "-")]
    source = export(tmp_path / "chat.csv", rows, columns)
    names = {"thread": "room", "time": "when", "speaker": "who", "text": "said"}
    done, chats = run(source, columns=names, assistants=("Ana", "Ben"))
    assert chats == [["u: q", "a: a\nb"]]
    assert done.ignored_columns == ["text"]
    # Whoever names a side means an export.
    assert "no column is the speaker" in refused(source).cause


MESSAGES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from(["Oda", "Ben", "Cy"]), st.text("xyz", min_size=1)),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MESSAGES)
def test_every_message_is_in_a_row_or_counted(tmp_path: Path, messages: list[tuple[int, int, str, str]]) -> None:
    source = export(tmp_path / "chat.csv", messages)
    if not any(speaker == "Oda" for _, _, speaker, _ in messages):
        assert "no message is by 'Oda'" in refused(source).cause
        return
    try:
        done, chats = run(source)
    except DataError as error:
        assert "none of its" in error.cause
        return
    expected, lost = [], 0
    for thread in dict.fromkeys(message[0] for message in messages):
        sides = [
            ("a" if speaker == "Oda" else "u", text)
            for _, speaker, text in sorted((m[1:] for m in messages if m[0] == thread), key=lambda m: m[0])
        ]
        while sides and sides[0][0] == "a":
            sides.pop(0)
        while sides and sides[-1][0] == "u":
            sides.pop()
        lost += sum(m[0] == thread for m in messages) - len(sides) if sides else 0
        joined: list[str] = []
        for side, text in sides:
            if joined and joined[-1].startswith(side):
                joined[-1] += f"\n{text}"
            else:
                joined.append(f"{side}: {text}")
        expected += [joined] if joined else []
    assert chats == expected
    assert sum(count for cause, count in done.left_out.items() if cause.startswith("message")) == lost


ROW = ("t", "2024-01-01", "Ben", "hi")
ANSWER = ("t", "2024-01-02", "Oda", "hello")


@pytest.mark.parametrize(
    ("rows", "place", "cause"),
    [
        ([ROW, ("t", "yesterday", "Oda", "x")], ":3:time", "the time cannot be read ('yesterday')"),
        ([ROW, ("t", "05/06/2024 10:00", "Oda", "x")], ":3:time", "the time cannot be read"),
        ([ROW, ("t", "9" * 400, "Oda", "x")], ":3:time", "the time cannot be read"),
        ([ROW, ("t", "", "Oda", "x")], ":3:time", "the time cannot be read"),
        ([ROW, ("t", "2024-01-02T10:00:00Z", "Oda", "x")], ":3:time", "some times name a zone and others none"),
        ([ROW, ANSWER, ("t", "2024-01-03", "Oda", " ")], ":4:message", "the text is empty"),
        ([ROW, ANSWER, ("", "2024-01-03", "Oda", "x")], ":4:thread", "the thread is empty"),
        ([ROW, ANSWER, ("t", "2024-01-03", " ", "x")], ":4:speaker", "the speaker is empty"),
        ([ROW], "", "no message is by 'Oda'"),
        ([ANSWER], "", "none of its 1 rows makes a row of the output"),
    ],
)
def test_rows_that_cannot_be_read_stop_all(tmp_path: Path, rows: list[Any], place: str, cause: str) -> None:
    error = refused(export(tmp_path / "chat.csv", rows))
    assert error.place == f"{tmp_path / 'chat.csv'}{place}"
    assert cause in error.cause


def test_numbers_are_unix_time_in_seconds_or_milliseconds(tmp_path: Path) -> None:
    rows = [(7, 1_700_000_002_000, "Oda", "a"), (7, 1_700_000_001, "Ben", "q")]
    assert run(export(tmp_path / "chat.json", rows))[1] == [["u: q", "a: a"]]
    for number in (10**400, 1e18, True, None, [1]):
        error = refused(export(tmp_path / "chat.json", [*rows, (7, number, "Ben", "x")]))
        assert "the time cannot be read" in error.cause


def test_a_time_format_reads_what_iso_does_not(tmp_path: Path) -> None:
    rows = [("t", "31.12.2023 23:00", "Ben", "q"), ("t", "01.01.2024 01:00", "Oda", "a")]
    source = export(tmp_path / "chat.csv", rows)
    assert "--time-format '%d/%m/%Y %H:%M'" in refused(source).cause
    assert run(source, time_format="%d.%m.%Y %H:%M")[1] == [["u: q", "a: a"]]


def test_a_missing_or_doubtful_column_or_side_is_named(tmp_path: Path) -> None:
    source = export(tmp_path / "chat.csv", [(*ROW, "2024"), (*ANSWER, "2024")], (*COLUMNS, "date"))
    assert "several columns may be the time: time, date" in refused(source).cause
    assert run(source, columns={"time": "time"})[0].rows_written == 1
    assert "no row has the column 'when'" in refused(source, columns={"time": "when"}).cause
    assert "the speakers are 'Ben', 'Oda'" in refused(source, assistant="", columns={"time": "time"}).fix
