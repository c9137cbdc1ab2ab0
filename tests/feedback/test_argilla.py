"""Argilla's exports, as argilla 2.8.0 itself wrote them, and records that say less or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import ConfigError, DataError
from tunesmith.feedback.argilla import ArgillaOptions, Question
from tunesmith.feedback.judgements import Compared, Edited, Flagged, Ranked, Rated, Thumbed, answer_of
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.transfer import Imported, ImportOptions, import_files
from tunesmith.recipes.feedback_transfer import parse_questions

HERE = Path(__file__).parent / "argilla"
ANN, BOB = (f"00000000-0000-0000-0000-00000000000{i}" for i in (1, 2))
SKIP_COMMENT = {"comment": Question("skip")}


def read(
    tmp_path: Path, source: Path, **options: Any
) -> tuple[Imported, list[tuple[str, Any, list[str]]], FeedbackStore]:
    store = FeedbackStore.open(tmp_path / "f.db", create=True)
    report = import_files(store, [source], ImportOptions(argilla=ArgillaOptions(**options)))
    texts = {candidate.id: candidate.text for candidate in store.candidates()}
    return report, [(j.annotator, j.value, [texts[c] for c in j.candidates]) for j in store.judgements()], store


def record(tmp_path: Path, **change: Any) -> Path:
    row: dict[str, Any] = {
        "id": "r", "fields": {"prompt": "Hi", "response_1": "Hello.", "response_2": "Hey."}, "metadata": {},
        "suggestions": {}, "responses": {}, "vectors": {}, "_server_id": None,
    }  # fmt: skip
    path = tmp_path / "records.json"
    path.write_text(json.dumps([{**row, **change}]), encoding="utf-8")
    return path


def replies(**values: Any) -> dict[str, Any]:
    return {name: [{"value": value, "user_id": ANN}] for name, value in values.items()}


A, B, C = "It is what it is.", "I am so sorry! A new one leaves today.", "Sorry. Please send a photo."
FIRST_TWO = [
    (ANN, Ranked(((1,), (2,), (0,))), [A, B, C]),
    (BOB, Ranked(((1,), (0,), (2,))), [A, B, C]),
    (ANN, Rated(5), [B]),
    (ANN, Rated(1), [A]),
    (BOB, Ranked(((1,), (0,))), ["No idea.", "It arrives tomorrow."]),
    (ANN, Compared("B"), ["No idea.", "It arrives tomorrow."]),
    (BOB, Compared("both bad"), ["No idea.", "It arrives tomorrow."]),
]


def test_the_nested_form(tmp_path: Path) -> None:
    report, said, store = read(tmp_path, HERE / "records.json", questions=SKIP_COMMENT)
    assert said[:7] == FIRST_TWO
    assert said[7:] == [
        (ANN, Thumbed(True), ["Bye."]),
        (BOB, Thumbed(False), ["Bye."]),
        (ANN, Edited(answer_of("Goodbye, and thank you!")), ["Bye."]),
        (BOB, Flagged(True, "curt; cold"), ["Bye."]),
    ]
    assert report.left_out == {
        "suggestion of a model": 1,
        "response to 'comment', which is skipped": 1,
        "edit that leaves the answer as it is": 1,
    }
    assert [len(prompt.messages) for prompt in store.prompts()] == [1, 1, 3]
    again = import_files(store, [HERE / "records.json"], ImportOptions(argilla=ArgillaOptions(questions=SKIP_COMMENT)))
    assert again.kinds == {} and again.already_there == len(said)


@pytest.mark.parametrize("name", ["flat.jsonl", "flat.parquet"])
def test_the_flat_form_tells_drafts(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    report, said, _ = read(tmp_path, HERE / name, questions=SKIP_COMMENT)
    assert sorted(said, key=str) == sorted([one for one in FIRST_TWO if one != FIRST_TWO[1]], key=str)
    assert report.left_out == {
        "draft response": 1,
        "suggestion of a model": 1,
        "response to 'comment', which is skipped": 1,
    }
    assert report.ignored_columns == ["shop"]


def test_suggestions_are_a_models_word(tmp_path: Path) -> None:
    _, said, store = read(tmp_path, HERE / "records.json", questions=SKIP_COMMENT, suggestions=True)
    (suggested,) = [j for j in store.judgements() if j.source == "ai"]
    assert suggested.annotator == "judge-v1" and suggested.value == Ranked(((2,), (1,), (0,)))
    assert len(said) == 12


def test_ranks_of_the_server_may_tie(tmp_path: Path) -> None:
    ranked = [{"value": "response_1", "rank": 1}, {"value": "response_2", "rank": 1}]
    _, said, _ = read(tmp_path, record(tmp_path, responses=replies(order=ranked)))
    assert said == [(ANN, Ranked(((0, 1),)), ["Hello.", "Hey."])]


def test_what_a_question_asks_can_be_stated(tmp_path: Path) -> None:
    path = record(
        tmp_path,
        fields={"q": "Hi", "x": "Hello.", "y": "Hey."},
        responses=replies(stars=4, ok="thumbs_up", fixed="Hello!", why=["rude"], note="text"),
    )
    questions = parse_questions(["stars=rating:x", "ok=thumb:y", "fixed=edit:x", "why=flag:y", "note=skip"])
    _, said, _ = read(tmp_path, path, prompt_field="q", answer_fields=("x", "y"), questions=questions)
    assert [value for _, value, _ in said] == [
        Rated(4), Thumbed(True), Edited(answer_of("Hello!")), Flagged(True, "rude"),
    ]  # fmt: skip
    for wrong in ("stars", "=rating", "stars=guess"):
        with pytest.raises(ConfigError, match="is not understood"):
            parse_questions([wrong])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"responses": replies(note="text")}, r"records.json:1:responses.note\[0\]: what the question 'note' asks"),
        ({"responses": replies(stars=4)}, r"responses.stars\[0\]: what the question 'stars' asks cannot be told"),
        ({"responses": replies(ranking=["response_1", "response_9"])}, r"responses.ranking\[0\]"),
        ({"responses": {"ranking": {"value": 3}}}, "responses.ranking: a list of responses is expected"),
        ({"responses": {"ranking": [3]}}, r"responses.ranking\[0\]: a response is expected"),
        ({"responses": replies(rating_response_1=9)}, r"rating_response_1\[0\]: the rating is out of range"),
        ({"fields": {"text": "Hi"}}, "records.json:1: no field is the prompt"),
        ({"fields": {"prompt": "Hi", "text": "Hello."}}, "records.json:1: no field is an answer"),
        ({"fields": {"prompt": " ", "response": "Hello."}}, "records.json:1:prompt: the text is empty"),
        ({"fields": {"prompt": "Hi", "response": 3}}, "records.json:1:response: text is expected"),
    ],
)
def test_a_fault_names_the_response(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(tmp_path, record(tmp_path, **change))


def test_a_response_without_a_value_is_counted(tmp_path: Path) -> None:
    report, said, _ = read(tmp_path, record(tmp_path, responses=replies(ranking=None)))
    assert said == [] and report.left_out == {"response without a value": 1}
