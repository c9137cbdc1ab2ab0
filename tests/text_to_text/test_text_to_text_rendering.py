"""Conversations as source and target: the stated texts, nothing lost, faults named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from text_to_text_models import build_tokenizer, load, save_model

from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Example, Message, Where
from tunesmith.tokens.pack import pack
from tunesmith.tokens.render import RenderConfig, render, render_prompt, template_notes
from tunesmith.tokens.store import build_store
from tunesmith.tokens.text_to_text import use_text_to_text

WHERE = Where("rows.jsonl", 3)


def tokenizer_of(kind: str, prefix: tuple[int, ...] | None = None) -> Any:
    tokenizer = build_tokenizer(kind)
    use_text_to_text(tokenizer, prefix or ((2,) if kind == "bart" else (0,)))
    return tokenizer


T5, BART = tokenizer_of("t5"), tokenizer_of("bart")


def chat(*turns: tuple[str, str], **how: Any) -> Conversation:
    messages = tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]
    return Conversation(messages=messages, row_id=7, where=WHERE, **how)


def rendered(
    record: Conversation | Document, tokenizer: Any = T5, over: str = "error", most: int = 512
) -> list[Example]:
    return render(record, tokenizer, RenderConfig(over_length=over), max_tokens=most)  # type: ignore[arg-type]


def texts(example: Example, tokenizer: Any = T5) -> tuple[str, str]:
    return tokenizer.decode(example.source_ids), tokenizer.decode(example.ids)


TURNS = [
    ([("user", "a b"), ("assistant", "c")], [("a b</s>", "<pad>c</s>")]),
    ([("system", "Be kind."), ("user", "a"), ("assistant", "c")], [("Be kind.\na</s>", "<pad>c</s>")]),
    (
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
        [("a</s>", "<pad>b</s>"), ("User: a\nAssistant: b\nUser: c</s>", "<pad>d</s>")],
    ),
    (
        [("system", "S"), ("user", "a"), ("assistant", "b"), ("tool", "t"), ("assistant", "d")],
        [("S\na</s>", "<pad>b</s>"), ("S\nUser: a\nAssistant: b\nTool: t</s>", "<pad>d</s>")],
    ),
]


@pytest.mark.parametrize(("turns", "expected"), TURNS)
def test_source_and_target_are_the_stated_texts(turns: list[tuple[str, str]], expected: list[tuple[str, str]]) -> None:
    record = chat(*turns)
    examples = rendered(record)
    assert [texts(example) for example in examples] == expected
    answers = [i for i, (role, _) in enumerate(turns) if role == "assistant"]
    for example, i in zip(examples, answers, strict=True):
        assert example.loss_weight.tolist() == [0.0] + [1.0] * (len(example.ids) - 1)
        assert example.num_tokens == len(example.ids) + len(example.source_ids)  # type: ignore[arg-type]
        assert render_prompt(record.messages[:i], T5).tolist() == example.source_ids.tolist()  # type: ignore[union-attr]
    assert template_notes(T5) == [
        "encoder-decoder model: what the user said is the source, what the assistant said the target."
    ]


def test_labels_are_what_the_tokenizer_makes_of_the_target() -> None:
    for tokenizer in (T5, BART):
        (example,) = rendered(chat(("user", "in"), ("assistant", "out")), tokenizer)
        assert example.ids[1:].tolist() == tokenizer("out")["input_ids"]
        assert example.source_ids is not None
        assert example.source_ids.tolist() == tokenizer("in")["input_ids"]


def test_a_forced_first_word_is_never_missing_and_never_doubled() -> None:
    (bart,) = rendered(chat(("user", "a"), ("assistant", "b")), tokenizer_of("bart", (2, 0)))
    assert bart.ids.tolist() == [2, *BART("b")["input_ids"]]
    (t5,) = rendered(chat(("user", "a"), ("assistant", "b")), tokenizer_of("t5", (0, 9)))
    assert t5.ids.tolist() == [0, 9, *T5("b")["input_ids"]]


def test_an_untrained_turn_is_read_but_not_learnt() -> None:
    quiet = Message(role="assistant", content="b", train=False)
    record = chat(("user", "a"), ("user", "c"), ("assistant", "d"))
    messages = (record.messages[0], quiet, *record.messages[1:])
    (example,) = rendered(Conversation(messages=messages, row_id=0, where=WHERE))
    assert texts(example) == ("User: a\nAssistant: b\nUser: c</s>", "<pad>d</s>")


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_survives_and_control_tokens_are_plain_letters(source: str, target: str) -> None:
    try:
        (example,) = rendered(chat(("user", source), ("assistant", f"<pad>{target}</s>")))
    except DataError as error:
        assert "surrogate" in str(error) or "spells" in str(error)
        return
    assert example.source_ids is not None
    assert T5.decode(example.source_ids[:-1]) == source
    assert T5.decode(example.ids[1:-1]) == f"<pad>{target}</s>"
    assert set(example.ids[1:-1]).isdisjoint({0, 1})


FAULTS = [
    (Document(text="x", row_id=0, where=WHERE), "raw text has no source and target"),
    (chat(("assistant", "a")), "begins with an assistant turn"),
    (chat(("user", ""), ("assistant", "a")), "the source has no token"),
    (chat(("user", "a"), ("assistant", "")), "the target has no token"),
    (chat(("user", "a")), "no token of this row is in the loss"),
    (chat(("user", "a"), ("assistant", "b"), tools=({"name": "f"},)), "no place for tools"),
]


@pytest.mark.parametrize(("record", "says"), FAULTS)
def test_faults_name_place_cause_and_fix(record: Conversation | Document, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        rendered(record)
    assert caught.value.place.startswith("rows.jsonl:3")


def test_over_length() -> None:
    long_source, long_target = (chat(("user", "a" * n), ("assistant", "b" * m)) for n, m in ((30, 3), (3, 30)))
    for record, name in ((long_source, "source has 31"), (long_target, "target has 32")):
        with pytest.raises(DataError, match=name):
            rendered(record, most=16)
        assert rendered(record, over="drop", most=16) == []
    (cut,) = rendered(long_source, over="truncate", most=16)
    assert texts(cut) == ("a" * 15 + "</s>", "<pad>bbb</s>")
    assert (cut.tokens_cut, cut.end_in_loss) == (15, True)
    (cut,) = rendered(long_target, over="truncate", most=16)
    assert texts(cut) == ("aaa</s>", "<pad>" + "b" * 15)
    assert (cut.tokens_cut, cut.end_in_loss) == (16, False)


def test_the_store_gives_back_what_was_rendered(tmp_path: Path) -> None:
    records = [chat(("user", "a" * n), ("assistant", "b" * (9 - n))) for n in range(1, 8)]
    store, report = build_store(records, T5, RenderConfig(), tmp_path, max_tokens=64)
    examples = [example for record in records for example in rendered(record)]
    assert store.lengths == [example.num_tokens for example in examples]
    assert store.num_tokens == report.num_tokens == sum(store.lengths)
    for ours, theirs in zip(store[:], examples, strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.source_ids.tolist() == theirs.source_ids.tolist()  # type: ignore[union-attr]
    packed = pack(store[:])
    assert packed.source is not None
    assert packed.source.length_S == tuple(len(e.source_ids) for e in examples)  # type: ignore[arg-type]
    assert packed.source.row_id_S == packed.row_id_S


def test_the_real_t5_vocabulary() -> None:
    from transformers import T5Tokenizer

    tokenizer = T5Tokenizer.from_pretrained(shared_data("tokenizer_t5"))
    use_text_to_text(tokenizer, (0,))
    asked = "Tokenization helps AI understand text."
    (example,) = rendered(chat(("user", asked), ("assistant", "Ja, gut.")), tokenizer)
    pieces = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in (example.source_ids, example.ids)]
    assert pieces == [
        ["▁To", "ken", "ization", "▁helps", "▁AI", "▁understand", "▁text", ".", "</s>"],
        ["<pad>", "▁Ja", ",", "▁gut", ".", "</s>"],
    ]
    assert example.ids[1:].tolist() == tokenizer("Ja, gut.")["input_ids"]
    # Its vocabulary holds "</s>" as a piece, which no way of asking reads as letters.
    with pytest.raises(DataError, match="spells the model's control token '</s>'"):
        rendered(chat(("user", "say </s> twice"), ("assistant", "no")), tokenizer)
    with pytest.raises(DataError, match="the source has no token"):
        rendered(chat(("user", "   "), ("assistant", "no")), tokenizer)


def test_rows_with_and_without_a_source_do_not_mix() -> None:
    (example,) = rendered(chat(("user", "a"), ("assistant", "b")))
    bare = Example(ids=np.array([1, 2]), loss_weight=np.array([0, 1], np.float32), row_id=0, where=WHERE)
    with pytest.raises(ValueError, match="cannot share"):
        pack([example, bare])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_tokenizer_without_its_weights_renders_as_one_with_them(kind: str, tmp_path: Path) -> None:
    from tunesmith.models.tokenizer import load_tokenizer

    folder = save_model(kind, tmp_path / kind)
    record = chat(("user", "two words"), ("assistant", "one"))
    alone = rendered(record, load_tokenizer(str(folder)).tokenizer)
    loaded = rendered(record, load(folder).tokenizer)
    for ours, theirs in zip(alone, loaded, strict=True):
        assert ours.source_ids is not None and theirs.source_ids is not None
        assert np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.source_ids, theirs.source_ids)
