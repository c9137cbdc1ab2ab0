"""Decoding with a cache gives what the whole forward pass gives, whatever batch a prompt lands in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import DataError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.decoding import FastDecoding
from tunesmith.models.forward import hidden_states
from tunesmith.randomness import generator
from tunesmith.rollout import draw as draw_module
from tunesmith.rollout.draw import draw
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
        if ids[-1] in base.end_ids_of(adapter):
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


def test_rows_enter_where_others_have_ended(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows through few places, one of them too long to share its cache: each answers as it does alone."""
    base, asked = load(), prompts(5, 11, 8, 6, 120, 7, 9, 5, 12)
    sampling = Sampling(max_new_tokens=14, temperature=2.0, seed=1)
    few = LocalGenerator(base, max_rows=3, max_cache_tokens=160)
    sizes: list[int] = []
    step = FastDecoding.step

    def counted(state: FastDecoding, ids_B: torch.Tensor) -> torch.Tensor:
        sizes.append(len(ids_B))
        return step(state, ids_B)

    monkeypatch.setattr(FastDecoding, "step", counted)
    # So many tokens end a turn that most rows end early.
    monkeypatch.setattr(type(base), "end_ids_of", lambda _, adapter: frozenset(range(40)))
    rollouts = few.generate(asked, sampling)
    through_few = len(sizes)
    alone = [LocalGenerator(base).generate([prompt], sampling)[0] for prompt in asked]
    for one, other in zip(rollouts, alone, strict=True):
        assert one.ids.tolist() == other.ids.tolist() and one.stop_reason == other.stop_reason
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-6)
    ragged = [len(r.ids) for r in rollouts]
    assert len(set(ragged)) > 2 and max(sizes[:through_few]) == 3
    # In batches that wait for their longest row the short ones would take a step more for each row that ended early.
    order = sorted((i for i in range(9) if i != 4), key=lambda i: -len(asked[i].ids))
    in_batches = sum(max(ragged[i] for i in order[first : first + 3]) - 1 for first in (0, 3, 6))
    assert through_few - (ragged[4] - 1) < in_batches


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


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gpt2"])
def test_samples_of_one_prompt_share_its_prefill_and_stay_themselves(load: Callable[..., Any], kind: str) -> None:
    base, (first, second) = load(kind), prompts(9, 13)
    asked = [Prompt(ids=p.ids.copy(), row_id=p.row_id, sample=s) for s in range(3) for p in (first, second)]
    sampling = Sampling(max_new_tokens=15, temperature=1.5, seed=3)
    together = LocalGenerator(base)
    rollouts = together.generate(asked, sampling)
    alone = [LocalGenerator(base).generate([prompt], sampling)[0] for prompt in asked]
    assert [r.ids.tolist() for r in rollouts] == [r.ids.tolist() for r in alone]
    for one, other in zip(rollouts, alone, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-6)
    assert together.tokens.prefilled == 9 + 13
    # The samples differ from each other, so a row that took its neighbour's cache would be seen.
    assert len({tuple(r.ids.tolist()) for r in rollouts}) == len(asked)


def test_rows_that_end_one_by_one_leave_the_others_as_they_are(load: Callable[..., Any]) -> None:
    """The state is told to go on with ever other rows, in ever other orders; each must be what it is alone."""
    base = load()
    decoder = base.decoder
    asked = [p.ids for p in prompts(5, 11, 8, 6, 9)]
    draws = generator(8, "forced", 0).integers(3, 260, (5, 12))

    def run(rows: list[int], keeps: dict[int, list[int]]) -> dict[tuple[int, int], torch.Tensor]:
        state = FastDecoding(base, decoder, (len(rows), 40))
        state.enter([asked[r] for r in rows], [None] * len(rows))
        out, running = {}, list(range(len(rows)))
        for step in range(12):
            if step in keeps:
                state.keep(keeps[step])
                running = [running[i] for i in keeps[step]]
            hidden = state.step(torch.tensor([int(draws[rows[i]][step]) for i in running]))
            out.update({(rows[i], step): h for i, h in zip(running, hidden, strict=True)})
        return out

    together = run([0, 1, 2, 3, 4], {2: [4, 1, 0, 3], 5: [2, 0, 3], 6: [1, 2], 9: [1]})
    assert len(together) == 2 * 5 + 3 * 4 + 1 * 3 + 3 * 2 + 3 * 1
    alone = {key: h for r in range(5) for key, h in run([r], {}).items()}
    for key, hidden in together.items():
        torch.testing.assert_close(hidden, alone[key], rtol=1e-9, atol=1e-10)
    assert not torch.allclose(together[(4, 4)], alone[(1, 4)])


