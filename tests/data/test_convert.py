"""``data convert`` over whole files: goldens of each target, what is refused, and that a file is whole or not there."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_data
from tunesmith.data import convert as module
from tunesmith.data.convert import Converted, convert
from tunesmith.data.sources import ReadOptions
from tunesmith.data.write import TARGETS, Target
from tunesmith.errors import ConfigError, DataError, DiskFullError

U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
S = {"role": "system", "content": "be kind"}
ONE, TWO = {"messages": [S, U, A]}, {"messages": [U, A, {**U, "content": "and?"}, A]}


def put(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(source: Path, target: Target = "messages", suffix: str = ".jsonl", **how: Any) -> tuple[Converted, Any]:
    output = source.with_name(f"out{suffix}")
    output.unlink(missing_ok=True)
    shape, options = how.pop("shape", None), ReadOptions(**how)
    done = convert(str(source), output, target, options, shape=shape)
    assert [path.name for path in source.parent.iterdir() if path.name.startswith(".")] == []
    text = output.read_text(encoding="utf-8") if suffix != ".parquet" else ""
    return done, [json.loads(line) for line in text.splitlines()] if suffix == ".jsonl" else text


def refused(source: Path, target: Target = "messages", suffix: str = ".jsonl", **how: Any) -> DataError | ConfigError:
    source.with_name(f"out{suffix}").unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    with pytest.raises((DataError, ConfigError)) as caught:
        run(source, target, suffix, **how)
    assert {path: path.read_bytes() for path in source.parent.iterdir()} == before
    assert "data." not in caught.value.cause + caught.value.fix
    return caught.value


# What each target looks like -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("messages", [ONE]),
        ("sharegpt", [{"conversations": [
            {"from": "system", "value": "be kind"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"},
        ]}]),
        ("alpaca", [{"system": "be kind", "instruction": "hi", "input": "", "output": "hello"}]),
        ("prompt-completion", [{"system": "be kind", "prompt": "hi", "completion": "hello"}]),
    ],
)  # fmt: skip
def test_one_exchange_in_each_target(tmp_path: Path, target: Target, expected: list[dict[str, Any]]) -> None:
    assert run(put(tmp_path / "rows.jsonl", ONE), target)[1] == expected


def test_several_turns_make_lists_of_all_rows(tmp_path: Path) -> None:
    source = put(tmp_path / "rows.jsonl", ONE, TWO)
    done, rows = run(source, "prompt-completion")
    assert rows == [
        {"prompt": [S, U], "completion": [A]},
        {"prompt": [U, {**A, "train": True}, {**U, "content": "and?"}], "completion": [A]},
    ]
    assert done.notes == [
        "prompts and answers are written as lists of turns, since some row has more than one exchange"
    ]
    error = refused(source, "prompt-completion", ".csv")
    assert error.place == f"{source}:2"
    assert "prompt-completion in .csv holds one exchange, not several turns" in error.cause
    done, text = run(source, "prompt-completion", ".csv", drop_bad_rows=True)
    assert text == "system,prompt,completion\nbe kind,hi,hello\n"
    assert done.rows_dropped == {"prompt-completion in .csv holds one exchange, not several turns": 1}


def test_a_conversation_as_text_is_a_transcript(tmp_path: Path) -> None:
    rows = run(put(tmp_path / "rows.jsonl", TWO), "text")[1]
    assert rows == [{"text": "Human: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant: hello"}]
    back = put(tmp_path / "text.jsonl", *rows)
    assert run(back, "messages", shape="transcript")[1] == [TWO]
    assert refused(put(tmp_path / "rows.jsonl", ONE), "text").cause == "a transcript has no place for a system turn."


def test_alpaca_rows_stay_what_they_are(tmp_path: Path) -> None:
    rows = [{"instruction": "add", "input": "1 2", "output": "3"}, {"instruction": "say", "input": "", "output": "hi"}]
    assert run(put(tmp_path / "rows.jsonl", *rows), "alpaca")[1] == rows
    merged = run(put(tmp_path / "rows.jsonl", *rows), "messages")[1]
    assert merged[0]["messages"][0]["content"] == "add\n\n1 2"
    named = [{"task": "add", "context": "1 2", "response": "3"}]
    assert run(put(tmp_path / "rows.jsonl", *named), "alpaca", columns={"instruction": "task"})[1] == rows[:1]


def test_what_is_not_carried_is_named(tmp_path: Path) -> None:
    done = run(put(tmp_path / "rows.jsonl", {**ONE, "id": 4, "source": "desk"}), "sharegpt")[0]
    assert done.ignored_columns == ["id", "source"]
    done = run(put(tmp_path / "rows.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2}))[0]
    assert (done.ignored_columns, done.left_out) == (["margin"], {"rejected answer": 1})


def test_ratings_pair_within_their_prompt_wherever_they_stand(tmp_path: Path) -> None:
    rated = [("p", "a", 2), ("q", "x", 1), ("p", "b", 5), ("q", "y", 1), ("r", "z", 3), ("p", "c", 5)]
    rows = [{"prompt": p, "completion": c, "rating": r} for p, c, r in rated]
    done, pairs = run(put(tmp_path / "rows.jsonl", *rows), "preference")
    assert pairs == [{"prompt": "p", "chosen": chosen, "rejected": "a"} for chosen in "bc"]
    assert done.left_out == {"pair of tied answers": 2, "answer without another one to its prompt": 1}
    done, chats = run(put(tmp_path / "rows.jsonl", *rows), shape="rating", min_rating=3)
    assert [chat["messages"][1]["content"] for chat in chats] == ["b", "z", "c"]
    assert done.left_out == {"answer rated below 3": 3}


def test_a_folder_gives_its_training_file_alone(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    put(folder / "train.jsonl", ONE)
    put(folder / "validation.jsonl", {"messages": []})
    done = convert(str(folder), tmp_path / "out.jsonl", "messages", ReadOptions())
    assert (done.rows_read, done.rows_written) == (1, 1)
    with pytest.raises(DataError, match="the output is the input"):
        convert(str(folder), folder / "train.jsonl", "messages", ReadOptions(), overwrite=True)


# Transcripts in a text file ------------------------------------------------------------------------------------------


def test_a_text_file_of_transcripts_is_a_conversation_for_each(tmp_path: Path) -> None:
    source = tmp_path / "chats.txt"
    source.write_text("Human: one\nAI: two\n\nand three\n\n\nHuman: four\nAssistant: five\n\f\nHuman: six\nAI: seven\n")
    done, rows = run(source)
    assert (done.shape, [[turn["content"] for turn in row["messages"]] for row in rows]) == (
        "transcript", [["one", "two\n\nand three"], ["four", "five"], ["six", "seven"]],
    )  # fmt: skip
    assert run(source, "text")[0].shape == "text"


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        ("Human: a\nAI: b\n\n\nHuman: c\n", 5, "there is no assistant turn"),
        ("Human: a\nAI: b\nHuman: c\n", 1, "the last turn is the user's"),
        ("Human: a\nHuman: b\nAI: c\n", 1, "two user turns stand in a row"),
        ("Human: a\nAI: b\nAI: c\n", 1, "two assistant turns stand in a row"),
        ("Human: a\nAI:\n", 1, "a turn of the transcript is empty (turn 2, 'AI:')"),
        ("Human: a\nAI: b\n\n\nnotes\n", 5, "the transcript does not begin with a speaker"),
    ],
)
def test_an_unbalanced_transcript_is_refused(tmp_path: Path, text: str, line: int, cause: str) -> None:
    source = tmp_path / "chats.txt"
    source.write_text(text)
    error = refused(source)
    assert error.place.startswith(f"{source}:{line}")
    assert cause in error.cause


# What is refused -----------------------------------------------------------------------------------------------------


def test_rows_of_mixed_shapes_are_refused_or_counted(tmp_path: Path) -> None:
    pair, rated = {"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "completion": "c", "rating": 3}
    source = put(tmp_path / "rows.jsonl", pair, rated, ONE, {"x": 1})
    error = refused(source, "preference")
    assert "2 rows: the row has another shape than the rows before it" in error.cause
    assert f"{source}:2 (prompt-completion and rating, not preference)" in error.cause
    assert f"{source}:4:" in error.cause and "the column is missing or null" in error.cause
    done, rows = run(source, "preference", drop_bad_rows=True)
    assert (rows, sum(done.rows_dropped.values())) == ([pair], 3)
    plain = put(tmp_path / "plain.jsonl", ONE, pair, {"prompt": "p", "completion": "c"})
    assert "--shape" in refused(plain).cause


@pytest.mark.parametrize(
    ("rows", "target", "cause"),
    [
        ([{"prompt": "p", "completion": "c", "rating": 3}], "messages", "more than one shape: prompt-completion and r"),
        ([ONE], "preference", "the rows are messages: one answer each, nothing to compare"),
        ([{"text": "hi"}], "messages", "raw text is no conversation, which messages needs"),
        ([{"question": "hi"}], "messages", "the columns (question) fit no known shape"),
        ([{"prompt": "p", "completion": "c", "label": 1}], "preference", "none of its 1 rows makes a row"),
        ([{"prompt": "p", "ranking": "A = B", "candidates": ["a", "b"]}], "preference", "1: pair of tied answers"),
        ([{"prompt": "p", "ranking": "A > D", "candidates": ["a", "b"]}], "preference", "unknown candidate ('D')"),
        ([{"messages": [U, A], "tools": [{"name": "f"}]}], "alpaca", "the row's tools have no place in alpaca"),
        ([{"messages": [U, {**A, "train": False}, U, A]}], "text", "cannot keep a turn out of the loss"),
    ],
)
def test_what_the_target_cannot_make_is_said(
    tmp_path: Path, rows: list[dict[str, Any]], target: Target, cause: str
) -> None:
    assert cause in refused(put(tmp_path / "rows.jsonl", *rows), target).cause


@pytest.mark.parametrize("target", TARGETS)
def test_an_empty_file_is_refused(tmp_path: Path, target: Target) -> None:
    assert "the file is empty" in refused(put(tmp_path / "rows.jsonl"), target).cause
    blank = tmp_path / "blank.json"
    blank.write_text("[]")
    assert "the file holds no row" in refused(blank, target).cause


def test_columns_that_nobody_knows_are_named(tmp_path: Path) -> None:
    source = put(tmp_path / "rows.jsonl", {"question": "hi", "answer": "hello"})
    assert run(source, columns={"prompt": "question", "completion": "answer"})[1] == [{"messages": [U, A]}]
    assert "Did you mean 'prompt'?" in refused(source, columns={"promt": "question"}).fix
    assert "no row has the column 'asked'" in refused(source, columns={"prompt": "asked"}).cause
    error = refused(source, columns={"prompt": "question", "completion": "answer"}, time_format="%Y")
    assert "no chat export" in error.cause


def test_an_output_that_exists_or_is_the_input_is_left_alone(tmp_path: Path) -> None:
    source, output = put(tmp_path / "rows.jsonl", ONE), put(tmp_path / "old.jsonl", TWO)

    def attempt(name: str, *, overwrite: bool = False, target: Target = "messages") -> str:
        with pytest.raises(DataError) as caught:
            convert(str(source), tmp_path / name, target, ReadOptions(), overwrite=overwrite)
        return caught.value.cause

    assert "the file exists" in attempt("old.jsonl")
    assert json.loads(output.read_text()) == TWO
    (tmp_path / "link.jsonl").symlink_to(source)
    assert "the output is the input" in attempt("rows.jsonl", overwrite=True)
    assert "the output is the input" in attempt("link.jsonl", overwrite=True)
    assert "is not a format that is written" in attempt("rows.txt")
    assert "a cell of CSV cannot hold" in attempt("rows.csv")
    assert "no such folder" in attempt("nowhere/rows.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "is a folder" in attempt("folder.jsonl", overwrite=True)
    convert(str(source), output, "messages", ReadOptions(), overwrite=True)
    assert json.loads(output.read_text()) == ONE


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("x")])
def test_a_stop_halfway_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: BaseException
) -> None:
    source = put(tmp_path / "rows.jsonl", ONE, ONE, ONE)
    output = tmp_path / f"out{suffix}"
    output.write_text("old")
    real, calls = module.to_row, []

    def stops(*arguments: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return real(*arguments)

    monkeypatch.setattr(module, "to_row", stops)
    with pytest.raises(DiskFullError if isinstance(error, OSError) else type(error)):
        convert(str(source), output, "alpaca", ReadOptions(), overwrite=True)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["rows.jsonl", output.name])


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    long = {**A, "content": "x" * 10_000}
    source = put(tmp_path / "rows.jsonl", *[{"messages": [U, long]}] * 1500)
    # What is imported on first use is no part of it.
    run(put(tmp_path / "few.jsonl", ONE), "alpaca")
    tracemalloc.start()
    try:
        convert(str(source), tmp_path / "again.jsonl", "prompt-completion", ReadOptions())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert source.stat().st_size > 15_000_000
    assert peak_bytes < 3_000_000


# Real files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "how", "read", "written", "dropped"),
    [
        ("hh_rlhf/harmless_base.jsonl", "preference", {}, 500, 497, {"two assistant turns stand in a row": 3}),
        ("hh_rlhf/harmless_base.jsonl", "messages", {"merge_same_role": True}, 500, 500, {}),
        ("instructions/instructions.json", "messages", {}, 780, 780, {}),
        ("instructions/preferences.json", "preference", {}, 804, 800,
         {"the chosen and the rejected answer are the same": 4}),
        ("oasst_pairs/pairs_en.jsonl", "alpaca", {"shape": "prompt-completion"}, 280, 280, {}),
        ("flan_cot/creak.jsonl", "sharegpt", {"columns": {"prompt": "question", "completion": "answer"}}, 300, 300, {}),
    ],
)  # fmt: skip
def test_public_files(
    tmp_path: Path, name: str, target: Target, how: dict[str, Any], read: int, written: int, dropped: dict[str, int]
) -> None:
    how, shape = dict(how), how.get("shape")
    how.pop("shape", None)
    source, output = shared_data(name), tmp_path / "out.jsonl"
    done = convert(str(source), output, target, ReadOptions(drop_bad_rows=True, **how), shape=shape)
    assert (done.rows_read, done.rows_written, done.rows_dropped) == (read, written, dropped)
    assert len(output.read_text(encoding="utf-8").splitlines()) == written


def test_rows_that_cannot_be_read_are_told_as_that(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(["a quote", "another"]))
    with pytest.raises(DataError, match=r"no row can be read; the first: the row is not an object"):
        convert(str(path), tmp_path / "out.jsonl", "messages", ReadOptions())
