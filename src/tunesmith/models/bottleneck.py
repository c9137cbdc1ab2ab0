"""Bottleneck adapters: a small network with a way around it, after a sublayer or beside the feed-forward part.

houlsby: on the output of attention and of the feed-forward part, before it is added to the residual stream (Houlsby et
al. 2019, arXiv:1902.00751, figure 2). pfeiffer: on the feed-forward part's output alone (arXiv:2005.00247). parallel:
on the feed-forward part's input, added to its output times ``scaling`` (He et al. 2022, arXiv:2110.04366).
Houlsby et al. start near the identity, with both projections from N(0, 1e-2) cut at two standard deviations; here the
down projection starts as ``torch.nn.Linear`` does and the up projection at 0, so that the start is the base exactly.
PEFT has no such method: folder, file names and key style are PEFT's, ``peft_type`` is our own, and PEFT refuses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tunesmith.errors import ConfigError, ModelError
from tunesmith.kernels.bottleneck import bottleneck
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
)
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed

PEFT_TYPE = "BOTTLENECK"
SETTINGS = ("placement", "reduction_factor", "non_linearity", "scaling")


@dataclass(frozen=True, slots=True)
class Family:
    """Ends of module paths: the last maps of attention, that of the feed-forward part, and the module around it."""

    attention: tuple[str, ...]
    feed_forward: str
    around: str | None

    def ends(self, placement: str) -> tuple[str, ...]:
        """Where the bottlenecks of a placement stand."""
        if placement == "parallel":
            return (self.around,) if self.around else ()
        return (self.feed_forward,) if placement == "pfeiffer" else (*self.attention, self.feed_forward)


LLAMA = Family(("self_attn.o_proj",), "mlp.down_proj", "mlp")
T5 = Family(("SelfAttention.o", "EncDecAttention.o"), "DenseReluDense.wo", "DenseReluDense")
BART = Family(("self_attn.out_proj", "encoder_attn.out_proj"), "fc2", None)
FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), LLAMA),
    **dict.fromkeys(("t5", "mt5", "umt5"), T5),
    **dict.fromkeys(("bart", "pegasus"), BART),
    "gpt2": Family(("attn.c_proj",), "mlp.c_proj", "mlp"),
    "gpt_neox": Family(("attention.dense",), "mlp.dense_4h_to_h", "mlp"),
    "opt": Family(("self_attn.out_proj",), "fc2", None),
    "phi": Family(("self_attn.dense",), "mlp.fc2", "mlp"),
}


class Bottleneck(OwnPart):
    """One bottleneck; ``config`` says whether it reads its module's output or its input."""

    def __init__(self, path: str, width: int, config: AdapterConfig, dtype: torch.dtype) -> None:
        super().__init__(path)
        self.config, self.size = config, width // config.reduction_factor
        # Left empty: ``start`` or a file fills them, and no stream of random numbers moves on.
        self.adapter_down = skip_init(nn.Linear, width, self.size, dtype=dtype)  # type: ignore[no-untyped-call]
        self.adapter_up = skip_init(nn.Linear, self.size, width, dtype=dtype)  # type: ignore[no-untyped-call]
        self.beside = config.placement == "parallel"
        self.scaling = config.scaling if self.beside else 1.0

    def start(self, draws: torch.Generator) -> None:
        """Fresh values: the up projection is 0."""
        bound = 1 / math.sqrt(self.adapter_down.in_features)
        with torch.no_grad():
            for values in self.adapter_down.parameters():
                values.copy_((2 * torch.rand(values.shape, generator=draws, dtype=torch.float64) - 1) * bound)
            for values in self.adapter_up.parameters():
                values.zero_()

    def forward(self, x_TI: Tensor, plain: Plain) -> Tensor:
        down, up = self.adapter_down, self.adapter_up
        y_TO = plain(x_TI)
        # T5 keeps its last map in fp32 beside a half-precision input.
        x, y = (x_TI.to(y_TO.dtype), y_TO) if self.beside else (y_TO, None)
        how = self.config.non_linearity, self.scaling
        return bottleneck(x, y, down.weight, down.bias, up.weight, up.bias, *how)


