"""What ``tunesmith feedback sample`` opens: the prompts, and who answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.data.check import Fault, FaultLog
from tunesmith.data.prompts import PromptRow, load_prompts
from tunesmith.errors import DataError
from tunesmith.recipes.feedback_slots import SampleConfig
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.writer import Writer

if TYPE_CHECKING:
    from tunesmith.models.roles import Base
    from tunesmith.rollout.generate import LocalGenerator

# The name of the base without an adapter among the adapters.
BARE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Prompts that fit, who answers them in turn, and what the user should know."""

    prompts: Sequence[PromptRow]
    writers: Sequence[Writer]
    notes: list[str]


def open_local(config: SampleConfig, model: str | None, adapters: Sequence[str]) -> Opened:
    """The prompts, and one writer an adapter on one base in memory; ``none`` among the adapters is the bare base.

    Without a model, the first adapter's base. Raises DataError with the place of every prompt that is too long;
    ModelError, AdapterMismatchError.
    """
    # Read first: faulty rows are told before a model is loaded.
    loaded = load_prompts(config.prompts, config.columns, on_bad_row=config.on_bad_row)
    # Here, since an endpoint needs no torch.
    from tunesmith.models.load import ModelConfig, load_base
    from tunesmith.models.resolve import EMBEDDED_MODEL

    base = load_base(ModelConfig(model_name_or_path=model or base_of_first(adapters) or EMBEDDED_MODEL))
    local = writers_on(base, adapters, config.prompts_at_once)
    prompts, notes = that_fit(config, loaded, local)
    return Opened(prompts=prompts, writers=local.writers, notes=[*loaded.notes(), *notes, *base.notes])


def base_of_first(adapters: Sequence[str]) -> str | None:
    """The base that the first adapter says it was trained on; None where there is none, or it does not say."""
    from tunesmith.recipes.chat import base_of

    named = [Path(one) for one in adapters if one != BARE]
    return base_of(named[0]) if named else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWriters:
    """Writers on one base. tokenizers: one of each that they read with; limit: tokens of a prompt and its answer.

    roles: names of the adapters that were put on the base.
    """

    writers: Sequence[Writer]
    generator: LocalGenerator
    tokenizers: Sequence[object]
    limit: int
    roles: Sequence[str]


def writers_on(base: Base, adapters: Sequence[str], portion: int) -> LocalWriters:
    """One writer an adapter on a base in memory. Raises ModelError, AdapterMismatchError."""
    from tunesmith.models.adapters import load_adapter
    from tunesmith.rollout.generate import LocalGenerator
    from tunesmith.rollout.local_writer import LocalWriter

    roles: list[str | None] = [
        None if one == BARE else load_adapter(base, Path(one), f"writer{i}").adapter for i, one in enumerate(adapters)
    ] or [None]
    generator = LocalGenerator(base, max_rows=portion)
    resolved = base.resolved
    digests = {
        "model_digest": base.digest,
        "tokenizer_digest": resolved.tokenizer_digest,
        "template_digest": resolved.template_digest,
    }
    tokenizers = {id(tokenizer): tokenizer for tokenizer in (base.tokenizer_of(role) for role in roles)}
    writers = [
        LocalWriter(
            generator, base.tokenizer_of(role), name=resolved.name, digests=digests, adapter=role, portion=portion
        )
        for role in roles
    ]
    return LocalWriters(
        writers=writers,
        generator=generator,
        tokenizers=list(tokenizers.values()),
        limit=base.context_tokens_of(*roles),
        roles=[role for role in roles if role is not None],
    )


def open_endpoint(config: SampleConfig, endpoint: EndpointConfig) -> Opened:
    """The prompts, and a server as the only writer; nothing is sent yet. Raises DataError, ConfigError."""
    loaded = load_prompts(config.prompts, config.columns, on_bad_row=config.on_bad_row)
    writer = Endpoint(endpoint, seed=config.seed)
    return Opened(prompts=loaded.prompts, writers=[writer], notes=[*loaded.notes(), *writer.notes])


def that_fit(
    config: SampleConfig, prompts: Sequence[PromptRow], local: LocalWriters
) -> tuple[list[PromptRow], list[str]]:
    """The prompts that leave room for an answer under every tokenizer, and what was left out. Raises DataError."""
    from tunesmith.tokens.render import render_prompt

    faults, kept = FaultLog(), list[PromptRow]()
    for prompt in prompts:
        longest = max(len(render_prompt(prompt.messages, tokenizer)) for tokenizer in local.tokenizers)
        need = local.generator.tokens_needed(longest, config.max_new_tokens)
        if need > local.limit:
            cause = "the prompt with its answer is longer than the model's context."
            fix = "Shorten it, or lower --max-new-tokens."
            faults.add(Fault(prompt.where, cause, fix, f"{need} tokens of {local.limit}"))
        else:
            kept.append(prompt)
    if config.on_bad_row == "error":
        faults.raise_if_any(config.prompts, len(prompts))
    if not kept:
        raise DataError(config.prompts, f"no prompt fits.\n{faults.table()}\n", "Shorten them.")
    return kept, [f"{number} prompts left out: {cause}" for cause, number in faults.by_cause().items()]
