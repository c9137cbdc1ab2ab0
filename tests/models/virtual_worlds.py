"""Adapters with virtual tokens on tiny models, and the same computed by transformers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import forward
from tunesmith.models.roles import Role
from tunesmith.randomness import generator
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import Packed

KINDS = ["llama", "qwen3", "mistral", "gpt2"]
SETTINGS: dict[str, dict[str, Any]] = {
    "prompt": {"method": "prompt"},
    "prefix": {"method": "prefix", "encoder_hidden_size": 9},
    "flat": {"method": "prefix", "prefix_projection": False},
}


def config(setting: str, number: int = 4, **more: Any) -> AdapterConfig:
    return AdapterConfig(**{**SETTINGS[setting], "num_virtual_tokens": number, **more})


def awake(base: Any, name: str, setting: AdapterConfig, seed: int = 1) -> Role:
    """A role whose every parameter is away from where it began."""
    role = add_adapter(base, name, setting, seed)
    for i, parameter in enumerate(role.parameters.values()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * seed + i))
        parameter.data += 0.2 * noise.to(parameter)
    return role


def rows(*lengths: int) -> list[Example]:
    out = []
    for i, n in enumerate(lengths):
        draws = generator(4, "test_virtual", i)
        weight = (draws.random(n) < 0.7).astype(np.float32)
        weight[0], weight[-1] = 0.0, 1.0
        out.append(Example(ids=draws.integers(3, 260, n), loss_weight=weight, row_id=i, where=Where("t", i)))
    return out


def losses(base: Any, packs: Sequence[Packed], **how: Any) -> Tensor:
    return torch.stack([forward(base, packed, "ce_sum", **how)[0] for packed in packs]).sum()


def gradients_of(loss: Tensor, *roles: Role) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for role in roles for p in role.parameters.values()]))


def virtual_values(base: Any, name: str) -> Tensor:
    """Embeddings (P, D), or the numbers of a prefix (P, N), written down from the papers with what learns."""
    held = dict(base.own[name].named_parameters())
    if "embedding" in held:
        return held["embedding"]
    if "rows" not in held:
        return held["start"]
    hidden = torch.tanh(held["rows"] @ held["transform.0.weight"].T + held["transform.0.bias"])
    return held["start"] + hidden @ held["transform.2.weight"].T + held["transform.2.bias"]


def transformers_loss(
    base: Any, name: str, examples: Sequence[Example], *, first_position: int | None = None
) -> Tensor:
    """The summed loss of a right-padded batch of transformers' own forward, with its own cache or embeddings.

    first_position: of the rows; None leaves it to transformers.
    """
    from transformers import DynamicCache

    model, values = base.model, virtual_values(base, name)
    size, longest, number = len(examples), max(e.num_tokens for e in examples), values.shape[0]
    ids = torch.zeros(size, longest, dtype=torch.int64)
    mask, weight = torch.zeros(size, longest), torch.zeros(size, longest, dtype=torch.float64)
    for i, e in enumerate(examples):
        ids[i, : e.num_tokens] = torch.from_numpy(e.ids)
        weight[i, : e.num_tokens] = torch.from_numpy(e.loss_weight).double()
        mask[i, : e.num_tokens] = 1
    inputs: dict[str, Any] = {"attention_mask": torch.cat([torch.ones(size, number), mask], dim=1)}
    if first_position is not None:
        inputs["position_ids"] = torch.arange(first_position, first_position + longest).expand(size, -1)
    if values.shape[1] == model.get_input_embeddings().weight.shape[1]:
        words = model.get_input_embeddings()(ids)
        logits = model(inputs_embeds=torch.cat([values.expand(size, -1, -1), words], dim=1), **inputs).logits
        logits = logits[:, number:]
    else:
        c = model.config
        heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
        cache = DynamicCache()
        # As PEFT lays it out: key and value of a layer in turn.
        by_layer = values.view(number, 2 * c.num_hidden_layers, heads, -1).permute(1, 2, 0, 3)
        for layer in range(c.num_hidden_layers):
            key, value = (x.expand(size, -1, -1, -1) for x in by_layer[2 * layer : 2 * layer + 2])
            cache.update(key, value, layer)
        logits = model(input_ids=ids, past_key_values=cache, **inputs).logits
    logprobs = torch.log_softmax(logits[:, :-1].double(), dim=-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return -(logprobs * weight[:, 1:]).sum()
