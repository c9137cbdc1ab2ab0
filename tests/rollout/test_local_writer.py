"""A base of ours as a writer: what the token-level generator says, as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.local_writer import LocalWriter
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked
from tunesmith.tokens.render import render_prompt

SAMPLING = Sampling(max_new_tokens=6, temperature=1.0, seed=3)


def writer_on(base: Any) -> LocalWriter:
    return LocalWriter(
        LocalGenerator(base),
        base.tokenizer,
        name=base.resolved.name,
        digests={"model_digest": base.resolved.base_digest},
    )


def asked(text: str, row_id: int) -> Asked:
    return Asked(messages=(Message(role="user", content=text),), row_id=row_id)


def test_it_says_what_the_generator_says_whatever_the_batch(load: Callable[..., Any]) -> None:
    base = load("llama")
    writer = writer_on(base)
    requests = [asked("the other one", 4), asked("on", 9), asked("on", 10)]
    together = dict(writer.write(requests, SAMPLING))
    alone = [next(writer.write([one], SAMPLING))[1] for one in requests]
    assert [together[i] for i in range(3)] == alone
    # Equal messages with another row id are another draw.
    assert together[1].text != together[2].text
    prompt = Prompt(ids=render_prompt(requests[0].messages, base.tokenizer), row_id=4)
    (rollout,) = LocalGenerator(base).generate([prompt], SAMPLING)
    assert together[0].text == rollout.text and together[0].stop_reason == rollout.stop_reason
    assert together[0].details == {"prompt_tokens": len(prompt.ids), "new_tokens": len(rollout.ids)}


def test_its_identity_is_the_base_and_the_adapter(load: Callable[..., Any]) -> None:
    base = load("llama")
    assert writer_on(base).identity == {
        "model": base.resolved.name,
        "model_digest": base.resolved.base_digest,
        "adapter_digest": "base",
    }


def test_what_is_longer_than_the_context_is_an_error(load: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="the model reads 256"):
        list(writer_on(load("llama")).write([asked("x" * 300, 0)], SAMPLING))
