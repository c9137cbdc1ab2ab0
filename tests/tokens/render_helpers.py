"""Chat templates of many habits on a tiny tokenizer, and the check that rendering is held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tunesmith.records import Conversation, Document, Example, Message, Where
from tunesmith.tokens.render import RenderConfig, render, render_prompt

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# A bos, headers with two line breaks, trimmed words, no line break after the end token.
LLAMA3 = (
    "{{ '<|endoftext|>' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '<|header_end|>\n\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|header_end|>\n\n' }}{% endif %}"
)
# Refuses a system message, calls the assistant 'model'.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# No generation prompt; the answer follows a space; system messages go into the first user turn.
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set sys = '' %}{% endif %}{{ '<|endoftext|>' }}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + '<|im_end|>' }}"
    "{% else %}{{ '[INST] ' + (sys if loop.first else '') + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
# Drops the thoughts of all turns but the last.
THINKING = (
    "{% for m in messages %}{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Ends no turn, and its generation prompt ends in a space that byte-level BPE merges with the next word.
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "thinking": THINKING,
    "endless": ENDLESS,
    "none": None,
}
CORPUS = [
    "The assistant answers: yes, there it is.\n\nuser: what, where, how?\n",
    "system: you are a helpful assistant. I say hello, hello there, and thanks again.\n",
    " 12 345 (one) two; three... four!? ünïcödé 你好 \t tabs\n\n\nlines",
] * 20


def build_tokenizer(
    template: str | None, *, mark_turns_special: bool = True, breaks_stand_alone: bool = False
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if breaks_stand_alone:
        # As Llama 3 splits: GPT-2's way cuts "\n\n" before a word in two, but not at the end of a prompt.
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(r"\s*[\r\n]+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|header_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    turns = [AddedToken(t, special=mark_turns_special, normalized=False) for t in ("<start_of_turn>", "<end_of_turn>")]
    backend.add_tokens([*turns, AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {
    name: build_tokenizer(template, breaks_stand_alone=name == "llama3") for name, template in TEMPLATES.items()
}
END = {"gemma": "<end_of_turn>"}


def conversation(*turns: tuple[str, str], train: tuple[bool, ...] = (), **more: Any) -> Conversation:
    flags = iter(train or [True] * len(turns))
    messages = tuple(
        Message(role=role, content=content, train=next(flags) if role == "assistant" else True)  # type: ignore[arg-type]
        for role, content in turns
    )
    return Conversation(messages=messages, row_id=7, where=Where("rows.jsonl", 3), **more)


def rendered(record: Conversation | Document, name: str, **settings_of: Any) -> list[Example]:
    max_tokens = settings_of.pop("max_tokens", 10_000)
    return render(record, TOKENIZERS[name], RenderConfig(**settings_of), max_tokens=max_tokens)


def spans(example: Example, tokenizer: Any) -> list[str]:
    """The text of each unbroken run of tokens in the loss."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], example.loss_weight > 0, [0]])))
    return [decode(tokenizer, example.ids[a:b]) for a, b in edges.reshape(-1, 2)]


def decode(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def assert_exact(
    record: Conversation, name: str, examples: list[Example], shift: Callable[[Any], Any] = lambda w: w
) -> None:
    """Every trained turn is in the loss as its words and end token; before it stands what inference feeds."""
    tokenizer = TOKENIZERS[name]
    got = [
        text
        for example in examples
        for text in spans(
            Example(ids=example.ids, loss_weight=shift(example.loss_weight), row_id=0, where=example.where), tokenizer
        )
    ]
    trained = [i for i, m in enumerate(record.messages) if m.role == "assistant" and m.train]
    trims = name in ("llama3", "gemma")
    lead = " " if name == "mistral" else ""
    want = [record.messages[i].content.strip() if trims else record.messages[i].content for i in trained]
    assert got == [lead + words + END.get(name, "<|im_end|>") for words in want]
    for n, i in enumerate(trained):
        prompt = render_prompt(record.messages[:i], tokenizer).tolist()
        example = examples[n] if len(examples) > 1 else examples[0]
        assert example.ids[: len(prompt)].tolist() == prompt
        assert not example.loss_weight[: len(prompt)].any() or len(examples) == 1
        assert example.loss_weight[len(prompt)] > 0


words = st.text(
    st.sampled_from("ab thereHello \n\n12.,:()!üß你好🙂</|>\t")
    | st.characters(codec="utf-8", exclude_characters="\x00\ufdd0\ufdd1", exclude_categories=("Cs",)),
    min_size=1,
    max_size=30,
).filter(lambda text: bool(text.strip()))
