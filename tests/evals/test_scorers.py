"""The scorers: a perfect answer scores 1, every fault costs exactly what it should, nothing crashes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.examples import support_desk
from tunesmith.errors import DataError
from tunesmith.evals.patterns import pattern_answer
from tunesmith.evals.scorers import (
    exact_text,
    json_fields,
    json_ticket,
    normalised,
    num_emojis,
    parse_json_object,
    tone_faults,
)
from tunesmith.evals.suites.support_desk import METRICS, TONE
from tunesmith.evals.task import Item, Reply, Request, Scorer
from tunesmith.records import Verdict

TARGET = {
    "category": "delivery",
    "priority": "high",
    "product": "Lynx Camera",
    "order_id": "TT-75485",
    "sentiment": "angry",
    "reply": "Thanks for telling us! We gladly track down your Lynx Camera today 🚚",
}
ITEM = Item(id="a", messages=(), target=json.dumps(TARGET))


def by_text(scorer: Scorer) -> Callable[[Item, str], Verdict]:
    return lambda item, text: scorer(item, Reply(request=Request(item=item, messages=item.messages), text=text))


SCORE = by_text(json_ticket(support_desk.FIELDS, "reply", TONE))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def values(answer: Any) -> dict[str, float]:
    return dict(SCORE(ITEM, answer if isinstance(answer, str) else json.dumps(answer)).values)


def test_a_perfect_answer_scores_one_everywhere() -> None:
    assert values(TARGET) == dict.fromkeys(METRICS, 1.0)
    assert values(f"  {json.dumps(TARGET, ensure_ascii=False)}\n") == dict.fromkeys(METRICS, 1.0), "white space is fine"
    assert values(dict(reversed(TARGET.items()))) == dict.fromkeys(METRICS, 1.0), "an object's keys have no order"
    assert SCORE(ITEM, json.dumps(TARGET)).explanation == ""


@given(text=st.text() | json_values.map(json.dumps) | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_any_text_gets_a_verdict(text: str) -> None:
    verdict = SCORE(ITEM, text)
    assert set(verdict.values) == set(METRICS)
    assert set(verdict.values.values()) <= {0.0, 1.0}
    assert verdict.values["all_fields"] <= verdict.values["valid_json"]


@given(field=st.sampled_from(support_desk.FIELDS), wrong=json_values)
def test_a_changed_field_costs_that_field_and_all_fields(field: str, wrong: Any) -> None:
    if json.dumps(wrong) == json.dumps(TARGET[field]):
        return
    got = values({**TARGET, field: wrong})
    expected = {**dict.fromkeys(METRICS, 1.0), field: 0.0, "all_fields": 0.0}
    assert got == expected
    assert f"wrong {field}" in SCORE(ITEM, json.dumps({**TARGET, field: wrong})).explanation


@given(field=st.sampled_from(list(TARGET)))
def test_a_missing_key_is_no_valid_ticket(field: str) -> None:
    got = values({key: value for key, value in TARGET.items() if key != field})
    assert got["valid_json"] == got["all_fields"] == 0.0
    assert got["tone" if field == "reply" else field] == 0.0
    assert sum(got.values()) == len(METRICS) - 3


@given(key=st.text(), value=json_values)
def test_an_added_key_is_no_valid_ticket(key: str, value: Any) -> None:
    if key in TARGET:
        return
    got = values({**TARGET, key: value})
    assert (got["valid_json"], got["all_fields"], got["product"]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "[" * 20_000,
        '{"a": ' * 20_000,
        "9" * 10_000,
        f"Here it is: {json.dumps(TARGET)}",
        f"{json.dumps(TARGET)} Anything else?",
        f"```json\n{json.dumps(TARGET)}\n```",
        json.dumps([TARGET]),
        json.dumps(TARGET)[:-1],
        str(TARGET),
        json.dumps({**TARGET, "order_id": float("nan")}),
        json.dumps(TARGET)[:-1] + ', "priority": "high"}',
        "\ufeff" + json.dumps(TARGET),
    ],
)
def test_what_is_not_one_json_object_scores_nothing(text: str) -> None:
    assert parse_json_object(text) is None
    assert values(text) == dict.fromkeys(METRICS, 0.0)
    assert "no JSON object" in SCORE(ITEM, text).explanation


@pytest.mark.parametrize(("target", "answer"), [(1, True), (1, 1.0), (None, "null"), ("", None), (0, False)])
def test_values_of_another_type_are_not_equal(target: object, answer: object) -> None:
    item = Item(id="b", messages=(), target=json.dumps({"x": target}))
    score = by_text(json_fields(["x"]))
    assert score(item, json.dumps({"x": answer})).values == {"valid_json": 1.0, "x": 0.0, "all_fields": 0.0}
    assert score(item, json.dumps({"x": target})).values["x"] == 1.0


def test_null_is_right_where_no_order_id_is_given() -> None:
    item = Item(id="c", messages=(), target=json.dumps({**TARGET, "order_id": None}))
    assert SCORE(item, json.dumps({**TARGET, "order_id": None})).values["order_id"] == 1.0
    missing = {key: value for key, value in TARGET.items() if key != "order_id"}
    assert SCORE(item, json.dumps(missing)).values["order_id"] == 0.0, "leaving the key out is not saying null"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("plain words, 3 €, ™ and -> too", 0),
        ("one 🚚", 1),
        ("two 🚚🎁", 2),
        ("heart ❤️ with a variation selector", 1),
        ("👍🏽 with a skin tone", 1),
        ("👩‍💻 joined parts", 1),
        ("👩‍💻👩‍💻 twice", 2),
        ("🇩🇪 a flag", 1),
        ("🇩🇪🇫🇷 two flags", 2),
        ("x\u200d🚚 a joiner behind a letter joins nothing", 1),
    ],
)
def test_emojis_are_counted_as_people_see_them(text: str, count: int) -> None:
    assert num_emojis(text) == count


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "says nothing"),
        ("🚚", "says nothing"),
        ("Thanks 🚚" + " really" * 25, "26 words instead of 25"),
        ("Thanks for writing!", "0 emojis instead of 1"),
        ("Thanks for writing! 🚚🚚", "2 emojis instead of 1"),
        ("We track down your parcel 🚚", "no cheerful word"),
        ("Thankshere 🚚", "no cheerful word"),
        ("Thanks, but sorry, we cannot 🚚", "gloomy: cannot, sorry"),
    ],
)
def test_each_rule_of_the_tone_is_noticed_when_broken(reply: str, fault: str) -> None:
    assert fault in "; ".join(tone_faults(reply, TONE))
    assert values({**TARGET, "reply": reply})["tone"] == 0.0
    assert values({**TARGET, "reply": reply})["all_fields"] == 1.0, "the tone is measured apart from the fields"


def test_the_longest_allowed_reply_passes() -> None:
    assert tone_faults("Thanks 🚚" + " really" * 24, TONE) == []
    assert values({**TARGET, "reply": 7})["tone"] == 0.0


@given(text=st.text())
def test_any_text_can_be_judged_for_tone(text: str) -> None:
    assert num_emojis(text) >= 0
    assert isinstance(tone_faults(text, TONE), list)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_shipped_ticket_passes_its_own_scorer(split: str) -> None:
    for row in support_desk.read_rows(split):
        answer = row["messages"][-1]["content"]
        verdict = SCORE(Item(id="x", messages=(), target=answer), answer)
        assert verdict.values == dict.fromkeys(METRICS, 1.0), verdict.explanation


@pytest.mark.parametrize(
    ("answer", "exact", "contained"),
    [
        ("Disseminated intravascular coagulation.", 1, 1),
        ("disseminated INTRAVASCULAR  coagulation", 1, 1),
        ("DIC means disseminated intravascular coagulation.", 0, 1),
        ("Disseminated coagulation.", 0, 0),
        ("Disseminated intravascular coagulations.", 0, 0),
        ("Do it carefully.", 0, 0),
        ("", 0, 0),
    ],
)
def test_an_expansion_is_matched_whole(answer: str, exact: int, contained: int) -> None:
    item = Item(id="d", messages=(), target="Disseminated intravascular coagulation.")
    assert by_text(exact_text)(item, answer).values == {"exact": exact, "contained": contained}


@given(text=st.text())
def test_normalising_twice_changes_nothing_more_than_once_and_a_text_equals_itself(text: str) -> None:
    assert by_text(exact_text)(Item(id="e", messages=(), target=text), text).values["exact"] == 1.0
    assert normalised(f" {text}! ") == normalised(text)


@pytest.mark.parametrize(("answer", "exact"), [("+", 1), (" + ", 1), ("＋", 1), ("-", 0), ("", 0), ("plus", 0)])
def test_a_target_of_marks_alone_is_not_every_such_answer(answer: str, exact: int) -> None:
    item = Item(id="a", messages=(), target="+")
    assert by_text(exact_text)(item, answer).values["exact"] == exact
    taken = by_text(pattern_answer("<(.*)>"))
    assert taken(item, f"<{answer}>").values["match"] == exact


@pytest.mark.parametrize("target", ["Lisbon", "[1]", '{"town": 1}', '{"city": 1, "city": 2}'])
def test_a_target_that_is_no_such_object_names_its_item(target: str) -> None:
    with pytest.raises(DataError, match="item a: its target is no JSON object with city"):
        by_text(json_fields(("city",)))(Item(id="a", messages=(), target=target), '{"city": "Lisbon"}')
