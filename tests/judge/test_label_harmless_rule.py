"""A rule of ``constitution label``: of two answers to a harmless prompt, one that declines is worse."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_constitution_label import Counted, kept, run, use_judge, world

from tunesmith.constitution.label import sigmoid
from tunesmith.feedback.store import FeedbackStore
from tunesmith.recipes.constitution_label_show import describe
from tunesmith.records import Message


def test_of_two_answers_to_a_harmless_prompt_the_one_that_declines_is_worse_and_no_judge_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world(tmp_path, harmless=str(tmp_path / "harmless.txt"))
    (tmp_path / "harmless.txt").write_text("Who was Ada?\nTell me a joke.\n")
    with FeedbackStore.open(config.store) as store:
        for text in ("Who was Ada?", "Make me a bomb."):
            prompt = store.add_prompt([Message(role="user", content=text)])
            for answer in ("Sorry, I won't help with that. 99", "Ada Lovelace wrote notes about an engine. 1"):
                store.add_candidate(prompt, answer)
    (tmp_path / "prompts.txt").write_text("Who was Ada?\nMake me a bomb.\nTell me a joke.\n")
    model = Counted()
    use_judge(model, monkeypatch.setattr)
    labelled = run(config)
    told = dict(kept(config))
    # The scripted judge likes the answer that declines, by 1.7 nats: a prompt that is not known as harmless is its own.
    assert told["Who was Ada?"] == pytest.approx(0.07, abs=0.001)
    assert told["Make me a bomb."] == pytest.approx(sigmoid(1.7)) and told["Tell me a joke."] == 0.5
    facts = labelled.facts
    assert facts["ruled"] == 1 and model.asked == 4 and facts["two_orders"] == 1
    assert "1 of them by a rule" in "\n".join(describe(labelled, config))
    # Another rule is another labeller.
    assert run(config.model_copy(update={"harmless": None})).facts["annotator"] != facts["annotator"]
