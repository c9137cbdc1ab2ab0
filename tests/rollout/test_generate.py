"""Decoding with a cache gives what the whole forward pass gives, whatever batch a prompt lands in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import DataError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import hidden_states
from tunesmith.randomness import generator
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.tokens.pack import pack_prompts


def prompts(*lengths: int) -> list[Prompt]:
    draws = [generator(3, "prompts", i) for i in range(len(lengths))]
    return [Prompt(ids=d.integers(3, 260, n), row_id=i) for i, (n, d) in enumerate(zip(lengths, draws, strict=True))]


def greedy_by_whole_passes(base: Any, prompt: Prompt, num_tokens: int, adapter: str | None) -> list[int]:
    """The slow definition: run everything anew for each token."""
    ids = [int(i) for i in prompt.ids]
    for _ in range(num_tokens):
        hidden = hidden_states(base, pack_prompts([np.array(ids)], [0], adapter))
        ids.append(int(logits_of(hidden[-1:].detach(), base.head).argmax()))
        if ids[-1] in base.end_ids:
            break
    return ids[len(prompt.ids) :]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gpt2"])
def test_cached_decoding_equals_whole_passes(load: Callable[..., Any], kind: str) -> None:
    base = load(kind)
    role = add_adapter(base, "default", AdapterConfig(r=4), seed=1)
    for i, parameter in enumerate(role.parameters.values()):
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        parameter.data = drawn.double() * 0.3
    asked = prompts(5, 11, 8)
    for adapter in (None, "default"):
        rollouts = LocalGenerator(base, max_rows=2).generate(asked, Sampling(max_new_tokens=12), adapter)
        for prompt, rollout in zip(asked, rollouts, strict=True):
            assert rollout.ids.tolist() == greedy_by_whole_passes(base, prompt, 12, adapter)
            assert rollout.row_id == prompt.row_id
    assert rollouts[0].adapter_digest != "base"


def test_samples_do_not_depend_on_the_batch(load: Callable[..., Any]) -> None:
    base, asked = load(), prompts(5, 11, 8, 6)
    sampling = Sampling(max_new_tokens=10, temperature=1.0, top_p=0.9, seed=4)
    together = LocalGenerator(base).generate(asked, sampling)
    alone = [LocalGenerator(base).generate([prompt], sampling)[0] for prompt in asked]
    assert [r.ids.tolist() for r in together] == [r.ids.tolist() for r in alone]
    other = LocalGenerator(base).generate(asked, sampling.model_copy(update={"seed": 5}))
    assert [r.ids.tolist() for r in together] != [r.ids.tolist() for r in other]


def test_logprobs_are_those_of_the_whole_pass_at_temperature_one(load: Callable[..., Any]) -> None:
    base, (prompt,) = load(), prompts(7)
    (rollout,) = LocalGenerator(base).generate([prompt], Sampling(max_new_tokens=6, temperature=2.0))
    ids = np.concatenate([prompt.ids, rollout.ids])
    with torch.no_grad():
        hidden = hidden_states(base, pack_prompts([ids], [0], None))[len(prompt.ids) - 1 : -1]
        logprobs = torch.log_softmax(logits_of(hidden, base.head), -1)
    expected = logprobs.gather(1, torch.from_numpy(rollout.ids)[:, None]).squeeze(1)
    np.testing.assert_allclose(rollout.logprobs, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_streamed_pieces_are_the_answer(load: Callable[..., Any]) -> None:
    base, (prompt,) = load(), prompts(9)
    sampling = Sampling(max_new_tokens=25, temperature=1.3, seed=2)
    (rollout,) = LocalGenerator(base).generate([prompt], sampling)
    assert "".join(LocalGenerator(base).stream(prompt, sampling)) == rollout.text


def test_sampling_follows_the_distribution(load: Callable[..., Any]) -> None:
    base, (prompt,) = load(), prompts(6)
    with torch.no_grad():
        hidden = hidden_states(base, pack_prompts([prompt.ids], [0], None))[-1:]
        probs = torch.softmax(logits_of(hidden, base.head), -1)[0]
    asked = [Prompt(ids=prompt.ids, row_id=0, sample=i) for i in range(2000)]
    generator_ = LocalGenerator(base, max_rows=500)
    drawn = generator_.generate(asked, Sampling(max_new_tokens=1, temperature=1.0))
    counts = np.bincount([int(r.ids[0]) for r in drawn], minlength=len(probs)) / len(asked)
    # Four standard errors: a wrong draw of one time in some ten thousand, over some 270 tokens a few per cent.
    assert np.all(np.abs(counts - probs.numpy()) < 4.5 * np.sqrt(probs.numpy() / len(asked)) + 1e-3)
    likeliest = generator_.generate(asked[:50], Sampling(max_new_tokens=1, temperature=1.0, top_k=1))
    assert {int(r.ids[0]) for r in likeliest} == {int(probs.argmax())}
    assert generator_.tokens.generated == 2050


def test_a_prompt_beyond_the_context_is_refused(load: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="256"):
        LocalGenerator(load()).generate(prompts(250), Sampling(max_new_tokens=10))
