"""A base's weights packed for answering: the maps of every layer, those of one input as one, and the head."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from tunesmith.errors import ConfigError
from tunesmith.kernels.frozen import FrozenWeight
from tunesmith.kernels.head_loss import Head
from tunesmith.kernels.native import NativeHalf, NativeInt8, NativeWeight, library
from tunesmith.kernels.packed import HalfWeight, Int8Weight, Product, RowsOf, fits_half, packs_here
from tunesmith.models.blocks import Block, Decoder
from tunesmith.models.budget import memory_available_bytes
from tunesmith.models.linear import Site
from tunesmith.models.native_token import GROUPS, NativeToken, cannot_run
from tunesmith.models.quantized_linear import dense_weight
from tunesmith.models.roles import Base

# By torch's own kernels, and by ours, which take a whole token in one call.
PACKING: dict[str, Callable[[Tensor], Product]] = {"half": HalfWeight, "int8": Int8Weight}
NATIVE: dict[str, Callable[[Tensor], NativeWeight]] = {"half": NativeHalf, "int8": NativeInt8}
# Packing on our own account wants so many times the memory that it takes to be free.
ROOM = 3


class PackedWeights:
    """Packed once; the base's own weights stay beside them and are what training and prompts go on using.

    kind: half (fp16: the same numbers where ``exact``) or int8 (one scale an output). native: whether ``token.c`` may
    be used; ``native_reason`` says why it is not. Raises ConfigError where the base is not one our blocks run, learns
    itself, lies on a device whose kernels we lack, or has numbers fp16 does not.
    """

    @torch.no_grad()
    def __init__(self, base: Base, kind: Literal["half", "int8"], *, native: bool = True) -> None:
        self.base, self.kind = base, kind
        decoder = _decoder(base, kind)
        self.native_reason = _why_not_native(decoder) if native else "it is switched off"
        pack: Callable[[Tensor], Product] = PACKING[kind]
        if self.native_reason is None:
            pack = NATIVE[kind]
        if self.native_reason is not None and not packs_here():
            raise _refused(kind, f"torch has no kernels for it here and ours do not run: {self.native_reason}")
        if self.native_reason is not None and native:
            _note(base, f"packed weights multiply by torch's kernels, not by ours: {self.native_reason}.")
        self.exact = kind == "half" and fits_half(base.head.weight_VD)
        self.products: list[tuple[Product, ...]] = []
        try:
            for block in decoder.blocks:
                weights = [torch.cat([_dense(site) for site in _sites(block, names)]) for names in GROUPS]
                self.exact = self.exact and all(fits_half(weight) for weight in weights)
                self.products.append(tuple(pack(weight) for weight in weights))
            self.head: Head = replace(base.head, packed=pack(base.head.weight_VD))
        except OverflowError as error:
            raise _refused(kind, str(error)) from None
        self._token = None
        if self.native_reason is None:
            self._token = NativeToken(decoder, cast(Sequence[Sequence[NativeWeight]], self.products))
        self._seen, self._decoder = decoder, self._over(decoder)

    def decoder(self) -> Decoder:
        """The base's decoder over the packed weights, with the adapters the base has by now."""
        decoder = _decoder(self.base, self.kind)
        if decoder is not self._seen:
            self._seen, self._decoder = decoder, self._over(decoder)
        return self._decoder

    def _over(self, decoder: Decoder) -> Decoder:
        blocks = zip(decoder.blocks, self.products, strict=True)
        over = tuple(_block_over(block, products) for block, products in blocks)
        return replace(decoder, blocks=over, answers_only=True, token=self._token)


def exact_half(base: Base) -> PackedWeights | None:
    """The base in fp16 where that says the same, in less time, and there is room; None elsewhere.

    Packed once for a base, and anew where its weights have been written since. They are left as they are where
    ``token.c`` does not run.
    """
    if why_not_packed(base) or base.dtype not in (torch.float32, torch.bfloat16) or base.quantization is not None:
        return None
    state = _state(base)
    if base.answering is None or base.answering[0] != state:
        base.answering = state, _exact_half(base)
    held: PackedWeights | None = base.answering[1]
    return held


def _exact_half(base: Base) -> PackedWeights | None:
    decoder = _decoder(base, "half")
    sites = _all_sites(decoder)
    # Where they do not fit the first map tells nearly always, before anything is packed.
    if not fits_half(_dense(sites[0])):
        return None
    if reason := _why_not_native(decoder):
        _note(base, f"decoding by torch's operators: {reason}.")
        return None
    numbers = sum(site.layer.weight.numel() for site in sites) + base.head.weight_VD.numel()
    if 2 * numbers * ROOM > memory_available_bytes(base.device):
        _note(base, "decoding with the weights as loaded: there is no room for them in fp16 as well.")
        return None
    try:
        packed = PackedWeights(base, "half")
    except ConfigError as error:
        _note(base, f"decoding with the weights as loaded: {error.cause}")
        return None
    return packed if packed.exact else None


def _state(base: Base) -> tuple[tuple[int, int], ...]:
    """What changes when a weight is written or replaced."""
    assert base.decoder is not None
    weights = [*(site.layer.weight for site in _all_sites(base.decoder)), base.head.weight_VD]
    return tuple((weight.data_ptr(), weight._version) for weight in weights)


def _note(base: Base, text: str) -> None:
    if text not in base.notes:
        base.notes.append(text)


def why_not_packed(base: Base) -> str | None:
    """The reason why no packed weights can answer for a base as it is now; None where they can."""
    if base.decoder is None:
        return f"only our own blocks take packed weights, and they do not run here ({base.reference_reason})"
    if base.device.type != "cpu":
        return "its kernels are those of x86 processors"
    if any(parameter.requires_grad for site in _all_sites(base.decoder) for parameter in site.layer.parameters()):
        return "the base's own weights learn here, and packed ones would not follow"
    return None


def _refused(kind: str, why: str) -> ConfigError:
    return ConfigError("weights", f"'{kind}' cannot be used: {why}.", "Use weights: full.")


def _why_not_native(decoder: Decoder) -> str | None:
    found = library()
    return found if isinstance(found, str) else cannot_run(decoder)


def _decoder(base: Base, kind: str) -> Decoder:
    if reason := why_not_packed(base):
        raise _refused(kind, reason)
    assert base.decoder is not None
    return base.decoder


def _all_sites(decoder: Decoder) -> list[Site]:
    return [site for block in decoder.blocks for names in GROUPS for site in _sites(block, names)]


def _sites(block: Block, names: Sequence[str]) -> list[Site]:
    return [getattr(block, name) for name in names]


def _dense(site: Site) -> Tensor:
    return dense_weight(site.layer, torch.float32)


def _block_over(block: Block, products: Sequence[Product]) -> Block:
    sites: dict[str, Any] = {}
    for names, product in zip(GROUPS, products, strict=True):
        group = _sites(block, names)
        ends = list(itertools.accumulate(site.num_out for site in group))
        for name, site, end in zip(names, group, ends, strict=True):
            one = product if len(group) == 1 else RowsOf(product, end - site.num_out, end)
            # Without gradients nobody asks a weight for its transposed product.
            sites[name] = site.over(cast(FrozenWeight, one), None if len(group) == 1 else product)
    return replace(block, **sites)
