"""The tokenizer of a base without its weights: enough to render rows, and there in a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.models.resolve import resolve_model


@dataclass(frozen=True, slots=True)
class BaseTokenizer:
    """A base's tokenizer and the longest sequence the base was made for."""

    name: str
    tokenizer: Any
    context_tokens: int


def load_tokenizer(name_or_path: str) -> BaseTokenizer:
    """The tokenizer of a base by its embedded name, hub id, folder or .gguf file. Raises ModelError."""
    resolved = resolve_model(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.folder)
        config = AutoConfig.from_pretrained(resolved.folder)
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(resolved.name, f"{first}.", "Check the model folder.") from None
    reads = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0)
    return BaseTokenizer(resolved.name, tokenizer, int(reads or 2**20))
