"""A mixture of small tasks: deterministic, without leaks, and wrong settings are errors."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.load import DataConfig, LoadedData, load_data
from tunesmith.data.mixture import Mixture, MixtureRecords
from tunesmith.data.mixture_report import mixture_table, table_lines
from tunesmith.data.mixture_task import source_path
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Conversation

WORDINGS = [
    {"input": "Sum of {{ a }} and {{ b }}?", "target": "{{ c }}"},
    {"input": "{{ a }} + {{ b }} =", "target": "{{ c }}"},
    {"name": "back", "input": "What gives {{ c }}?", "target": "{{ a }} + {{ b }}", "inverted": True},
]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sums(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"a": i, "b": i * 3, "c": str(i * 4), "why": f"{i} and three times {i}"} for i in range(first, first + count)
    ]


def make(folder: Path, **changes: Any) -> str:
    """A mixture of three tasks, two trained and one held out; ``changes`` replace top-level keys."""
    write(folder / "sums.jsonl", sums(1, 40))
    write(folder / "words.jsonl", [{"word": f"word{i}", "kind": "even" if i % 2 == 0 else "odd"} for i in range(120)])
    write(folder / "far.jsonl", sums(1000, 20))
    tree: dict[str, Any] = {
        "held_out": ["far"],
        "num_examples": 300,
        "modes": {"few_shot": 0.3, "chain_of_thought": 0.2, "few_shot_chain_of_thought": 0.1},
        "tasks": [
            {"name": "sums", "source": "sums.jsonl", "rationale": "why", "templates": WORDINGS, "num_shots": 3},
            {
                "name": "words",
                "source": "words.jsonl",
                "options": ["even", "odd"],
                "templates": [{"input": "{{ word }}: {{ options | join(' or ') }}?", "target": "{{ kind }}"}],
            },
            {"name": "far", "source": "far.jsonl", "templates": WORDINGS},
        ],
    }
    tree.update(changes)
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def load(path: str, **settings: Any) -> LoadedData:
    return load_data(DataConfig(train=path, **settings))


def parts(data: LoadedData) -> tuple[Mixture, MixtureRecords, MixtureRecords]:
    assert data.mixture is not None
    assert isinstance(data.train, MixtureRecords) and isinstance(data.validation, MixtureRecords)
    return data.mixture, data.train, data.validation


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> LoadedData:
    return load(make(tmp_path_factory.mktemp("mixture")))


def said(record: Conversation) -> list[tuple[str, str, bool]]:
    return [(message.role, message.content, message.train) for message in record.messages]


def test_examples_do_not_depend_on_the_order_of_reading(mixed: LoadedData, tmp_path: Path) -> None:
    _, train, _ = parts(mixed)
    inner = [said(record) for record in train]
    _, again, _ = parts(load(make(tmp_path)))
    order = list(range(300))
    random.Random(1).shuffle(order)
    assert {i: said(again[i]) for i in order} == dict(enumerate(inner))
    # Going on in the middle is the same as having read what comes before.
    assert [said(record) for record in again[123:]] == inner[123:]
    _, longer, _ = parts(load(make(tmp_path, num_examples=450)))
    assert [said(longer[i]) for i in range(300)] == inner
    # Control: another seed is another mixture.
    _, other, _ = parts(load(make(tmp_path, seed=1)))
    assert [said(record) for record in other] != inner


def test_record_names_its_row_and_what_was_made_of_it(mixed: LoadedData) -> None:
    _, train, _ = parts(mixed)
    for i in (0, 17, 299):
        draw, record = train.example(i)
        assert record.row_id == i and record == train[i]
        assert record.where.line == draw.row_id + 1
        assert record.where.file.endswith(f"{draw.task.name}.jsonl")
        assert record.where.field == f"{draw.task.name}.{draw.template.name} {draw.mode}"
    assert [record.row_id for record in train[5:8]] == [5, 6, 7]
    with pytest.raises(IndexError):
        train[300]


@given(st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_no_shot_tells_its_own_example(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("shots")
    path = make(folder, seed=seed, num_examples=80, modes={"few_shot": 0.6, "few_shot_chain_of_thought": 0.4})
    # Copies of rows under other ids: the row is another one, what it says is not.
    write(folder / "sums.jsonl", [{**row, "id": n} for n, row in enumerate(sums(1, 6) * 4)])
    mixture, train, validation = parts(load(path))
    assert [task.name for task in mixture.tasks] == ["sums", "words"]
    for i in range(80):
        draw, record = train.example(i)
        turns = [message.content for message in record.messages]
        pairs = list(zip(turns[::2], turns[1::2], strict=True))
        assert len(pairs) == 1 + draw.task.config.num_shots == 1 + len(draw.shots)
        assert draw.row_id not in draw.shots
        assert len(set(pairs)) == len(pairs), "copies of one row are one example"
        assert set(draw.shots) <= set(draw.task.row_ids.tolist())
        assert [message.train for message in record.messages if message.role == "assistant"][:-1] == [False] * (
            len(pairs) - 1
        )
    held = {draw.row_id for draw in map(validation.draw, range(len(validation))) if draw.task.name == "sums"}
    rows = {row_id % 6 for row_id in mixture.tasks[0].row_ids.tolist()}
    assert held and not rows & {row_id % 6 for row_id in held}, "copies stay on one side"


def test_held_out_tasks_are_never_seen(mixed: LoadedData) -> None:
    mixture, train, validation = parts(mixed)
    assert {train.draw(i).task.name for i in range(300)} == {"sums", "words"}
    assert {validation.draw(i).task.name for i in range(len(validation))} == {"sums", "words"}
    far = mixture.evaluated("far")
    assert len(far.row_ids) == 20
    everything = " ".join(message.content for record in [*train, *validation] for message in record.messages)
    assert not any(str(row["a"]) in everything.split() for row in sums(1000, 20))
    with pytest.raises(ConfigError, match="has no test rows"):
        mixture.evaluated("words")


def test_shares_of_tasks_modes_and_templates(mixed: LoadedData) -> None:
    mixture, train, _ = parts(mixed)
    # 36 and 108 rows are left to train on, so a quarter and three quarters.
    assert [len(task.row_ids) for task in mixture.tasks] == [36, 108]
    draws = [train.draw(i) for i in range(300)]
    assert Counter(draw.task.name for draw in draws) == {"sums": 75, "words": 225}
    modes = {name: Counter(draw.mode for draw in draws if draw.task.name == name) for name in ("sums", "words")}
    # 75 is no whole block, so within a few; without a rationale the thoughts' share of shots goes to plain shots.
    assert abs(modes["sums"]["chain_of_thought"] - 15) < 8 and abs(modes["sums"]["few_shot"] - 22.5) < 8
    assert set(modes["words"]) == {"zero_shot", "few_shot"}
    assert 200 * 0.4 <= modes["words"]["few_shot"] <= 225 * 0.4 + 8
    asked = Counter(draw.row_id for draw in draws if draw.task.name == "words")
    assert set(asked.values()) == {2, 3}, "225 of 108 rows: each twice, and some once more"
    assert not any(draw.template.inverted for draw in draws if draw.mode.endswith("chain_of_thought"))
    assert {draw.template.name for draw in draws if draw.task.name == "sums"} == {"1", "2", "back"}


def test_inverted_template_and_thoughts_say_what_they_should(mixed: LoadedData) -> None:
    _, train, _ = parts(mixed)
    seen = set()
    for i in range(300):
        draw, record = train.example(i)
        row, _ = draw.task.rows[draw.row_id]
        asked, answer = record.messages[-2].content, record.messages[-1].content
        if draw.template.name == "back":
            assert (asked, answer) == (f"What gives {row['c']}?", f"{row['a']} + {row['b']}")
        elif draw.mode.endswith("chain_of_thought"):
            assert asked.endswith("Think step by step before you answer.")
            assert answer == f"{row['why']}\nThe answer is {row['c']}."
        elif draw.task.name == "sums":
            assert answer == row["c"]
        seen.add((draw.template.name, draw.mode))
    assert {("back", "zero_shot"), ("back", "few_shot"), ("1", "chain_of_thought")} <= seen


def test_summary_and_table_add_up(mixed: LoadedData) -> None:
    mixture, train, _ = parts(mixed)
    summary = mixed.summary()
    assert (summary["shape"], summary["rows_read"], summary["rows_used"]) == ("mixture", 160, 160)
    assert (summary["rows_train"], summary["rows_validation"]) == (300, 16)
    table = mixture_table(mixture, train, dict.fromkeys(range(300), 10))
    assert [entry["task"] for entry in table] == ["sums", "words", "far"]
    assert sum(entry["tokens"] for entry in table) == 3000
    for entry in table[:2]:
        assert sum(entry["templates"].values()) == sum(entry["modes"].values()) == entry["examples"]
    assert table[2]["held_out"] and table[2]["examples"] == 0
    lines = table_lines(table)
    assert len(lines) == 4 and lines[3].endswith("held out")
    json.dumps([summary, table])


def test_limit_validation_share_and_digest(tmp_path: Path) -> None:
    path = make(tmp_path)
    data = load(path, limit=7, validation_limit=4)
    assert (len(data.train), len(data.validation), data.rows_beyond_limit) == (7, 4, 12)
    assert len(load(path, validation_share=0).validation) == 0
    digest = data.digest
    assert load(path).digest == digest
    for name in ("far.jsonl", "words.jsonl", "mixture.yaml"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before + b"\n")
        assert load(path).digest != digest, name
        (tmp_path / name).write_bytes(before)
    _, train, _ = parts(load(make(tmp_path, num_examples=None, num_epochs=0.5)))
    assert len(train) == 72


def test_rows_of_one_group_stay_together_and_are_no_shots_of_each_other(tmp_path: Path) -> None:
    path = make(tmp_path, modes={"few_shot": 1}, num_examples=60)
    # One question in four wordings, three questions a side of ten.
    write(tmp_path / "sums.jsonl", [{**row, "why": f"wording {n}"} for row in sums(1, 10) for n in range(4)])
    tree = yaml.safe_load(Path(path).read_text())
    tree["tasks"][0] |= {"group": "a", "rationale": None, "templates": [{"input": "{{ why }} {{ a }}", "target": "x"}]}
    Path(path).write_text(yaml.safe_dump(tree))
    mixture, train, _ = parts(load(path))
    task = mixture.tasks[0]
    assert {int(i) // 4 for i in task.row_ids} & {int(i) // 4 for i in task.held_ids} == set()
    examples = [train.example(i)[0] for i in range(60)]
    assert all(draw.row_id // 4 not in {i // 4 for i in draw.shots} for draw in examples if draw.task is task)
    # Control: without the group, other wordings of the same question do come up.
    del tree["tasks"][0]["group"]
    Path(path).write_text(yaml.safe_dump(tree))
    _, train, _ = parts(load(path))
    examples = [train.example(i)[0] for i in range(60)]
    assert any(d.row_id // 4 in {i // 4 for i in d.shots} for d in examples if d.task.name == "sums")


def test_weights_columns_select_and_limit(tmp_path: Path) -> None:
    path = make(tmp_path, num_examples=200)
    tree = yaml.safe_load(Path(path).read_text())
    one, two, far = tree["tasks"]
    one |= {"weight": 1, "limit": 10}
    two |= {"weight": 3, "select": {"kind": ["odd"]}, "columns": {"token": "word"}}
    two["templates"] = [{"input": "{{ token }}", "target": "{{ kind }}"}]
    far |= {"columns": {"x": "a"}, "templates": [{"input": "{{ x }}", "target": "{{ c }}"}]}
    Path(path).write_text(yaml.safe_dump(tree))
    mixture, train, validation = parts(load(path))
    counts = Counter(train.draw(i).task.name for i in range(200))
    assert counts == {"sums": 50, "words": 150}, "by weight, not by the 9 and 54 rows"
    assert (mixture.rows_read, len(mixture.tasks[0].row_ids), len(mixture.tasks[1].row_ids)) == (70, 9, 54)
    asked = [(record.messages[-2].content, record.messages[-1].content) for record in train]
    assert {answer for question, answer in asked if question.startswith("word")} == {"odd"}
    assert {int(draw.row_id) for draw in map(train.draw, range(200)) if draw.task.name == "sums"} <= set(range(10))
    assert {validation.draw(i).mode for i in range(len(validation))} == {"zero_shot"}
    task = mixture.evaluated("far")
    fields, where = task.fields(0)
    assert task.fill(task.templates[0], fields, where).input == "1000" and "a" not in fields
    with pytest.raises(ConfigError, match="all weights are 0"):
        weights(0)(tree)
        Path(path).write_text(yaml.safe_dump(tree))
        load(path)
    one["weight"], two["weight"] = 0, 2
    Path(path).write_text(yaml.safe_dump(tree))
    _, train, _ = parts(load(path))
    assert {train.draw(i).task.name for i in range(200)} == {"words"}


def test_a_name_may_be_a_hub_data_set_and_a_path_begins_at_the_mixture(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for source, expected in (
        ("a.jsonl", tmp_path / "a.jsonl"),
        ("../a.csv", tmp_path.parent / "a.csv"),
        ("rows", tmp_path / "rows"),
        ("someone/data-v1.0", "someone/data-v1.0"),
    ):
        assert source_path(source, tmp_path) == str(expected)


def change(task: int, **keys: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["tasks"][task].update(keys)


def top(**keys: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree.update(keys)


def weights(each: float, **keys: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(tree: dict[str, Any]) -> None:
        for task in tree["tasks"]:
            task["weight"] = each
        tree.update(keys)

    return spoil


BAD: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (top(held_out=["fa"]), "held_out names 'fa', which is no task; did you mean 'far'"),
    (top(held_out=["sums", "words", "far"]), "none is left to train on"),
    (change(1, name="sums"), "several tasks are called 'sums'"),
    (change(0, weight=1), "'words' has none"),
    (weights(0), "all weights are 0"),
    (weights(1, cap=3), "cap has no effect"),
    (top(cap=0), "cap"),
    (top(temperature=0), "temperature"),
    (top(temperature=-1), "temperature"),
    (top(num_epochs=1), "keep one"),
    (top(modes={"few_shot": 0.7, "chain_of_thought": 0.7}), "add up to more than 1"),
    (change(1, modes={"chain_of_thought": 0.5}), "no rationale column"),
    (top(temprature=2), "Did you mean 'temperature'"),
    (change(0, source="nothing.jsonl"), "no such file"),
    (change(0, select={"c": ["nine"]}), "selects no row"),
    (change(0, templates=[]), "templates"),
    (
        change(0, templates=[{"input": "{{ a ", "target": "x"}]),
        "tasks.sums.templates[1].input: is not a Jinja template",
    ),
    (change(0, templates=[{"name": "2", "input": "a", "target": "b"}, {"input": "a", "target": "b"}]), "called '2'"),
    (change(1, options=["even"]), "at least two options"),
    (change(1, options=["even", "odder"]), "none of the task's options"),
    (change(0, templates=[{"input": "{{ nought }}", "target": "x"}]), "'sums.1' reads the field 'nought'"),
    (change(0, columns={"x": "nought"}), "the column of task 'sums' is missing"),
    (change(0, rationale="nought"), "a rationale is expected"),
    (change(0, num_shots=30, limit=20), "Lower num_shots"),
]


@pytest.mark.parametrize(("spoil", "says"), BAD, ids=[says[:30] for _, says in BAD])
def test_wrong_settings_are_errors(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], says: str) -> None:
    path = make(tmp_path)
    tree = yaml.safe_load(Path(path).read_text())
    spoil(tree)
    Path(path).write_text(yaml.safe_dump(tree))
    with pytest.raises((ConfigError, DataError)) as caught:
        load(path)
    assert says in str(caught.value)


def test_a_row_without_a_field_is_named_or_dropped_and_counted(tmp_path: Path) -> None:
    path = make(tmp_path)
    rows = sums(1, 40)
    del rows[4]["b"]
    write(tmp_path / "sums.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(
        f"{tmp_path}/sums.jsonl:5:b: the input of template 'sums.1' reads the field 'b'"
    )
    data = load(path, on_bad_row="drop")
    assert sum(data.rows_dropped.values()) == 1 and (data.rows_read, data.rows_used) == (160, 159)
    write(tmp_path / "sums.jsonl", [{"x": 1}] * 3)
    with pytest.raises(DataError, match="all 3 rows of task 'sums' are faulty"):
        load(path, on_bad_row="drop")
    (tmp_path / "sums.jsonl").write_text("")
    with pytest.raises(DataError, match="the file is empty"):
        load(path)


@pytest.mark.parametrize(
    "setting",
    [
        {"shape": "text"}, {"columns": {"text": "x"}}, {"validation": "x.jsonl"}, {"group_by": "word"},
        {"stratify_by": "kind"},
    ],
)  # fmt: skip
def test_settings_of_plain_rows_mean_nothing_for_a_mixture(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="means nothing for a mixture"):
        load(make(tmp_path), **setting)


def test_tasks_of_one_source_hold_out_the_same_rows(tmp_path: Path) -> None:
    write(tmp_path / "sums.jsonl", sums(1, 60))
    ask, back, other = (
        {"input": "{{ a }} + {{ b }}", "target": "{{ c }}"},
        {"input": "{{ c }}", "target": "{{ a }} + {{ b }}"},
        {"input": "Why {{ c }}?", "target": "{{ why }}"},
    )

    def held(*templates: dict[str, str], source: str = "sums.jsonl") -> tuple[list[set[int]], int]:
        tasks = [{"name": f"t{i}", "source": source, "templates": [t]} for i, t in enumerate(templates)]
        tasks[-1]["source"] = "sums.jsonl"
        (tmp_path / "m.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
        data = load(str(tmp_path / "m.yaml"), validation_share=0.2)
        assert data.mixture is not None
        return [set(task.held_ids.tolist()) for task in data.mixture.tasks], data.validation_rows_in_train

    (one, two), leaks = held(ask, back, source="./sums.jsonl")
    assert one == two and len(one) == 12 and leaks == 0
    # Tasks that read other fields cannot promise it, and say how far they fail.
    (one, two), leaks = held(ask, other)
    assert leaks == len(one - two) + len(two - one) > 0
