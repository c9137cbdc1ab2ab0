"""Sources -> checked records: counts that add up, faults in one table, a split no copy can cross."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.config import build_config
from tunesmith.data.load import DataConfig, LoadedData, Records, load_data
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Conversation, Document


def write(path: Path, rows: Iterable[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def pairs(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in numbers]


def answers(records: Records) -> list[str]:
    return [r.text if isinstance(r, Document) else r.messages[-1].content for r in records]


def adds_up(data: LoadedData) -> bool:
    return data.rows_read == data.rows_used + sum(data.rows_dropped.values()) + data.rows_beyond_limit


def test_records_are_parsed_on_access_and_in_the_files_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["", *pairs(range(5))])
    data = load_data(DataConfig(train=path, validation_share=0))
    assert answers(data.train) == [f"answer {i}" for i in range(5)]
    record = data.train[3]
    assert isinstance(record, Conversation)
    assert (record.row_id, str(record.where)) == (3, f"{path}:5")
    assert data.train[-1] == data.train[4]
    assert answers(data.train[1:3]) == ["answer 1", "answer 2"]
    assert data.train[3] is not record
    with pytest.raises(IndexError):
        data.train[5]
    assert len(data.validation) == 0


def test_what_was_read_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{**row, "id": 1} for row in pairs(range(20))])
    data = load_data(DataConfig(train=path))
    assert data.digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert data.summary() == {
        "shape": "prompt-completion",
        "rows_read": 20,
        "rows_used": 20,
        "rows_train": 18,
        "rows_validation": 2,
        "rows_dropped": {},
        "rows_beyond_limit": 0,
        "validation_rows_in_train": 0,
        "ignored_columns": ["id"],
        "digest": data.digest,
    }
    json.dumps(data.summary())


# Faults --------------------------------------------------------------------------------------------------------------

BAD = [
    *pairs([0]),
    {"prompt": "a"},
    "{broken",
    {"prompt": "a", "completion": " "},
    {"prompt": "a", "completion": 3},
    {"prompt": "b"},
    *pairs([1]),
    {"messages": []},
]


def test_all_faults_of_all_files_come_in_one_table(tmp_path: Path) -> None:
    path, other = write(tmp_path / "a.jsonl", BAD), write(tmp_path / "b.jsonl", [*pairs([3]), {"prompt": "c"}])
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(train=path, validation=other))
    text = str(caught.value)
    assert text.startswith(f"{path} and {other}: 7 of 10 rows are faulty.")
    assert "  3 rows: the column is missing." in text
    for place in (f"{path}:2:completion", f"{path}:6:completion", f"{other}:2:completion", f"{path}:3 (expecting"):
        assert place in text
    assert f"{path}:8 (messages, not prompt-completion)" in text
    assert text.count("Fix: ") == 6


def test_faulty_rows_are_dropped_only_when_told_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", BAD)
    data = load_data(DataConfig(train=path, on_bad_row="drop", validation_share=0))
    assert answers(data.train) == ["answer 0", "answer 1"]
    assert [r.row_id for r in data.train] == [0, 6]
    assert data.rows_dropped == {
        "the column is missing": 2,
        "text is expected": 1,
        "the row has another shape than the rows before it": 1,
        "the row is not JSON": 1,
        "the text is empty": 1,
    }
    assert data.rows_read == 8
    assert adds_up(data)


def test_a_lone_fault_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*pairs([0, 1]), "{broken", *pairs([2])])
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(train=path))
    assert caught.value.place == f"{path}:3"


def test_no_good_row_is_an_error_even_when_dropping(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["{broken", '{"text": "\\ud800"}'])
    with pytest.raises(DataError, match="all 2 rows are faulty") as caught:
        load_data(DataConfig(train=path, on_bad_row="drop"))
    assert "not JSON" in str(caught.value)


def test_a_file_level_fault_is_never_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": ')
    with pytest.raises(DataError, match="the file ends where"):
        load_data(DataConfig(train=str(tmp_path / "a.json"), on_bad_row="drop"))


# Shape and columns ---------------------------------------------------------------------------------------------------


def test_the_shape_comes_from_the_first_row_that_has_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["{broken", {"prompt": "no answer"}, *pairs(range(3))])
    data = load_data(DataConfig(train=path, on_bad_row="drop", validation_share=0))
    assert data.shape == "prompt-completion"
    assert data.rows_dropped == {"the column is missing": 1, "the row is not JSON": 1}


def test_a_row_that_fits_two_shapes_is_not_taken_for_one_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*pairs([0, 1]), {**pairs([2])[0], "text": "x"}])
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(train=path))
    assert caught.value.place == f"{path}:3"
    assert "prompt-completion and text, not prompt-completion" in caught.value.cause
    assert load_data(DataConfig(train=path, shape="prompt-completion", validation_share=0)).rows_used == 3


def test_columns_are_mapped_and_faults_named_in_the_files_words(tmp_path: Path) -> None:
    rows = [{"q": "one", "a": "two", "id": 1, "prompt": "not this"}, {"q": "one", "a": ""}, {"q": "one"}]
    path = write(tmp_path / "a.jsonl", rows)
    config = DataConfig(train=path, columns={"prompt": "q", "completion": "a"}, on_bad_row="drop", validation_share=0)
    data = load_data(config)
    assert answers(data.train) == ["two"]
    assert data.ignored_columns == ["id", "prompt"]
    with pytest.raises(DataError) as caught:
        load_data(config.model_copy(update={"on_bad_row": "error"}))
    assert f"{path}:2:a\n" in str(caught.value)
    assert f"{path}:3:a\n" in str(caught.value)


def test_a_mapping_chooses_between_two_names_of_one_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"instruction": "i", "output": "first", "response": "second"}])
    with pytest.raises(DataError, match="mean the same"):
        load_data(DataConfig(train=path, validation_share=0))
    for name, answer, other in (("output", "first", "response"), ("response", "second", "output")):
        data = load_data(DataConfig(train=path, validation_share=0, columns={"output": name}))
        assert answers(data.train) == [answer]
        assert data.ignored_columns == [other]


def test_turns_under_another_name(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "name": "Z"}]
    path = write(tmp_path / "a.jsonl", [{"conversations": turns}, {"conversations": turns[:1]}])
    data = load_data(
        DataConfig(train=path, columns={"messages": "conversations"}, on_bad_row="drop", validation_share=0)
    )
    assert (answers(data.train), data.shape, data.ignored_columns) == (["y"], "messages", ["conversations[].name"])


@pytest.mark.parametrize("shape", ["auto", "prompt-completion"])
def test_a_mapping_to_a_column_that_no_row_has_names_the_nearest(tmp_path: Path, shape: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "x", "answer": "y"}])
    tree = {"train": path, "shape": shape, "columns": {"prompt": "question", "completion": "anser"}}
    with pytest.raises(DataError, match=r"to 'anser', which no row has\. Fix: Did you mean 'answer'"):
        load_data(build_config(DataConfig, tree, place="recipe.yaml"))


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"columns": {"compleetion": "a"}}, "did you mean 'completion'"),
        ({"columns": {"prompt": "a", "completion": "a"}}, "mapped to the same one"),
        ({"validation_share": 1.0}, "less than 1"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"train": ""}, "at least 1 character"),
        ({"shape": "chat"}, "prompt-completion"),
        ({"on_bad_rows": "drop"}, "unknown key"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        build_config(DataConfig, {"train": "a.jsonl", **settings}, place="recipe.yaml")
    with pytest.raises(ValidationError):
        DataConfig(**{"train": "a.jsonl", **settings})


def test_a_mapped_column_that_the_stated_shape_has_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "note": "y"}])
    with pytest.raises(ConfigError, match=r"data\.columns\.system: the shape text has no such column"):
        load_data(DataConfig(train=path, shape="text", columns={"system": "note"}))


# Validation ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=40), st.integers(0, 5), st.sampled_from([0.1, 0.3, 0.9]))
def test_no_copy_of_a_row_crosses_the_split(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], seed: int, share: float
) -> None:
    # The copies differ in their ids: what counts is what the row says.
    rows = [{**row, "id": i} for i, row in enumerate(pairs(numbers))]
    path = write(tmp_path_factory.mktemp("split") / "a.jsonl", rows)
    config = DataConfig(train=path, validation_share=share)
    if len(set(numbers)) == 1:
        with pytest.raises(ConfigError, match="only one different row"):
            load_data(config, seed=seed)
        return
    data = load_data(config, seed=seed)
    train, valid = Counter(answers(data.train)), Counter(answers(data.validation))
    assert train and valid
    assert not set(train) & set(valid)
    assert train + valid == Counter(f"answer {i}" for i in numbers)
    num_different = len(set(numbers))
    assert len(set(valid)) == min(max(1, round(share * num_different)), num_different - 1)


def test_the_split_depends_on_seed_and_rows_and_on_no_order(tmp_path: Path) -> None:
    rows = pairs(range(200))
    path, shuffled = write(tmp_path / "a.jsonl", rows), random.Random(1).sample(rows, len(rows))
    first = load_data(DataConfig(train=path), seed=3)
    again = load_data(DataConfig(train=path), seed=3)
    moved = load_data(DataConfig(train=write(tmp_path / "b.jsonl", shuffled)), seed=3)
    other = load_data(DataConfig(train=path), seed=4)
    held = set(answers(first.validation))
    assert len(held) == 20
    assert answers(first.validation) == answers(again.validation)
    assert set(answers(moved.validation)) == held
    assert set(answers(other.validation)) != held
    # One row more moves at most one row over the edge.
    grown = load_data(DataConfig(train=write(tmp_path / "c.jsonl", [*rows, *pairs([999])])), seed=3)
    assert len(held - set(answers(grown.validation))) <= 1


def test_a_validation_file_is_read_and_copies_in_train_are_counted(tmp_path: Path) -> None:
    path, other = write(tmp_path / "a.jsonl", pairs(range(5))), write(tmp_path / "b.jsonl", pairs([4, 5, 4]))
    data = load_data(DataConfig(train=path, validation=other))
    assert (len(data.train), answers(data.validation)) == (5, ["answer 4", "answer 5", "answer 4"])
    assert data.validation_rows_in_train == 2
    assert data.rows_read == 8
    alone = load_data(DataConfig(train=path))
    assert data.digest != alone.digest
    assert load_data(DataConfig(train=path, validation=other)).digest == data.digest


def test_a_folder_brings_its_own_validation_file(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", pairs(range(5)))
    write(tmp_path / "valid.jsonl", pairs([7]))
    data = load_data(DataConfig(train=str(tmp_path)))
    assert (len(data.train), answers(data.validation)) == (5, ["answer 7"])
    (tmp_path / "valid.jsonl").unlink()
    assert len(load_data(DataConfig(train=str(tmp_path))).validation) == 1


def test_limits_take_the_first_rows_and_leave_a_trace(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*pairs(range(40)), "{broken"])
    data = load_data(DataConfig(train=path, limit=40, validation_share=0.5, validation_limit=4))
    whole = load_data(DataConfig(train=path, limit=40, validation_share=0.5))
    assert answers(data.validation) == answers(whole.validation)[:4]
    assert answers(data.train) == answers(whole.train)
    assert (data.rows_read, data.rows_used, data.rows_beyond_limit) == (40, 24, 16)
    assert adds_up(data)
    with pytest.raises(DataError, match="not JSON"):
        load_data(DataConfig(train=path))


def test_merging_is_passed_on(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "x"}
    path = write(tmp_path / "a.jsonl", [{"messages": [turn, turn, {"role": "assistant", "content": "y"}]}])
    with pytest.raises(DataError, match="two user turns"):
        load_data(DataConfig(train=path, validation_share=0))
    data = load_data(DataConfig(train=path, validation_share=0, merge_same_role=True))
    record = data.train[0]
    assert isinstance(record, Conversation)
    assert [m.content for m in record.messages] == ["x\n\nx", "y"]


def test_one_set_of_rows_reads_alike_from_every_format(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": f'ü "{i}",\nnext', "completion": f"é\u2028{i}"} for i in range(12)]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps({"data": rows}, indent=2, ensure_ascii=False), encoding="utf-8")
    cells = "".join(f'"{r["prompt"].replace(chr(34), chr(34) * 2)}",{r["completion"]}\r\n' for r in rows)
    (tmp_path / "a.csv").write_bytes(f"prompt,completion\r\n{cells}".encode())
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=5)
    read = []
    for suffix in ("jsonl", "json", "csv", "parquet"):
        data = load_data(DataConfig(train=str(tmp_path / f"a.{suffix}")), seed=5)
        read.append([[m.content for m in r.messages] for r in [*data.train, *data.validation]])  # type: ignore[union-attr]
    assert sorted(read[0]) == sorted([r["prompt"], r["completion"]] for r in rows)
    # The same rows are held out, whatever format they come in.
    assert read[0] == read[1] == read[2] == read[3]


@pytest.mark.parametrize(
    ("judged", "shape"),
    [
        ({"label": True}, "unpaired"),
        ({"label": "False"}, "unpaired"),
        ({"label": 0}, "unpaired"),
        ({"rating": 2}, "rating"),
        ({"rating": "5.0"}, "rating"),
        ({"flagged": False, "reason": ""}, "flag"),
    ],
)
@pytest.mark.parametrize("plain", ["prompt-completion", "alpaca"])
def test_judged_answers_are_not_trained_on_unasked(
    tmp_path: Path, judged: dict[str, Any], shape: str, plain: Any
) -> None:
    names = {"prompt-completion": ("prompt", "completion"), "alpaca": ("instruction", "output")}[plain]
    rows = [{**dict(zip(names, row.values(), strict=True)), **judged} for row in pairs(range(20))]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="the bad ones would be trained on too") as caught:
        load_data(DataConfig(train=path))
    assert f"--to messages --shape {shape}" in caught.value.fix and f"data.shape: {plain}" in caught.value.fix
    assert len(load_data(DataConfig(train=path, shape=plain, validation_share=0)).train) == 20


def test_a_verdict_further_back_is_a_fault_of_its_row_and_a_class_is_none(tmp_path: Path) -> None:
    late = [{**row, "label": None} for row in pairs(range(5))] + [{**row, "label": False} for row in pairs(range(5, 8))]
    path = write(tmp_path / "late.jsonl", late)
    with pytest.raises(DataError, match="3 rows: the rows are answers with a thumb"):
        load_data(DataConfig(train=path))
    classes = [{**row, "label": "spam", "rating": "PG-13", "score": 3} for row in pairs(range(20))]
    assert load_data(DataConfig(train=write(tmp_path / "classes.jsonl", classes))).ignored_columns == [
        "label", "rating", "score",
    ]  # fmt: skip
