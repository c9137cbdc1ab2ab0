"""Tiny models with tuned adapters, and what they compute: by us, by transformers' GGUF reader, by llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, GgufConfig

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import hidden_states
from tunesmith.models.llama_cpp import LlamaCpp
from tunesmith.models.roles import Base, Role
from tunesmith.models.token_rows import head_for
from tunesmith.tokens.pack import pack_prompts

IDS = np.arange(5, 45) * 7 % 272
ADAPTER = "tuned"


def tuned(base: Base, config: AdapterConfig | None = None, size: float = 0.05) -> Role:
    """An adapter whose every value is drawn, so that each map of the model matters."""
    role = add_adapter(base, ADAPTER, config or AdapterConfig(r=8), seed=0)
    draws = torch.Generator().manual_seed(0)
    for parameter in role.parameters.values():
        parameter.data = torch.randn(parameter.shape, generator=draws) * size
    return role


@torch.no_grad()
def our_logits(base: Base, adapter: str | None, ids: NDArray[np.int64] = IDS) -> NDArray[np.float32]:
    hidden = hidden_states(base, pack_prompts([ids], [0], adapter))
    head, _, _ = head_for(base.token_rows, base.head, [adapter], "none")
    return (hidden @ head.weight_VD.T).numpy()  # type: ignore[no-any-return]


def llama_cpp_logits(file: Path, lora: Path | None = None, ids: NDArray[np.int64] = IDS) -> NDArray[np.float32]:
    with LlamaCpp(file, context_tokens=64, threads=1, lora=lora) as opened:
        return opened.logits(ids.tolist())


def transformers_logits(file: Path, **how: Any) -> NDArray[np.float32]:
    """By a reader that knows nothing of our writer."""
    how |= {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **how)
    with torch.no_grad():
        return model(torch.from_numpy(IDS)[None]).logits[0].numpy()  # type: ignore[no-any-return]
