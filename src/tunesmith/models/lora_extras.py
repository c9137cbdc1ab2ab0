"""What a LoRA adapter has at one linear map beside PEFT's tensors: a bias of its own, and PiSSA's start.

PEFT's own way to either is to change the base: it trains the layer's bias, and takes the principal part out of its
weight. Here the base is shared, so each adapter holds what differs, and the call that runs it puts it in.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tunesmith.kernels.frozen import FrozenWeight, LessLowRank

# As an attribute of PEFT's layer; parameters below it carry "lora_" and the adapter's name, as PEFT's do.
ATTRIBUTE = "lora_extras"


class Extras(nn.Module):
    """One adapter's at one layer. bias: (O,), learns. start_a, start_b: A and B as PiSSA began, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.bias: nn.Parameter | None = None
        self.start_a: Tensor | None
        self.start_b: Tensor | None
        self.register_buffer("start_a", None, persistent=False)
        self.register_buffer("start_b", None, persistent=False)


def extras_of(layer: Any, adapter: str | None) -> Extras | None:
    """What the adapter has at a layer of PEFT's, if anything."""
    held = getattr(layer, ATTRIBUTE, None)
    return held[adapter] if held is not None and adapter in held else None


def give_extras(layer: LoraLayer, adapter: str) -> Extras:
    """The same, made where there is none yet."""
    if not hasattr(layer, ATTRIBUTE):
        setattr(layer, ATTRIBUTE, nn.ModuleDict())
    held: nn.ModuleDict = getattr(layer, ATTRIBUTE)
    if adapter not in held:
        held[adapter] = Extras()
    found = held[adapter]
    assert isinstance(found, Extras)
    return found


def drop_extras(layer: LoraLayer, adapter: str) -> None:
    """Forget what an adapter had here."""
    if extras_of(layer, adapter) is not None:
        del getattr(layer, ATTRIBUTE)[adapter]


def frozen_under(whole: FrozenWeight, layer: LoraLayer, adapter: str) -> FrozenWeight:
    """What stays frozen while the adapter acts: the layer's weight, less the part the adapter's matrices began as."""
    extras = extras_of(layer, adapter)
    if extras is None or extras.start_a is None or extras.start_b is None:
        return whole
    return LessLowRank(whole, extras.start_a, extras.start_b, float(layer.scaling[adapter]))
