"""Encoder-decoder bases in 4 bits: T5 asks a weight for its dtype, and its gradients are those of the dense weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from text_to_text_models import load, rows, save_model

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.load import build_base
from tunesmith.models.quantize import quantized_layers, save_quantized, unpack
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.resolve import resolve_model
from tunesmith.training.distribute import one_process
from tunesmith.training.step import accumulate_gradients


@pytest.mark.parametrize("kind", ["t5_gated", "bart"])
def test_gradients_are_those_of_the_dense_weights(kind: str, tmp_path: Path) -> None:
    folder = save_model(kind, tmp_path / "full")
    packing = QuantizationConfig()
    base = build_base(resolve_model(str(folder)), torch.device("cpu"), torch.float64, quantization=packing)
    assert "lm_head" not in quantized_layers(base.model)
    save_quantized(base, tmp_path / "packed")
    again = load(tmp_path / "packed")
    assert again.digest == base.digest != load(folder).digest
    found = []
    for one in (base, again):
        role = add_adapter(one, "default", AdapterConfig(r=2), seed=0)
        for i, parameter in enumerate(role.parameters.values()):
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.2
            parameter.data = values.double()
        for _ in range(2):
            accumulate_gradients(one, role, rows(one, (7, 5), (4, 6)), one_process(), micro_batch_tokens=1000)
            found.append([p.grad.clone() for p in role.parameters.values() if p.grad is not None])
            for parameter in role.parameters.values():
                parameter.grad = None
            unpack(one)
    assert found[0] and any(bool(grad.any()) for grad in found[0])
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
