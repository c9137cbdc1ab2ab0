"""Perturbations and substitutions: pure functions that change what they say and nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evals.card.perturb import ROBUSTNESS, capitals, small_letters, spacing, typos
from tunesmith.evals.card.substitute import FAIRNESS, NAMES, dialect, named, pronouns_swapped
from tunesmith.evals.card.variants import against_plain, values_by_form, with_forms, worst_case
from tunesmith.evals.choice import choice_scorer
from tunesmith.evals.run import Answer, TaskResult
from tunesmith.evals.task import Item, Reply, Request, Task, choose
from tunesmith.records import Likelihood, Message

TEXTS = st.text(st.sampled_from("abcdefghinorstuwy ABNTé'ß\n.,?0123456789"), max_size=200)
KEYS = st.text("abc0123456789-", max_size=8)
ALL = {**ROBUSTNESS, **FAIRNESS}


@given(TEXTS, st.integers(0, 9), KEYS)
@settings(max_examples=60, deadline=None)
def test_forms_are_functions_of_text_seed_and_key(text: str, seed: int, key: str) -> None:
    for change in ALL.values():
        assert change(text, seed, key) == change(text, seed, key)


@given(TEXTS, st.integers(0, 9), KEYS)
@settings(max_examples=80, deadline=None)
def test_typos_touch_few_words_and_those_lightly(text: str, seed: int, key: str) -> None:
    before, after = re.split(r"(\s+)", text), re.split(r"(\s+)", typos(text, seed, key))
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    words = re.findall(r"(?<![\w'’])[A-Za-z]{4,}(?![\w'’])", text)
    assert len(changed) <= max(1, round(0.1 * len(words)))
    for a, b in changed:
        assert abs(len(a) - len(b)) <= 1 and a[0] == b[0] and a[-1] == b[-1]
    assert re.findall(r"\d+", typos(text, seed, key)) == re.findall(r"\d+", text)


def test_typos_change_something_and_leave_what_decides() -> None:
    text = "The committee has never rejected fifty applications without reading them."
    seen = {typos(text, 0, str(key)) for key in range(40)}
    assert text not in seen and len(seen) > 20
    assert all("never" in other and "fifty" in other and "without" in other for other in seen)
    assert typos("no to it", 0, "a") == "no to it"
    # Another seed makes other slips.
    assert [typos(text, 1, str(key)) for key in range(40)] != [typos(text, 0, str(key)) for key in range(40)]


@given(st.text(max_size=100), st.integers(0, 9), KEYS)
@settings(max_examples=80, deadline=None)
def test_case_and_spacing_keep_every_letter(text: str, seed: int, key: str) -> None:
    for change in (small_letters, capitals):
        other = change(text, seed, key)
        assert len(other) == len(text) and other.lower() == text.lower()
    spaced = spacing(text, seed, key)
    assert spaced.split() == text.split() and spaced.count("\n") == text.count("\n")
    assert re.sub(r"(?<=\S) {1,3}(?=\S)", " ", spaced) == re.sub(r"(?<=\S) {1,3}(?=\S)", " ", text)


def test_rewording_keeps_the_question_whole() -> None:
    texts = [ROBUSTNESS["reworded"]("What is {this}?", 0, str(key)) for key in range(30)]
    assert all("What is {this}?" in text for text in texts) and len(set(texts)) == 4


def test_dialect_by_its_table() -> None:
    assert dialect("They are not going to tell them, because it is raining.", 0, "") == (
        "They ain't gonna tell 'em, 'cause it is rainin'."
    )
    assert dialect("Isn't he waiting? Because I want to know.", 0, "") == "Ain't he waitin'? 'Cause I wanna know."
    # Not before a place, not inside a word, not a noun or a name that ends alike.
    for text in ("going to the shop", "aboutness", "a king in Beijing, Spring", "nothing's"):
        assert dialect(text, 0, "").replace("goin'", "going") == text


def test_names_are_exchanged_within_their_gender_and_tell_people_apart() -> None:
    text = "Emily met Greg and Sarah. Greg paid."
    for group, (women, men) in NAMES.items():
        for key in "abcdefgh":
            one, two, three, again = re.match(
                r"(\S+) met (\S+) and (\S+)\. (\S+) paid\.", named(group)(text, 0, key)
            ).groups()
            assert one in women and three in women and two in men and one != three and again == two
    asked = [named(group)("What is 2 + 2?", 0, "x") for group in NAMES]
    assert len(set(asked)) == 4 and all(text.endswith(" asks: What is 2 + 2?") for text in asked)
    every = [name for sides in NAMES.values() for side in sides for name in side]
    assert len(every) == len(set(every))
    assert {len(side) for sides in NAMES.values() for side in sides} == {9}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("He said he'd lost his key.", "She said she'd lost her key."),
        ("She hurt herself, so I helped her.", "He hurt himself, so I helped him."),
        ("Her dog likes her and hers alone.", "His dog likes him and his alone."),
        ("The book is his.", "The book is hers."),
        ("I gave her a book about her work.", "I gave him a book about his work."),
        ("The shepherd herds them here.", "The shepherd herds them here."),
    ],
)
def test_pronouns(before: str, after: str) -> None:
    assert pronouns_swapped(before, 0, "") == after
    if "hers" not in before:
        assert pronouns_swapped(after, 0, "") == before


def result_of(task: Task, right: dict[str, bool]) -> TaskResult:
    answers = []
    for item in task.items:
        logprobs = (-1.0, -2.0) if right.get(item.id, True) else (-2.0, -1.0)
        likelihoods = tuple(Likelihood(logprob=x, num_tokens=1, greedy=False) for x in logprobs)
        request = Request(item=item, messages=item.messages, continuations=item.choices)
        reply = Reply(request=request, likelihoods=likelihoods)
        answers.append(Answer(item=item, reply=reply, verdict=task.scorer(item, reply)))
    return TaskResult(task=task, label="x", answers=tuple(answers))


def test_every_form_is_asked_once_and_the_worst_counts() -> None:
    items = tuple(
        Item(
            id=f"q{i}",
            messages=(Message(role="system", content="Be brief."), Message(role="user", content=text)),
            target="yes",
            choices=("yes", "no"),
        )
        for i, text in enumerate(["is he walking to the market", "42?"])
    )
    task = Task(name="t", version=3, items=items, solver=choose(), scorer=choice_scorer(), metrics=("acc",))
    asked = with_forms(task, "robustness", ROBUSTNESS, seed=0)
    assert (asked.name, asked.version) == ("t/robustness", 3)
    forms = [item.id for item in asked.items]
    # "42?" has no word to misspell, no letter and no blank: only the frame changes it.
    assert forms == ["q0|plain", "q0|typos", "q0|capitals", "q0|spacing", "q0|reworded", "q1|plain", "q1|reworded"]
    assert {item.group for item in asked.items} == {"t:q0", "t:q1"}
    assert all(item.messages[0].content == "Be brief." for item in asked.items)
    by_form = values_by_form(result_of(asked, {"q0|capitals": False}), "acc")
    assert worst_case(by_form).ravel().tolist() == [0.0, 1.0]
    assert worst_case(values_by_form(result_of(asked, {}), "acc")).ravel().tolist() == [1.0, 1.0]
    values, groups = against_plain(by_form, "capitals")
    assert values.tolist() == [[1.0, 0.0]] and groups == ("t:q0",)
