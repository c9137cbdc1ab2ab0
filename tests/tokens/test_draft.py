"""Many conversations at once give what one at a time gives, and a prompt's tokens are told without encoding it anew."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_helpers import TEMPLATES, TOKENIZERS, conversation, words

from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Where
from tunesmith.tokens.draft import draft, draft_many, prompt_tokens
from tunesmith.tokens.render import RenderConfig, render, render_many
from tunesmith.tokens.template import encode

chats = st.lists(st.tuples(words, words), min_size=1, max_size=3).map(
    lambda pairs: conversation(*[turn for asked, said in pairs for turn in (("user", asked), ("assistant", said))])
)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(max_examples=40, deadline=None)
@given(record=chats)
def test_prompt_tokens_are_those_of_the_prompt_encoded_alone(name: str, record: Conversation) -> None:
    tokenizer = TOKENIZERS[name]
    text = draft(record, tokenizer)
    ids = encode(text.full, tokenizer, record.where)
    for before in text.before:
        if not text.full.startswith(before):
            continue
        alone = encode(before, tokenizer, record.where)
        expected = len(alone) if ids[: len(alone)] == alone else None
        assert prompt_tokens(before, ids, tokenizer, record) == expected


def test_other_tokens_are_noticed() -> None:
    tokenizer, record = TOKENIZERS["chatml"], conversation(("user", "hello"), ("assistant", "yes"))
    text = draft(record, tokenizer)
    ids = encode(text.full, tokenizer, record.where)
    length = prompt_tokens(text.before[0], ids, tokenizer, record)
    assert length is not None and 0 < length < len(ids)
    # Another token in the header of the turn, and a text with one control token fewer.
    wrong = [*ids[: length - 1], ids[length - 1] + 1, *ids[length:]]
    assert prompt_tokens(text.before[0], wrong, tokenizer, record) is None
    assert prompt_tokens(text.before[0], ids[:3], tokenizer, record) is None


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(max_examples=15, deadline=None)
@given(records=st.lists(chats, min_size=1, max_size=5))
def test_many_at_once_equal_one_at_a_time(name: str, records: list[Conversation]) -> None:
    tokenizer, config = TOKENIZERS[name], RenderConfig()
    mixed = [*records, Document(text="hello there", row_id=9, where=Where("t", 9))]
    together = list(render_many(mixed, tokenizer, config, max_tokens=10_000))
    alone = [render(record, tokenizer, config, max_tokens=10_000) for record in mixed]
    assert [len(examples) for examples in together] == [len(examples) for examples in alone]
    for ours, theirs in zip(chain(*together), chain(*alone), strict=True):
        assert np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.loss_weight, theirs.loss_weight)
        assert (ours.row_id, ours.where, ours.end_in_loss) == (theirs.row_id, theirs.where, theirs.end_in_loss)


def test_a_refused_row_among_many_is_named_and_the_rows_before_it_are_rendered() -> None:
    good, bad = conversation(("user", "a"), ("assistant", "b")), conversation(("system", "s"), ("assistant", "b"))
    assert draft_many([good, bad], TOKENIZERS["gemma"]) is None
    out = render_many([good, bad], TOKENIZERS["gemma"], RenderConfig(), max_tokens=100)
    assert len(next(out)) == 1
    with pytest.raises(DataError, match="System role not supported"):
        next(out)