def test_a_row_that_enters_sees_nothing_of_the_one_before(load: Callable[..., Any]) -> None:
    base = load()
    first, second, third = (p.ids for p in prompts(20, 6, 5))
    state, alone = (FastDecoding(base, base.decoder, (rows, 40)) for rows in (2, 1))
    state.enter([second, first], [None, None])
    state.keep([0])
    for cache in (*state.keys, *state.values):
        cache[1] = torch.nan
    entered = state.enter([third], [None])
    torch.testing.assert_close(entered, alone.enter([third], [None]), rtol=1e-9, atol=1e-10)
    ids = torch.tensor([7, 9])
    torch.testing.assert_close(state.step(ids)[1:], alone.step(ids[1:]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("nucleus_tokens", [2, 1024])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.6), (0, 0.5), (0, 0.9), (3, 0.6), (1, 1.0)])
def test_draws_invert_the_cumulative_distribution(
    top_k: int, top_p: float, nucleus_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evenly spread uniform numbers must give each token its share; independent definition in NumPy."""
    monkeypatch.setattr(draw_module, "NUCLEUS_TOKENS", nucleus_tokens)
    weights = np.array([0.08, 0.3, 0.05, 0.3, 0.25, 0.02])
    order = np.argsort(-weights, kind="stable")[: top_k or None]
    before = np.cumsum(weights[order]) - weights[order]
    kept = order[before < top_p * weights[order].sum()]
    expected = np.zeros(6)
    expected[kept] = weights[kept] / weights[kept].sum()
    uniform = torch.from_numpy((np.arange(20_000) + 0.5) / 20_000)
    logits = torch.from_numpy(np.log(weights) * 2.0).expand(20_000, -1)
    drawn = draw(logits, uniform, Sampling(temperature=2.0, top_k=top_k, top_p=top_p))
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 20_000, expected, atol=1e-4)


def test_a_wide_neighbour_does_not_change_a_narrow_rows_draw() -> None:
    """A row whose nucleus needs the whole vocabulary takes the long way, its neighbour with many ties does not."""
    ties = torch.zeros(3000)
    ties[:40] = 12.0
    flat = torch.zeros(3000)
    uniform = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    sampling = Sampling(temperature=1.0, top_p=0.9)
    alone = draw(ties.expand(50, -1), uniform, sampling)
    mixed = draw(torch.stack([ties, flat]).repeat(50, 1), uniform.repeat_interleave(2), sampling)
    assert torch.equal(mixed[::2], alone)
    assert int(alone.max()) < 40 and len(mixed[1::2].unique()) == 50


def test_rare_tokens_of_a_large_vocabulary_can_be_drawn() -> None:
    logits = torch.zeros(1, 50_000)
    logits[0, 0] = 30.0
    last = torch.tensor([1.0 - 1e-10], dtype=torch.float64)
    # All but the first token have 5e-9 together: single precision would round the draw to the first one.
    assert int(draw(logits, last, Sampling(temperature=1.0))[0]) > 0
    assert int(draw(logits, last * 0.9, Sampling(temperature=1.0))[0]) == 0


def test_an_answer_ends_where_the_template_ends_a_turn_though_the_eos_is_another(load: Callable[..., Any]) -> None:
    """Many base models: the template writes <|im_end|>, and eos is <|endoftext|>, which no chat ever showed them."""
    base = load("llama")
    base.tokenizer.eos_token = "<|endoftext|>"
    base.model.generation_config.eos_token_id = base.tokenizer.eos_token_id
    ending, other = (base.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    assert base.end_ids_of(None) == {ending, other}
    weight_VD = base.head.weight_VD.detach().clone()
    # Every token but the one that ends a turn is as good as impossible.
    bias_V = torch.full((len(weight_VD),), -1e4, dtype=weight_VD.dtype)
    bias_V[ending] = 0.0
    base.head = replace(base.head, bias_V=bias_V)
    (rollout,) = LocalGenerator(base).generate(prompts(5), Sampling(max_new_tokens=4))
    assert (rollout.ids.tolist(), rollout.text, rollout.stop_reason) == ([ending], "", "end_of_turn")
