"""What the contract is asked of: the methods with their properties, tiny bases of four families, a toy task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import build_model, build_tokenizer
from text_to_text import text_to_text_models
from torch import Tensor

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.forward import hidden_states
from tunesmith.models.load import build_base
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.resolve import resolve_model
from tunesmith.models.roles import Role
from tunesmith.randomness import generator
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import pack
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer
from tunesmith.training.step import accumulate_gradients

FAMILIES = ["llama", "gpt2", "qwen3", "t5"]
STEPS, HALF = 8, 3


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, or an option of one, and what is particular about it.

    learned: STEPS steps at the learning rate leave at most this share of the first loss. near: it begins as the base up
    to rounding, not bit for bit. text: what the base has read at the start, for methods whose start is not the base
    itself. merge: None where it can be merged, else the reason given. refused: family -> the reason why it cannot be
    had beside another adapter. precisions: a variant that meets the base's storage as its method's first line does is
    asked in fp32 only, for time.
    """

    label: str
    config: Mapping[str, Any]
    learning_rate: float = 0.05
    learned: float = 0.5
    near: bool = False
    merge: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32", "nf4")
    text: str = ""


# Five tokens under each family's tokenizer.
TEXT = "words"
METHODS = [
    Method(label="lora", config={"r": 4}, learning_rate=0.02),
    Method(label="dora", config={"r": 4, "use_dora": True}, learning_rate=0.02),
    Method(
        label="bias",
        config={"r": 4, "use_rslora": True, "bias": "lora_only"},
        learning_rate=0.02,
        refused=dict.fromkeys(("llama", "qwen3", "t5"), "none of the maps with matrices has a bias"),
        precisions=("fp32",),
    ),
    Method(
        label="pissa",
        config={"r": 4, "init_lora_weights": "pissa"},
        learning_rate=0.01,
        near=True,
        precisions=("fp32",),
    ),
    Method(
        label="houlsby",
        config={"method": "bottleneck", "placement": "houlsby", "reduction_factor": 4},
        merge="non-linear",
    ),
    Method(
        label="pfeiffer",
        config={"method": "bottleneck", "placement": "pfeiffer", "reduction_factor": 4, "non_linearity": "silu"},
        merge="non-linear",
        precisions=("fp32",),
    ),
    Method(
        label="parallel",
        config={"method": "bottleneck", "placement": "parallel", "reduction_factor": 4, "non_linearity": "gelu"},
        merge="non-linear",
        precisions=("fp32",),
    ),
    Method(label="ia3", config={"method": "ia3"}, learning_rate=1.0),
    Method(
        label="ia3-everywhere",
        config={"method": "ia3", "target_modules": "all-linear"},
        refused=dict.fromkeys(FAMILIES, "scales keys, values"),
    ),
    Method(
        label="prefix",
        config={
            "method": "prefix",
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": TEXT,
            "num_virtual_tokens": 5,
        },
        merge="not a change of any weight",
        refused={"t5": "each of its two stacks"},
        text=TEXT,
    ),
    Method(
        label="prompt",
        config={
            "method": "prompt",
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": TEXT,
            "num_virtual_tokens": 5,
        },
        learning_rate=0.2,
        learned=0.95,
        merge="not a change of any weight",
        text=TEXT,
    ),
]

Combination = tuple[Method, str, str]
_folders: dict[str, Path] = {}


def combinations(*, refused: bool = False) -> list[Any]:
    """Every method on every family in every precision: those that must work, or those that must be refused."""
    import pytest

    return [
        pytest.param((method, family, precision), id=f"{method.label}-{family}-{precision}")
        for family in FAMILIES
        for precision in ("fp32", "nf4")
        for method in METHODS
        if (family in method.refused) == refused and precision in method.precisions
    ]


def build(family: str, precision: str, make_folder: Any, device: str = "cpu") -> Any:
    """A fresh base; a family's files are written once. precision: fp32, bf16, or nf4 under fp32."""
    if family not in _folders:
        folder = make_folder(family)
        model = text_to_text_models.build_model("t5") if family == "t5" else build_model(family)
        # A head that can be sure of a word: the tiny models' own logits are all within 2 of each other.
        model.get_output_embeddings().weight.data.mul_(4.0)
        model.save_pretrained(folder)
        tokenizer = text_to_text_models.build_tokenizer("t5") if family == "t5" else build_tokenizer()
        tokenizer.save_pretrained(folder)
        _folders[family] = folder
    quantization = QuantizationConfig() if precision == "nf4" else None
    resolved = resolve_model(str(_folders[family]))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return build_base(resolved, torch.device(device), dtype, quantization=quantization)


