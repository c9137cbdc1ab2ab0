"""One frozen base in memory and the roles played on it: policy, reference, critic, judge are adapters, not copies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.kernels.head_loss import Head
from tunesmith.models.blocks import Decoder
from tunesmith.models.quantized_linear import num_quantized
from tunesmith.models.resolve import ResolvedModel
from tunesmith.models.token_rows import TokenRows
from tunesmith.models.virtual import num_virtual_tokens
from tunesmith.tokens.render import end_of_turn


class LinearHead(nn.Module):
    """K numbers a hidden state: W h, without a bias, as transformers' sequence classifiers have it."""

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, num_outputs, bias=False)

    @property
    def num_outputs(self) -> int:
        """K: 1 for a reward or a value, one a class for a classifier."""
        return self.score.out_features

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """(N, D) -> (N, K), in the head's own precision."""
        weight_KD = self.score.weight
        return nn.functional.linear(hidden_ND.to(weight_KD.dtype), weight_KD)


class ScalarHead(LinearHead):
    """The head with one output, which it gives as (N,): a reward or a value."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """(N, D) -> (N,), in the head's own precision."""
        return super().forward(hidden_ND).squeeze(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Who acts: an adapter on the base (None: the bare base), its linear head, and the parameters it alone owns.

    parameters: name -> parameter in a fixed order, the head's among them; empty for a role that does not learn.
    """

    name: str
    adapter: str | None
    parameters: Mapping[str, nn.Parameter]
    head: LinearHead | None = None

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters.values())


@dataclass(slots=True, kw_only=True)
class Base:
    """The model every role shares.

    model: transformers' causal or encoder-decoder model; adapters are placed on it in its own module tree. dtype: what
    activations are computed in. decoder: the fast path, or None with the reason in ``reference_reason``.
    decoder_prefix: of an encoder-decoder model, what its decoder is given before the first word. pads: whether its
    rows may share a padded batch.
    token_rows: adapter -> the new vocabulary rows it owns. methods: adapter -> its method's name. own: adapter -> the
    module of its parameters, where they are not PEFT's. quantization: how its linear maps are packed; None: not at all.
    """

    resolved: ResolvedModel
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    head: Head
    decoder: Decoder | None
    reference_reason: str | None
    notes: list[str] = field(default_factory=list)
    peft_model: Any = None
    token_rows: dict[str, TokenRows] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    own: dict[str, nn.Module] = field(default_factory=dict)
    decoder_prefix: tuple[int, ...] = ()
    quantization: Mapping[str, Any] | None = None
    pads: bool = False
    answering: Any = None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt and a decoder writes the answer."""
        return bool(self.decoder_prefix)

    @property
    def context_tokens(self) -> int:
        """The longest sequence the model was made for."""
        config = self.model.config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0) or 2**20)

    def num_virtual_of(self, adapter: str | None) -> int:
        """Virtual tokens an adapter puts before every row."""
        return num_virtual_tokens(self.own.get(adapter or ""))

    def context_tokens_of(self, *adapters: str | None) -> int:
        """The longest sequence of words that fits behind the virtual tokens of each of these adapters."""
        return self.context_tokens - max((self.num_virtual_of(adapter) for adapter in adapters), default=0)

    def tokenizer_of(self, adapter: str | None) -> Any:
        """The tokenizer an adapter was trained with: its own where it has new tokens, else the base's."""
        return self.token_rows[adapter].tokenizer if adapter in self.token_rows else self.tokenizer

    @property
    def num_parameters(self) -> int:
        """Parameters of the base alone, tied ones once."""
        dense = sum(p.numel() for name, p in self.model.named_parameters() if "lora_" not in name)
        return int(dense) + num_quantized(self.model)

    @property
    def digest(self) -> str:
        """Tells bases apart that answer differently: of the weights it was made from, and of how they are packed."""
        if self.quantization is None:
            return self.resolved.base_digest
        settings = json.dumps(dict(self.quantization), sort_keys=True)
        return hashlib.sha256(f"{self.resolved.base_digest} {settings}".encode()).hexdigest()

    def end_ids_of(self, adapter: str | None) -> frozenset[int]:
        """Token ids that end a turn: the tokenizer's eos, its chat template's end, the model's generation config's."""
        tokenizer = self.tokenizer_of(adapter)
        listed = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [tokenizer.eos_token_id, end_of_turn(tokenizer), *(listed if isinstance(listed, list) else [listed])]
        return frozenset(int(i) for i in ids if i is not None)
