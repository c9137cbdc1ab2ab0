"""Groups -> tokens: the loss covers the answer alone, and what is too long is counted with the pairs it takes along."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import build_tokenizer
from tests.tokens.render_helpers import THINKING
from tunesmith.errors import DataError
from tunesmith.records import Message, Pair, PreferenceGroup, Where
from tunesmith.tokens.preference import RenderedGroup, render_groups
from tunesmith.tokens.render import RenderConfig, render_prompt

TOKENIZER = build_tokenizer()
PROMPT = (
    Message(role="user", content="one"),
    Message(role="assistant", content="two"),
    Message(role="user", content="three"),
)
PAIRS = (Pair(better=0, worse=1), Pair(better=0, worse=2, weight=2.0, margin=0.5), Pair(better=1, worse=2))


def group(*answers: str, pairs: tuple[Pair, ...] = PAIRS, prompt: tuple[Message, ...] = PROMPT) -> PreferenceGroup:
    said = tuple((Message(role="assistant", content=answer),) for answer in answers)
    return PreferenceGroup(prompt=prompt, answers=said, pairs=pairs, row_id=7, where=Where("rows.jsonl", 8))


def rendered(*groups: PreferenceGroup, length: int = 200, over: str = "error") -> tuple[list[RenderedGroup], object]:
    return render_groups(groups, TOKENIZER, RenderConfig(over_length=over), max_tokens=length)  # type: ignore[arg-type]


def trained_text(one: RenderedGroup, i: int) -> str:
    example = one.examples[i]
    return str(TOKENIZER.decode(example.ids[example.loss_weight > 0]))


def test_only_the_answer_and_its_end_token_are_in_the_loss() -> None:
    (one,), report = rendered(group("first", "second", "last"))
    prompt = render_prompt(PROMPT, TOKENIZER)
    for i, answer in enumerate(("first", "second", "last")):
        assert trained_text(one, i) == f"{answer}<|im_end|>"
        assert np.array_equal(one.examples[i].ids[: len(prompt)], prompt)
        assert one.examples[i].loss_weight[: len(prompt)].sum() == 0
    assert one.pairs == PAIRS and report.num_pairs == 3 and report.num_answers == 3  # type: ignore[attr-defined]


def test_a_whole_dialogue_as_answer_trains_each_of_its_assistant_turns() -> None:
    turns = tuple(
        Message(role=role, content=text)  # type: ignore[arg-type]
        for role, text in (("assistant", "x"), ("user", "y"), ("assistant", "z"))
    )
    both = PreferenceGroup(
        prompt=PROMPT[:1],
        answers=(turns, (Message(role="assistant", content="w", train=False),)),
        pairs=PAIRS[:1],
        row_id=0,
        where=Where("f", 1),
    )
    (one,), _ = rendered(both)
    assert [trained_text(one, i) for i in (0, 1)] == ["x<|im_end|>z<|im_end|>", "w<|im_end|>"]
    thinking = build_tokenizer(THINKING)
    thoughts = (Message(role="assistant", content="<think>h</think>x"), *turns[1:])
    split = PreferenceGroup(
        prompt=PROMPT[:1], answers=(thoughts, turns), pairs=PAIRS[:1], row_id=0, where=Where("f", 1)
    )
    with pytest.raises(DataError, match="no single sequence"):
        render_groups([split], thinking, RenderConfig(), max_tokens=200)


def test_long_answers_stop_are_dropped_with_their_pairs_or_are_cut() -> None:
    fits = len(render_prompt(PROMPT, TOKENIZER)) + 10
    long = group("abcdefgh", "x" * 40, "z")
    with pytest.raises(DataError, match=rf"rows.jsonl:8.*{fits} are allowed"):
        rendered(long, length=fits)
    (one,), report = rendered(long, length=fits, over="drop")
    assert [trained_text(one, i) for i in (0, 1)] == ["abcdefgh<|im_end|>", "z<|im_end|>"]
    assert one.pairs == (Pair(better=0, worse=1, weight=2.0, margin=0.5),)
    assert (report.answers_dropped, report.pairs_dropped) == (1, 2)  # type: ignore[attr-defined]
    (one,), report = rendered(long, length=fits, over="truncate")
    assert trained_text(one, 1) == "x" * 10 and one.pairs == PAIRS
    assert report.answers_cut == 1 and report.tokens_cut > 30  # type: ignore[attr-defined]


def test_pairs_that_the_cut_makes_equal_teach_nothing_and_are_counted() -> None:
    fits = len(render_prompt(PROMPT, TOKENIZER)) + 10
    same = group("x" * 40 + "a", "x" * 40 + "b", pairs=PAIRS[:1])
    other = group("a", "b", pairs=PAIRS[:1])
    kept, report = rendered(same, other, length=fits, over="truncate")
    assert [trained_text(one, 0) for one in kept] == ["a<|im_end|>"]
    assert (report.pairs_equal, report.groups_dropped) == (1, 1)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="no pair is left"):
        rendered(same, length=fits, over="truncate")


def test_a_prompt_longer_than_the_context_is_named() -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:8.*no token of this row is in the loss"):
        rendered(group("a", "b", pairs=PAIRS[:1]), length=12, over="truncate")
