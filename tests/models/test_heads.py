"""Scalar heads: read, learned, saved in PEFT's layout, and understood by transformers' own sequence classifier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from tests.models.test_adapter_combinations import awake, rows
from tunesmith.models.adapters import AdapterConfig, add_adapter, load_adapter, save_role
from tunesmith.models.forward import scalar_values
from tunesmith.models.heads import add_head
from tunesmith.models.roles import Base, Role
from tunesmith.tokens.pack import pack


def ends(packed: Any) -> torch.Tensor:
    return torch.tensor([s + n - 1 for s, n in zip(packed.start_S, packed.length_S, strict=True)])


def scores(base: Base, role: Role, examples: list[Any]) -> torch.Tensor:
    packed = pack(examples, role.adapter)
    assert role.head is not None
    return scalar_values(base, packed, role.head, ends(packed))


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_saved_head_gives_stock_transformers_our_scores(
    load: Callable[..., Any], model_folder: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    base = load(kind)
    role = add_head(base, awake(base, "reward", AdapterConfig(r=4), torch.float32), seed=3)
    examples = rows(9, 5, 12)
    ours = scores(base, role, examples).detach()
    save_role(base, role, tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(model_folder(kind), num_labels=1, dtype=torch.float64)
    stock = PeftModel.from_pretrained(stock, tmp_path).double().eval()
    # No padding, so that the last token is the last token.
    theirs = torch.stack([stock(torch.from_numpy(e.ids)[None]).logits[0, 0] for e in examples]).detach()
    # transformers' norms round to fp32 whatever the model's dtype is.
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    # The control: other weights on the head are seen.
    role.head.score.weight.data.mul_(1.01)  # type: ignore[union-attr]
    assert not torch.allclose(scores(base, role, examples), theirs, rtol=1e-3, atol=1e-3)


def test_a_head_comes_back_with_its_adapter_and_learns_with_it(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama")
    role = add_head(base, awake(base, "reward", AdapterConfig(r=4), torch.float32), seed=3)
    examples = rows(6, 8)
    save_role(base, role, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["task_type"], settings["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert load_file(tmp_path / "adapter_model.safetensors")["base_model.model.score.weight"].shape == (1, 32)
    frozen = load_adapter(base, tmp_path, "again")
    assert frozen.parameters == {} and frozen.head is not None
    assert not frozen.head.score.weight.requires_grad
    torch.testing.assert_close(scores(base, frozen, examples), scores(base, role, examples), rtol=0, atol=0)
    learning = load_adapter(base, tmp_path, "third", trainable=True)
    assert "score.weight" in learning.parameters
    scores(base, learning, examples).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learning.parameters.values())
    # Saving what was loaded gives the same file: nothing is lost on the way.
    save_role(base, learning, tmp_path / "copy")
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "copy"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_head_is_drawn_from_its_seed_and_only_once(load: Callable[..., Any]) -> None:
    base = load("llama")
    role = add_adapter(base, "reward", AdapterConfig(r=2), seed=0)
    first, again, other = (add_head(base, role, seed).head.score.weight for seed in (1, 1, 2))  # type: ignore[union-attr]
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="cannot get a scalar head"):
        add_head(base, add_head(base, role, 1), 1)
