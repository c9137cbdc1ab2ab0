"""IFEval's constraints: a response that keeps each, one that breaks it, and the four ways to add them up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("langdetect")

from tunesmith.errors import DataError
from tunesmith.evals.constraints import CHECKS, detect_language, sentences
from tunesmith.evals.ifeval import (
    IFEVAL_METRICS,
    IFEVAL_RATIOS,
    instruction_following,
    instructions_of,
    is_followed,
    loose_variants,
)
from tunesmith.evals.task import Item, Reply, Request
from tunesmith.records import Verdict

ENGLISH = "the river runs slowly through the old town and the children play beside it"
HINDI = "नदी पुराने शहर से होकर धीरे-धीरे बहती है और बच्चे उसके किनारे खेलते हैं"

# (instruction, arguments, responses that keep it, responses that break it)
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        ["We MUST go NOW.", "X-RAY and I"],
        ["We MUST go.", "A-b c"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "less than", "capital_frequency": 2},
        ["We MUST go."],
        ["We MUST go NOW."],
    ),
    (
        "change_case:english_capital",
        {},
        [ENGLISH.upper()],
        [ENGLISH, ENGLISH.upper() + " x", "DER FLUSS FLIESST SEHR LANGSAM DURCH DIE ALTE STADT"],
    ),
    (
        "change_case:english_lowercase",
        {},
        [ENGLISH, ENGLISH + ", 3 of them!"],
        [ENGLISH.capitalize(), "der fluss fließt sehr langsam durch die alte stadt"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem."},
        ["Write a poem.\nRoses", "  write A poem. Roses"],
        ["Sure! Write a poem.", "Write a song."],
    ),
    (
        "combination:two_responses",
        {},
        ["one ****** two", "******\none\n******\ntwo\n******"],
        ["one", "one ****** one", "a ****** b ****** c", "a ******  ****** b"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [city]", "[a][b][c]"],
        ["[name]", "(a) (b)", "[] []"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. Write!", "p. s. hi"],
        ["Bye.", "PS: hi", "tips.s."],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S hi", "P. P. S. hi"], ["P.S. hi"]),
    ("detectable_format:constrained_response", {}, ["I think: My answer is no."], ["No.", "My answer is no"]),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', "```json\n[1]\n```", "```\n{}\n```"],
        ["a: 1", 'Here: {"a": 1}', '{"a": 1', "[" * 5000],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2 SECTION 3"],
        ["SECTION 1", "Section 1 Section 2"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  * b", "*a\n-b\n---\n***"],
        ["* a", "* a\n* b\n* c", "1. a\n2. b", "** a\n** b"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and **b c**", "* *a*\n* *b*"],
        ["*a*", "* one\n* two\n* three", "** ** **", "*a\nb* c*"],
    ),
    ("detectable_format:title", {}, ["<<Joy>>\ntext", "a <<b -> c>>"], ["<Joy>", "<< >>", "<<a\nb>>", "<<>>"]),
    ("keywords:existence", {"keywords": ["sky", "a.b"]}, ["SKYSCRAPER a.b"], ["sky", "sky axb"]),
    ("keywords:forbidden_words", {"forbidden_words": ["can", "c++"]}, ["The canal."], ["You CAN.", "in C++!", "can't"]),
    ("keywords:frequency", {"relation": "at least", "keyword": "the", "frequency": 2}, ["The other"], ["the"]),
    ("keywords:frequency", {"relation": "less than", "keyword": "the", "frequency": 2}, ["the"], ["The other"]),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "t", "let_frequency": 2},
        ["a tea", "#"],
        ["To tea"],
    ),
    ("keywords:letter_frequency", {"let_relation": "at least", "letter": "#", "let_frequency": 2}, ["# a #"], ["#"]),
    ("language:response_language", {"language": "hi"}, [HINDI], [ENGLISH, "123"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
        ["a\n\nElm, b", 'a\n\n\n\n"elm" b\n\n'],
        ["elm\n\nb", "a\n\nelms b", "a\n\nelm b\n\nc", "a\nelm"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a\n\nb", "a *** b *** c", "a\n***\n***\nb"],
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 3},
        ["Dr. J. Smith came. He left.", "1. One.\n2. Two."],
        ["One. Two. Three.", "A? B! C"],
    ),
    (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 3},
        ["it's so", "a-b, c!"],
        ["two words", "- - - a b"],
    ),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 16}, [HINDI], [HINDI + " बच्चे"]),
    ("punctuation:no_comma", {}, ["No. None; never"], ["Well, no", "نعم، لا", "是，不"]),
    ("startend:end_checker", {"end_phrase": "Peace!"}, ["Bye. peace! ", '"Bye. Peace!"'], ["Peace! Bye", "Peace"]),
    ("startend:quotation", {}, [' "said" '], ['"', '"said', "'said'", '"said" he']),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_constraint_tells_what_keeps_it_from_what_breaks_it(case: Any) -> None:
    name, arguments, good, bad = case
    assert {text: is_followed(text, name, arguments) for text in [*good, *bad]} == {
        **dict.fromkeys(good, True),
        **dict.fromkeys(bad, False),
    }
    assert not is_followed(" \n", name, arguments), "an empty response keeps nothing"


def test_every_constraint_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(CHECKS)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("One", 1),
        ("no stop at all\nin two lines", 1),
        ("It is no. Go!", 2),
        ("He said \"Stop.\" Then he left.", 2),
        ("Pi is 3.14. See e.g. Fig. 2 by Dr. A. B. Cee, Inc. and others etc. This is new.", 3),
        ("Really?! Yes... maybe.", 3),
        ("1. First one.\n2. Second one.\na. Third one.", 3),
        ("So do I. You too.", 2),
        ("वह आया। वह गया।", 2),
        ("他来了。他走了！", 2),
    ],
)  # fmt: skip
def test_sentences_are_counted_as_people_do(text: str, count: int) -> None:
    assert len(sentences(text)) == count


def item(*instructions: tuple[str, dict[str, Any]]) -> Item:
    names, arguments = [name for name, _ in instructions], [given for _, given in instructions]
    return Item(id="a", messages=(), target="", metadata={"instruction_id_list": names, "kwargs": arguments})


NO_COMMA, TITLE = ("punctuation:no_comma", {}), ("detectable_format:title", {"num_words": None})


def verdict(text: str, asked: Item) -> Verdict:
    return instruction_following()(asked, Reply(request=Request(item=asked, messages=()), text=text))


def shares(text: str, asked: Item) -> dict[str, float]:
    values = verdict(text, asked).values
    return {name: values[name] for name in IFEVAL_METRICS}


def test_strict_and_loose_of_prompts_and_instructions() -> None:
    asked = item(NO_COMMA, TITLE)
    assert shares("<<T>> fine", asked) == dict.fromkeys(IFEVAL_METRICS, 1.0)
    half = "Sure, here:\n<<T>>\nfine"
    assert shares(half, asked) == {
        "prompt_strict": 0.0,
        "prompt_loose": 1.0,
        "instruction_strict": 0.5,
        "instruction_loose": 1.0,
    }
    assert verdict(half, asked).explanation == "punctuation:no_comma"
    assert verdict(half, asked).details["strict"] == [False, True]
    assert shares("a, b", asked) == shares("", asked) == dict.fromkeys(IFEVAL_METRICS, 0.0)


def test_the_variants_are_the_seven_of_the_paper() -> None:
    assert loose_variants("**a**\nb\nc*") == ["b\nc*", "**a**\nb", "b", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert loose_variants("one line") == ["", "", "", "one line", "", "", ""]


def test_the_accuracy_over_instructions_weighs_each_constraint_alike() -> None:
    said = [verdict("<<T>>", item(TITLE)), verdict("a, b", item(NO_COMMA, TITLE))]
    assert [v.values["instruction_strict"] for v in said] == [1, 0]
    met, asked = IFEVAL_RATIOS["instruction_strict"]
    assert sum(v.values[met] for v in said) / sum(v.values[asked] for v in said) == pytest.approx(1 / 3)
    assert set(IFEVAL_RATIOS) < set(IFEVAL_METRICS)


@pytest.mark.parametrize(
    ("instruction", "cause"),
    [
        (
            ("punctuation:no_coma", {}),
            r"unknown instruction 'punctuation:no_coma'.*Did you mean 'punctuation:no_comma'",
        ),
        (("punctuation:no_comma", {"n": 1}), r"'punctuation:no_comma' takes the arguments \[\], not \['n'\]"),
        (("keywords:existence", {}), r"takes the arguments \['keywords'\], not \[\]"),
    ],
)
def test_an_unknown_constraint_or_argument_is_an_error(instruction: tuple[str, dict[str, Any]], cause: str) -> None:
    with pytest.raises(DataError, match=f"item a: .*{cause}"):
        verdict("text", item(instruction))


def test_lists_of_different_length_and_unknown_relations_are_errors() -> None:
    with pytest.raises(DataError, match="not lists of one length"):
        instructions_of(Item(id="a", messages=(), target="", metadata={"instruction_id_list": ["x"], "kwargs": []}))
    with pytest.raises(ValueError, match="relation 'about'"):
        is_followed("x", "length_constraints:number_words", {"relation": "about", "num_words": 3})


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet='aZ1 .,*\n"<>[]-{}P:S#é', max_size=80))
def test_any_response_gets_a_verdict_and_loose_is_never_below_strict(text: str) -> None:
    got = verdict(text, item(*((name, arguments) for name, arguments, *_ in CASES if not name.startswith("language"))))
    assert all(0 <= got.values[name] <= 1 for name in IFEVAL_METRICS)
    assert got.values["prompt_strict"] <= got.values["prompt_loose"]
    assert got.values["instruction_strict"] <= got.values["instruction_loose"]


def test_the_same_text_is_always_of_the_same_language() -> None:
    assert {detect_language("transit tracker and name: otto") for _ in range(5)} == {
        detect_language("transit tracker and name: otto")
    }
    assert detect_language("42") is None


def test_every_published_prompt_can_be_scored() -> None:
    rows = [json.loads(line) for line in shared_data("ifeval/prompts.jsonl").open()]
    asked = [Item(id=str(row["key"]), messages=(), target="", metadata=row) for row in rows]
    known = [instructions_of(one) for one in asked]
    assert len(rows) == 350 and {name for one in known for name, _ in one} == set(CHECKS)
    # The requests themselves, given as answers, keep few of the constraints: no check holds whatever is said.
    followed = [is_followed(row["prompt"], *one) for row, names in zip(rows, known, strict=True) for one in names]
    assert 0.05 < sum(followed) / len(followed) < 0.5


@pytest.mark.parametrize(
    "arguments", [{"relation": "about", "num_words": 3}, {"relation": "at least", "num_words": "3"}]
)
def test_arguments_that_cannot_be_used_name_their_item(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="'length_constraints:number_words' cannot use its arguments"):
        verdict("one two three", item(("length_constraints:number_words", arguments)))
