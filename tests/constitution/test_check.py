"""Findings about a constitution: each kind by a file that has it, and a control beside it that has not."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from tunesmith.constitution.check import Checked, check_constitution
from tunesmith.constitution.check_pairs import opposed, stance
from tunesmith.constitution.check_show import describe
from tunesmith.constitution.principles import find_constitution, load_constitution
from tunesmith.data.prompts import load_prompts
from tunesmith.errors import ConfigError

FAULTY = {"prompt": "Where is it?", "answer": "Go away.", "critique": "It is rude.", "revision": "I am looking."}
FINE = {"prompt": "Who are you?", "answer": "The desk.", "critique": "It is polite.", "fault": False}


def words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors that count words."""
    vectors = np.full((len(texts), 512), 1e-3, np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row, zlib.crc32(word.encode()) % 512] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def one(name: str = "polite", **keys: Any) -> dict[str, Any]:
    return {
        "id": name, "text": "The answer is polite.", "category": "manners", "critique_request": "Is the answer rude?",
        "revision_request": "Write the answer again, politely.", "examples": [FAULTY, FINE],
    } | keys  # fmt: skip


def two(**keys: Any) -> list[dict[str, Any]]:
    other: dict[str, Any] = {"text": "It names a price.", "critique_request": "Is no price named in the answer?"}
    return [
        one(),
        one("second", **({**other, "revision_request": "Name a price, and nothing else.", "examples": [FINE]} | keys)),
    ]


def check(folder: Path, *rules: dict[str, Any], **options: Any) -> Checked:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({"name": "n", "version": "1", "principles": list(rules)}, sort_keys=False))
    return check_constitution(path, encode=words, **options)


def kinds(checked: Checked) -> list[tuple[str, str, str]]:
    return [(found.severity, found.kind, str(found.where).split(":")[-1]) for found in checked.findings]


def test_a_sound_constitution_has_no_finding(tmp_path: Path) -> None:
    assert kinds(check(tmp_path, *two())) == []


LONG = "word " * 300
LIKE, UNLIKE = ["red apple", "green apple", "apple pie"], ["red car", "green car", "old car"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"weight": 0}, ("warning", "never-drawn", "polite.weight")),
        ({"applies": {"pattern": "a^"}, "examples": [FAULTY]}, ("error", "unreachable", "polite.applies.pattern")),
        ({"applies": {"pattern": "(a+)+$"}}, ("error", "slow-pattern", "polite.applies.pattern")),
        ({"applies": {"pattern": r"[^\s\S]"}}, ("error", "disputed-pattern", "polite.applies.pattern")),
        ({"applies": {"pattern": "x*"}}, ("note", "matches-everything", "polite.applies.pattern")),
        ({"applies": {"pattern": "who"}}, ("warning", "demonstration-outside", "polite.examples.0")),
        ({"applies": {"pattern": "where"}}, ("note", "demonstration-outside", "polite.examples.1")),
        ({"examples": []}, ("warning", "no-demonstrations", "polite")),
        ({"examples": [FAULTY, {**FAULTY, "prompt": "How?"}]}, ("note", "one-sided", "polite.examples")),
        ({"examples": [FAULTY, FAULTY, FINE]}, ("warning", "duplicate", "polite.examples.1")),
        (
            {"examples": [FAULTY, {**FINE, "prompt": "where is it", "answer": "Go away!"}]},
            ("error", "contradiction", "polite.examples.1"),
        ),
        (
            {"examples": [{**FAULTY, "revision": "go away"}, FINE]},
            ("error", "contradiction", "polite.examples.0.revision"),
        ),
        ({"text": "Be kind to {prompt}."}, ("warning", "not-filled", "polite.text")),
        ({"critique_request": "Is the answer { answer } rude?"}, ("warning", "not-filled", "polite.critique_request")),
        ({"critique_request": "Is this answer rude:"}, ("warning", "points-at-nothing", "polite.critique_request")),
        ({"revision_request": "Mend the answer below."}, ("warning", "points-at-nothing", "polite.revision_request")),
        ({"critique_request": "Is anybody hurt?"}, ("note", "names-no-answer", "polite.critique_request")),
        ({"text": LONG}, ("warning", "long", "polite.examples")),
        (
            {"applies": {"pattern": "boat", "like": LIKE, "unlike": UNLIKE}, "examples": [FAULTY]},
            ("error", "unreachable", "polite.applies"),
        ),
        (
            {"applies": {"pattern": "red|pie", "like": LIKE, "unlike": UNLIKE}},
            ("warning", "own-prompts", "polite.applies.like"),
        ),
        (
            {"applies": {"like": ["a b", "c d"], "unlike": ["a b x", "c d x"]}},
            ("warning", "weak-classifier", "polite.applies"),
        ),
        (
            {"applies": {"like": [*LIKE, "Red car!"], "unlike": UNLIKE}},
            ("error", "contradiction", "polite.applies"),
        ),
    ],
)  # fmt: skip
def test_a_rule_by_itself(tmp_path: Path, keys: dict[str, Any], expected: tuple[str, str, str]) -> None:
    other = one("other", text="It names a price.", revision_request="Name a price.", examples=[FINE])
    assert expected in kinds(check(tmp_path, one(**keys), other, context_tokens=1024))


