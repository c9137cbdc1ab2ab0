"""The chat loop and the demo's recipe on the real base."""

from __future__ import annotations

import pytest

from tunesmith.recipes.chat import Session, talk
from tunesmith.rollout.generate import Sampling


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
    session = Session.open("smollm2-135m-instruct", None)
    (rollout,) = session.answer_all(["Who wrote Hamlet?"], None, Sampling(max_new_tokens=48))
    assert "Shakespeare" in rollout.text
    assert rollout.stop_reason == "end_of_turn"
    assert session.base.decoder is not None, session.base.reference_reason
