"""AdamW over named parameters, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.autograd.graph import increment_version

from tunesmith.config import Config
from tunesmith.errors import ConfigError, MissingExtraError


class OptimConfig(Config):
    """How parameters move."""

    learning_rate: float = Field(2e-4, gt=0, le=1)
    """Peak learning rate."""
    loraplus_lr_ratio: float = Field(1.0, gt=0)
    """LoRA's B matrices learn at this multiple of the learning rate (LoRA+, arXiv:2402.12354)."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay on matrices; biases and norms have none."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 never clips."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warm-up; cosine and linear end at 0."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the steps spent raising the learning rate from 0."""
    warmup_steps: int = Field(0, ge=0)
    """The same as a number of steps."""
    optim: Literal["adamw", "paged_adamw_8bit", "paged_adamw_32bit"] = "adamw"
    """The paged ones move their moments to the computer's memory where a GPU's runs out (CUDA, bitsandbytes)."""

    @model_validator(mode="after")
    def _one_warmup(self) -> OptimConfig:
        if self.warmup_ratio and self.warmup_steps:
            raise ValueError("warmup_ratio and warmup_steps are both set; keep one")
        return self


def learning_rate_at(step: int, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of the 0-based ``step`` out of ``num_steps``; no scheduler object, so a resume loses nothing.

    Rises from 0 over the warm-up, then falls as a half cosine (arXiv:1608.03983, equation 5, without restarts), falls
    linearly, or stays. The share of a ``warmup_ratio`` is rounded up to whole steps.
    """
    warmup = config.warmup_steps or math.ceil(config.warmup_ratio * num_steps)
    if step < warmup:
        return config.learning_rate * step / warmup
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if config.lr_scheduler_type == "cosine" else 1 - progress
    return config.learning_rate * shape


def build_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101, algorithm 2) over named groups: matrices decay, vectors (biases, norms) do not.

    LoRA's B matrices are a group of their own where their rate is; each group's ``lr_ratio`` multiplies the learning
    rate that whoever steps sets. Raises ValueError when there is nothing to train or a parameter has less precision
    than fp32: its moments would share that precision, and steps smaller than its rounding would be lost. Raises
    ConfigError or MissingExtraError where a paged optimiser cannot be had, or there is no B matrix to hurry.
    """
    if not parameters:
        raise ValueError("no parameters to train")
    if low := [name for name, p in parameters.items() if p.dtype not in (torch.float32, torch.float64)]:
        raise ValueError(f"{len(low)} trained parameters are not fp32, the first being {low[0]}")
    ratio = config.loraplus_lr_ratio
    fast = {name for name in parameters if ".lora_B." in name} if ratio != 1.0 else set()
    if ratio != 1.0 and not fast:
        raise ConfigError("loraplus_lr_ratio", "nothing that is trained is a LoRA B matrix.", "Leave it out.")
    matrices = [p for name, p in parameters.items() if p.dim() >= 2 and name not in fast]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    kinds = [
        ("matrices", matrices, config.weight_decay, 1.0),
        ("lora_B", [p for name, p in parameters.items() if name in fast], config.weight_decay, ratio),
        ("vectors", vectors, 0.0, 1.0),
    ]
    groups = [
        {"name": name, "params": own, "weight_decay": decay, "lr_ratio": times, "lr": config.learning_rate * times}
        for name, own, decay, times in kinds
        if own
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optim != "adamw":
        kind = _paged(config.optim, {p.device.type for p in parameters.values()})
        paged: torch.optim.Optimizer = kind(groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon)
        return _seen_to_move(paged)
    adamw = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=betas,
        eps=config.adam_epsilon,
        # One pass over many small matrices; elementwise, so neither threads nor alignment can change the result.
        fused=all(p.device.type in ("cpu", "cuda") for p in parameters.values()),
    )
    return _seen_to_move(adamw)


def _seen_to_move(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let each step count as a write: fused kernels do not, and what is kept of a parameter (DoRA's row norms) is kept
    for one version of it.
    """

    def count(stepped: torch.optim.Optimizer, *_: Any) -> None:
        for group in stepped.param_groups:
            increment_version(group["params"])

    optimizer.register_step_post_hook(count)
    return optimizer


def _paged(name: str, devices: set[str]) -> Any:
    """bitsandbytes' class of a paged optimiser (QLoRA, arXiv:2305.14314, section 3)."""
    if devices != {"cuda"}:
        raise ConfigError(
            "optim",
            f"{name} moves moments out of a GPU's memory, and this job trains on {' and '.join(sorted(devices))}.",
            "Set optim: adamw.",
        )
    try:
        from bitsandbytes import optim
    except ImportError:
        raise MissingExtraError(
            "optim", f"{name} is bitsandbytes' own, which is not installed.", "Run: pip install 'tunesmith[cuda]'"
        ) from None
    return optim.PagedAdamW8bit if name == "paged_adamw_8bit" else optim.PagedAdamW32bit


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients so that their joint 2-norm is at most ``max_norm`` (0: leave them); returns the norm before.

    A norm that is infinite or not a number is returned for the caller to judge; the gradients are then useless.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(list(parameters), max_norm, norm)
    return float(norm)
