"""The real 135M model with an adapter: llama.cpp continues our prompts with our tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import ADAPTER, tuned

from tunesmith.evals import parity
from tunesmith.evals.after.retained import retained_texts
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.export.write import write_model
from tunesmith.models.llama_cpp import is_installed
from tunesmith.models.load import build_base
from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="the extra gguf is not installed"),
]


@pytest.fixture(scope="module")
def base() -> Any:
    return build_base(resolve_model(EMBEDDED_MODEL), torch.device("cpu"), torch.float32)


def test_llama_cpp_serves_what_was_trained(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "PROMPTS", parity.PROMPTS[:1])
    monkeypatch.setattr(parity, "NUM_NEW_TOKENS", 8)
    tuned(base, AdapterConfig(r=4, target_modules=["q_proj", "v_proj"]), size=0.02)
    ours = parity.our_side(base, ADAPTER, retained_texts()[:2])
    f16 = write_model(base, ADAPTER, tmp_path / "f16.gguf", "f16").path
    exact = parity.compare(base, ADAPTER, ours, f16, "f16")
    assert exact.faults == [] and exact.same_tokens == exact.num_tokens and exact.same_texts == exact.num_texts
    assert exact.num_texts > 25 and exact.num_text_tokens > 50
    packed = write_model(base, ADAPTER, tmp_path / "q8_0.gguf", "q8_0")
    assert packed.num_bytes < 0.55 * f16.stat().st_size
    assert parity.compare(base, ADAPTER, ours, packed.path, "q8_0", allowed_gap=0.03).faults == []
    # The negative control: what the adapter adds is seen, so a file without it fails.
    bare = write_model(base, None, tmp_path / "bare.gguf", "f16").path
    assert parity.compare(base, ADAPTER, ours, bare, "f16").faults != []
