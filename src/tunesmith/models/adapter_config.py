"""What an adapter is asked to be: one key chooses the method, the others are that method's settings."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

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
    "num_virtual_tokens": ("prefix", "prompt"),
    "prompt_tuning_init": ("prefix", "prompt"),
    "prompt_tuning_init_text": ("prefix", "prompt"),
    "prefix_projection": ("prefix",),
    "encoder_hidden_size": ("prefix",),
    "use_dora": ("lora",),
    "init_lora_weights": ("lora",),
    "rank_pattern": ("lora",),
    "alpha_pattern": ("lora",),
    "bias": ("lora",),
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
    prefix: keys and values of virtual tokens in every layer (arXiv:2101.00190); prompt: embeddings of virtual tokens
    (arXiv:2104.08691); ia3: learned scales (arXiv:2205.05638); full: every weight, with fp32 master copies."""
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
    use_dora: bool = False
    """Learn the length of each row of the weight apart from its direction (DoRA, arXiv:2402.09353)."""
    init_lora_weights: str = "default"
    """default: A random, B zero; gaussian: A normal; pissa or pissa_niter_N: the weight's principal part (PiSSA)."""
    rank_pattern: dict[str, int] = {}
    """Module name, or a regular expression of its end -> its own rank in place of r."""
    alpha_pattern: dict[str, float] = {}
    """The same for lora_alpha."""
    bias: Literal["none", "lora_only", "all"] = "none"
    """lora_only: biases of the maps with matrices learn too, as the adapter's own copies."""
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
    num_virtual_tokens: int = Field(20, ge=1, le=4096)
    """Virtual tokens before every row of prefix- and prompt-tuning; the context is so many words shorter."""
    prompt_tuning_init: Literal["SAMPLE_VOCAB", "TEXT", "RANDOM"] = "SAMPLE_VOCAB"
    """What virtual tokens begin as: drawn words, prompt_tuning_init_text, or noise; a prefix as its keys and values."""
    prompt_tuning_init_text: str | None = None
    """The words virtual tokens begin as, repeated to num_virtual_tokens."""
    prefix_projection: bool = True
    """Learn a prefix through an MLP of smaller rows, dropped after training; PEFT's own default is false."""
    encoder_hidden_size: int | None = Field(None, ge=1)
    """Width of that MLP's hidden layer; empty: the model's."""

    @property
    def num_virtual(self) -> int:
        """Virtual tokens before every row; 0 for methods without."""
        return self.num_virtual_tokens if self.method in KEYS["num_virtual_tokens"] else 0

    @model_validator(mode="after")
    def _text_to_begin_as(self) -> AdapterConfig:
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise ValueError("adapter.prompt_tuning_init: TEXT and adapter.prompt_tuning_init_text belong together")
        if not self.prefix_projection and self.encoder_hidden_size is not None:
            raise ValueError("adapter.encoder_hidden_size is the width of a projection, and prefix_projection is false")
        return self

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _a_known_start(cls, value: Any) -> Any:
        # PEFT's own spelling of the default.
        name = "default" if value is True else value
        if name == "loftq":
            raise ValueError("loftq is not supported: quantization, with the default start, trains on the 4-bit base")
        if not isinstance(name, str) or not re.fullmatch(r"default|gaussian|pissa(_niter_[1-9]\d*)?", name):
            raise ValueError("should be default, gaussian, pissa or pissa_niter_N with a number of iterations N")
        return name

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _above_zero(cls, value: dict[str, float]) -> dict[str, float]:
        for pattern, number in value.items():
            if not number > 0:
                raise ValueError(f"should give every pattern a number above 0; '{pattern}' has {number}")
        return value

    @field_validator("bias")
    @classmethod
    def _own_biases_only(cls, value: str) -> str:
        if value == "all":
            raise ValueError(
                "all would train the norms' biases too, which every adapter on the base shares; use lora_only"
            )
        return value

    @model_validator(mode="after")
    def _keys_of_the_method(self) -> AdapterConfig:
        fields = type(self).model_fields
        # The recipe of a run names every key: what another method's key is by default says nothing.
        chosen = {key for key in self.model_fields_set if getattr(self, key) != fields[key].get_default()}
        for key in sorted(chosen):
            owners = KEYS.get(key)
            if owners is not None and self.method not in owners:
                raise ValueError(f"adapter.{key} is a setting of {' and '.join(owners)}; method is {self.method}")
        if "scaling" in chosen and self.placement != "parallel":
            raise ValueError(f"adapter.scaling is a setting of placement parallel; placement is {self.placement}")
        return self
