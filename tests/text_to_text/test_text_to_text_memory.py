"""Parameters that the planner counts for encoder-decoder models are those of the adapters placed on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from text_to_text_models import KINDS, load, save_model

from tunesmith.models.adapter_cost import adapter_cost
from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.budget import cost_of_role, predict, shape_of_base
from tunesmith.models.shape import open_shape

ADAPTERS: tuple[dict[str, Any], ...] = (
    {"r": 3},
    {"r": 3, "target_modules": "attention"},
    {"method": "bottleneck", "reduction_factor": 8},
    {"method": "bottleneck", "reduction_factor": 8, "placement": "pfeiffer"},
    {"method": "ia3"},
    {"method": "full"},
)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_adapter_itself(kind: str, tmp_path: Path) -> None:
    folder = save_model(kind, tmp_path / kind)
    shape = open_shape(str(folder))
    for settings in ADAPTERS:
        base = load(folder)
        config = AdapterConfig(**settings)
        role, cost = add_adapter(base, "default", config, 0), adapter_cost(shape, config)
        if cost.full and kind == "t5_gated":
            # Its file unties what its config ties: no config says so.
            continue
        assert cost.parameters == role.num_parameters, settings
        placed = cost_of_role(base, role, shape_of_base(base))
        assert (placed.own_values, set(placed.inputs)) == (cost.own_values, set(cost.inputs)), settings
        assert shape_of_base(base).linear_maps == shape.linear_maps
        plain, again = (
            predict(base, role, micro_batch_tokens=640, longest_tokens=64, checkpointing=checkpointing)
            for checkpointing in (False, True)
        )
        assert 0 < again.activation_bytes < plain.activation_bytes
