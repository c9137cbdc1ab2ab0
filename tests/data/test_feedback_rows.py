"""Rows of human feedback -> records -> pairs: goldens, every fault by place and cause, and what sft says of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_data
from tunesmith.data.check import RowError
from tunesmith.data.convertible import FeedbackShape, convertible_shapes
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.hh import parse_hh
from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.pairs import approved, pairs_between, pairs_within
from tunesmith.data.ranking import parse_ranking
from tunesmith.errors import DataError
from tunesmith.records import Edit, Feedback, Flag, Message, Preference, Ranking, Rating, Thumb, Where

WHERE = Where("rows.jsonl", 7)
U, A, B = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "a"), ("assistant", "b")))
HH = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\nHuman: is a line\n\nAssistant: {}"


def read(row: dict[str, Any], shape: FeedbackShape, columns: dict[str, str] | None = None) -> Feedback:
    return read_feedback(FeedbackRow(row, WHERE, 4, columns or {}, False, set()), shape)


def fault(row: dict[str, Any], shape: FeedbackShape, columns: dict[str, str] | None = None) -> RowError:
    with pytest.raises(RowError) as caught:
        read(row, shape, columns)
    assert caught.value.cause.endswith(".") and caught.value.fix.endswith(".")
    return caught.value


def said(turns: tuple[Message, ...]) -> list[str]:
    return [f"{turn.role}: {turn.content}" for turn in turns]


# Pairs ---------------------------------------------------------------------------------------------------------------

HI, ANSWERS = ["user: hi"], (["assistant: a"], ["assistant: b"])


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, HI),
        ({"prompt": [U], "chosen": [A], "rejected": "b"}, HI),
        ({"prompt": "hi", "system": "s", "chosen": "a", "rejected": "b"}, ["system: s", *HI]),
        ({"prompt": "hi", "chosen": [U, A], "rejected": [U, B]}, HI),
        ({"chosen": [U, A], "rejected": [U, B]}, HI),
        ({"instruction": "do", "input": "it", "chosen": "a", "rejected": "b"}, ["user: do\n\nit"]),
        ({"instruction": "do", "input": " ", "chosen": "a", "rejected": "b"}, ["user: do"]),
        ({"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " a", "rejected": " b\n"}, HI),
        (
            {"chosen": HH.format("a"), "rejected": HH.format("b")},
            ["user: one", "assistant: two", "user: three\nHuman: is a line"],
        ),
    ],
)
def test_pairs_of_every_kind(row: dict[str, Any], prompt: list[str]) -> None:
    record = read(row, "preference")
    assert isinstance(record, Preference)
    assert said(record.prompt) == prompt
    assert (said(record.chosen), said(record.rejected)) == ANSWERS
    # An answer inside a prompt is not what people compared.
    assert not any(turn.train for turn in record.prompt if turn.role == "assistant")
    assert all(turn.train for turn in record.chosen + record.rejected)
    assert (record.row_id, record.where) == (4, WHERE)


def test_dialogues_that_part_early_keep_their_later_turns() -> None:
    row = {"chosen": [U, A, U, B], "rejected": [U, B, U, A]}
    record = read(row, "preference")
    assert isinstance(record, Preference)
    assert (len(record.prompt), len(record.chosen), len(record.rejected)) == (1, 3, 3)


def test_hh_golden_of_the_published_file() -> None:
    path = shared_data("hh_rlhf/harmless_base.jsonl")
    with path.open(encoding="utf-8") as lines:
        first = json.loads(next(lines))
    record = read(first, "preference")
    assert isinstance(record, Preference)
    assert said(record.prompt) == ["user: What's the easiest way to sneak into a movie theater without paying?"]
    for name, answer in (("chosen", record.chosen), ("rejected", record.rejected)):
        # An independent cut of the string, at its last marker.
        assert answer[0].content == first[name].rpartition("\n\nAssistant:")[2].strip()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab \n:HA", min_size=1).map(str.strip).filter(lambda t: t and "\n\n" not in t), min_size=1))
def test_dialogues_in_one_string_come_back(texts: list[str]) -> None:
    speakers = ("Human", "Assistant")
    text = "".join(f"\n\n{speakers[i % 2]}: {content}" for i, content in enumerate(texts))
    turns = parse_hh(text, WHERE)
    assert [turn.content for turn in turns] == texts
    assert [turn.role for turn in turns] == [("user", "assistant")[i % 2] for i in range(len(texts))]


# Rankings ------------------------------------------------------------------------------------------------------------


def ranking_pairs(text: str, names: str) -> tuple[list[str], dict[str, int]]:
    row = {"prompt": "p", "ranking": text, "candidates": {name: name.lower() for name in names}}
    record = read(row, "ranking")
    assert isinstance(record, Ranking)
    left_out: dict[str, int] = {}
    pairs = list(pairs_within(record, left_out))
    return [f"{pair.chosen[0].content}>{pair.rejected[0].content}" for pair in pairs], left_out


def test_a_ranking_of_three_makes_three_pairs_and_ties_make_none() -> None:
    assert ranking_pairs("B > C > A", "ABC") == (["b>c", "b>a", "c>a"], {})
    assert ranking_pairs("B=C>A", "ABC") == (["b>a", "c>a"], {"pair of tied answers": 1})
    assert ranking_pairs("A = B = C", "ABC") == ([], {"pair of tied answers": 3})


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 7).flatmap(lambda n: st.lists(st.integers(0, 3), min_size=n, max_size=n)))
def test_pairs_and_ties_together_are_all_pairs(tiers: list[int]) -> None:
    names = "ABCDEFG"[: len(tiers)]
    text = " > ".join(
        " = ".join(name for name, tier in zip(names, tiers, strict=True) if tier == level)
        for level in sorted(set(tiers))
    )
    pairs, left_out = ranking_pairs(text, names)
    level = {name.lower(): tier for name, tier in zip(names, tiers, strict=True)}
    expected = {f"{a}>{b}" for a, b in itertools.permutations(level, 2) if level[a] < level[b]}
    assert set(pairs) == expected and len(pairs) == len(expected)
    assert len(pairs) + left_out.get("pair of tied answers", 0) == len(names) * (len(names) - 1) // 2


def ranking_names(record: Feedback) -> list[tuple[str, ...]]:
    assert isinstance(record, Ranking)
    return list(record.tiers)


def test_a_list_of_candidates_is_named_by_letters() -> None:
    record = read({"prompt": "p", "ranking": "B > A", "completions": ["first", [B]]}, "ranking")
    assert isinstance(record, Ranking)
    assert record.tiers == (("B",), ("A",))
    assert record.candidates["B"][0].content == "b"
    gaps = {"prompt": "p", "ranking": "C > A", "candidates": {"A": "a", "B": None, "C": "c"}}
    assert ranking_names(read(gaps, "ranking")) == [("C",), ("A",)]
    assert parse_ranking("x y>z", ["x y", "z"], WHERE) == (("x y",), ("z",))


# What else people say ------------------------------------------------------------------------------------------------


def test_single_answers_pair_with_others_to_their_prompt() -> None:
    rated = [
        read({"prompt": "p", "completion": c, "rating": r}, "rating") for c, r in (("a", 5), ("b", "3"), ("c", 4.0))
    ]
    assert [record.rating for record in rated if isinstance(record, Rating)] == [5, 3, 4]
    left_out: dict[str, int] = {}
    pairs = list(pairs_between([r for r in rated if isinstance(r, Rating)], 2, left_out))
    assert [(p.chosen[0].content, p.rejected[0].content) for p in pairs] == [("a", "b")]
    assert left_out == {"pair rated less than 2 apart": 2}
    thumbs = [read({"prompt": "p", "completion": c, "label": v}, "unpaired") for c, v in (("a", "False"), ("b", 1))]
    pairs = list(pairs_between([t for t in thumbs if isinstance(t, Thumb)], 1, {}))
    assert [p.chosen[0].content for p in pairs] == ["b"]
    flags = [{"completion": "a", "flagged": True, "reason": "rude"}, {"completion": "b", "reason": ""}]
    read_flags = [read({"prompt": "p", **flag}, "flag") for flag in flags]
    assert [(f.flagged, f.reason) for f in read_flags if isinstance(f, Flag)] == [(True, "rude"), (False, "")]
    pairs = list(pairs_between([f for f in read_flags if isinstance(f, Flag)], 1, {}))
    assert [p.chosen[0].content for p in pairs] == ["b"]


def test_one_answer_alone_makes_no_pair_and_is_counted() -> None:
    thumb = read({"prompt": "p", "completion": "a", "label": True}, "unpaired")
    assert isinstance(thumb, Thumb)
    left_out: dict[str, int] = {}
    assert list(pairs_between([thumb], 1, left_out)) == []
    assert left_out == {"answer without another one to its prompt": 1}
    assert list(pairs_between([thumb, thumb], 1, left_out)) == []
    assert left_out["pair of tied answers"] == 1


def test_an_edit_is_better_than_its_original_and_is_what_trains() -> None:
    edit = read({"prompt": "p", "original": "a", "edited": "b"}, "edit")
    assert isinstance(edit, Edit)
    (pair,) = pairs_within(edit, {})
    assert (said(pair.chosen), said(pair.rejected)) == (["assistant: b"], ["assistant: a"])
    left_out: dict[str, int] = {}
    (conversation,) = approved(edit, 4, left_out)
    assert said(conversation.messages) == ["user: p", "assistant: b"]
    assert left_out == {"answer as it was before its correction": 1}


@pytest.mark.parametrize(
    ("row", "shape", "field", "cause"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "preference", "rejected", "are the same"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, "preference", "rejected", "missing or null"),
        ({"prompt": "p", "chosen": "a", "rejected": " "}, "preference", "rejected", "the text is empty"),
        ({"prompt": "p", "chosen": [U, U, A], "rejected": "b"}, "preference", "chosen", "does not begin with the"),
        ({"prompt": [U, A], "chosen": "a", "rejected": "b"}, "preference", "chosen", "two assistant turns"),
        ({"chosen": "a", "rejected": "b"}, "preference", "chosen", "there is no prompt, and the answer is no dialogue"),
        ({"chosen": [U, A], "rejected": [U, A, U, B]}, "preference", None, "one dialogue is the beginning of the"),
        ({"chosen": [{**U, "content": "x"}, A], "rejected": [U, B]}, "preference", None, "part before the assistant"),
        ({"chosen": [U, A, U, A], "rejected": [U, A, {**U, "content": "x"}, A]}, "preference", None, "part before"),
        ({"chosen": "\n\nHuman: x", "rejected": "\n\nHuman: y"}, "preference", "chosen", "no assistant turn"),
        (
            {"chosen": "\n\nHuman: x\n\nHuman: y\n\nAssistant: z", "rejected": HH.format("a")},
            "preference",
            "chosen",
            "two user turns stand in a row",
        ),
        ({"chosen": "\n\nHuman: x\n\nAssistant:", "rejected": "z"}, "preference", "chosen", "empty (turn 2"),
        ({"prompt": "p", "completion": "c", "rating": 6}, "rating", "rating", "out of range (6)"),
        ({"prompt": "p", "completion": "c", "rating": 0}, "rating", "rating", "out of range (0)"),
        ({"prompt": "p", "completion": "c", "rating": "-1"}, "rating", "rating", "out of range (-1)"),
        ({"prompt": "p", "completion": "c", "rating": 4.5}, "rating", "rating", "no whole number"),
        ({"prompt": "p", "completion": "c", "rating": "good"}, "rating", "rating", "no whole number ('good')"),
        ({"prompt": "p", "completion": "c", "rating": True}, "rating", "rating", "no whole number"),
        (
            {"prompt": "p", "completion": "c", "label": "maybe"},
            "unpaired",
            "label",
            "true or false is expected ('maybe",
        ),
        ({"prompt": "p", "completion": "c", "label": 2}, "unpaired", "label", "true or false is expected"),
        ({"prompt": "p", "completion": "c", "response": "d", "label": 1}, "unpaired", "response", "mean the same"),
        ({"prompt": "p", "completion": "c", "flagged": True}, "flag", "reason", "a flag has no reason"),
        ({"prompt": "p", "completion": "c", "flagged": 0, "reason": "r"}, "flag", "reason", "a reason, but no flag"),
        ({"prompt": "p", "original": "a", "corrected": "a"}, "edit", "corrected", "the correction is the original"),
        (
            {"prompt": "p", "ranking": "A > D", "candidates": ["a", "b"]},
            "ranking",
            "ranking",
            "unknown candidate ('D')",
        ),
        ({"prompt": "p", "ranking": "A", "candidates": ["a", "b"]}, "ranking", "ranking", "leaves a candidate out ('B"),
        ({"prompt": "p", "ranking": "A>B>A", "candidates": ["a", "b"]}, "ranking", "ranking", "twice ('A')"),
        ({"prompt": "p", "ranking": "A>>B", "candidates": ["a", "b"]}, "ranking", "ranking", "has a gap"),
        ({"prompt": "p", "ranking": ["A"], "candidates": ["a", "b"]}, "ranking", "ranking", "a ranking is expected"),
        ({"prompt": "p", "ranking": "A", "candidates": ["a"]}, "ranking", "candidates", "fewer than two"),
        ({"prompt": "p", "ranking": "A", "candidates": "a"}, "ranking", "candidates", "candidates are expected"),
        ({"prompt": "p", "ranking": "A>B", "candidates": {"A": "", "B": "b"}}, "ranking", "candidates.A", "is empty"),
    ],
)
def test_bad_rows_name_line_field_cause_and_fix(
    row: dict[str, Any], shape: FeedbackShape, field: str | None, cause: str
) -> None:
    error = fault(row, shape)
    assert error.place == ("rows.jsonl:7" if field is None else f"rows.jsonl:7:{field}")
    assert cause in error.cause


def test_faults_name_the_columns_of_the_file() -> None:
    row = {"question": "p", "reply": "c", "stars": 9}
    error = fault(row, "rating", {"prompt": "question", "completion": "reply", "rating": "stars"})
    assert error.place == "rows.jsonl:7:stars"


# Detection -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "shape", "option"),
    [
        (["chosen", "rejected", "prompt"], "preference", ""),
        (["prompt", "ranking", "candidates"], "ranking", ""),
        (["prompt", "original", "edited"], "edit", ""),
        (["message_tree_id", "tree_state", "prompt"], "tree", ""),
        (["message_tree_id", "message_id", "parent_id", "text", "role"], "tree-messages", ""),
        (["thread_id", "timestamp", "sender", "text"], "chat-export", " --assistant NAME"),
    ],
)
def test_sft_names_the_command_that_makes_rows_of_them(
    tmp_path: Path, columns: list[str], shape: str, option: str
) -> None:
    assert convertible_shapes(columns) == [shape]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(dict.fromkeys(columns, "x")) + "\n")
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(train=str(path)))
    assert f"tunesmith data convert {path} rows.jsonl --to messages{option}" in caught.value.fix
    assert "training does not read as they are" in caught.value.cause


def test_text_with_a_speaker_is_no_document_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"thread": "1", "time": "x", "speaker": "y", "text": "z"}) + "\n")
    assert load_data(DataConfig(train=str(path), shape="text", validation_share=0)).rows_used == 1
    path.write_text(json.dumps({"speaker": "y", "text": "z"}) + "\n")
    assert load_data(DataConfig(train=str(path), validation_share=0)).shape == "text"
