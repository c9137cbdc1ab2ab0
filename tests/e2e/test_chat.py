"""The chat loop and the demo's recipe on the real base."""

from __future__ import annotations

import pytest

from tunesmith.models.load import ModelConfig, load_base
from tunesmith.recipes.chat import Session, talk
from tunesmith.rollout.generate import LocalGenerator, Sampling


@pytest.mark.slow
def test_chat_remembers_resets_and_takes_commands() -> None:
    session = Session.open("smollm2-135m-instruct", None)
    lines = iter(
        ["My name is Zora. Say hello.", "What is my name?", "/reset", "/nonsense", "/system Be brief.", "/exit"]
    )
    said: list[str] = []
    talk(session, None, Sampling(max_new_tokens=24), read=lambda: next(lines, None), write=said.append)
    text = "".join(said)
    assert "Zora" in text
    assert "forgotten." in text
    assert "unknown command /nonsense" in text
    assert "system message set" in text


@pytest.mark.slow
def test_the_real_base_answers_and_stops_on_the_fast_path() -> None:
    # fp32: in bf16 the first words are a near tie that rounding decides.
    base = load_base(ModelConfig(dtype="float32"))
    assert base.decoder is not None, base.reference_reason
    session = Session(base=base, adapter=None, generator=LocalGenerator(base))
    (rollout,) = session.answer_all(["What is the capital of France?"], None, Sampling(max_new_tokens=24))
    assert rollout.text == "The capital of France is Paris."
    assert rollout.stop_reason == "end_of_turn"