def task(base: Any) -> list[Example]:
    """Three rows of random words, each answered by two words in turn."""
    out = []
    for i, (num_words, num_answer) in enumerate(((4, 8), (6, 5), (3, 7))):
        words = generator(0, "contract_rows", i).integers(3, 260, num_words)
        answer = np.resize([70, 200], num_answer)
        given = np.array(base.decoder_prefix) if base.is_encoder_decoder else words
        weight = np.array([0.0] * len(given) + [1.0] * num_answer, np.float32)
        sources = {"source_ids": words} if base.is_encoder_decoder else {}
        ids = np.concatenate([given, answer])
        out.append(Example(ids=ids, loss_weight=weight, row_id=i, where=Where("t", i), **sources))
    return out


def packed(examples: Sequence[Example], *adapters: str | None) -> Any:
    """The rows, one adapter a row; one name stands for all."""
    names = adapters if len(adapters) == len(examples) else adapters * len(examples)
    return replace(pack(examples), adapter_S=tuple(names))


@torch.no_grad()
def states(base: Any, examples: Sequence[Example], *adapters: str | None) -> Tensor:
    """Hidden states (T, D) of the rows under their adapters."""
    return hidden_states(base, packed(examples, *adapters))


def after_reading(base: Any, examples: Sequence[Example], text: str) -> Tensor:
    """Hidden states (T, D) of the rows by the bare base, which has read the text before each; an encoder reads it."""
    ids = np.array(base.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)
    if base.is_encoder_decoder:
        return states(base, [replace(e, source_ids=np.r_[ids, e.source_ids]) for e in examples], None)
    read = [
        replace(e, ids=np.r_[ids, e.ids], loss_weight=np.r_[np.zeros(len(ids)), e.loss_weight].astype(np.float32))
        for e in examples
    ]
    told = torch.split(states(base, read, None), [e.num_tokens for e in read])
    return torch.cat([one[len(ids) :] for one in told])


def awake(base: Any, name: str, config: Mapping[str, Any]) -> Role:
    """An adapter that does something."""
    role = add_adapter(base, name, AdapterConfig(**config), seed=3)
    for i, parameter in enumerate(role.parameters.values()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        parameter.data += 0.1 * noise
    return role


def gradients(base: Any, role: Role, examples: Sequence[Example], **how: Any) -> tuple[float, list[Tensor | None]]:
    """Loss and gradients of a role on the rows."""
    for parameter in role.parameters.values():
        parameter.grad = None
    result = accumulate_gradients(base, role, examples, one_process(), **{"micro_batch_tokens": 10_000, **how})
    return result.loss, [None if p.grad is None else p.grad.clone() for p in role.parameters.values()]


@dataclass(kw_only=True)
class Trained:
    """An adapter called 'taught', what was seen while it learnt the task, and another base with the same weights."""

    method: Method
    base: Any
    elsewhere: Any
    role: Role
    examples: list[Example]
    before: Tensor
    at_start: Tensor
    losses: list[float] = field(default_factory=list)
    half: tuple[list[Tensor], Any] | None = None

    def now(self, *adapters: str | None) -> Tensor:
        """What the base says of the task under these adapters."""
        return states(self.base, self.examples, *adapters)

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh one."""
        return build_optimizer(self.role.parameters, OptimConfig(learning_rate=self.method.learning_rate))

    def train(self, optimizer: torch.optim.Optimizer, first: int) -> None:
        """Steps from ``first`` on; their losses and the state after HALF of all are kept."""
        for step in range(first, STEPS):
            if step == HALF:
                weights = [p.detach().clone() for p in self.role.parameters.values()]
                self.half = weights, deepcopy(optimizer.state_dict())
            loss, _ = gradients(self.base, self.role, self.examples)
            optimizer.step()
            self.losses.append(loss)


def begin(method: Method, base: Any, elsewhere: Any = None) -> Trained:
    """Place the method's adapter on the base."""
    examples = task(base)
    before = states(base, examples, None)
    role = add_adapter(base, "taught", AdapterConfig(**method.config), seed=1)
    at_start = states(base, examples, "taught")
    return Trained(
        method=method,
        base=base,
        elsewhere=elsewhere,
        role=role,
        examples=examples,
        before=before,
        at_start=at_start,
    )
