import json

import pytest
from conftest import shared_data

from tunesmith.data.requests import FORMS, as_request


@pytest.mark.parametrize(
    "question",
    ["How can I save water?", "How to save water", "how do we save water ?", "How could someone save water?"],
)
def test_a_question_that_asks_how_becomes_an_order(question: str) -> None:
    assert as_request(question) in {form.format("save water") for form in FORMS}


@pytest.mark.parametrize(
    "question", ["Why is water wet?", "How much water is there?", "How to?", "", "How can I? How?"]
)
def test_another_question_stays_a_question(question: str) -> None:
    assert as_request(question) is None


def test_words_and_seed_choose_the_form() -> None:
    questions = [f"How can I carry {number} boxes?" for number in range(60)]
    first = [as_request(one) for one in questions]
    assert first == [as_request(one) for one in questions]
    assert first != [as_request(one, seed=1) for one in questions]
    assert len({str(one).split(" carry")[0] for one in first}) == len(FORMS)


def test_most_questions_of_harmfulqa_can_be_put_as_requests() -> None:
    path = shared_data("harmfulqa") / "questions.jsonl"
    questions = [json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()]
    put = [one for one in map(as_request, questions) if one]
    assert len(put) >= 0.8 * len(questions) and not any("?" in one for one in put)
