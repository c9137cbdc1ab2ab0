"""Prompts shared by several answers: the tree holds exactly what the whole rows held."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.records import Example, Where
from tunesmith.tokens.forest import forest_of, num_forest_tokens, share_prefix
from tunesmith.tokens.pack import ROOT, pack


def example(prompt: list[int], answer: list[int], behind: int = 0, row_id: int = 0) -> Example:
    ids = [*prompt, *answer, *([1] * behind)]
    weight = [0.0] * len(prompt) + [1.0] * len(answer) + [0.0] * behind
    return Example(
        ids=np.array(ids, np.int64), loss_weight=np.array(weight, np.float32), row_id=row_id, where=Where("t")
    )


def test_the_prompt_stands_once_and_what_follows_the_loss_is_gone() -> None:
    segments, parents = share_prefix([example([5, 6], [7, 2], behind=1), example([5, 6], [7, 8, 2])])
    assert [s.ids.tolist() for s in segments] == [[5, 6], [7, 2], [7, 8, 2]]
    assert parents == [ROOT, 0, 0]
    assert segments[0].num_loss_tokens == 0
    packed = pack(segments, "a", parents)
    assert packed.positions_T.tolist() == [0, 1, 2, 3, 2, 3, 4]
    source, target, weight = packed.loss_pairs()
    # The first token of each answer is predicted by the prompt's last one.
    assert source.tolist() == [1, 2, 1, 4, 5] and target.tolist() == [7, 2, 7, 8, 2]
    assert weight.tolist() == [1.0] * 5


def test_prompts_that_render_differently_share_what_they_can() -> None:
    segments, _ = share_prefix([example([5, 6, 9], [7, 2]), example([5, 6, 8], [3, 2])])
    assert [s.ids.tolist() for s in segments] == [[5, 6], [9, 7, 2], [8, 3, 2]]
    assert segments[1].loss_weight.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "nothing"),
        ([example([5], [])], "no token is in the loss"),
        ([example([5], [1]), example([6], [1])], "share no token"),
    ],
)
def test_what_cannot_share_is_refused(examples: list[Example], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        share_prefix(examples)


tokens = st.lists(st.integers(3, 9), min_size=1, max_size=5)


@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_every_path_of_a_forest_is_the_row_it_came_from(groups: list[tuple[list[int], list[list[int]]]]) -> None:
    rows = [[example(prompt, answer) for answer in answers] for prompt, answers in groups]
    segments, parents, tails = forest_of(rows)
    packed = pack(segments, None, parents)
    for group, own in zip(rows, tails, strict=True):
        for row, segment in zip(group, own, strict=True):
            path = [*packed.ancestors(segment), segment]
            pieces = [packed.ids_T[packed.start_S[s] : packed.start_S[s] + packed.length_S[s]] for s in path]
            assert np.concatenate(pieces).tolist() == row.ids.tolist()
            assert segments[segment].num_loss_tokens == row.num_loss_tokens
    assert packed.num_tokens == sum(num_forest_tokens(group) for group in rows)
