"""A decoded token through all layers of a Llama-like model in one call of ``kernels/token.c``.

It runs over packed weights, with any number of plain LoRA adapters, each on its own rows. Shape letters: B rows,
D width, W width of a head.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.native import MOST_LANES, Layer, Linear, Lora, Model, NativeWeight, RunOf, Step, address
from tunesmith.models.blocks import Block, Decoder
from tunesmith.models.linear import Site, own_adapters
from tunesmith.models.lora_extras import extras_of
from tunesmith.models.virtual import Run

# Maps of a block that have one input, in the order of token.c's sites.
GROUPS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
SITES = tuple(name for names in GROUPS for name in names)


@dataclass(frozen=True, slots=True)
class Matrices:
    """An adapter's LoRA on every map of a decoder as token.c reads it; ``held`` are its tensors."""

    lora: Any
    most_rank: int
    held: tuple[Tensor, ...]


def cannot_run(decoder: Decoder) -> str | None:
    """The reason why token.c has no path for a decoder; None where it has one."""
    if decoder.head_width % 2:
        return f"a head of {decoder.head_width} numbers has no halves"
    if decoder.rules.softcap is not None:
        return "its attention caps its scores"
    if len({module.variance_epsilon for module in _norms(decoder)}) > 1:
        return "its norms have several epsilons"
    return None


def _norms(decoder: Decoder) -> list[Any]:
    of_blocks = [(block.norm_in, block.norm_mlp, block.q_norm, block.k_norm) for block in decoder.blocks]
    return [decoder.norm, *(norm for norms in of_blocks for norm in norms if norm is not None)]


