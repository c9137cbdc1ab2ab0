"""How much memory a job needs, before it starts: weights, gradients, optimiser, activations, in bytes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import psutil
import torch

from tunesmith.errors import BudgetError
from tunesmith.kernels.attention import MATMUL_MAX_TOKENS
from tunesmith.kernels.head_loss import CHUNK_ROWS
from tunesmith.models.adapters import method_of
from tunesmith.models.roles import Base, Role
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
    checkpointing: bool
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
    import resource  # not on Windows, where the memory in use now is all there is to say

    unit = 1 if torch.backends.mps.is_available() else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def predict(base: Base, role: Role, *, micro_batch_tokens: int, longest_tokens: int, checkpointing: bool) -> Budget:
    """Predict the peak of a training step from what our kernels save a token and a layer."""
    # Virtual tokens run once a pack, or not at all; attention sees them before every row.
    num_virtual = base.num_virtual_of(role.adapter)
    tokens = max(micro_batch_tokens, longest_tokens) + num_virtual
    config, element = base.model.config, torch.finfo(base.dtype).bits // 8
    width, layers = int(config.hidden_size), _num_layers(base)
    saved = _saved_per_token_bytes(base, role, element, longest_tokens)
    kept = width * element if checkpointing else saved
    # A checkpointed layer is recomputed one at a time, so one layer's activations stand beside the kept inputs.
    activations = tokens * (layers * kept + (saved if checkpointing else 0))
    if base.is_encoder_decoder and checkpointing:
        # Rows are recomputed one at a time, but each with all its layers.
        activations = longest_tokens * layers * saved + tokens * width * element
    # While a layer runs backward, gradients of its widest tensors live beside what was saved.
    widest = max(_inner_width(base), width)
    transient = tokens * 6 * widest * element
    if base.quantization is not None:
        # One map at a time is unpacked: its levels in fp32, and their product with the magnitudes.
        transient += widest * width * (element + 4)
    trainable = role.num_parameters
    return Budget(
        in_use_bytes=memory_in_use_bytes(base.device),
        gradient_bytes=4 * trainable,
        # AdamW's two moments, and the temporaries of its multi-tensor step.
        optimizer_bytes=8 * trainable + 4 * trainable,
        activation_bytes=int(activations + transient),
        head_bytes=int(3 * CHUNK_ROWS * config.vocab_size * 4 + 2 * tokens * width * element)
        + _new_rows_bytes(base, role, width, element),
        available_bytes=memory_available_bytes(base.device),
        checkpointing=checkpointing,
        micro_batch_tokens=micro_batch_tokens,
    )


def _new_rows_bytes(base: Base, role: Role, width: int, element: int) -> int:
    """A head with new rows is laid out anew in every pass: padded, filled, and its gradient at full width."""
    rows = base.token_rows.get(role.adapter) if role.adapter else None
    return 0 if rows is None else 3 * rows.num_rows * width * element


def _num_layers(base: Base) -> int:
    """Layers a token runs through; a source token's keys and values in the decoder count with the decoder's layers."""
    config = base.model.config
    layers = int(config.num_hidden_layers)
    if not base.is_encoder_decoder:
        return layers
    names = ("num_decoder_layers", "decoder_layers")
    return max(layers, *(int(getattr(config, name, None) or 0) for name in names))


def _inner_width(base: Base) -> int:
    """Width of the feed-forward part, by the names the families give it."""
    config = base.model.config
    names = ("d_ff", "encoder_ffn_dim", "decoder_ffn_dim") if base.is_encoder_decoder else ("intermediate_size",)
    return max((int(getattr(config, name, 0) or 0) for name in names), default=0) or 4 * int(config.hidden_size)


def _saved_per_token_bytes(base: Base, role: Role, element: int, longest_tokens: int) -> int:
    """Bytes a layer saves a token for its backward pass."""
    config = base.model.config
    width = int(config.hidden_size)
    inner = _inner_width(base)
    heads = int(config.num_attention_heads)
    head_width = int(getattr(config, "head_dim", None) or width // heads)
    kv = head_width * int(getattr(config, "num_key_value_heads", None) or heads)
    adapter = 0
    if role.adapter is not None:
        # A token of an encoder-decoder model runs through one of its two stacks.
        layers = _num_layers(base) * (2 if base.is_encoder_decoder else 1)
        adapter = math.ceil(method_of(base, role.adapter).saved_per_token(base, role.adapter) / layers)
    # norms: 2 inputs; sites: 2 normed inputs, mixed heads, feed-forward; attention: q, k, v, out; SwiGLU: gate, up
    values = 4 * width + 3 * heads * head_width + 2 * kv + 3 * inner + adapter
    if base.decoder is None:
        # transformers' own modules keep fp32 norms, both rotated halves and silu's output besides.
        values += 6 * width + 2 * heads * head_width + 2 * inner
    if base.device.type == "cpu" and base.decoder is not None:
        values += heads * min(longest_tokens, MATMUL_MAX_TOKENS)
    if base.is_encoder_decoder:
        # Cross attention's norm, q, k, v and output; and scores, position bias and weights of attention over both.
        values += 2 * width + 4 * heads * head_width + 3 * heads * longest_tokens
    return values * element + 16


def decide(
    base: Base, role: Role, *, micro_batch_tokens: int, longest_tokens: int, checkpointing: bool | None
) -> Budget:
    """Choose checkpointing (None: only if needed) so that the job fits. Raises BudgetError when nothing does."""
    options = [checkpointing] if checkpointing is not None else [False, True]
    budgets = [
        predict(base, role, micro_batch_tokens=m, longest_tokens=longest_tokens, checkpointing=option)
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