def place(base: Base, name: str, config: AdapterConfig, seed: int) -> None:
    """Place fresh bottlenecks; the up projections are 0, so that at the start the adapter changes nothing.

    Raises ConfigError for a family whose sublayers are not known and for a size of 0.
    """
    try:
        parts = list(_parts(base, config))
    except ValueError as error:
        raise ConfigError("adapter", f"{error}.", "Use method: lora, another model, or other settings.") from None
    draws = torch.Generator().manual_seed(derive_seed(seed, "adapter_init", name) % 2**63)
    for part in parts:
        part.start(draws)
    place_parts(base, name, parts)


def read(base: Base, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Place the bottlenecks that a folder's settings describe. Raises ModelError where they do not fit the base."""
    known = {"peft_type", "task_type", "inference_mode", "base_model_name_or_path", "modules_to_save", *SETTINGS}
    if unknown := sorted(key for key, value in settings.items() if key not in known and value is not None):
        raise ModelError(folder, f"has settings of another program: {', '.join(unknown)}.", "Take them out.")
    own = {key: settings[key] for key in SETTINGS if settings.get(key) is not None}
    needed = SETTINGS if own.get("placement") == "parallel" else SETTINGS[:3]
    if missing := [key for key in needed if key not in own]:
        raise ModelError(folder, f"does not say its {', '.join(missing)}.", "Copy its adapter_config.json again.")
    try:
        place_parts(base, name, list(_parts(base, AdapterConfig(method="bottleneck", **own))))
    except ValidationError as error:
        raise ModelError(folder, f"{error.errors()[0]['msg']}.", "Copy its adapter_config.json again.") from None
    except ValueError as error:
        raise ModelError(folder, f"does not fit '{base.resolved.name}': {error}.", "Use its own base.") from None


def load_tensors(base: Base, name: str, values: Mapping[str, Tensor]) -> None:
    """Take the values of a file."""
    load_part_tensors(base, name, values)


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters in module order."""
    return part_parameters(base, name)


def tensors(base: Base, name: str) -> dict[str, Tensor]:
    """``base_model.model.<path>.adapter_down.weight`` and its kin."""
    return part_tensors(base, name)


def settings(base: Base, name: str) -> dict[str, Any]:
    """What stands in adapter_config.json."""
    config = parts_of(base, name)[0].config
    own = {key: getattr(config, key) for key in SETTINGS if key != "scaling" or config.placement == "parallel"}
    return {"peft_type": PEFT_TYPE, "task_type": "SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM", **own}


def scalings(base: Base, name: str) -> list[Any]:
    """What decides the answers beside the tensors."""
    part = parts_of(base, name)[0]
    return [part.config.placement, part.config.non_linearity, part.scaling]


def drop(base: Base, name: str) -> None:
    """Take the adapter off the base; those that stay keep what they were."""
    drop_parts(base, name)


def saved_per_token(base: Base, name: str) -> int:
    """Values it saves a token for the backward pass, all layers together: what goes in and the product down."""
    return sum(part.size + part.adapter_down.in_features for part in parts_of(base, name))


def _parts(base: Base, config: AdapterConfig) -> Iterator[Bottleneck]:
    """One bottleneck for each place, without values. Raises ValueError where the model has no such place."""
    kind = base.model.config.model_type
    family = FAMILIES.get(kind)
    if family is None:
        raise ValueError(f"where bottlenecks stand is known of {', '.join(FAMILIES)}, not of '{kind}'")
    ends, width = family.ends(config.placement), int(base.model.config.hidden_size)
    if not ends:
        raise ValueError(f"the layers of '{kind}' have no module around their feed-forward part to stand beside")
    if width < config.reduction_factor:
        raise ValueError(f"reduction_factor {config.reduction_factor} leaves nothing of a width of {width}")
    found: set[str] = set()
    for path, _ in bare_modules(base.model):
        for end in ends:
            if path.endswith(f".{end}"):
                found.add(end)
                yield Bottleneck(path, width, config, own_dtype(base)).to(base.device)
    if missing := set(ends) - found:
        raise ValueError(f"this release of transformers has no {', '.join(sorted(missing))} in '{kind}'")
