"""A model's tokenizer without its weights, for what only counts or shows tokens."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.models.resolve import resolve_model


def load_tokenizer(name_or_path: str) -> Any:
    """The tokenizer of a model as ``load_base`` would load it. Raises ModelError when there is none."""
    resolved = resolve_model(name_or_path)
    try:
        return AutoTokenizer.from_pretrained(resolved.folder)
    except (OSError, ValueError, KeyError) as error:
        cause = f"{str(error).splitlines()[0].rstrip('.')}."
        raise ModelError(resolved.name, cause, "Check the model folder.") from None
