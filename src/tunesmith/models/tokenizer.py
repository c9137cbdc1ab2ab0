"""The tokenizer of a base without its weights: enough to render rows, and there in a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from tunesmith.errors import ModelError
from tunesmith.models.resolve import resolve_model
from tunesmith.tokens.text_to_text import use_text_to_text


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
    if getattr(config, "is_encoder_decoder", False):
        # Imports torch, which other models' tokenizers can do without.
        from tunesmith.models.encoder_decoder import read_decoder_prefix

        # Rows are rendered as source and target, as when the weights are there.
        use_text_to_text(tokenizer, read_decoder_prefix(config, _generation_config(resolved.folder), resolved.name))
    reads = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0)
    return BaseTokenizer(resolved.name, tokenizer, int(reads or 2**20))


def _generation_config(folder: Path) -> GenerationConfig | None:
    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
