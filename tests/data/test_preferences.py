"""Feedback of every kind -> groups: what becomes one answer, one pair, one prompt, and what is counted instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_data
from tunesmith.config import build_config
from tunesmith.data.preference_groups import find_contradictions
from tunesmith.data.preferences import LoadedPreferences, PreferenceDataConfig, load_preferences
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import PreferenceGroup

Rows = list[dict[str, Any]]


def loaded(tmp_path: Path, rows: Rows, *, needs: Any = "pairs", seed: int = 0, **settings: Any) -> LoadedPreferences:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"train": str(path), "validation_share": 0, **settings}
    return load_preferences(build_config(PreferenceDataConfig, keys, place="data"), seed, needs=needs)


def said(group: PreferenceGroup) -> list[tuple[str, str, float, float]]:
    texts = [answer[-1].content for answer in group.answers]
    return [(texts[pair.better], texts[pair.worse], pair.weight, pair.margin) for pair in group.pairs]


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_rows_of_one_prompt_are_one_group_and_equal_pairs_add_their_weights(tmp_path: Path) -> None:
    rows = [pair("p", "a", "b"), pair("q", "a", "b"), pair("p", "b", "c", weight=2, margin=0.5), pair("p", "a", "b")]
    data = loaded(tmp_path, rows)
    assert [group.row_id for group in data.train] == [0, 1]
    assert said(data.train[0]) == [("a", "b", 2.0, 0.0), ("b", "c", 2.0, 0.5)]
    assert len(data.train[0].answers) == 3
    assert data.summary()["pairs_train"] == 3


def test_a_ranking_is_all_its_pairs_but_the_ties(tmp_path: Path) -> None:
    answers = {"A": "a", "B": "b", "C": "c"}
    data = loaded(tmp_path, [{"prompt": "p", "candidates": answers, "ranking": "B > C = A"}])
    assert said(data.train[0]) == [("b", "c", 1, 0), ("b", "a", 1, 0)]
    assert data.left_out == {"pair of tied answers": 1}


def test_ratings_keep_the_grades_and_gaps_become_margins(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": text, "rating": rating}
        for text, rating in (("a", 5), ("b", 1), ("b", 2), ("c", 2), ("d", 5))
    ]
    data = loaded(tmp_path, [*rows, {"prompt": "q", "completion": "a", "rating": 3}], rating_margin=0.5)
    (group,) = data.train
    assert group.ratings == (5, 1.5, 2, 5)
    assert said(group) == [("a", "b", 1, 1.75), ("a", "c", 1, 1.5), ("d", "b", 1, 1.75), ("d", "c", 1, 1.5)]
    assert data.left_out == {
        "answer without another one to its prompt": 1,
        "pair rated less than 1 apart": 1,
        "pair of tied answers": 1,
        "prompt without a pair": 1,
    }
    assert len(loaded(tmp_path, [*rows, {"prompt": "q", "completion": "a", "rating": 3}], needs="grades").train) == 2


def test_flags_thumbs_and_edits(tmp_path: Path) -> None:
    flags = [
        {"prompt": "p", "completion": "a", "flagged": True, "reason": "rude"},
        {"prompt": "p", "completion": "b", "flagged": False, "reason": ""},
    ]
    (group,) = loaded(tmp_path, flags).train
    assert said(group) == [("b", "a", 1, 0)] and group.ratings == (0, 1)
    thumbs = [{"prompt": "p", "completion": text, "label": up} for text, up in (("a", 1), ("a", 0), ("b", 0))]
    (group,) = loaded(tmp_path, thumbs).train
    assert said(group) == [("a", "b", 0.5, 0)] and group.ratings == (0.5, 0)
    (group,) = loaded(tmp_path, [{"prompt": "p", "original": "a", "edited": "b"}]).train
    assert said(group) == [("b", "a", 1, 0)] and group.ratings == ()


def test_faulty_rows_stop_the_job_or_are_counted(tmp_path: Path) -> None:
    rows = [
        pair("p", "a", "a"),
        pair("p", "", "b"),
        pair("p", "a", "b"),
        pair("p", "a", "c", weight=0),
        pair("p", "a", "d", margin=-1),
        pair("p", "a", "e", weight=True),
        {"prompt": "p", "completion": "a", "rating": 3},
    ]
    with pytest.raises(DataError, match=r"6 of 7 rows are faulty") as caught:
        loaded(tmp_path, rows)
    for line, name in ((1, "rejected"), (2, "chosen"), (4, "weight"), (5, "margin"), (6, "weight")):
        assert f"rows.jsonl:{line}:{name}" in str(caught.value)
    data = loaded(tmp_path, rows, on_bad_row="drop")
    assert said(data.train[0]) == [("a", "b", 1, 0)]
    assert sum(data.rows_dropped.values()) == 6 and data.rows_read == 7
    with pytest.raises(DataError, match="the chosen and the rejected answer are the same") as caught:
        loaded(tmp_path, rows[:1], on_bad_row="drop")


def test_conflicts_and_cycles_are_counted_and_kept(tmp_path: Path) -> None:
    rows = [pair("p", "a", "b"), pair("p", "b", "a"), pair("p", "b", "c"), pair("q", "a", "b")]
    rows += [pair("q", "b", "c"), pair("q", "c", "a"), pair("r", "a", "b"), pair("r", "b", "c"), pair("r", "a", "c")]
    data = loaded(tmp_path, rows)
    found = data.contradictions
    assert (found.conflicts, found.cycles) == (1, 1)
    assert [place.rpartition(":")[2] for place in found.places] == ["1", "4"]
    assert sum(len(group.pairs) for group in data.train) == len(rows)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(5)))
def test_a_ranking_never_contradicts_itself(order: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    names = [f"a{i}" for i in order]
    row = {"prompt": "p", "candidates": {name: name for name in names}, "ranking": " > ".join(names)}
    data = loaded(tmp_path_factory.mktemp("ranking"), [row])
    assert len(data.train[0].pairs) == 10
    assert find_contradictions(data.train).conflicts == find_contradictions(data.train).cycles == 0


def test_the_split_is_by_prompt_and_by_seed_and_not_by_order(tmp_path: Path) -> None:
    rows = [pair(f"p{i % 20}", f"a{i}", f"b{i}") for i in range(60)]

    def held_out(rows: Rows, seed: int) -> set[str]:
        data = loaded(tmp_path, rows, seed=seed, validation_share=0.25)
        prompts = [{group.prompt[0].content for group in side} for side in (data.train, data.validation)]
        assert not prompts[0] & prompts[1] and len(prompts[1]) == 5
        return prompts[1]

    assert held_out(rows, 0) == held_out(rows[::-1], 0) != held_out(rows, 1)


def test_dialogues_that_begin_alike_stay_on_one_side(tmp_path: Path) -> None:
    def dialogue(i: int, depth: int) -> dict[str, Any]:
        turns = [{"role": "user", "content": f"p{i}"}]
        for turn in range(depth):
            turns += [{"role": "assistant", "content": f"r{turn}"}, {"role": "user", "content": f"u{turn}"}]
        return {"prompt": turns, "chosen": "a", "rejected": "b"}

    rows = [dialogue(i, depth) for i in range(12) for depth in range(3)]
    data = loaded(tmp_path, rows, validation_share=0.3)
    openings = [{group.prompt[0].content for group in side} for side in (data.train, data.validation)]
    assert openings[1] and not openings[0] & openings[1] and not data.split_note
    one = loaded(tmp_path, [dialogue(0, depth) for depth in range(8)], validation_share=0.3)
    assert one.validation and one.split_note


def test_a_prompt_of_the_validation_file_is_not_trained_on(tmp_path: Path) -> None:
    other = tmp_path / "validation.jsonl"
    other.write_text(json.dumps(pair("q", "c", "d")) + "\n")
    data = loaded(tmp_path, [pair("p", "a", "b"), pair("q", "a", "b")], validation=str(other))
    assert [group.prompt[0].content for group in data.train] == ["p"]
    assert data.left_out == {"training prompt that the validation source holds too": 1}
    with pytest.raises(DataError, match="no prompt is left"):
        loaded(tmp_path, [pair("q", "a", "b")], validation=str(other))


def test_columns_are_mapped_and_unknown_ones_refused(tmp_path: Path) -> None:
    rows = [{"question": "p", "good": "a", "bad": "b", "note": "x"}]
    data = loaded(tmp_path, rows, columns={"prompt": "question", "chosen": "good", "rejected": "bad"})
    assert said(data.train[0]) == [("a", "b", 1, 0)] and data.ignored_columns == ["note"]
    with pytest.raises(ConfigError, match="did you mean 'chosen'"):
        loaded(tmp_path, rows, columns={"choosen": "good"})
    with pytest.raises(DataError, match="hold no feedback"):
        loaded(tmp_path, rows)


def test_the_real_files_equal_pairs_are_refused_and_counted() -> None:
    path = shared_data("instructions/preferences.json")
    with pytest.raises(DataError, match=r"4 of 804 rows are faulty"):
        load_preferences(PreferenceDataConfig(train=str(path)))
    data = load_preferences(PreferenceDataConfig(train=str(path), on_bad_row="drop"))
    assert data.rows_dropped == {"the chosen and the rejected answer are the same": 4}
    assert sum(data.summary()[f"pairs_{side}"] for side in ("train", "validation")) == 800
