"""How much memory a job needs, before it starts: weights, gradients, optimiser, activations, in bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from peft.tuners.lora import LoraLayer

from tunesmith.errors import BudgetError
from tunesmith.kernels.native import team
from tunesmith.models.adapter_cost import AdapterCost
from tunesmith.models.adapters import method_of
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.memory import Setting, training_memory
from tunesmith.models.roles import Base, Role
from tunesmith.models.shape import Shape, map_name, shape_of_model
from tunesmith.progress import resident_bytes

# Share of the memory that is free now which a job may plan to use.
SAFE_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Predicted bytes on the device that trains. in_use: what the process holds before the first step."""

    in_use_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    head_bytes: int
    available_bytes: int
    checkpointing: Checkpointing
    micro_batch_tokens: int

    @property
    def peak_bytes(self) -> int:
        """Predicted peak of the process (CPU) or of the GPU's allocator."""
        return self.in_use_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes + self.head_bytes

    @property
    def fits(self) -> bool:
        return self.peak_bytes - self.in_use_bytes <= SAFE_SHARE * self.available_bytes

    def as_dict(self) -> dict[str, int | bool]:
        """For run.json."""
        return {**asdict(self), "peak_bytes": self.peak_bytes, "fits": self.fits}


def memory_in_use_bytes(device: torch.device) -> int:
    """Resident memory of this process, or what the GPU's allocator has handed out."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return resident_bytes()


def memory_available_bytes(device: torch.device) -> int:
    """Free memory on the device, counting a container's limit where there is one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def peak_memory_bytes(device: torch.device) -> int:
    """Highest memory so far: VmHWM of the process, or the GPU allocator's peak."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # Where there is no such line; on Linux this would begin with the peak of whoever started the process.
    import resource  # not on Windows, where the memory in use now is all there is to say

    unit = 1 if torch.backends.mps.is_available() else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def predict(
    base: Base,
    role: Role,
    *,
    micro_batch_tokens: int,
    longest_tokens: int,
    checkpointing: Checkpointing,
    each_token: bool = False,
) -> Budget:
    """Predict the peak of a training step on a base in memory: what is there, measured, and what a step adds.

    each_token: the loss is made of each token's log-probability and entropy, not of their sum.
    """
    shape = shape_of_base(base)
    setting = Setting(
        element_bytes=base.dtype.itemsize,
        quantized=base.quantization is not None,
        checkpointing=checkpointing,
        micro_batch_tokens=micro_batch_tokens,
        longest_tokens=longest_tokens,
        on_cpu=base.device.type == "cpu",
        compiled=team(base.dtype, base.device),
        each_token=each_token,
    )
    memory = training_memory(shape, cost_of_role(base, role, shape), setting)
    return Budget(
        in_use_bytes=memory_in_use_bytes(base.device),
        gradient_bytes=memory.gradients,
        optimizer_bytes=memory.optimizer,
        activation_bytes=memory.activations + memory.attention + memory.working + memory.heap,
        head_bytes=memory.head + _new_rows_bytes(base, role),
        available_bytes=memory_available_bytes(base.device),
        checkpointing=checkpointing,
        micro_batch_tokens=micro_batch_tokens,
    )


def shape_of_base(base: Base) -> Shape:
    """The shape of a base in memory, and of the path that runs it."""
    return shape_of_model(base.model, base.resolved.name, fast=base.decoder is not None)


def cost_of_role(base: Base, role: Role, shape: Shape) -> AdapterCost:
    """What a role's parameters cost, read off the base they are placed on."""
    number, every = role.num_parameters, tuple(one.name for one in shape.linear_maps)
    if role.adapter is None:
        return AdapterCost(parameters=number, saved_parameters=number, inputs=every, full=bool(number))
    layers = {name: module for name, module in base.model.named_modules() if isinstance(module, LoraLayer)}
    taken = {name: module for name, module in layers.items() if role.adapter in module.lora_A}
    dropped = sum(
        module.in_features for module in taken.values() if getattr(module.lora_dropout[role.adapter], "p", 0.0) > 0
    )
    return AdapterCost(
        parameters=number,
        saved_parameters=sum(
            tensor.numel() for tensor in method_of(base, role.adapter).tensors(base, role.adapter).values()
        ),
        own_values=method_of(base, role.adapter).saved_per_token(base, role.adapter),
        inputs=tuple({map_name(name): None for name in taken}),
        dropped_values=dropped,
        virtual_tokens=base.num_virtual_of(role.adapter),
    )


def _new_rows_bytes(base: Base, role: Role) -> int:
    """A head with new rows is laid out anew in every pass: padded, filled, and its gradient at full width."""
    rows = base.token_rows.get(role.adapter) if role.adapter else None
    return 0 if rows is None else 3 * rows.num_rows * int(base.head.weight_VD.shape[1]) * base.dtype.itemsize


def decide(
    base: Base,
    role: Role,
    *,
    micro_batch_tokens: int,
    longest_tokens: int,
    checkpointing: Checkpointing | None,
    each_token: bool = False,
) -> Budget:
    """Choose checkpointing (None: only if needed) so that the job fits. Raises BudgetError when nothing does."""
    options: list[Checkpointing] = [False, "attention", True] if base.decoder is not None else [False, True]
    options = options if checkpointing is None else [checkpointing]
    budgets = [
        predict(
            base,
            role,
            micro_batch_tokens=m,
            longest_tokens=longest_tokens,
            checkpointing=option,
            each_token=each_token,
        )
        for m in (micro_batch_tokens, max(longest_tokens, 256))
        for option in options
    ]
    for budget in budgets:
        if budget.fits:
            return budget
    best = min(budgets, key=lambda b: b.peak_bytes)
    raise BudgetError(
        str(base.device),
        f"the job needs {best.peak_bytes / 1e9:.1f} GB at least, {best.available_bytes / 1e9:.1f} GB are free.",
        "Lower max_length, take a smaller base, or close other programs.",
    )