SOFT = "The answer stays polite and calm, even to customers who shout at us."


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {"text": "the answer is POLITE"}, ("error", "duplicate")),
        ({}, {"text": "The answer is polite", "applies": {"pattern": "who"}}, ("warning", "duplicate")),
        ({"text": SOFT}, {"text": SOFT.replace("at us", "at me")}, ("warning", "near-duplicate")),
        ({"text": SOFT, "applies": {"like": LIKE, "unlike": UNLIKE}}, {"text": " ".join(SOFT.split()[::-1])},
         ("note", "near-duplicate")),
        ({"text": SOFT, "applies": {"like": LIKE, "unlike": UNLIKE}}, {"text": "It names the price of shoes"}, None),
        ({}, {"text": "The answer is not polite to dogs"}, None),
    ],
)  # fmt: skip
def test_two_rules_that_say_the_same(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    found = check(tmp_path, one(**first), one("second", **second)).findings
    copies = [(row.severity, row.kind) for row in found if "duplicate" in row.kind]
    assert copies == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("The answer promises refunds.", "The answer does not promise refunds.", True),
        ("Refuse to help with taxes.", "Help with taxes.", True),
        ("Don't mention prices of shoes.", "Mention prices of shoes.", True),
        ("Make the second paragraph longer.", "Make the second paragraph shorter.", True),
        ("Write it without any jokes about money.", "Write it with jokes about money.", True),
        # Twice turned round is not turned round.
        ("Never refuse to help with taxes.", "Help with taxes.", False),
        ("Do not promise refunds.", "Never promise refunds.", False),
        # About other things, or about too little.
        ("Do not promise refunds.", "Promise delivery by Monday.", False),
        ("Be kind.", "Do not be kind.", False),
    ],
)
def test_what_counts_as_the_opposite(first: str, second: str, expected: bool) -> None:
    assert opposed(first, second) is expected is opposed(second, first)
    assert not opposed(first, first) and not opposed(second, second)


def test_a_stance_is_words_and_a_sign() -> None:
    assert stance("The answer doesn't leave out the prices") == stance("Include price")
    assert stance("Never promises refunds").sign == -1


