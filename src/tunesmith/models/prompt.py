"""Prompt-tuning: embeddings of a few virtual tokens before the input are all that learns.

Source: Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning (arXiv:2104.08691). The file is
PEFT's. Of an encoder-decoder model the encoder reads them, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PromptTuningConfig
from torch import Tensor, nn

from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.adapter_config import AdapterConfig
from tunesmith.models.own import own_dtype
from tunesmith.models.roles import Base
from tunesmith.models.virtual import SoftPrompt
from tunesmith.randomness import generator

PEFT_TYPE = "PROMPT_TUNING"
FILE_KEY = "prompt_embeddings"


def place(base: Base, name: str, config: AdapterConfig, seed: int) -> None:
    """Put the virtual tokens' embeddings on the base.

    They are not the base at the start: with a text (or drawn tokens) they are exactly the base that has read it.
    Raises ConfigError for a text of more tokens than there are, and for a base with too little context.
    """
    check_place(base, name, config.num_virtual_tokens)
    ids = start_ids(base, name, config, seed)
    module = base.model.get_input_embeddings()
    # What a call gives, not the weight: some families scale inside, and virtual tokens come after that.
    with torch.no_grad():
        drawn = generator(seed, "virtual_tokens", name).integers(0, base.tokenizer.vocab_size, 256)
        words_PD = module(torch.from_numpy(drawn if ids is None else ids).to(base.device)).to(own_dtype(base))
        if ids is None:
            spread = float(words_PD.std())
            shape = (config.num_virtual_tokens, words_PD.shape[1])
            noise = generator(seed, "adapter_init", name).standard_normal(shape)
            words_PD = torch.from_numpy(noise).to(words_PD) * spread
    base.own[name] = SoftPrompt(words_PD.clone(), config.num_virtual_tokens)


def read(base: Base, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
    """Make room for the embeddings that a folder's settings describe. Raises ModelError when they do not fit."""
    number = int(settings["num_virtual_tokens"])
    check_room(base, str(folder), number)
    width = int(base.model.get_input_embeddings().weight.shape[1])
    if int(settings.get("token_dim") or width) != width:
        raise ModelError(
            folder, f"has virtual tokens of width {settings['token_dim']}, the model's is {width}.", "Use its own base."
        )
    # PEFT keeps rows for the decoder of an encoder-decoder model too, and never reads them.
    num_rows = number * int(settings.get("num_transformer_submodules") or 1)
    rows_RD = torch.zeros(num_rows, width, dtype=own_dtype(base), device=base.device)
    base.own[name] = SoftPrompt(rows_RD, number)


def parameters(base: Base, name: str) -> dict[str, nn.Parameter]:
    """What learns."""
    return {"prompt.embedding": _own(base, name).embedding}


def tensors(base: Base, name: str) -> dict[str, Tensor]:
    """The embeddings under the name of PEFT's file."""
    return {FILE_KEY: _own(base, name).embedding.detach().cpu().contiguous()}


def load_tensors(base: Base, name: str, values: Mapping[str, Tensor]) -> None:
    """Take the values of a file."""
    _own(base, name).embedding.data.copy_(values[FILE_KEY])


def settings(base: Base, name: str) -> dict[str, Any]:
    """What stands in adapter_config.json. How they began is over: the values are in the file."""
    own = _own(base, name)
    num_rows, width = own.embedding.shape
    found: dict[str, Any] = PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
        num_virtual_tokens=own.num_tokens,
        num_transformer_submodules=num_rows // own.num_tokens,
        token_dim=width,
    ).to_dict()
    return {key: getattr(value, "value", value) for key, value in found.items()}


def scalings(base: Base, name: str) -> list[int]:
    """What decides the answers beside the tensors: how many of the rows are read."""
    return [_own(base, name).num_tokens]


def drop(base: Base, name: str) -> None:
    """Take the embeddings off the base."""
    del base.own[name]


def saved_per_token(base: Base, name: str) -> int:
    """Values it saves a token for the backward pass, all layers together: what attention has of the virtual tokens."""
    return saved_by_attention(base, _own(base, name).num_tokens)


def start_ids(base: Base, name: str, config: AdapterConfig, seed: int) -> NDArray[np.int64] | None:
    """Ids (P,) of the words that virtual tokens begin as; None where they begin as noise.

    A text shorter than num_virtual_tokens is repeated, as PEFT does it. Raises ConfigError for one that is longer.
    """
    number = config.num_virtual_tokens
    if config.prompt_tuning_init == "RANDOM":
        return None
    if config.prompt_tuning_init == "TEXT":
        ids = base.tokenizer(config.prompt_tuning_init_text, add_special_tokens=False)["input_ids"]
        if not 0 < len(ids) <= number:
            raise ConfigError(
                "adapter.prompt_tuning_init_text",
                f"has {len(ids)} tokens, num_virtual_tokens is {number}.",
                f"Set num_virtual_tokens: {max(1, len(ids))}, or take another text.",
            )
        return np.resize(np.array(ids, np.int64), number)
    special = set(base.tokenizer.all_special_ids)
    words = np.array([i for i in range(base.tokenizer.vocab_size) if i not in special], np.int64)
    return generator(seed, "virtual_tokens", name).choice(words, number)


def check_place(base: Base, name: str, num_tokens: int) -> None:
    """Raise ConfigError where virtual tokens cannot be had: no context left, or new tokens beside them."""
    if name in base.token_rows:
        raise ConfigError(
            "adapter.method", "PEFT's file of virtual tokens has no place for new vocabulary rows.", "Use method: lora."
        )
    if num_tokens >= base.context_tokens:
        raise ConfigError(
            "adapter.num_virtual_tokens", f"is {num_tokens}, the model reads {base.context_tokens}.", "Take fewer."
        )


def check_room(base: Base, place: str, num_tokens: int) -> None:
    """Raise ModelError for a file with more virtual tokens than the model reads."""
    if num_tokens >= base.context_tokens:
        raise ModelError(
            place, f"has {num_tokens} virtual tokens, the model reads {base.context_tokens}.", "Use its own base."
        )


def saved_by_attention(base: Base, num_tokens: int) -> int:
    """Each token's probabilities over virtual tokens, and copies of keys and values that stand behind these."""
    config = base.model.config
    return int(config.num_hidden_layers) * (int(config.num_attention_heads) * num_tokens + 2 * int(config.hidden_size))


def _own(base: Base, name: str) -> SoftPrompt:
    own = base.own[name]
    assert isinstance(own, SoftPrompt)
    return own
