"""On a GPU decoded tokens are replayed as graphs: the same tokens, log-probabilities and rows as kernel by kernel."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gpu_parts import DEVICE, card_only, note, on_a_gpu
from models.contract_parts import build

from tunesmith.models.adapters import AdapterConfig, add_adapter, drop_adapter
from tunesmith.models.decoding import FastDecoding
from tunesmith.models.step_graphs import StepGraphs
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling

pytestmark = on_a_gpu
# Rounding that a product of more rows may have: the rows of a graph are a round number.
NATS = {"fp32": 1e-4, "nf4": 1e-4, "bf16": 0.1}


@card_only
@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("adapter", [None, "taught"])
def test_graphs_give_the_same_tokens(
    adapter: str | None, precision: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build("llama", precision, tmp_path_factory.mktemp, str(DEVICE))
    if adapter is not None:
        role = add_adapter(base, adapter, AdapterConfig(r=4), seed=0)
        for parameter in role.parameters.values():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    draws = np.random.default_rng(0)
    # Rows end one by one at their end token, and others enter in their places.
    prompts = [Prompt(ids=draws.integers(3, 260, n), row_id=i) for i, n in enumerate((5, 19, 1, 30, 11, 5, 8, 3, 12))]
    sampling = Sampling(max_new_tokens=24, temperature=1.0, seed=1)
    captures, capture = [], StepGraphs._capture

    def counted(self: StepGraphs, token: object, key: object, device: object) -> None:
        captures.append(key)
        capture(self, token, key, device)  # type: ignore[arg-type]

    monkeypatch.setattr(StepGraphs, "_capture", counted)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="tokens are decoded without CUDA graphs")
        replayed = LocalGenerator(base, max_rows=6).generate(prompts, sampling, adapter)
    assert captures
    monkeypatch.setattr(StepGraphs, "__call__", lambda self, token, ids, slots, end, name: token(ids, slots, end, name))
    plain = LocalGenerator(base, max_rows=6).generate(prompts, sampling, adapter)
    same = sum(np.array_equal(a.ids, b.ids) for a, b in zip(replayed, plain, strict=True))
    note(f"graphs {precision} {adapter}: answers equal of {len(plain)}, captures", [same, len(captures)])
    worst = 0.0
    for a, b in zip(replayed, plain, strict=True):
        # bf16 may draw another token where two are as likely: what comes after is another answer.
        common = len(a.ids) if np.array_equal(a.ids, b.ids) else 1
        worst = max(worst, float(np.abs(a.logprobs[:common] - b.logprobs[:common]).max()))
    assert worst < NATS[precision]
    if precision != "bf16":
        assert same == len(plain)
    if adapter is not None:
        drop_adapter(base, adapter)


@card_only
def test_a_cache_leaves_the_card_with_its_graphs(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = build("llama", "fp32", tmp_path_factory.mktemp, str(DEVICE))

    def answer() -> int:
        ids = Prompt(ids=np.arange(3, 30, dtype=np.int64), row_id=0)
        LocalGenerator(base).generate([ids], Sampling(max_new_tokens=40, temperature=0.0))
        torch.cuda.synchronize()
        return int(torch.cuda.memory_allocated())

    held = [answer() for _ in range(4)]
    assert held[-1] == held[0], held


def test_room_of_a_fresh_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = build("llama", "fp32", tmp_path_factory.mktemp, str(DEVICE))
    assert base.decoder is not None
    assert (FastDecoding(base, base.decoder, (2, 8)).graphs is not None) == (DEVICE.type == "cuda")