def test_opposites_are_an_error_only_where_both_rules_apply(tmp_path: Path) -> None:
    yes = {"text": "The answer promises refunds.", "examples": []}
    no = {"text": "The answer does not promise refunds.", "examples": []}

    def contradictions(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
        checked = check(tmp_path, one("a", **yes, **a), one("b", **no, **b))
        return [found.cause for found in checked.findings if found.kind == "contradiction"]

    assert "one of them always applies" in contradictions({"applies": {"pattern": "shoe"}}, {})[0]
    assert "the same prompts" in contradictions({"applies": {"pattern": "shoe"}}, {"applies": {"pattern": "shoe"}})[0]
    apart = {"applies": {"pattern": "shoe"}}, {"applies": {"pattern": "hat"}}
    assert contradictions(*apart) == []
    both = {**FAULTY, "prompt": "A hat and a shoe"}
    yes["examples"] = [both]  # type: ignore[assignment]
    assert "'A hat and a shoe'" in contradictions(*apart)[0]
    assert contradictions({"weight": 0}, {}) == []


def test_what_one_rule_puts_right_the_other_must_not_find_faulty(tmp_path: Path) -> None:
    back = {**FAULTY, "answer": FAULTY["revision"], "revision": "Go away."}
    checked = check(tmp_path, *two(examples=[back, FINE]))
    assert [found.principle for found in checked.findings if found.kind == "contradiction"] == ["polite", "second"]


def test_places_name_the_line(tmp_path: Path) -> None:
    checked = check(tmp_path, one(weight=0), one("other", text="It names a price.", examples=[]))
    lines = (tmp_path / "rules.yaml").read_text().splitlines()
    places = {found.kind: found.where for found in checked.findings}
    assert lines[(places["never-drawn"].line or 0) - 1].strip() == "weight: 0"
    assert lines[(places["no-demonstrations"].line or 0) - 1].strip() == "- id: other"
    assert str(places["never-drawn"]).startswith("rules.yaml:")


def test_all_weights_0_is_an_error(tmp_path: Path) -> None:
    assert ("error", "never-drawn", "polite.weight") in kinds(check(tmp_path, one(weight=0)))


def test_a_sample_counts_what_each_rule_reaches(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red apple\nold car\nwhat now\n")
    rules = (
        one(applies={"pattern": "apple|car"}, weight=3, examples=[]),
        one("second", text="It names a price.", applies={"pattern": "car"}, examples=[], category="money"),
        one("third", text="It says why.", applies={"pattern": "boat"}, examples=[]),
    )
    sample = check(tmp_path, *rules, sample=load_prompts(prompts), sample_name="prompts.txt").sample
    assert sample is not None
    assert [(row.principle, row.num_prompts, row.examples) for row in sample.reached] == [
        ("polite", 2, ("red apple", "old car")), ("second", 1, ("old car",)), ("third", 0, ()),
    ]  # fmt: skip
    # polite is drawn first for the apple always, for the car in 3 of 4 draws.
    assert [row.drawn for row in sample.reached] == pytest.approx([1.75 / 3, 0.25 / 3, 0])
    assert (sample.num_unreached, sample.unreached, sample.narrowed) == (1, ("what now",), {"manners": 2, "money": 1})
    assert ("note", "not-in-sample", "third.applies") in kinds(check(tmp_path, *rules, sample=load_prompts(prompts)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "field required"),
        ("name: n\nversion: '1'\nprinciples: []\n", "rules.yaml:3:principles"),
        ("name: n\nversion: '1\nprinciples: []\n", "rules.yaml:"),
        ("name: n\nversion: '1'\nprinciples:\n  - id: a\n    category: c\n", "rules.yaml:4:principles.0.text"),
        ("name: &n [*n]\n", "an alias stands inside what it names"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        check_constitution(tmp_path / "rules.yaml")
    assert said in str(error.value)


def test_a_fault_in_a_principle_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    for keys, line, said in (
        ({"text": " "}, 5, "is empty"),
        ({"critique_request": "{reply}?"}, 7, "{reply}"),
        ({"weight": -1}, 0, "weight"),
        ({"applies": {"pattern": "(a"}}, 0, "regular expression"),
        ({"applies": {"like": ["a"]}}, 0, "both kinds"),
    ):
        path.write_text(yaml.safe_dump({"name": "n", "version": "1", "principles": [one() | keys]}, sort_keys=False))
        with pytest.raises(ConfigError) as error:
            load_constitution(path)
        assert said in str(error.value) and f"rules.yaml:{line or ''}" in str(error.value)


def test_ours_is_found_by_name_and_lists_in_lists_are_laid_flat(tmp_path: Path) -> None:
    assert find_constitution("ours").name == "ours.yaml"
    with pytest.raises(ConfigError, match="no file of a constitution"):
        find_constitution("our")
    text = yaml.safe_dump({"name": "n", "version": "1", "principles": [one()]}, sort_keys=False)
    text += "  applies:\n    like: &some [a, b]\n    unlike:\n    - *some\n    - c\n"
    (tmp_path / "rules.yaml").write_text(text)
    applies = load_constitution(tmp_path / "rules.yaml").principles[0].applies
    assert (applies.like, applies.unlike) == (("a", "b"), ("a", "b", "c"))


def test_what_a_file_says_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    rules = (
        one(category="\x1b[31mred", applies={"pattern": "\x1b"}),
        one("b", text="It names \x1b[2J prices.", examples=[]),
    )
    lines = describe(check(tmp_path, *rules))
    assert not any("\x1b" in line for line in lines) and any("\\x1b[31mred" in line for line in lines)


def test_a_models_own_tokens_are_counted(tmp_path: Path) -> None:
    def long(count: int) -> bool:
        checked = check(tmp_path, one(), count_tokens=lambda _: count, context_tokens=100)
        return any(found.kind == "long" and "51 tokens" in found.cause for found in checked.findings)

    assert long(51) and not long(50)
