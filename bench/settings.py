"""The settings TRL is measured with, and the sweep its best one is chosen from (standard library only)."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

# The same for both sides, whatever else a setting says.
LEARNING_RATE = 2e-4
LORA_R = 16
LORA_ALPHA = 32
MAX_LENGTH_TOKENS = 512
BATCH_SIZE_ROWS = 8

# glibc's allocator returns and re-faults the pages of every large activation unless it is told to keep them. Both
# sides run with these values; the report also shows each side without them.
TUNED_ALLOCATOR = {
    "MALLOC_TOP_PAD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
}


Weights = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "eager"]
Sampling = Literal["random", "group_by_length", "sequential"]


@dataclass(frozen=True)
class Setting:
    """One way to run TRL's SFTTrainer; ``own_defaults`` passes none of the choices below and is TRL as it comes.

    layout: padded (rows padded to the longest of the batch), padding_free (the batch flattened into one sequence),
    packing (best-fit-decreasing into sequences of max_length, then flattened: other rows share a step).
    micro_rows: rows in one forward; the rest of the step's rows come by gradient accumulation.
    loss: fused (SFTTrainer's own, which on a CPU scores every position) or full_logits (transformers.Trainer's).
    skip_steps: steps left out of the steady state, more than one only where compilation spreads over several.
    liger: Liger's fused kernels, which run on GPUs alone.
    """

    own_defaults: bool = False  # with autocast off: TRL as it comes, but for ``bf16=False``
    checkpointing: bool = False
    weights: Weights = "float32"
    autocast: bool = False
    sampling: Sampling = "random"
    layout: Literal["padded", "padding_free", "packing"] = "padded"
    micro_rows: int = BATCH_SIZE_ROWS
    attention: Attention = "sdpa"
    loss: Literal["fused", "full_logits"] = "fused"
    compiled: bool = False
    skip_steps: int = 1
    liger: bool = False

    @property
    def name(self) -> str:
        if self.own_defaults:
            cast = "bf16 autocast" if self.autocast else "bf16 autocast off"
            return f"own defaults (fp32 weights, {cast}, checkpointing, random order, padded, sdpa)"
        parts = [
            "fp32 weights" if self.weights == "float32" else "bf16 weights",
            "bf16 autocast" if self.autocast else "no autocast",
            "checkpointing" if self.checkpointing else "no checkpointing",
            self.sampling.replace("_", " "),
            self.layout.replace("_", "-"),
            f"{self.micro_rows} rows a forward" if self.layout != "packing" else "packs",
            self.attention,
        ]
        if self.loss == "full_logits":
            parts.append("transformers' full-logits loss")
        if self.compiled:
            parts.append("torch.compile")
        if self.liger:
            parts.append("Liger")
        return ", ".join(parts)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Setting:
        return Setting(**json.loads(text))


ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager")
TRL_DEFAULTS = Setting(own_defaults=True, checkpointing=True, autocast=True)
# For processors without bf16 units, where autocast computes in emulated bf16, a tenth of fp32's rate or less.
TRL_DEFAULTS_FP32 = replace(TRL_DEFAULTS, autocast=False)


def first_stage() -> list[Setting]:
    """Every combination of checkpointing, weights, autocast and length grouping."""
    weights: tuple[Weights, ...] = ("float32", "bfloat16")
    samplings: tuple[Sampling, ...] = ("random", "group_by_length")
    return [
        Setting(checkpointing=checkpointing, weights=kind, autocast=autocast, sampling=sampling)
        for checkpointing, kind, autocast, sampling in itertools.product(
            (True, False), weights, (True, False), samplings
        )
    ]


def short_stages(*, packing_is_exact: bool) -> tuple[list[Setting], list[Setting]]:
    """The sweep cut to what has ranked first before: precisions without checkpointing, then the unpadded layouts."""
    precisions: list[tuple[Weights, bool]] = [("float32", True), ("bfloat16", True), ("bfloat16", False)]
    first = [Setting(weights=weights, autocast=autocast) for weights, autocast in precisions]
    best = Setting(weights="bfloat16", autocast=True)
    second = [replace(best, sampling="group_by_length"), replace(best, micro_rows=1)]
    if packing_is_exact:
        second += [replace(best, layout="padding_free"), replace(best, layout="packing", attention="eager")]
        second += [replace(best, layout="padding_free", autocast=False)]
    return first, second


def fp32_stage(*, packing_is_exact: bool) -> list[Setting]:
    """The sweep for processors without bf16 units: layouts, rows a forward, attention and loss, all in fp32."""
    padded, alone = Setting(sampling="group_by_length"), Setting(micro_rows=1)
    settings = [padded, alone, replace(alone, attention="eager"), replace(alone, loss="full_logits")]
    settings.append(replace(padded, micro_rows=2))
    if packing_is_exact:
        settings += [Setting(layout="padding_free"), Setting(layout="packing", attention="eager")]
    return settings


def second_stage(best: Setting, *, packing_is_exact: bool) -> list[Setting]:
    """Attention, micro-batches and layouts on the first stage's best; flattened ones only where isolation is exact."""
    settings = [replace(best, attention="eager")]
    for attention in ATTENTIONS:
        settings.append(replace(best, attention=attention, micro_rows=1, sampling="random"))
        settings.append(replace(best, attention=attention, micro_rows=2, sampling="group_by_length"))
        if packing_is_exact:
            settings += [
                replace(best, attention=attention, layout="padding_free", sampling="random"),
                replace(best, attention=attention, layout="padding_free", micro_rows=2, sampling="group_by_length"),
                replace(best, attention=attention, layout="packing", sampling="random"),
            ]
    return settings


def third_stage(best: Setting) -> list[Setting]:
    """On the best so far: the other precisions again (they may rank otherwise here), another loss, compilation."""
    precisions: list[tuple[Weights, bool]] = [("float32", True), ("float32", False), ("bfloat16", True)]
    precisions.append(("bfloat16", False))
    return [
        *(
            replace(best, weights=weights, autocast=autocast, checkpointing=False)
            for weights, autocast in precisions
            if (weights, autocast, False) != (best.weights, best.autocast, best.checkpointing)
        ),
        replace(best, loss="full_logits"),
        replace(best, compiled=True, skip_steps=4),
    ]
