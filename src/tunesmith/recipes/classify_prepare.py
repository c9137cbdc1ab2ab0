"""Everything of a classifier up to its first step: read, load, render, plan memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from tunesmith.data.labelled import LabelledDataConfig, LoadedLabelled, load_labelled
from tunesmith.errors import ConfigError, ModelError
from tunesmith.losses.classification import balanced_weights
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter
from tunesmith.models.budget import Budget, decide
from tunesmith.models.heads import add_class_head
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base, Role
from tunesmith.records import Labelled
from tunesmith.tokens.labelled import TextRenderConfig, TextReport, render_texts
from tunesmith.training.classify_step import ClassifiedText, ClassLoss
from tunesmith.training.distribute import World, from_environment
from tunesmith.training.schedule import TrainConfig, examples_of_step, num_steps_of

ROLE_NAME = "classify"


class ClassifyConfig(ModelConfig, TextRenderConfig, TrainConfig):
    """The whole recipe of ``tunesmith classify``."""

    task: Literal["classify"] = "classify"
    """What kind of recipe the file is; may be left out."""
    data: LabelledDataConfig
    """Where the labelled texts are and how they are read."""
    adapter: AdapterConfig = AdapterConfig()
    """The adapter under the head; any method but full."""
    adapter_path: str | None = Field(None, min_length=1)
    """Folder of the adapter to start from, such as that of an SFT run; empty: a fresh one. Its own settings hold, not
    ``adapter``."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes (arXiv:1512.00567)."""
    class_weights: Literal["none", "balanced"] = "none"
    """none: every row counts alike; balanced: every class does, whatever its number of training rows. Accuracy and
    calibration are then no longer those of the rows as they come."""
    metric_for_best_model: Literal["eval_loss", "eval_accuracy"] = "eval_loss"
    """What the validation rows choose the kept weights by, and stop early on."""
    output_dir: str = "runs/classify"
    """Where the run is written; a folder in use is refused."""

    @model_validator(mode="after")
    def _one_start(self) -> ClassifyConfig:
        if self.adapter.method == "full":
            raise ValueError("a classifier trains an adapter under its head; adapter.method full is none")
        if self.adapter_path is not None and "adapter" in self.model_fields_set:
            raise ValueError("adapter_path brings its own settings; remove 'adapter'")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedClassifier:
    """Everything that is known before the first step."""

    config: ClassifyConfig
    base: Base
    role: Role
    data: LoadedLabelled
    sides: dict[str, list[ClassifiedText]]
    """train, validation, test -> texts ready for the model; empty where there are none."""
    reports: dict[str, TextReport]
    loss: ClassLoss
    start_digest: str
    budget: Budget
    num_steps: int
    world: World

    @property
    def train(self) -> list[ClassifiedText]:
        return self.sides["train"]

    @property
    def valid(self) -> list[ClassifiedText]:
        return self.sides["validation"]

    def texts(self, step: int) -> list[ClassifiedText]:
        """This rank's texts of one step."""
        return [self.train[i] for i in examples_of_step(self.config, len(self.train), self.world, step)]

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resume to continue the same run."""
        free = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
        resolved = self.base.resolved
        return {
            **self.config.model_dump(mode="json", exclude=free | {"logging_steps", "report_to"}),
            "data_digest": self.data.digest,
            "base_digest": self.base.digest,
            "tokenizer_digest": resolved.tokenizer_digest,
            "template_digest": resolved.template_digest,
            "start_digest": self.start_digest,
        }


def prepare_classifier(
    config: ClassifyConfig, base: Base | None = None, dtype: str | None = None
) -> PreparedClassifier:
    """Read, check, load, render and plan. A base already in memory is shared.

    dtype: what an earlier part of the run decided on, where the recipe leaves it open.
    """
    world = from_environment(config.device)
    data = load_labelled(config.data, seed=config.seed)
    if base is None:
        base = load_base(config.model_copy(update={"device": world.device, "dtype": dtype or config.dtype}))
    if base.is_encoder_decoder:
        raise ModelError(base.resolved.name, "an encoder-decoder model cannot be a classifier.", "Take a causal one.")
    role = start_role(base, config, len(data.labels))
    reports: dict[str, TextReport] = {}
    sides = {name: _render(rows, data.labels, base, role, config, reports, name) for name, rows in data.sides().items()}
    counts = [sum(text.class_index == k for text in sides["train"]) for k in range(len(data.labels))]
    if 0 in counts:
        cause = f"every training row of the class '{data.labels[counts.index(0)]}' is too long."
        raise ConfigError("max_length", cause, "Raise it, or set over_length: truncate.")
    budget = decide(
        base,
        role,
        micro_batch_tokens=config.micro_batch_tokens,
        longest_tokens=max(report.longest_tokens for report in reports.values()),
        checkpointing=None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing,
    )
    weights = balanced_weights(counts) if config.class_weights == "balanced" else [1.0] * len(counts)
    return PreparedClassifier(
        config=config,
        base=base,
        role=role,
        data=data,
        sides=sides,
        reports=reports,
        loss=ClassLoss(class_weights=tuple(weights), label_smoothing=config.label_smoothing),
        start_digest=adapter_digest(base, role.adapter),
        budget=budget,
        num_steps=num_steps_of(config, len(sides["train"]), world),
        world=world,
    )


def start_role(base: Base, config: ClassifyConfig, num_classes: int) -> Role:
    """The role to train: a fresh adapter, or a copy of the one to start from, under a head that starts at 0."""
    if config.adapter_path is None:
        return add_class_head(base, add_adapter(base, ROLE_NAME, config.adapter, config.seed), num_classes)
    role = load_adapter(base, Path(config.adapter_path), ROLE_NAME, trainable=True)
    if role.head is not None:
        raise ModelError(config.adapter_path, "has a head of its own.", "Name an adapter without one, as sft trains.")
    return add_class_head(base, role, num_classes)


def _render(
    rows: Sequence[Labelled],
    labels: Sequence[str],
    base: Base,
    role: Role,
    config: ClassifyConfig,
    reports: dict[str, TextReport],
    side: str,
) -> list[ClassifiedText]:
    """The tokens of one side; what is dropped or cut stands in its report."""
    if not rows:
        return []
    context = base.context_tokens_of(role.adapter)
    limit = min(config.max_length or context, context)
    rendered, reports[side] = render_texts(
        [row.text for row in rows],
        [row.where for row in rows],
        base.tokenizer_of(role.adapter),
        config,
        max_tokens=limit,
    )
    index = {label: k for k, label in enumerate(labels)}
    return [
        ClassifiedText(ids=text.ids, class_index=index[row.label], row=row)
        for row, text in zip(rows, rendered, strict=True)
        if text is not None
    ]
