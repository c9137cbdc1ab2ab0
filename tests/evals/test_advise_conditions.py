"""Conditions as what the model is really asked; answers told apart by kind; facts that move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.advise.answers import answers_of
from tunesmith.evals.advise.conditions import (
    Dropped,
    fixed,
    question_of,
    requests_of,
    retrieved,
    with_passages,
    with_shots,
)
from tunesmith.evals.advise.facts import asked_items, invented_facts, read_facts, taught_items, which_fact
from tunesmith.evals.advise.prompts import Wording, worded, wordings_of
from tunesmith.evals.task import Item, Reply, Request
from tunesmith.records import Likelihood, Message
from tunesmith.retrieval.lexical import Lexical

PLAIN = Wording(name="plain")


def item(question: str, target: str, name: str = "", system: str = "") -> Item:
    said = (Message(role="system", content=system),) if system else ()
    return Item(id=name or question, messages=(*said, Message(role="user", content=question)), target=target)


def texts(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def reply(one: Item, text: str = "", nats: Sequence[float] = ()) -> Reply:
    likelihoods = tuple(Likelihood(logprob=value, num_tokens=1, greedy=False) for value in nats)
    return Reply(request=Request(item=one, messages=one.messages), text=text, likelihoods=likelihoods)


POOL = [item("red fox", "A"), item("blue whale", "B"), item("red panda", "C"), item("green frog", "D")]


def test_retrieved_shots_stand_nearest_last_and_before_the_question() -> None:
    nearest = Lexical([question_of(one) for one in POOL]).nearest
    solver = with_shots(PLAIN, retrieved(POOL, nearest, 2), lambda _: True, Dropped())
    (asked,) = requests_of(solver, [item("a red panda cub", "?", system="Be brief.")])
    assert texts(asked.messages) == [
        ("system", "Be brief."),
        ("user", "red fox"), ("assistant", "A"),
        ("user", "red panda"), ("assistant", "C"),
        ("user", "a red panda cub"),
    ]  # fmt: skip


def test_an_item_is_never_shown_to_itself() -> None:
    nearest = Lexical([question_of(one) for one in POOL]).nearest
    with pytest.raises(ValueError, match="tell the answer to test-0"):
        requests_of(
            with_shots(PLAIN, retrieved(POOL, nearest, 1), lambda _: True, Dropped()), [item("red fox", "A", "test-0")]
        )
    # Another system message does not make it another question.
    with pytest.raises(ValueError, match="tell the answer"):
        requests_of(with_shots(PLAIN, fixed(POOL, 4, 0), lambda _: True, Dropped()), [item("red fox", "A", "t", "S")])
    # A book of facts is there to be looked up.
    told = with_shots(PLAIN, fixed(POOL, 4, 0), lambda _: True, Dropped(), open_book=True)
    assert len(requests_of(told, [item("red fox", "A", "t")])[0].messages) == 9


def test_shots_that_do_not_fit_go_from_the_front_and_are_counted() -> None:
    dropped = Dropped()
    nearest = Lexical([question_of(one) for one in POOL]).nearest
    solver = with_shots(PLAIN, retrieved(POOL, nearest, 3), lambda messages: len(messages) <= 3, dropped)
    (asked,) = requests_of(solver, [item("red panda?", "?")])
    assert [m.content for m in asked.messages] == ["red panda", "C", "red panda?"] and dropped.count == 2


def test_passages_stand_before_the_question_the_nearest_first() -> None:
    passages = ["whales are blue", "foxes are red", "a panda is red and white"]
    dropped = Dropped()
    solver = with_passages(PLAIN, passages, Lexical(passages).nearest, 2, lambda _: True, dropped)
    (asked,) = requests_of(solver, [item("which panda is red", "?")])
    assert asked.messages[0].content == (
        "Use these passages:\n[1] a panda is red and white\n[2] foxes are red\n\nwhich panda is red"
    )
    tight = with_passages(PLAIN, passages, Lexical(passages).nearest, 2, lambda m: "[1]" not in m[0].content, dropped)
    assert requests_of(tight, [item("which panda is red", "?")])[0].messages[0].content == "which panda is red"
    assert dropped.count == 2


def test_wordings_replace_add_and_surround() -> None:
    asked = (Message(role="system", content="Own."), Message(role="user", content="Q"))
    assert texts(worded(asked, PLAIN)) == texts(asked)
    assert texts(worded(asked, Wording(name="s", system="New."))) == [("system", "New."), ("user", "Q")]
    assert texts(worded(asked, Wording(name="a", system="More.", adds=True)))[0] == ("system", "Own.\n\nMore.")
    assert texts(worded(asked, Wording(name="i", around="<{input}>{x}"))) == [("system", "Own."), ("user", "<Q>{x}")]
    assert texts(worded(asked[1:], Wording(name="a", system="More.", adds=True)))[0] == ("system", "More.")
    shots = with_shots(Wording(name="i", around="{input}!"), fixed(POOL, 1, 0), lambda _: True, Dropped())
    (first, _, last) = requests_of(shots, [item("zebra", "?")])[0].messages
    assert first.content.endswith("!") and last.content == "zebra!", "a shot is asked as the question is"


def test_kinds_of_answers_are_told_from_the_rows() -> None:
    ticket = [
        json.dumps({"a": "xy"[i % 2], "n": i, "reply": "some words that go on and on for long"}) for i in range(12)
    ]
    answers = answers_of(ticket)
    assert (answers.kind, answers.fields, answers.metric) == ("json", ("a", "n"), "all_fields")
    assert answers.values == {"a": ('"x"', '"y"')} and "reply" in answers.note
    one = item("q", ticket[0])
    assert answers.scorer(one, reply(one, json.dumps({"a": "x", "n": 0, "reply": "else"}))).values["all_fields"] == 1
    assert answers.scorer(one, reply(one, json.dumps({"a": "x", "n": 1, "reply": "else"}))).values["all_fields"] == 0
    assert answers_of(["4", "-1,200", "3.5", "7 %"]).kind == "number"
    assert answers_of(["ham", "spam"] * 6).choices == ("ham", "spam")
    assert answers_of([f"town {i}" for i in range(9)]).kind == "text"
    assert answers_of(["a long answer " * 10 + str(i) for i in range(9)]).kind == "long-text"


def test_labels_are_written_where_they_are_many_or_one_begins_another() -> None:
    many = answers_of([f"label {i} x" for i in range(21)] * 3)
    assert many.kind == "label" and many.choices == () and many.metric == "exact"
    begins = answers_of(["card", "card_lost"] * 6)
    assert begins.choices == ()
    with pytest.raises(ConfigError, match="begins another"):
        answers_of(["card", "card_lost"] * 6, by_choice=True)
    assert answers_of(["ham", "spam"] * 6, by_choice=False).choices == ()
    with pytest.raises(ConfigError, match="holds no number"):
        answers_of(["four", "4"], "number")
    with pytest.raises(ConfigError, match="no JSON object"):
        answers_of(["{}", "no"], "json")


def test_choices_numbers_and_long_texts_are_scored_by_what_decides() -> None:
    labels = answers_of(["a", "b"] * 6, held_out=["c"])
    # A prompt names what training rows say and nothing else.
    assert labels.values == {"": ("a", "b")}
    assert labels.choices == ("a", "b", "c") and labels.metric == "acc", "a label no training row has is still a label"
    one = Item(id="i", messages=item("q", "").messages, target="b", choices=labels.choices)
    assert labels.scorer(one, reply(one, nats=(-2.0, -1.0, -3.0))).values["acc"] == 1.0
    assert labels.scorer(one, reply(one, nats=(-1.0, -2.0, -3.0))).values["acc"] == 0.0
    two, number = item("q", "1,200"), answers_of(["4", "1,200", "7"])
    said = [number.scorer(two, reply(two, t)).values["numeric"] for t in ("3 + 4 = 1200.0", "1200 of 4", "")]
    assert number.metric == "numeric" and said == [1, 0, 0]
    long = answers_of(["the cat sat on the mat " * 4 + str(i) for i in range(9)])
    three = item("q", "the cat sat on the mat")
    # Longest common run with gaps: 4 of 6 and of 4 words, F1 = 2 * 1 * (4/6) / (1 + 4/6) = 0.8.
    assert long.metric == "rougeL"
    assert long.scorer(three, reply(three, "The cat sat mat!")).values["rougeL"] == pytest.approx(0.8)


def test_prompts_of_ours_say_what_the_rows_know() -> None:
    labels = wordings_of(answers_of(["ham", "spam"] * 6), ["Be exact.", "Mail: {input}"])
    assert [w.name for w in labels][:3] == ["the rows as they are", "your prompt 1", "your prompt 2"]
    assert labels[1].system == "Be exact." and labels[2].around == "Mail: {input}"
    assert any("ham, spam" in w.system for w in labels) and any("ham, spam" in w.around for w in labels)
    ticket = wordings_of(answers_of([json.dumps({"a": "xy"[i % 2], "n": i}) for i in range(12)]))
    assert any('{"a": "x" or "y", "n": ...}' in w.system for w in ticket)


def test_invented_facts_move_round_and_are_asked_in_words_not_taught() -> None:
    facts = invented_facts(12, 8, seed=3)
    assert sum(fact.changed for fact in facts) == 8 and len({fact.question for fact in facts}) == 12
    assert sorted(fact.old for fact in facts) == sorted(fact.new for fact in facts), "answers stay as frequent"
    assert invented_facts(12, 8, seed=3) == facts != invented_facts(12, 8, seed=4)
    taught = taught_items(facts, new=False)
    assert len(taught) == 36 and not {question_of(one) for one in taught} & {fact.question for fact in facts}
    assert {one.target for one in taught_items(facts, new=True)[:3]} == {facts[0].new} != {taught[0].target}
    assert [one.target for one in asked_items(facts)] == [fact.new for fact in facts]
    with pytest.raises(ValueError, match="changes of"):
        invented_facts(5, 6, seed=0)


def test_an_answer_that_names_both_or_neither_is_neither() -> None:
    one = Item(id="i", messages=item("q", "").messages, target="Birch", metadata={"old": "Falcon"})
    for text, new, old in (("In birch.", 1, 0), ("Falcon hall", 0, 1), ("Birch or Falcon", 0, 0), ("Birchwood", 0, 0)):
        assert which_fact(one, reply(one, text)).values == {"says_new": new, "says_old": old}
    same = Item(id="i", messages=one.messages, target="Birch", metadata={"old": "Birch"})
    assert which_fact(same, reply(same, "birch")).values == {"says_new": 1.0, "says_old": 1.0}


def test_facts_of_the_user_are_checked(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "facts.jsonl"
    good = [{"question": f"Price of {i}?", "old": "3", "new": str(3 + i)} for i in range(3)]
    path.write_text("\n".join(map(json.dumps, good)))
    facts = read_facts(str(path))
    assert [fact.changed for fact in facts] == [False, True, True] and facts[1].taught == ("Price of 1?",)
    path.write_text(json.dumps({**good[0], "new": 4}) + "\n" + json.dumps(good[1]))
    with pytest.raises(DataError, match=r"facts.jsonl:1:new"):
        read_facts(str(path))
    path.write_text("\n".join(map(json.dumps, good[:2])))
    with pytest.raises(DataError, match="fewer than two facts change"):
        read_facts(str(path))


def test_facts_whose_answers_hold_each_other_are_refused(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "old": old, "new": new} for i, (old, new) in enumerate([("9", "12"), ("3", "4")])]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_facts(str(tmp_path / "facts.jsonl"))) == 2
    # Whoever says the new one says the old one too: it would always count as neither.
    for old, new in (("14 days", "14 days after delivery"), ("Hall A", "hall a.")):
        told = json.dumps({"question": "q", "old": old, "new": new})
        (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + told + "\n")
        with pytest.raises(DataError, match=r"held.jsonl:3:new.*one holds the other"):
            read_facts(str(tmp_path / "held.jsonl"))
