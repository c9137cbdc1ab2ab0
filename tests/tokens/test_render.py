"""Rendering: the loss covers exactly the assistant's words and end token, and training sees what inference sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_helpers import (
    CHATML,
    CORPUS,
    ENDLESS,
    GEMMA,
    LLAMA3,
    TEMPLATES,
    TOKENIZERS,
    assert_exact,
    build_tokenizer,
    conversation,
    decode,
    rendered,
    spans,
    words,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tunesmith.errors import DataError
from tunesmith.tokens.render import RenderConfig, render, render_prompt, template_notes

turns = st.lists(st.tuples(words, words, st.booleans()), min_size=1, max_size=3).filter(
    lambda rows: any(train for _, _, train in rows)
)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(max_examples=60, deadline=None)
@given(rows=turns, system=st.none() | words)
def test_loss_is_exactly_the_assistants_turns(name: str, rows: list[tuple[str, str, bool]], system: str | None) -> None:
    flat = [(role, text) for ask, answer, _ in rows for role, text in (("user", ask), ("assistant", answer))]
    if system is not None and name != "gemma":
        flat.insert(0, ("system", system))
    record = conversation(*flat, train=tuple(train for _, _, train in rows))
    examples = rendered(record, name)
    assert_exact(record, name, examples)
    assert all(e.end_in_loss and e.tokens_cut == 0 and e.row_id == 7 for e in examples)
    assert all(e.loss_weight[0] == 0 and len(e.ids) == len(e.loss_weight) for e in examples)


@pytest.mark.parametrize("by", [1, -1])
def test_a_shifted_mask_is_noticed(by: int) -> None:
    record = conversation(("user", "where?"), ("assistant", "there it is"))
    examples = rendered(record, "chatml")
    assert_exact(record, "chatml", examples)
    with pytest.raises(AssertionError):
        assert_exact(record, "chatml", examples, shift=lambda weight: np.roll(weight, by))


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral"])
def test_whole_conversation_is_one_example_with_the_templates_own_ids(name: str) -> None:
    record = conversation(("user", "a"), ("assistant", "b there"), ("user", "c"), ("assistant", "d"))
    (example,) = rendered(record, name)
    rows = [{"role": m.role, "content": m.content} for m in record.messages]
    assert example.ids.tolist() == TOKENIZERS[name].apply_chat_template(rows, tokenize=True)["input_ids"]


def test_line_break_after_the_end_token_is_not_in_the_loss() -> None:
    (example,) = rendered(conversation(("user", "a"), ("assistant", "b")), "chatml")
    assert decode(TOKENIZERS["chatml"], example.ids[-2:]) == "<|im_end|>\n"
    assert example.loss_weight[-2:].tolist() == [1.0, 0.0]


def test_turns_not_to_train_stay_as_context() -> None:
    record = conversation(
        ("user", "a"), ("assistant", "first"), ("user", "c"), ("assistant", "second"), train=(True, False)
    )
    (example,) = rendered(record, "chatml")
    assert spans(example, TOKENIZERS["chatml"]) == ["first<|im_end|>"]
    assert "second" in decode(TOKENIZERS["chatml"], example.ids)
    assert example.end_in_loss


def test_thoughts_dropped_later_make_each_turn_its_own_example() -> None:
    record = conversation(
        ("user", "a"),
        ("assistant", "<think>\nhm\n</think>\n\nfirst"),
        ("user", "c"),
        ("assistant", "<think>\nso\n</think>\n\nsecond"),
    )
    one, two = rendered(record, "thinking")
    tokenizer = TOKENIZERS["thinking"]
    assert spans(one, tokenizer) == ["<think>\nhm\n</think>\n\nfirst<|im_end|>"]
    assert spans(two, tokenizer) == ["<think>\nso\n</think>\n\nsecond<|im_end|>"]
    assert "hm" not in decode(tokenizer, two.ids)
    assert_exact(record, "thinking", [one, two])


def test_template_that_ends_no_turn_gets_eos_and_says_so() -> None:
    record = conversation(("user", "a"), ("assistant", "there"), ("user", "c"), ("assistant", "it is"))
    examples = rendered(record, "endless")
    assert [spans(e, TOKENIZERS["endless"]) for e in examples] == [["there<|im_end|>"], ["it is<|im_end|>"]]
    assert any("eos" in note for note in template_notes(TOKENIZERS["endless"]))
    assert template_notes(TOKENIZERS["chatml"]) == []
    assert "no chat template" in template_notes(TOKENIZERS["none"])[0]


def test_without_any_end_token_the_example_says_so() -> None:
    tokenizer = build_tokenizer(ENDLESS)
    tokenizer.eos_token = None
    (example,) = render(conversation(("user", "a"), ("assistant", "b")), tokenizer, RenderConfig(), max_tokens=99)
    assert spans(example, tokenizer) == ["b"]
    assert not example.end_in_loss


def test_merge_across_the_generation_prompt_keeps_the_prompt() -> None:
    tokenizer = TOKENIZERS["endless"]
    record = conversation(("user", "a"), ("assistant", "there"))
    # The trap: with the space before it, 'there' is one token, so the prompt is no prefix of the whole.
    prompt = render_prompt(record.messages[:1], tokenizer).tolist()
    whole = tokenizer("user: a\nassistant: there", add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] != prompt
    assert_exact(record, "endless", rendered(record, "endless"))
    # The same with the two line breaks of Llama 3's header, under GPT-2's way of splitting.
    tokenizer = build_tokenizer(LLAMA3)
    record = conversation(("user", "a"), ("assistant", "there"), ("user", "c"), ("assistant", "it is"))
    examples = render(record, tokenizer, RenderConfig(), max_tokens=99)
    assert [spans(e, tokenizer) for e in examples] == [["there<|im_end|>"], ["it is<|im_end|>"]]
    for example, k in zip(examples, (1, 3), strict=True):
        prompt = render_prompt(record.messages[:k], tokenizer).tolist()
        assert example.ids[: len(prompt)].tolist() == prompt


def test_sentencepiece_puts_no_second_space_before_an_answer() -> None:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = ENDLESS
    record = conversation(("user", "hello"), ("assistant", "there it is"))
    (example,) = render(record, tokenizer, RenderConfig(), max_tokens=99)
    prompt = render_prompt(record.messages[:1], tokenizer).tolist()
    assert example.ids[: len(prompt)].tolist() == prompt
    assert decode(tokenizer, example.ids).split("assistant:")[1] == " there it is</s>"
    # The negative control: the words tokenised alone bring a space of their own.
    alone = tokenizer("there it is", add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, prompt + alone).split("assistant:")[1] == "  there it is"


def test_system_message_the_template_refuses() -> None:
    record = conversation(("system", "be kind"), ("user", "a"), ("assistant", "b"))
    with pytest.raises(DataError, match=r"rows\.jsonl:3: .*System role not supported.*first user turn"):
        rendered(record, "gemma")


def test_message_the_template_leaves_out() -> None:
    silent = build_tokenizer(
        CHATML.replace("{{ '<|im_start|>' + m", "{% if m['role'] != 'system' %}{{ '<|im_start|>' + m").replace(
            "{% endfor %}", "{% endif %}{% endfor %}"
        )
    )
    record = conversation(("system", "be kind"), ("user", "a"), ("assistant", "b"))
    with pytest.raises(DataError, match=r"messages\[0\]: .*leaves out this system message"):
        render(record, silent, RenderConfig(), max_tokens=99)


def test_assistant_words_the_template_leaves_out() -> None:
    lossy = build_tokenizer(CHATML.replace("m['content']", "m['content'].split('</think>')[-1]"))
    record = conversation(("user", "a"), ("assistant", "<think>hm</think>b"))
    with pytest.raises(DataError, match="leaves out some of the assistant's words"):
        render(record, lossy, RenderConfig(), max_tokens=99)


def test_header_the_generation_prompt_does_not_write() -> None:
    lazy = build_tokenizer(
        CHATML.replace("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", "")
    )
    with pytest.raises(DataError, match="between generation prompt"):
        render(conversation(("user", "a"), ("assistant", "b")), lazy, RenderConfig(), max_tokens=99)


def test_generation_prompt_training_does_not_write() -> None:
    other = build_tokenizer(
        CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
    )
    with pytest.raises(DataError, match="in training than in use"):
        render(conversation(("user", "a"), ("assistant", "b")), other, RenderConfig(), max_tokens=99)


def test_templates_are_sandboxed() -> None:
    for attack in ("{{ messages.append(1) }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"):
        record = conversation(("user", "a"), ("assistant", "b"))
        with pytest.raises(DataError, match="refuses this conversation"):
            render(record, build_tokenizer(attack + CHATML), RenderConfig(), max_tokens=99)


def test_a_changed_template_is_noticed() -> None:
    tokenizer = build_tokenizer(CHATML)
    record = conversation(("user", "a"), ("assistant", "b"))
    render(record, tokenizer, RenderConfig(), max_tokens=99)
    tokenizer.chat_template = GEMMA
    (example,) = render(record, tokenizer, RenderConfig(), max_tokens=99)
    assert spans(example, tokenizer) == ["b<end_of_turn>"]


def test_padding_and_eos_may_share_an_id() -> None:
    tokenizer = TOKENIZERS["chatml"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (example,) = rendered(conversation(("user", "a"), ("assistant", "b")), "chatml")
    at = np.flatnonzero(example.ids == tokenizer.pad_token_id)
    assert example.loss_weight[at].tolist() == [0.0, 1.0]
