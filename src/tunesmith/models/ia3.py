"""(IA)^3: learned vectors that scale keys, values and what goes into the feed-forward part's last map.

Liu et al. 2022, arXiv:2205.05638, section 3.3. The files are PEFT's, both ways; the parameters are our own, because
PEFT cannot have (IA)^3 and LoRA on one model. All vectors start at 1, so that the start is the base exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config
from peft.tuners.ia3 import IA3Model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD_MODULES,
)
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGET_MODULES,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.linear import Plain
from tunesmith.models.own import (
    OwnPart,
    bare_modules,
    drop_parts,
    load_part_tensors,
    own_dtype,
    part_parameters,
    part_tensors,
    parts_of,
    place_parts,
    widths,
)
from tunesmith.models.roles import Base

PEFT_TYPE = "IA3"


class Scale(OwnPart):
    """One vector: over the outputs of a map, or over its inputs where it is the feed-forward part's last."""

    def __init__(self, path: str, width: int, feedforward: bool, config: IA3Config, dtype: torch.dtype) -> None:
        super().__init__(path)
        self.feedforward, self.config = feedforward, config
        # One dimension, unlike PEFT's (N, 1) and (1, N): weight decay is for matrices and would pull it to 0.
        self.ia3_l = nn.Parameter(torch.ones(width, dtype=dtype))

    def forward(self, x_TI: Tensor, plain: Plain) -> Tensor:
        # Multiplied in fp32, as PEFT does: steps from 1 that bf16 cannot tell must still act.
        if self.feedforward:
            return plain((x_TI * self.ia3_l).to(x_TI.dtype))
        y_TO = plain(x_TI)
        return (y_TO * self.ia3_l).to(y_TO.dtype)


def place(base: Base, name: str, config: AdapterConfig, seed: int) -> None:
    """Place vectors of 1 on the maps that PEFT chooses for the family, or on those named; nothing is drawn.

    Raises ConfigError where neither says, or a name is no linear map inside a layer.
    """
    kind = base.model.config.model_type
    targets = list(TARGET_MODULES.get(kind, ()))
    if "target_modules" in config.model_fields_set:
        if isinstance(config.target_modules, str):
            raise ConfigError(
                "adapter.target_modules",
                f"is '{config.target_modules}', but (IA)^3 scales keys, values and the feed-forward part.",
                "Leave it out, or name the maps.",
            )
        targets = config.target_modules
    feedforward = config.feedforward_modules
    if feedforward is None:
        feedforward = _feedforward_of(kind, targets)
    if not targets:
        raise ConfigError(
            "adapter.target_modules",
            f"has no default for models of type '{kind}'.",
            "Name the maps of keys, values and the feed-forward part, and the last in feedforward_modules too.",
        )
    try:
        ia3 = IA3Config(
            target_modules=targets,
            feedforward_modules=feedforward,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.model.modules()),
            task_type="SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
        )
        place_parts(base, name, list(_parts(base, ia3)))
    except ValueError as error:
        raise ConfigError("adapter.target_modules", f"{error}.", "Leave it out for the usual maps.") from None


def _feedforward_of(kind: str, targets: Sequence[str]) -> list[str]:
    """Those of the targets that are the feed-forward part's last map; a target is the end of a path, or all of it."""
    ends = FEEDFORWARD_MODULES.get(kind, ())
    for target in targets:
        if wider := [end for end in ends if end.endswith(f".{target}")]:
            raise ConfigError(
                "adapter.target_modules",
                f"'{target}' means '{wider[0]}', which is scaled on its input, and other maps.",
                f"Name '{wider[0]}' and the others apart, or set feedforward_modules.",
            )
    return [target for target in targets if any(f".{target}".endswith(f".{end}") for end in ends)]


def read(base: Base, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Place the vectors that PEFT's settings describe. Raises ModelError where they do not fit the base."""
    if settings.get("modules_to_save"):
        raise ModelError(folder, "saves whole modules (modules_to_save), which is not supported.", "Train without.")
    ia3: IA3Config = IA3Config.from_peft_type(**settings)
    try:
        place_parts(base, name, list(_parts(base, ia3)))
    except ValueError as error:
        raise ModelError(folder, f"does not fit '{base.resolved.name}': {error}.", "Use its own base.") from None


def load_tensors(base: Base, name: str, values: Mapping[str, Tensor]) -> None:
    """Take the values of a file, under PEFT's names."""
    load_part_tensors(base, name, values)


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """The adapter's vectors in module order."""
    return part_parameters(base, name)


def tensors(base: Base, name: str) -> dict[str, Tensor]:
    """``base_model.model.<path>.ia3_l`` in PEFT's shapes: (1, in) before a map, (out, 1) behind it."""
    shapes = [(1, -1) if part.feedforward else (-1, 1) for part in parts_of(base, name)]
    return {key: x.view(shape) for shape, (key, x) in zip(shapes, part_tensors(base, name).items(), strict=True)}


def settings(base: Base, name: str) -> dict[str, Any]:
    """What stands in adapter_config.json."""
    found: dict[str, Any] = parts_of(base, name)[0].config.to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}


def scalings(base: Base, name: str) -> list[bool]:
    """What decides the answers beside the tensors: on which side of its map each vector stands."""
    return [part.feedforward for part in parts_of(base, name)]


def drop(base: Base, name: str) -> None:
    """Take the adapter off the base; those that stay keep what they were."""
    drop_parts(base, name)


def saved_per_token(base: Base, name: str) -> int:
    """Values it saves a token for the backward pass, all layers together: what each vector multiplies."""
    return sum(int(part.ia3_l.numel()) for part in parts_of(base, name))


def _parts(base: Base, ia3: IA3Config) -> Iterator[Scale]:
    """One vector for each map that PEFT would choose. Raises ValueError where there is none or it is no such map."""
    output, found = base.model.get_output_embeddings(), False
    for path, module in bare_modules(base.model):
        if not path or not check_target_module_exists(ia3, path):
            continue
        if module is output or (size := widths(module)) is None:
            raise ValueError(f"'{path}' takes no (IA)^3 vector; only the linear maps inside the layers do")
        found = True
        feedforward = bool(IA3Model._check_target_module_feedforward(ia3, path))
        yield Scale(path, size[0 if feedforward else 1], feedforward, ia3, own_dtype(base)).to(base.device)
    if not found:
        raise ValueError(f"no module of the model is called {' or '.join(sorted(ia3.target_modules or ()))}")