class NativeToken:
    """Tokens of one decoder over its packed products (those of q k v, o, gate and up, down in each layer)."""

    def __init__(self, decoder: Decoder, products: Sequence[Sequence[NativeWeight]]) -> None:
        self._products, self._held = products, list[Tensor]()
        self._layers = (Layer * len(products))()
        for layer, block, of_block in zip(self._layers, decoder.blocks, products, strict=True):
            maps = [self._linear(block, names, one) for names, one in zip(GROUPS, of_block, strict=True)]
            layer.qkv, layer.o, layer.gate_up, layer.down = maps
            layer.norm_in, layer.norm_mlp = self._kept(block.norm_in.weight), self._kept(block.norm_mlp.weight)
            if block.q_norm is not None and block.k_norm is not None:
                layer.q_norm, layer.k_norm = self._kept(block.q_norm.weight), self._kept(block.k_norm.weight)
        first = decoder.blocks[0]
        self.width, self.inner = first.o.num_out, first.gate.num_out
        self.head_width, self.kv_heads = decoder.head_width, decoder.num_kv_heads
        self.heads = first.q.num_out // self.head_width
        self.library = products[0][0].library
        self._model = Model(
            layers=len(products),
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_width=self.head_width,
            inner=self.inner,
            window=decoder.rules.window or 0,
            epsilon=decoder.norm.variance_epsilon,
            scale=decoder.rules.scale,
            layer=c.addressof(self._layers),
            norm=self._kept(decoder.norm.weight),
        )

    def _kept(self, numbers: Any) -> int | None:
        self._held.append(numbers.detach().float().contiguous())
        return address(self._held[-1])

    def _linear(self, block: Block, names: Sequence[str], product: NativeWeight) -> Linear:
        sites: list[Site] = [getattr(block, name) for name in names]
        made = Linear.from_buffer_copy(product.linear)
        if any(site.layer.bias is not None for site in sites):
            zeros = torch.zeros(max(site.num_out for site in sites), dtype=torch.float32)
            biases = [zeros[: site.num_out] if site.layer.bias is None else site.layer.bias.detach() for site in sites]
            made.bias = self._kept(torch.cat([bias.float() for bias in biases]))
        return made

    @torch.no_grad()
    def matrices(self, decoder: Decoder, adapter: str | None) -> Matrices | None:
        """An adapter's matrices as they are now; None where it is more than them and token.c cannot apply it."""
        held: list[Tensor] = []
        lora = (Lora * (len(SITES) * len(decoder.blocks)))()
        most = 1
        for number, block in enumerate(decoder.blocks):
            if (adapter or "") in own_adapters(block.mlp):
                return None
            for at, (name, first) in enumerate(_sites(block)):
                site: Site = getattr(block, name)
                one = lora[len(SITES) * number + at]
                if not _is_plain(site, adapter):
                    return None
                if adapter is None or site.lora is None or adapter not in site.lora.lora_A:
                    continue
                a = site.lora.lora_A[adapter].weight.detach().float().clone(memory_format=torch.contiguous_format)
                b = site.lora.lora_B[adapter].weight.detach().float().T * float(site.lora.scaling[adapter])
                held += [a, b.contiguous()]
                one.a, one.b, one.rank = address(held[-2]), address(held[-1]), len(a)
                one.first_out, one.num_out = first, site.num_out
                most = max(most, len(a))
        return Matrices(lora if held else None, most, tuple(held))

    def __call__(
        self,
        x_BD: Tensor,
        turns: tuple[Tensor, Tensor],
        where: tuple[Tensor, Tensor],
        caches: tuple[Sequence[Tensor], Sequence[Tensor]],
        runs: Sequence[Run],
        matrices: Mapping[str | None, Matrices],
    ) -> Tensor:
        """Final states (B, D) in fp32 of rows in the order of their adapters.

        x_BD: embeddings. turns: cosines and sines (B, W). where: (place_B, slot_B) of the new tokens in the caches,
        whose layers are (places, key heads, slots, W) in fp32. runs: which rows have which of ``matrices``. Raises
        IndexError for a token beyond the caches.
        """
        if any(int(index_B.max()) >= size for index_B, size in zip(where, caches[0][0].shape[::2], strict=True)):
            raise IndexError(f"a token beyond the cache of {caches[0][0].shape[2]} slots")
        rows, threads, slots = len(x_BD), torch.get_num_threads(), caches[0][0].shape[2]
        out_BD = x_BD.float().clone()
        cos_BW, sin_BW, place_B, slot_B = *(x.float().contiguous() for x in turns), *(x.contiguous() for x in where)
        of_runs = (RunOf * len(runs))()
        for run, (_, end, adapter) in zip(of_runs, runs, strict=True):
            lora = matrices[adapter].lora
            run.end, run.lora = end, None if lora is None else c.addressof(lora)
        most = max(matrices[adapter].most_rank for _, _, adapter in runs)
        pointers = [(c.c_void_p * len(cache))(*map(address, cache)) for cache in caches]
        widest = max(self.width, self.inner, self.heads * self.head_width) + 1
        numbers = (
            rows * self.width,
            rows * (self.heads + 2 * self.kv_heads) * self.head_width,
            rows * self.heads * self.head_width,
            rows * 3 * self.inner,
            rows * len(SITES) * most,
            threads * (slots + MOST_LANES),
            rows,
        )
        spaces = [torch.empty(number, dtype=torch.float32) for number in numbers]
        spaces.append(torch.empty(rows * widest, dtype=torch.int16))
        step = Step(
            rows, threads, slots, len(runs), most,
            *map(address, (place_B, slot_B, cos_BW, sin_BW)), *map(c.addressof, pointers), c.addressof(of_runs),
            *map(address, (out_BD, *spaces)),
        )  # fmt: skip
        self.library.token(c.byref(self._model), c.byref(step))
        return out_BD


def _sites(block: Block) -> list[tuple[str, int]]:
    """The seven maps with the first of each one's outputs in its group."""
    found = []
    for names in GROUPS:
        first = 0
        for name in names:
            found.append((name, first))
            first += getattr(block, name).num_out
    return found


def _is_plain(site: Site, adapter: str | None) -> bool:
    """Whether an adapter is nothing but a low-rank product here, or nothing at all."""
    if (adapter or "") in own_adapters(site.layer) or extras_of(site.lora, adapter) is not None:
        return False
    return site.lora is None or adapter is None or adapter not in site.lora.lora_magnitude_vector
