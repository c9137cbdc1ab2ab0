"""What narrows a draw, against transformers' own processors; stops; and what stored settings are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tunesmith.randomness import generator
from tunesmith.rollout.draw import draw, penalized
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.rollout.stops import half_stop


def test_a_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    seen = [[3, 5, 5, 9], [7, 1, 3, 3]]
    wanted = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor(seen), logits.clone())
    got = penalized(logits, seen, 1.7)
    assert torch.equal(got, wanted) and not torch.equal(got, logits)
    # Both signs of a logit become less likely.
    assert bool((got[0, [3, 5, 9]] < logits[0, [3, 5, 9]]).all())
    assert {float(x) > 0 for x in logits[0, [3, 5, 9]]} == {True, False}


@pytest.mark.parametrize("min_p", [0.05, 0.3, 1.0])
def test_min_p_leaves_what_transformers_leaves(min_p: float) -> None:
    from transformers import MinPLogitsWarper

    logits = 2 * torch.randn(1, 30, generator=torch.Generator().manual_seed(1))
    kept = set(
        MinPLogitsWarper(min_p)(torch.zeros(1, 1, dtype=torch.int64), logits / 0.8)[0]
        .isfinite()
        .nonzero()[:, 0]
        .tolist()
    )
    uniform = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = draw(logits.expand(4000, -1), uniform, Sampling(temperature=0.8, min_p=min_p))
    assert set(drawn.tolist()) == kept
    everything = draw(logits.expand(4000, -1), uniform, Sampling(temperature=0.8))
    assert len(set(everything.tolist())) > len(kept)
    # What is left keeps its proportions.
    probs = torch.softmax(logits[0].double() / 0.8, 0)[sorted(kept)]
    shares = np.bincount(drawn.numpy(), minlength=30)[sorted(kept)] / 4000
    np.testing.assert_allclose(shares, (probs / probs.sum()).numpy(), atol=2e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_answers_with_a_penalty_are_those_of_transformers(load: Callable[..., Any], kind: str) -> None:
    base = load(kind, "float32")
    prompt = generator(3, "draw", 0).integers(3, 260, 9)
    sampling = Sampling(max_new_tokens=12, repetition_penalty=1.4)
    asked = [Prompt(ids=prompt, row_id=0), Prompt(ids=prompt[:5], row_id=1)]
    answers = LocalGenerator(base).generate(asked, sampling)
    plain = LocalGenerator(base).generate(asked, Sampling(max_new_tokens=12))
    for one, answer in zip(asked, answers, strict=True):
        ids_1L = torch.from_numpy(one.ids)[None]
        how = {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": 1.4, "pad_token_id": 2}
        made = base.model.generate(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L), eos_token_id=2, **how)
        assert made[0, len(one.ids) :].tolist() == answer.ids.tolist()
    assert [a.ids.tolist() for a in answers] != [a.ids.tolist() for a in plain]
    # The log-probabilities are the model's own, not those of what was penalised.
    own = torch.log_softmax(base.model(torch.from_numpy(prompt)[None]).logits[0, -1], -1)
    assert answers[0].logprobs[0] == pytest.approx(float(own[answers[0].ids[0]]), abs=1e-4)


def test_an_answer_ends_before_its_stop(load: Callable[..., Any]) -> None:
    base = load("llama", "float32")
    asked = [Prompt(ids=generator(4, "draw", n).integers(3, 260, 6 + n), row_id=n) for n in range(3)]
    free = Sampling(max_new_tokens=40, temperature=1.0, seed=5)
    local = LocalGenerator(base)
    whole = local.generate(asked, free)
    # Two letters from inside one answer, so that the stop spans tokens; the others may hold it or not.
    stop = whole[1].text[10:12]
    assert len(stop) == 2
    cut = local.generate(asked, free.model_copy(update={"stop": (stop, "never there")}))
    for long, short in zip(whole, cut, strict=True):
        at = long.text.find(stop)
        assert short.text == (long.text if at < 0 else long.text[:at])
        assert short.stop_reason == (long.stop_reason if at < 0 else "end_of_turn")
        assert short.ids.tolist() == long.ids[: len(short.ids)].tolist()
        assert at < 0 or len(short.ids) < len(long.ids)
    for number, prompt in enumerate(asked):
        (alone,) = local.generate([prompt], free.model_copy(update={"stop": (stop,)}))
        assert alone.text == cut[number].text
        pieces = list(local.stream(prompt, free.model_copy(update={"stop": (stop,)})))
        assert "".join(pieces) == cut[number].text


def test_half_a_stop_is_held_back() -> None:
    assert half_stop("and then \n", ("\n\n", "END")) == 1 and half_stop("the E", ("END",)) == 1
    assert half_stop("the end", ("END",)) == 0 and half_stop("", ()) == 0


def test_settings_that_say_nothing_are_not_written() -> None:
    old = {"max_new_tokens": 5, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 0}
    assert Sampling(max_new_tokens=5).model_dump() == old
    more = Sampling(max_new_tokens=5, min_p=0.1, stop=("a",))
    assert json.loads(more.model_dump_json()) == {**old, "min_p": 0.1, "stop": ["a"]}
    assert Sampling(**json.loads(more.model_dump_json())) == more


@pytest.mark.parametrize("wrong", [{"min_p": 1.5}, {"repetition_penalty": 0}, {"stop": ("",)}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**wrong)
