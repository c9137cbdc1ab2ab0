"""One optimiser step of a classifier: texts are summed over micro-batches, divided once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunesmith.errors import NonFiniteLossError
from tunesmith.losses.classification import cross_entropy
from tunesmith.models.blocks import Checkpointing
from tunesmith.models.classes import class_logits
from tunesmith.models.forward import DropoutSeed
from tunesmith.models.roles import Base, Role
from tunesmith.records import Labelled
from tunesmith.tokens.pack import micro_batches
from tunesmith.training.distribute import World
from tunesmith.training.step import FP16_LOSS_SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedText:
    """A labelled row ready to train on: its ids (T,), and the place of its label among the classes."""

    ids: NDArray[np.int64]
    class_index: int
    row: Labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLoss:
    """What a text adds to the step's sum, and with which weight; class_weights: one a class."""

    class_weights: tuple[float, ...]
    label_smoothing: float = 0.0

    def weight(self, text: ClassifiedText) -> float:
        """The weight of one text; known before any forward pass."""
        return self.class_weights[text.class_index]

    def sum(self, logits_NK: Tensor, texts: Sequence[ClassifiedText]) -> Tensor:
        """The loss of the texts, each times its weight, a scalar."""
        class_N = torch.tensor([text.class_index for text in texts], device=logits_NK.device)
        weight_N = torch.tensor([self.weight(text) for text in texts], dtype=logits_NK.dtype, device=logits_NK.device)
        return cross_entropy(logits_NK, class_N, weight_N, label_smoothing=self.label_smoothing)[0]


@dataclass(slots=True)
class ClassSums:
    """Sums over texts: of the loss, its weight, the texts, those classified right, and their tokens."""

    loss: float = 0.0
    weight: float = 0.0
    texts: float = 0.0
    right: float = 0.0
    tokens: float = 0.0

    def add(self, loss: ClassLoss, logits_NK: Tensor, texts: Sequence[ClassifiedText]) -> None:
        """Note texts; of classes with equal logits the first one is what is said."""
        said = logits_NK.detach().argmax(dim=1).tolist()
        for text, class_index in zip(texts, said, strict=True):
            self.weight += loss.weight(text)
            self.texts += 1
            self.right += text.class_index == class_index
            self.tokens += len(text.ids)

    def over(self, world: World) -> ClassSums:
        """The same sums over all ranks."""
        return ClassSums(*(world.sum(getattr(self, name)) for name in self.__slots__))

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """loss: mean under the class weights, in nats; accuracy: share of the texts."""
        return {
            f"{prefix}loss": self.loss / max(self.weight, 1e-12),
            f"{prefix}accuracy": self.right / max(self.texts, 1.0),
        }


def accumulate_class_gradients(
    base: Base,
    role: Role,
    texts: Sequence[ClassifiedText],
    world: World,
    loss: ClassLoss,
    *,
    micro_batch_tokens: int,
    dropout_seed: DropoutSeed | None = None,
    checkpointing: Checkpointing = False,
) -> ClassSums:
    """Fill ``.grad`` with the gradient of the step's mean loss; texts are this rank's share of the step.

    How texts are packed never changes the step. Raises NonFiniteLossError naming the rows of the micro-batch whose
    loss is infinite or not a number.
    """
    total_weight = world.sum(sum(loss.weight(text) for text in texts))
    scale = FP16_LOSS_SCALE if base.dtype == torch.float16 else 1.0
    sums = ClassSums()
    for batch in micro_batches([len(text.ids) for text in texts], micro_batch_tokens):
        mine = [texts[i] for i in batch]
        ids, row_ids = [text.ids for text in mine], [text.row.row_id for text in mine]
        logits_NK = class_logits(base, role, ids, row_ids, dropout_seed=dropout_seed, checkpointing=checkpointing)
        part = loss.sum(logits_NK, mine)
        value = float(part.detach())
        if not math.isfinite(value):
            rows = ", ".join(str(text.row.where) for text in mine)
            fix = "Lower learning_rate, set dtype: float32, or look at these rows."
            raise NonFiniteLossError(rows, f"the loss is {value}.", fix)
        (part * (scale / total_weight)).backward()  # type: ignore[no-untyped-call]
        sums.loss += value
        sums.add(loss, logits_NK, mine)
    world.sum_gradients(list(role.parameters.values()))
    if scale != 1.0:
        for parameter in role.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / scale)
    return sums.over(world)


@torch.no_grad()
def mean_class_loss(logits_NK: Tensor, texts: Sequence[ClassifiedText], world: World, loss: ClassLoss) -> ClassSums:
    """The sums over all ranks of this rank's texts, whose logits ``text_logits`` gave."""
    sums = ClassSums()
    if texts:
        sums.loss += float(loss.sum(logits_NK, texts))
        sums.add(loss, logits_NK, texts)
    return sums.over(world)
