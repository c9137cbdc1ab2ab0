"""A trained classifier at work: texts -> probabilities of its classes, whatever batch they come in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import ModelError
from tunesmith.models.adapters import PROVENANCE_FILE, adapter_digest, drop_adapter, load_adapter
from tunesmith.models.classes import class_head, text_logits
from tunesmith.models.roles import Base, Role

# What the recipe writes into the provenance: the classes by the head's rows, and how texts were laid before the model.
LABELS_KEY, TEMPLATE_KEY = "labels", "chat_template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A role with a head of classes on a base that others may share; labels: name of each class, by the head's rows.

    chat_template: whether texts are laid before it as a user's message. budget_tokens: most tokens in one pack; it
    never changes a probability beyond the rounding of the fast path.
    """

    base: Base
    role: Role
    labels: tuple[str, ...]
    chat_template: bool = False
    budget_tokens: int = 2048

    @property
    def digest(self) -> str:
        """SHA-256 of adapter, head and classes: two classifiers of one digest say the same of every text."""
        head = class_head(self.role).score.weight.detach().cpu().float().numpy().tobytes()
        known = {"labels": self.labels, "chat_template": self.chat_template}
        text = f"{adapter_digest(self.base, self.role.adapter)} {json.dumps(known)} "
        return hashlib.sha256(text.encode() + head).hexdigest()

    def probabilities(self, texts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """(N, K) probabilities of rendered texts (T,), in their order. Raises ValueError for an empty one."""
        if not all(len(ids) for ids in texts):
            raise ValueError("an empty text has no class")
        logits_NK = text_logits(self.base, self.role, texts, self.budget_tokens)
        return np.asarray(logits_NK.double().softmax(dim=1).cpu().numpy(), float)


def load_classifier(base: Base, folder: Path, name: str = "classify") -> Classifier:
    """A classifier that ``tunesmith classify`` saved, frozen, as a role on a base in memory.

    Raises AdapterMismatchError where it was trained on another base, ModelError where it is no classifier or its folder
    does not say what its classes are called.
    """
    role = load_adapter(base, folder, name)
    if role.head is None or role.head.num_outputs < 2:
        drop_adapter(base, name)
        raise ModelError(folder, "is an adapter without a head of classes.", "Train one with `tunesmith classify`.")
    path = folder / PROVENANCE_FILE
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    labels = tuple(str(label) for label in written.get(LABELS_KEY, ()))
    if len(labels) != role.head.num_outputs:
        drop_adapter(base, name)
        cause = (
            f"names {len(labels)} classes ('{LABELS_KEY}' in {PROVENANCE_FILE}), its head has {role.head.num_outputs}."
        )
        raise ModelError(folder, cause, "Write the classes there, in the order of the head's rows.")
    return Classifier(base=base, role=role, labels=labels, chat_template=bool(written.get(TEMPLATE_KEY, False)))
