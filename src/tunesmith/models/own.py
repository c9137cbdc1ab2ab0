"""What methods with parameters of our own share: where they stand, and how their parameters are named in files.

``base.own[name]`` is a list of parts, one for each module of the model that carries one. PEFT cannot put adapters of
two methods on one model; parts outside its tree stand beside whatever it has there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunesmith.models.linear import Plain, own_adapters
from tunesmith.models.reference import route_own
from tunesmith.models.roles import Base

FILE_PREFIX = "base_model.model."


class OwnPart(nn.Module):
    """What one adapter has on the module of this path in the bare model."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x_TI: Tensor, plain: Plain) -> Tensor:
        """(T, in) -> (T, out); plain is the module as it is without adapters."""
        raise NotImplementedError


def bare_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of the model as it was before PEFT wrapped any of it."""
    for path, module in model.named_modules():
        if ".lora_" not in path and not hasattr(module, "base_layer"):
            yield path.removesuffix(".base_layer"), module


def widths(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) features of a linear map, however its weight is stored; None of other modules."""
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else None


def own_dtype(base: Base) -> torch.dtype:
    """Of parameters that learn: fp32 (fp64 on an fp64 base), whatever the base is stored in."""
    return torch.promote_types(base.dtype, torch.float32)


def place_parts(base: Base, name: str, parts: Iterable[OwnPart]) -> None:
    """Let the parts act for the adapter ``name``."""
    modules = dict(bare_modules(base.model))
    base.own[name] = nn.ModuleList(parts)
    for part in parts_of(base, name):
        own_adapters(modules[part.path])[name] = part
        route_own(modules[part.path])


def parts_of(base: Base, name: str) -> list[Any]:
    """The adapter's parts in module order."""
    return list(base.own[name].children())


def drop_parts(base: Base, name: str) -> None:
    """Take the adapter off the modules that carry it."""
    modules = dict(bare_modules(base.model))
    for part in parts_of(base, name):
        del own_adapters(modules[part.path])[name]
        route_own(modules[part.path])
    del base.own[name]


def part_parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters in module order, under the paths of the bare model."""
    return {f"{part.path}.{key}": p for part in parts_of(base, name) for key, p in part.named_parameters()}


def part_tensors(base: Base, name: str) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU, under the names of its file."""
    return {FILE_PREFIX + key: p.detach().cpu().contiguous() for key, p in part_parameters(base, name).items()}


def load_part_tensors(base: Base, name: str, values: Mapping[str, Tensor]) -> None:
    """Take the values of a file; a shape may differ by dimensions of one."""
    for key, parameter in part_parameters(base, name).items():
        parameter.data.copy_(values[FILE_PREFIX + key].view(parameter.shape))
