"""Taking an adapter off a shared base: the others and the base itself go on as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, drop_adapter, load_adapter, save_role
from tunesmith.models.forward import hidden_states
from tunesmith.models.virtual import SoftPrompt
from tunesmith.tokens.pack import pack_prompts

IDS = np.arange(5, 25)


def shaken(base: Any, name: str, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in add_adapter(base, name, AdapterConfig(r=4), seed=seed).parameters.values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws).to(parameter.dtype))


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_a_dropped_adapter_leaves_the_others_as_they_were(load: Callable[..., Any], kernels: str) -> None:
    def said(adapter: str | None) -> torch.Tensor:
        return hidden_states(base, pack_prompts([IDS], [0], adapter)).detach().clone()

    base = load("llama", "float64", kernels)
    bare = said(None)
    shaken(base, "first", 1)
    shaken(base, "second", 2)
    first, second, digest = said("first"), said("second"), adapter_digest(base, "second")
    learning = [p.requires_grad for key, p in base.model.named_parameters() if ".second." in key]
    assert not torch.equal(first, second) and all(learning)
    drop_adapter(base, "first")
    assert torch.equal(said("second"), second) and torch.equal(said(None), bare)
    assert adapter_digest(base, "second") == digest
    assert [p.requires_grad for key, p in base.model.named_parameters() if ".second." in key] == learning
    assert not any(".first." in key for key, _ in base.model.named_parameters())
    with pytest.raises(KeyError):
        drop_adapter(base, "first")
    # The name is free again, and the last one may go too.
    shaken(base, "first", 1)
    assert torch.equal(said("first"), first)
    drop_adapter(base, "first")
    drop_adapter(base, "second")
    assert torch.equal(said(None), bare)
    shaken(base, "first", 1)
    assert torch.equal(said("first"), first)


def test_a_damaged_file_leaves_nothing_on_the_base(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama", "float32")
    save_role(base, add_adapter(base, "first", AdapterConfig(r=4), seed=1), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelError, match="is damaged"):
        load_adapter(base, tmp_path, "second")
    assert set(base.methods) == {"first"}


@pytest.mark.parametrize("name", ["lora_extras", "lora_dropout", "lora_magnitude_vector"])
def test_a_name_of_pefts_own_parts_is_refused(load: Callable[..., Any], name: str) -> None:
    base = load("gpt2", "float32")
    add_adapter(base, "first", AdapterConfig(r=4, bias="lora_only"), seed=1)
    with pytest.raises(ConfigError, match="the model's own names"):
        add_adapter(base, name, AdapterConfig(r=4), seed=1)


def test_as_many_numbers_read_otherwise_are_another_adapter(load: Callable[..., Any]) -> None:
    """PEFT's files of encoder-decoder models hold twice as many rows as there are virtual tokens."""
    base = load("llama", "float32")
    add_adapter(base, "first", AdapterConfig(method="prompt", num_virtual_tokens=4), seed=1)
    base.own["half"], base.methods["half"] = SoftPrompt(base.own["first"].embedding.detach(), 2), "prompt"
    assert adapter_digest(base, "half") != adapter_digest(base, "first")
