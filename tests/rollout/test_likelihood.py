"""Log-likelihoods: transformers' own numbers, whatever is asked beside them, for chats, bare text and encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tokenizer

from tunesmith.errors import DataError
from tunesmith.evals.bits import bits_per_byte
from tunesmith.records import Message, Where
from tunesmith.rollout.likelihood import Asked, LocalLikelihood
from tunesmith.tokens.continuation import continuation_examples

QUESTION = (Message(role="system", content="Be kind."), Message(role="user", content="Who was there?"))
CHOICES = ("the other one", "a man", "the other ones", " nobody")


def by_transformers(base: Any, ids: np.ndarray, begin: int) -> tuple[float, bool]:
    with torch.no_grad():
        logits = base.model(torch.tensor(ids)[None]).logits[0, begin - 1 : -1].double()
    target = torch.tensor(ids[begin:])
    logprobs = torch.log_softmax(logits, -1).gather(1, target[:, None])
    return float(logprobs.sum()), bool((logits.argmax(-1) == target).all())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("chat_template", [True, False])
def test_the_numbers_are_transformers_own(load: Callable[..., Any], kind: str, chat_template: bool) -> None:
    base = load(kind)
    model = LocalLikelihood(base, chat_template=chat_template)
    (scored,) = model.score([(QUESTION, CHOICES)])
    for choice, one in zip(CHOICES, scored, strict=True):
        text = base.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in QUESTION], tokenize=False, add_generation_prompt=True
        )
        if not chat_template:
            text = "Be kind.\n\nWho was there?"
        between = "" if chat_template or choice.startswith(" ") else " "
        before = base.tokenizer(text)["input_ids"]
        ids = base.tokenizer(text + between + choice)["input_ids"]
        logprob, greedy = by_transformers(base, np.array(ids), len(before))
        assert one.logprob == pytest.approx(logprob, abs=1e-6)  # its rotary angles are fp32
        assert (one.greedy, one.num_tokens) == (greedy, len(ids) - len(before))


def test_what_is_asked_beside_it_changes_nothing(load: Callable[..., Any]) -> None:
    asked: list[Asked] = [
        (QUESTION, CHOICES),
        ((Message(role="user", content="word " * 9),), ("the",)),
        ((), ("the other one was there " * 3,)),
    ]
    for kernels, exact in (("auto", False), ("reference", True)):
        base = load("llama", "float32", kernels)
        together = LocalLikelihood(base).score(asked)
        alone = [
            tuple(LocalLikelihood(base, micro_batch_tokens=16).score([(messages, (words,))])[0][0] for words in given)
            for messages, given in reversed(asked)
        ][::-1]
        for one, other in zip(together, alone, strict=True):
            for a, b in zip(one, other, strict=True):
                assert a.logprob == (b.logprob if exact else pytest.approx(b.logprob, abs=1e-5))
                assert (a.num_tokens, a.greedy) == (b.num_tokens, b.greedy)
    # The control: other words have another likelihood.
    assert together[0][0].logprob != together[0][1].logprob


def test_the_likeliest_words_are_greedy_and_others_not(load: Callable[..., Any]) -> None:
    base = load("llama")
    prompt = base.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in QUESTION], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    with torch.no_grad():
        order = base.model(torch.tensor([prompt])).logits[0, -1].argsort(descending=True).tolist()
    examples = continuation_examples(QUESTION, ["x", "x"], base.tokenizer, chat_template=True, where=Where("test"))
    for example, token in zip(examples, order[:2], strict=True):
        example.ids[-1] = token
    first, second = LocalLikelihood(base).score_examples([examples])[0]
    assert (first.greedy, second.greedy) == (True, False)
    assert first.logprob > second.logprob


def test_a_text_longer_than_the_context_is_predicted_in_chunks(load: Callable[..., Any]) -> None:
    base = load("llama")
    text = "the other one was there and then a man came on " * 12
    ((one,),) = LocalLikelihood(base).score([((), (text,))])
    assert one.num_tokens == len(base.tokenizer(text)["input_ids"]) > base.context_tokens
    bits = bits_per_byte(base, None, [text], max_tokens=base.context_tokens)
    assert one.logprob == pytest.approx(-bits.bits_N[0] * np.log(2), abs=1e-9)


def test_a_token_over_the_boundary_belongs_to_the_continuation() -> None:
    tokenizer = build_tokenizer("{{ messages[0]['content'] }}{% if add_generation_prompt %}t{% endif %}")
    turn = (Message(role="user", content="Is it so? "),)
    merged, apart = continuation_examples(turn, ["he", "is"], tokenizer, chat_template=True, where=Where("test"))
    assert tokenizer.decode(merged.ids[merged.loss_weight > 0]) == "the"
    assert tokenizer.decode(apart.ids[apart.loss_weight > 0]) == "is"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((QUESTION, ("",)), "has no token of its own"),
        (((Message(role="user", content="word " * 200),), ("the",)), "the model reads 256"),
        (((), ("",)), "has no token"),
    ],
)
def test_what_cannot_be_asked_is_told_with_its_place(load: Callable[..., Any], asked: Asked, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        LocalLikelihood(load("llama")).score([(QUESTION, CHOICES), asked])
    assert caught.value.place == "request:2"


def test_the_identity_tells_weights_and_number_format_apart(load: Callable[..., Any]) -> None:
    base = load("llama")
    one = LocalLikelihood(base).identity
    assert one["dtype"] == str(base.dtype).removeprefix("torch.")
    tuned = LocalLikelihood(base, model_digest="tuned").identity
    assert tuned == {**one, "model_digest": "tuned"} != one
