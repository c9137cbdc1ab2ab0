"""Everything up to the first step: read, check, load, render, plan memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.data.canaries import Planted, make_canaries
from tunesmith.data.load import DataConfig, LoadedData, load_data
from tunesmith.data.mixture import MixtureRecords
from tunesmith.data.mixture_report import mixture_table
from tunesmith.errors import ConfigError
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter
from tunesmith.models.budget import Budget, decide
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base, Role
from tunesmith.records import Conversation, Document, Example
from tunesmith.runtime import cache_folder
from tunesmith.tokens.cached import cached_store, depends_on_the_day, tokenizer_facts
from tunesmith.tokens.render import RenderConfig
from tunesmith.tokens.store import RenderReport, TokenStore, build_store
from tunesmith.training.distribute import World, from_environment
from tunesmith.training.schedule import TrainConfig, examples_of_step, num_steps_of

ADAPTER_NAME = "default"


class SFTConfig(ModelConfig, RenderConfig, TrainConfig):
    """The whole recipe of ``tunesmith sft``."""

    data: DataConfig
    """Where the rows are and how they are read."""
    adapter_name_or_path: str | None = None
    """An adapter to go on with, such as an earlier run's folder; its own method and sizes hold. Empty: a fresh one."""
    adapter: AdapterConfig = AdapterConfig()
    """What is trained where no adapter is gone on with."""
    after_training: Literal["panel", "off"] = "panel"
    """panel: at the end say what tuning broke: abilities lost, rows learnt by heart, overlap with evaluation sets."""
    canaries: int = Field(0, ge=0, le=64)
    """Secrets planted among the training rows, in memory alone, to measure afterwards how well they are kept."""

    @field_validator("after_training", mode="before")
    @classmethod
    def _off_is_false_in_yaml(cls, value: Any) -> Any:
        return {True: "panel", False: "off"}[value] if isinstance(value, bool) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that is known before the first step."""

    config: SFTConfig
    base: Base
    role: Role
    data: LoadedData
    train: TokenStore
    valid: TokenStore | None
    train_report: RenderReport
    valid_report: RenderReport | None
    budget: Budget
    num_steps: int
    world: World
    start_digest: str | None = None
    """Of the adapter that is gone on with; None for a fresh one."""

    def examples(self, step: int) -> list[Example]:
        """This rank's examples of one step."""
        return [self.train[i] for i in examples_of_step(self.config, len(self.train), self.world, step)]

    def data_summary(self) -> dict[str, Any]:
        """What was read, and for a mixture the rows and tokens of each task; for the plan and run.json."""
        summary = self.data.summary()
        if self.config.canaries:
            planted = make_canaries(self.config.canaries, self.config.seed)
            summary["canaries"] = {str(one.locker): {"secret": one.secret, "copies": one.copies} for one in planted}
        if self.data.mixture is not None and isinstance(self.data.train, MixtureRecords):
            tokens = dict.fromkeys(self.train.row_ids, 0)
            for row_id, length in zip(self.train.row_ids, self.train.lengths, strict=True):
                tokens[row_id] += length
            summary["tasks"] = mixture_table(self.data.mixture, self.data.train, tokens)
        return summary

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resume to continue the same run."""
        free = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
        free |= {"logging_steps", "report_to", "after_training"}
        # Runs that were begun before there were these keys have none of them.
        free |= {key for key in ("canaries", "adapter_name_or_path") if not getattr(self.config, key)}
        recipe = self.config.model_dump(mode="json", exclude=free)
        resolved, rows = self.base.resolved, self.base.token_rows.get(self.role.adapter or "")
        return {
            **recipe,
            "data_digest": self.data.digest,
            **({} if self.start_digest is None else {"start_digest": self.start_digest}),
            "base_digest": self.base.digest,
            "tokenizer_digest": resolved.tokenizer_digest if rows is None else rows.tokenizer_digest,
            "template_digest": resolved.template_digest,
        }


def prepare(config: SFTConfig, folder: Path, base: Base | None = None, dtype: str | None = None) -> Prepared:
    """Read, check, load, render and plan; tokens are laid into ``folder``. A base already in memory is shared.

    dtype: what an earlier part of the run decided on, where the recipe leaves it open.
    """
    world = from_environment(config.device)
    data = load_data(config.data, seed=config.seed)
    if base is None:
        base = load_base(config.model_copy(update={"device": world.device, "dtype": dtype or config.dtype}))
    role = _role(base, config)
    context = base.context_tokens_of(role.adapter)
    limit = min(config.max_length or context, context)
    tokenizer = base.tokenizer_of(role.adapter)
    rows = _with_canaries(data.train, base, config)
    train, train_report = _render(rows, "train", data, base, tokenizer, config, limit, folder)
    valid, valid_report = None, None
    if len(data.validation):
        valid, valid_report = _render(data.validation, "valid", data, base, tokenizer, config, limit, folder)
    budget = decide(
        base,
        role,
        micro_batch_tokens=config.micro_batch_tokens,
        longest_tokens=max(train_report.longest_tokens, valid_report.longest_tokens if valid_report else 0),
        checkpointing=None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing,
    )
    return Prepared(
        config=config,
        base=base,
        role=role,
        data=data,
        train=train,
        valid=valid,
        train_report=train_report,
        valid_report=valid_report,
        budget=budget,
        num_steps=num_steps_of(config, len(train), world),
        world=world,
        start_digest=adapter_digest(base, role.adapter) if config.adapter_name_or_path else None,
    )


def _role(base: Base, config: SFTConfig) -> Role:
    """What learns: a fresh adapter, or one that was trained before."""
    if config.adapter_name_or_path is None:
        return add_adapter(base, ADAPTER_NAME, config.adapter, config.seed)
    if config.adapter != AdapterConfig():
        raise ConfigError(
            "adapter", "its settings come with adapter_name_or_path.", "Remove the section, or the adapter."
        )
    return load_adapter(base, Path(config.adapter_name_or_path), ADAPTER_NAME, trainable=True)


def _with_canaries(
    records: Sequence[Conversation | Document], base: Base, config: SFTConfig
) -> Sequence[Conversation | Document]:
    if not config.canaries:
        return records
    if base.is_encoder_decoder:
        raise ConfigError(
            "canaries", "cannot be measured in an encoder-decoder model yet.", "Leave them out, or take another model."
        )
    return Planted(records, make_canaries(config.canaries, config.seed))


def _render(
    records: Sequence[Conversation | Document],
    side: str,
    data: LoadedData,
    base: Base,
    tokenizer: Any,
    config: SFTConfig,
    max_tokens: int,
    folder: Path,
) -> tuple[TokenStore, RenderReport]:
    """Tokens of one side: from the cache where it may be used, else laid into ``folder``."""
    plain = tokenizer is base.tokenizer and not depends_on_the_day(tokenizer) and not config.canaries
    if not config.data.cache or not plain:
        return build_store(records, tokenizer, config, folder / side, max_tokens=max_tokens)
    made_of = {
        "side": side,
        "data": data.digest,
        # The ending says how bytes are read, and a folder's file may get another one.
        "formats": data.formats,
        "data_settings": config.data.model_dump(mode="json"),
        "seed": config.seed,
        "tokenizer": base.resolved.tokenizer_digest,
        "template": base.resolved.template_digest,
        "tokenizer_facts": tokenizer_facts(tokenizer),
        "decoder_prefix": base.decoder_prefix,
    }
    return cached_store(
        records,
        tokenizer,
        config,
        max_tokens=max_tokens,
        made_of=made_of,
        cache=cache_folder() / "tokens",
        fallback=folder / side,
        confirm=data.check_unchanged,
    )
