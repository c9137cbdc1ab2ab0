"""Encoder-decoder models (T5, BART and their kin) through transformers' own modules, adapters chosen by the call.

The encoder reads a row's source once; the decoder's hidden states go to the same head functions as a causal model's.
Rows run in padded batches whose masks keep them apart, or one by one where ``kernels: reference`` asks for it.
Shape letters: B rows of a batch, S source tokens, T decoder tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, EncoderDecoderCache

from tunesmith.errors import ModelError
from tunesmith.kernels.head_loss import Head, logits_of
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.linear import Routing
from tunesmith.models.reference import call_routed
from tunesmith.models.roles import Base
from tunesmith.models.virtual import num_virtual_tokens, reference_inputs
from tunesmith.tokens.pack import Packed, distinct_rows

# Model type -> names of the linear maps of its attention. Others (Marian, mBART, M2M100) write targets with another
# tokenizer mode than sources, or (LED, LongT5) pad to blocks; they are refused rather than run half right.
ATTENTION_MODULES = {
    "t5": ["q", "k", "v", "o"],
    "mt5": ["q", "k", "v", "o"],
    "umt5": ["q", "k", "v", "o"],
    "bart": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "pegasus": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
# Padding may add this share to a batch's tokens before a new batch begins.
MAX_PADDING_SHARE = 0.25


def check_family(model_type: str, name: str) -> None:
    """Raise ModelError for an encoder-decoder model of a family that is not known to work."""
    if model_type not in ATTENTION_MODULES:
        raise ModelError(
            name,
            f"encoder-decoder models of type '{model_type}' are not supported.",
            f"Take one of {', '.join(ATTENTION_MODULES)}, or a causal model.",
        )


def read_decoder_prefix(config: Any, generation_config: Any, name: str) -> tuple[int, ...]:
    """What the decoder is given before its first word: its start token, and a first word where one is forced."""
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(generation_config, "decoder_start_token_id", None)
    if start is None:
        raise ModelError(
            name, "names no decoder_start_token_id.", "Add it to config.json; for T5 it is the pad token's id."
        )
    forced = getattr(generation_config, "forced_bos_token_id", None)
    return (int(start),) if forced is None else (int(start), int(forced))


@torch.no_grad()
def read_head(model: Any, decoder_prefix: tuple[int, ...], name: str) -> Head:
    """The head whose logits are those of the model's own forward; T5 with tied embeddings scales by D ** -0.5.

    Raises ModelError when no head we know gives them, so that a changed release cannot run silently wrong.
    """
    layer, bias = model.get_output_embeddings(), getattr(model, "final_logits_bias", None)
    device, vocab_size = layer.weight.device, layer.weight.shape[0]
    source_1S = (torch.arange(3, 15, device=device) % vocab_size)[None]
    ids_1T = torch.tensor([[*decoder_prefix, *(i % vocab_size for i in range(5, 11))]], device=device)
    theirs_TV = model(input_ids=source_1S, decoder_input_ids=ids_1T, use_cache=False).logits[0].double()
    hidden_TD = _run(model, Routing(((0, 0, None),)), source_1S, ids_1T, None)[0]
    limit = 1e-3 if hidden_TD.dtype in (torch.float32, torch.float64) else 0.2
    # A bias of zeros, which most BART models have, would only cost time.
    bias_V = None if bias is None or not bool(bias.any()) else bias[0]
    for scale in (1.0, float(hidden_TD.shape[-1]) ** -0.5):
        head = Head(layer.weight, bias_V, None, scale)
        error = (logits_of(hidden_TD, head).double() - theirs_TV).norm() / theirs_TV.norm()
        if float(error) < limit:
            return head
    raise ModelError(
        name, "its head makes logits in a way tunesmith does not know.", "Take a model in transformers' own layout."
    )


def decoder_states(base: Base, packed: Packed, seeds: tuple[int, ...] | None, checkpointing: Checkpointing) -> Tensor:
    """Decoder hidden states (T, D) of a pack with a source stream, in the pack's order."""
    source = packed.source
    if source is None or source.num_segments != packed.num_segments or not packed.only_roots:
        raise ValueError("an encoder-decoder model needs rows without parents, each with a source")
    out: list[Tensor] = [torch.empty(0)] * packed.num_segments
    recompute = checkpointing and torch.is_grad_enabled()
    # A recomputed batch holds the activations of all its layers at once, so it is made as small as it can be.
    for rows in _batches(packed, source, padded=base.pads and not recompute):
        seed_B = None if seeds is None else tuple(seeds[row] for row in rows)
        # Every layer is given equally many tokens a row; ``Routing.over`` says how many.
        routing = Routing(((0, 0, packed.adapter_S[rows[0]]),), seed_B, (0,) * len(rows))
        source_BS, mask_BS = _padded(source, rows)
        ids_BT, _ = _padded(packed, rows)
        own = base.own.get(packed.adapter_S[rows[0]] or "")
        arguments = (base.model, routing, source_BS, ids_BT, mask_BS, own)
        if recompute:
            states_BTD = checkpoint(_run, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            states_BTD = _run(*arguments)
        for row, states_TD in zip(rows, states_BTD, strict=True):
            out[row] = states_TD[: packed.length_S[row]]
    return torch.cat(out).to(base.dtype)


def _run(
    model: Any,
    routing: Routing,
    source_BS: Tensor,
    ids_BT: Tensor,
    mask_BS: Tensor | None,
    own: nn.Module | None = None,
) -> Tensor:
    """Padded ids -> decoder hidden states (B, T, D). A decoder token never sees the padding behind it.

    own: the adapter's soft prompt, which the encoder reads before every source.
    """
    if mask_BS is not None:
        mask_BS = torch.cat([mask_BS.new_ones(len(mask_BS), num_virtual_tokens(own)), mask_BS], dim=1)
    inputs = reference_inputs(model, source_BS, None, own, model.dtype)
    encoded = call_routed(model.get_encoder(), routing, **inputs, attention_mask=mask_BS)
    out = call_routed(
        model.get_decoder(),
        routing,
        input_ids=ids_BT,
        encoder_hidden_states=encoded.last_hidden_state,
        encoder_attention_mask=mask_BS,
        use_cache=False,
    )
    return out.last_hidden_state  # type: ignore[no-any-return]


def _padded(packed: Packed, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """Some segments as (B, L) ids and their mask (B, L), None where all are equally long."""
    pieces = [packed.ids_T[packed.start_S[row] : packed.start_S[row] + packed.length_S[row]] for row in rows]
    ids_BL = pad_sequence(pieces, batch_first=True)
    length_B = torch.tensor([len(piece) for piece in pieces], device=ids_BL.device)
    mask_BL = (torch.arange(ids_BL.shape[1], device=ids_BL.device)[None] < length_B[:, None]).long()
    return ids_BL, None if bool(mask_BL.all()) else mask_BL


def _batches(packed: Packed, source: Packed, *, padded: bool) -> list[list[int]]:
    """Rows of one adapter and of like length share a batch; one row each where nothing may be padded."""
    if not padded:
        return [[row] for row in range(packed.num_segments)]
    sizes = list(zip(source.length_S, packed.length_S, strict=True))
    order = sorted(range(packed.num_segments), key=lambda row: (str(packed.adapter_S[row]), -sum(sizes[row]), row))
    batches: list[list[int]] = []
    for row in order:
        if batches and packed.adapter_S[batches[-1][0]] == packed.adapter_S[row]:
            together = [*batches[-1], row]
            area = len(together) * (max(sizes[i][0] for i in together) + max(sizes[i][1] for i in together))
            if area <= (1 + MAX_PADDING_SHARE) * sum(sum(sizes[i]) for i in together):
                batches[-1].append(row)
                continue
        batches.append([row])
    return batches


class EncoderDecoderDecoding:
    """Row by row through transformers' caches: each source is encoded once, the decoder goes on token by token.

    adapter_B: who answers each row still running.
    """

    def __init__(self, base: Base, adapter_B: Sequence[str | None]) -> None:
        self.base, self.adapter_B = base, list(adapter_B)
        self.rows: list[tuple[Tensor, Any]] = []

    @torch.no_grad()
    def prefill(self, prompts: Sequence[NDArray[np.int64]]) -> Tensor:
        """Sources in, hidden states (B, D) after the decoder's prefix out."""
        model, (firsts, of_row) = self.base.model, distinct_rows(prompts, self.adapter_B)
        encoded = []
        for row in firsts:
            source, adapter = torch.from_numpy(prompts[row]).to(self.base.device)[None], self.adapter_B[row]
            inputs = reference_inputs(model, source, None, self.base.own.get(adapter or ""), model.dtype)
            out = call_routed(model.get_encoder(), _all_tokens(adapter), **inputs)
            encoded.append(out.last_hidden_state)
        self.rows = [(encoded[number], EncoderDecoderCache(DynamicCache(), DynamicCache())) for number in of_row]
        prefix = torch.tensor(self.base.decoder_prefix, device=self.base.device)
        return torch.stack([self._append(row, prefix) for row in range(len(prompts))])

    @torch.no_grad()
    def step(self, ids_B: Tensor) -> Tensor:
        return torch.stack([self._append(row, ids_B[row : row + 1]) for row in range(len(self.rows))])

    def keep(self, rows: Sequence[int]) -> None:
        self.rows, self.adapter_B = [self.rows[row] for row in rows], [self.adapter_B[row] for row in rows]

    def _append(self, row: int, ids_L: Tensor) -> Tensor:
        encoded_1SD, cache = self.rows[row]
        out = call_routed(
            self.base.model.get_decoder(),
            _all_tokens(self.adapter_B[row]),
            input_ids=ids_L[None],
            encoder_hidden_states=encoded_1SD,
            past_key_values=cache,
            use_cache=True,
        )
        return out.last_hidden_state[0, -1].to(self.base.dtype)  # type: ignore[no-any-return]


def _all_tokens(adapter: str | None) -> Routing:
    """One run over however many tokens a layer is given; ``Routing.over`` says how many."""
    return Routing(((0, 0, adapter),))
