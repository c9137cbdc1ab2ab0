"""Plan memory from a model's config alone: every method and precision, and the cheapest settings that fit a machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field

from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.kernels.native import team
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.adapter_cost import AdapterCost, adapter_cost
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.load import DTYPES
from tunesmith.models.machines import Machine, find_machine
from tunesmith.models.memory import Memory, Setting, kv_cache_bytes, training_memory, weight_bytes
from tunesmith.models.shape import Shape, open_shape


class PlanConfig(Config):
    """What ``tunesmith plan --model`` is asked."""

    model: str
    """A shipped shape (llama-7b-like), a config.json or its folder, a hub id, or the embedded model."""
    gpu: str = "this"
    """A card (t4, rtx3090, a100-80gb), a size (24GB), laptop, or this."""
    adapter: AdapterConfig = AdapterConfig()
    """What is trained."""
    quantization: Literal["auto", "4bit", "none"] = "auto"
    """auto: the base in 4 bits where nothing else fits."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What activations are computed in; auto: what the machine has units for."""
    micro_batch_tokens: int = Field(1024, ge=64)
    """Most tokens in memory at once."""
    max_length: int = Field(1024, ge=8)
    """The longest row, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to run the job and what it takes; over_bytes: by how much it is too large, 0 where it fits."""

    checkpointing: Checkpointing
    quantized: bool
    micro_batch_tokens: int
    paged_optimizer: bool
    memory: Memory
    over_bytes: int

    @property
    def fits(self) -> bool:
        return self.over_bytes == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """A plan: options from cheap to dear; ``choice`` is the first that fits, None where none does."""

    config: PlanConfig
    shape: Shape
    cost: AdapterCost
    machine: Machine
    element_bytes: int
    options: tuple[Option, ...]

    @property
    def choice(self) -> Option | None:
        return next((option for option in self.options if option.fits), None)

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a share of all in memory."""
        total = self.shape.parameters + (0 if self.cost.full else self.cost.parameters)
        return self.cost.parameters / total


def plan_model(config: PlanConfig, machine: Machine | None = None) -> ModelPlan:
    """Predict every option's memory. Raises ModelError for a config that cannot be read, ConfigError for the rest.

    Options come in this order: first what costs time alone (recomputed layers, then fewer rows at a time), then 4 bits,
    which change the numbers the base computes, and last moments that travel to the card and back every step.
    """
    machine = machine or find_machine(config.gpu)
    shape = open_shape(config.model)
    cost = adapter_cost(shape, config.adapter)
    if cost.full and config.quantization == "4bit":
        raise ConfigError("quantization", "4-bit weights cannot learn.", "Leave it out, or use an adapter method.")
    if config.max_length > shape.context_tokens:
        raise ConfigError(
            "max_length",
            f"{config.max_length} tokens are more than '{shape.name}' reads.",
            f"At most {shape.context_tokens}.",
        )
    dtype = machine.dtype if config.dtype == "auto" else DTYPES[config.dtype]
    element = dtype.itemsize
    levels: list[Checkpointing] = [False, "attention", True] if shape.fast else [False, True]
    precisions = {"4bit": [True], "none": [False], "auto": [False] if cost.full else [False, True]}
    tokens = max(config.micro_batch_tokens, config.max_length)
    sizes = dict.fromkeys((tokens, max(config.max_length, 256) if config.max_length < tokens else tokens))
    settings = [
        Setting(
            element_bytes=element,
            quantized=quantized,
            checkpointing=checkpointing,
            micro_batch_tokens=size,
            longest_tokens=config.max_length,
            on_cpu=not machine.is_gpu,
            compiled=0 if machine.is_gpu else team(dtype, torch.device("cpu")),
        )
        for quantized in precisions[config.quantization]
        for size in sizes
        for checkpointing in levels
    ]
    if machine.is_gpu:
        settings.append(replace(settings[-1], paged_optimizer=True))
    options = [_option(shape, cost, machine, setting) for setting in settings]
    return ModelPlan(
        config=config, shape=shape, cost=cost, machine=machine, element_bytes=element, options=tuple(options)
    )


def _option(shape: Shape, cost: AdapterCost, machine: Machine, setting: Setting) -> Option:
    memory = training_memory(shape, cost, setting, process_bytes=machine.process_bytes)
    return Option(
        checkpointing=setting.checkpointing,
        quantized=setting.quantized,
        micro_batch_tokens=setting.micro_batch_tokens,
        paged_optimizer=setting.paged_optimizer,
        memory=memory,
        over_bytes=max(0, memory.total - machine.free_bytes),
    )


def generation_bytes(plan: ModelPlan, *, quantized: bool) -> dict[str, int]:
    """What answering takes beside the process: weights, adapter, and keys and values of one row of ``max_length``."""
    return {
        "weights": weight_bytes(plan.shape, plan.element_bytes, quantized=quantized),
        "adapter": 0 if plan.cost.full else 4 * plan.cost.saved_parameters,
        "kv_cache_per_row": kv_cache_bytes(plan.shape, plan.element_bytes, 1, plan.config.max_length),
    }


def as_dict(plan: ModelPlan) -> dict[str, Any]:
    """For --json."""
    machine, choice = plan.machine, plan.choice
    shape = {k: v for k, v in asdict(plan.shape).items() if k != "linear_maps"}
    return {
        "model": {**shape, "linear_weights": plan.shape.linear_weights},
        "machine": {
            "name": machine.name,
            "memory_bytes": machine.memory_bytes,
            "free_bytes": machine.free_bytes,
            "dtype_bytes": plan.element_bytes,
        },
        "adapter": plan.config.adapter.model_dump(mode="json", exclude_unset=True)
        | {"method": plan.config.adapter.method},
        "trainable_parameters": plan.cost.parameters,
        "trainable_share": plan.trainable_share,
        "saved_parameters": plan.cost.saved_parameters,
        "options": [_option_dict(option) for option in plan.options],
        "choice": None if choice is None else _option_dict(choice),
        "generation": generation_bytes(plan, quantized=choice.quantized if choice else plan.options[-1].quantized),
    }


def _option_dict(option: Option) -> dict[str, Any]:
    return {
        "quantized": option.quantized,
        "checkpointing": option.checkpointing,
        "micro_batch_tokens": option.micro_batch_tokens,
        "paged_optimizer": option.paged_optimizer,
        "memory": {**asdict(option.memory), "total": option.memory.total},
        "fits": option.fits,
        "over_bytes": option.over_bytes,
    }
