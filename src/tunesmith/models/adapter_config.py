"""What an adapter is asked to be: one key chooses the method, the others are that method's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.kernels.bottleneck import NonLinearity

MethodName = Literal["lora", "bottleneck", "prefix", "prompt", "ia3", "full"]

# Whose key is whose; what is not named here belongs to every method.
KEYS: dict[str, tuple[MethodName, ...]] = {
    "r": ("lora",),
    "lora_alpha": ("lora",),
    "lora_dropout": ("lora",),
    "target_modules": ("lora", "ia3"),
    "use_rslora": ("lora",),
    "placement": ("bottleneck",),
    "reduction_factor": ("bottleneck",),
    "non_linearity": ("bottleneck",),
    "scaling": ("bottleneck",),
    "feedforward_modules": ("ia3",),
}


class AdapterConfig(Config):
    """What is trained: a few parameters beside a frozen base, or all of the base's weights."""

    method: MethodName = "lora"
    """lora: low-rank matrices (arXiv:2106.09685); bottleneck: small networks after the sublayers (arXiv:1902.00751);
    ia3: learned scales (arXiv:2205.05638); full: every weight, with fp32 master copies."""
    r: int = Field(16, ge=1, le=4096)
    """Rank of the LoRA matrices."""
    lora_alpha: float = Field(32, gt=0)
    """LoRA's numerator: the low-rank product is scaled by lora_alpha / r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the low-rank product."""
    target_modules: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """Which linear maps get LoRA matrices; the head never does. ia3: names, or left out for the family's usual maps."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead (arXiv:2312.03732)."""
    placement: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    """Bottlenecks after attention and feed-forward part, after the latter only, or beside it."""
    reduction_factor: int = Field(16, ge=1)
    """The model's width divided by the bottleneck's."""
    non_linearity: NonLinearity = "relu"
    """The function in the bottleneck."""
    scaling: float = Field(4.0, gt=0)
    """Factor of a parallel bottleneck; the others have none (arXiv:2110.04366)."""
    feedforward_modules: list[str] | None = None
    """Those of target_modules whose input (IA)^3 scales, not their output; left out: as PEFT has it for the family."""

    @model_validator(mode="after")
    def _keys_of_the_method(self) -> AdapterConfig:
        for key in sorted(self.model_fields_set):
            owners = KEYS.get(key)
            if owners is not None and self.method not in owners:
                raise ValueError(f"adapter.{key} is a setting of {' and '.join(owners)}; method is {self.method}")
        if "scaling" in self.model_fields_set and self.placement != "parallel":
            raise ValueError(f"adapter.scaling is a setting of placement parallel; placement is {self.placement}")
        return self
