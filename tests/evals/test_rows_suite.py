"""Suites over one's own rows: every shape, gold by text, place or letter, and each way to get it wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evals.suite_models import oracle, replies_by, values_by
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.suite import SuiteConfig
from tunesmith.evals.suites.catalogue import find_suite
from tunesmith.evals.task import Item, Task

ASKED = SuiteConfig()
CHAT = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def yaml(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def items_of(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    by_place = {item.id: item for item in find_suite(f"rows:{write(path, rows)}").build(ASKED).items}
    return sorted(by_place.values(), key=lambda item: item.id)


def one(tmp_path: Path, row: Mapping[str, Any]) -> tuple[Item, Task]:
    task = find_suite(f"rows:{write(tmp_path / 'mine.jsonl', [row])}").build(ASKED)
    return task.items[0], task


@pytest.mark.parametrize(
    ("row", "asked", "target"),
    [
        (CHAT, ["s", "q"], "a"),
        ({"instruction": "do", "input": "x", "output": "y"}, ["do\n\nx"], "y"),
        ({"prompt": "p", "completion": "c"}, ["p"], "c"),
        ({"input": "i", "output": "o"}, ["i"], "o"),
        ({"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]}, ["h"], "g"),
        ({"transcript": "Human: hi\nAI: ho"}, ["hi"], "ho"),
        ({"question": "2 + 2?", "answer": 4}, ["2 + 2?"], "4"),
    ],
)
def test_every_shape_of_a_chat_is_answered_in_words(
    tmp_path: Path, row: dict[str, Any], asked: list[str], target: str
) -> None:
    item, task = one(tmp_path, row)
    assert ([message.content for message in item.messages], item.target, item.choices) == (asked, target, ())
    assert task.metrics == ("exact", "contained") and not task.chance and task.name == "rows-mine"
    assert values_by(lambda item: [], task)["exact"] == 1.0


def test_texts_are_read_and_pairs_are_chosen_between(tmp_path: Path) -> None:
    item, task = one(tmp_path, {"text": "a whole text"})
    assert (item.messages, item.target, task.metrics[0]) == ((), "a whole text", "bits_per_byte")
    (reply,) = replies_by(lambda item: [-2.0], task)
    assert reply.request.continuations == ("a whole text",) and not reply.request.messages
    item, task = one(tmp_path, {"prompt": "p", "chosen": "good", "rejected": "bad"})
    assert (item.choices, item.target, task.chance["acc"]) == (("good", "bad"), "good", 0.5)


@pytest.mark.parametrize(
    ("choices", "answer", "target"),
    [
        (["red", "blue"], "blue", "blue"),
        (["red", "blue"], 0, "red"),
        (["red", "blue"], "B", "blue"),
        (["red", "blue"], "(B)", "blue"),
        (["red", "blue"], "B.", "blue"),
        (["B", "A"], "B", "B"),
        ([3, 2, 1], 1, "1"),
        ([1.5, 2.5], 2.5, "2.5"),
    ],
)
def test_gold_is_a_text_else_a_place_else_a_letter(
    tmp_path: Path, choices: list[Any], answer: Any, target: str
) -> None:
    item, task = one(tmp_path, {"question": "q", "choices": choices, "answer": answer})
    assert item.target == target and item.choices == tuple(map(str, choices))
    assert values_by(oracle, task)["acc"] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": "c"}, r"jsonl:2:answer: the answer is none of the choices"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, r"jsonl:2:answer: the answer is none"),
        ({"question": "q", "choices": ["a", "b"], "answer": -1}, r"jsonl:2:answer: the answer is none"),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, r"jsonl:2:answer: the answer is none"),
        ({"question": "q", "choices": ["a", "b"], "answer": None}, r"jsonl:2:answer: the answer is none"),
        ({"question": "q", "choices": ["a", "a "], "answer": "a"}, r"jsonl:2:choices: a list of two or more different"),
        ({"question": "q", "choices": ["a"], "answer": "a"}, r"jsonl:2:choices: a list of two or more"),
        ({"question": "q", "choices": "ab", "answer": "a"}, r"jsonl:2:choices: a list .*it is a"),
        ({"question": " ", "choices": ["a", "b"], "answer": "a"}, r"jsonl:2:question: the text is empty"),
        ({"question": "q", "answer": " "}, r"jsonl:2:answer: the text is empty"),
        ({"question": "q", "answer": None}, r"jsonl:2:answer: text is expected"),
        ({"question": "fine?", "answer": "yes"}, r"jsonl:2: the row asks the same as .*jsonl:1"),
    ],
)
def test_a_faulty_row_is_named_with_place_and_number(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = {"question": "fine?", "answer": "yes"}
    path = write(tmp_path / "mine.jsonl", [good, row, {"question": "two", "answer": ""}])
    with pytest.raises(DataError, match=message) as error:
        find_suite(f"rows:{path}").build(ASKED)
    assert "1 more of 3 rows are faulty" in str(error.value)


def test_no_rows_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="the file is empty"):
        find_suite(f"rows:{tmp_path / 'empty.jsonl'}")
    with pytest.raises(DataError):
        find_suite(f"rows:{tmp_path / 'absent.jsonl'}")
    with pytest.raises(ConfigError, match="rows: there is no row"):
        find_suite(yaml(tmp_path / "s.yaml", "type: rows\nrows: []\n"))


def test_columns_a_prompt_and_a_scorer_from_yaml(tmp_path: Path) -> None:
    write(
        tmp_path / "tickets.jsonl",
        [{"body": f"help {i}", "label": i % 2, "who": "ab"[i % 2], "n": i} for i in range(4)],
    )
    name = yaml(
        tmp_path / "tickets.yaml",
        "type: rows\nrows: tickets.jsonl\nversion: 3\nchoices: [billing, other]\nid: n\ngroup: who\nlicence: MIT\n"
        "prompt: |\n  {{ body }}\n  {{ option_lines }}\ntarget: '{{ options[label] }}'\nheadline: acc_norm\n",
    )
    suite = find_suite(name)
    task = suite.build(ASKED)
    items = {item.id: item for item in task.items}
    assert (suite.name, suite.version, suite.licence, suite.headline) == ("tickets", 3, "MIT", "acc_norm")
    assert items["1"].messages[0].content == "help 1\n- billing\n- other" and items["1"].target == "other"
    assert [items[str(i)].group for i in range(4)] == ["a", "b", "a", "b"]
    assert task.chance == dict.fromkeys(("acc", "acc_norm", "acc_bytes", "mass"), 0.5)


def test_inline_rows_and_scorers_with_options(tmp_path: Path) -> None:
    inline = 'rows: [{question: "how far?", answer: "#### 1,200 m"}, {question: "how long?", answer: "#### 2.5"}]\n'
    number = find_suite(yaml(tmp_path / "n.yaml", f"type: rows\n{inline}scorer: number\noptions: {{mark: '####'}}\n"))
    assert values_by(lambda item: [], number.build(ASKED)) == {"numeric": 1.0, "marked": 1.0}
    fields = 'type: rows\nrows: [{input: x, output: \'{"city": "Rome"}\'}]\nscorer: json\noptions: {fields: [city]}\n'
    suite = find_suite(yaml(tmp_path / "j.yaml", fields))
    assert suite.headline == "all_fields" and values_by(lambda item: [], suite.build(ASKED))["city"] == 1.0


def test_rows_with_choices_may_be_answered_in_words(tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", [{"question": "q", "choices": ["a", "b"], "answer": "a"}])
    suite = find_suite(yaml(tmp_path / "c.yaml", "type: rows\nrows: c.jsonl\nscorer: exact\n"))
    (reply,) = replies_by(lambda item: [], suite.build(ASKED))
    assert not suite.needs_likelihood and not reply.request.continuations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scorer: exakt\n", r"s.yaml:scorer: there is no scorer 'exakt'.*Did you mean 'exact'"),
        ("scorer: number\noptions: {marks: x}\n", r"options.marks: .*Did you mean 'mark'"),
        ("scorer: json\n", r"options: the scorer needs fields"),
        ("scorer: number\noptions: {absolute: -1}\n", r"options: the scorer refuses them"),
        ("scorer: number\noptions: {absolute: wide}\n", r"options: the scorer refuses them"),
        ("scorer: python\n", r"allow_execution"),
        ("scorer: choice\n", r"scorer: item \S+ has no choices"),
        ("headline: accuracy\n", r"headline: the scorer has no 'accuracy'"),
        ("prompt: '{{ question }}'\n", r"prompt: prompt and target belong together"),
        ("prompt: '{{ question'\ntarget: x\n", r"is not a Jinja template"),
        ("prompt: '{{ querstion }}'\ntarget: x\n", r"querstion"),
        ("choices: [yes, no]\n", r"s.yaml:3:choices: .*to YAML yes and no mean true and false"),
        ("choices: [a, a]\n", r"choices: two or more different texts"),
        ("validaton: x\n", r"s.yaml:3:validaton: unknown key.*Did you mean 'validation'"),
        ("name: a b\n", r"s.yaml:3:name"),
        ("type: lines\n", r"type"),
        ("id: number\n", r"number: text is expected"),
    ],
)
def test_a_suites_faults_name_their_key(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "r.jsonl", [{"question": "q", "answer": "a"}])
    kind = "" if text.startswith("type") else "type: rows\n"
    with pytest.raises((ConfigError, DataError), match=message):
        find_suite(yaml(tmp_path / "s.yaml", f"{kind}rows: r.jsonl\n{text}")).build(ASKED)


def test_texts_cannot_be_scored_as_answers(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", [{"text": "words"}])
    with pytest.raises(ConfigError, match=r"'exact' reads an answer, and item .* asks nothing"):
        find_suite(yaml(tmp_path / "s.yaml", "type: rows\nrows: r.jsonl\nscorer: exact\n")).build(ASKED)


def test_a_folder_brings_its_parts_and_examples_must_not_be_asked(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        write(folder / f"{part}.jsonl", [{"question": f"{part} {i}?", "answer": "a"} for i in range(3)])
    suite = find_suite(f"rows:{folder}")
    asked = {split: suite.build(SuiteConfig(split=split)).items for split in ("validation", "test")}  # type: ignore[arg-type]
    assert {item.messages[0].content[:5] for item in asked["validation"]} == {"valid"} and len(asked["test"]) == 3
    (reply, *_) = replies_by(lambda item: [], suite.build(SuiteConfig(shots=2)))
    assert [message.role for message in reply.request.messages] == ["user", "assistant"] * 2 + ["user"]
    assert all(message.content.startswith("train") for message in reply.request.messages[:4:2])
    # The same question with other letters and marks is the same question.
    write(folder / "train.jsonl", [{"question": "TEST 1", "answer": "a"}, {"question": "other", "answer": "a"}])
    with pytest.raises(DataError, match="1 questions also stand among the examples shown"):
        suite.build(ASKED)


def test_a_file_alone_has_no_validation_rows_and_no_examples(tmp_path: Path) -> None:
    suite = find_suite(f"rows:{write(tmp_path / 'r.jsonl', [{'question': 'q', 'answer': 'a'}])}")
    with pytest.raises(ConfigError, match="no validation rows"):
        suite.build(SuiteConfig(split="validation"))
    with pytest.raises(ConfigError, match="shots: 1 are more than the 0 examples"):
        suite.build(SuiteConfig(shots=1))
    assert len(suite.build(SuiteConfig(limit=50)).items) == 1, "a limit is the most there may be"


def test_a_folder_of_texts_brings_its_parts_too(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / f"{part}.jsonl", [{"text": f"{part} {i}"} for i in range(3)])
    suite = find_suite(f"rows:{tmp_path}")
    assert len(suite.build(ASKED).items) == 3
    write(tmp_path / "train.jsonl", [{"text": "test 1"}])
    with pytest.raises(DataError, match="1 questions also stand among the examples"):
        suite.build(ASKED)


def test_what_is_reported_is_not_what_was_chosen_on(tmp_path: Path) -> None:
    rows = write(tmp_path / "r.jsonl", [{"question": f"q {i}", "answer": "a"} for i in range(3)])
    suite = find_suite(yaml(tmp_path / "s.yaml", f"type: rows\nrows: {rows}\nvalidation: {rows}\n"))
    with pytest.raises(ConfigError, match=r"validation: 3 of 3 rows also stand among the test rows"):
        suite.build(SuiteConfig(split="validation"))
    assert len(suite.build(ASKED).items) == 3
