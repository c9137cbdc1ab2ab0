"""What ``tunesmith feedback sample`` opens: the prompts, and who answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.check import Fault, FaultLog
from tunesmith.data.prompts import LoadedPrompts, PromptRow, load_prompts
from tunesmith.errors import DataError
from tunesmith.recipes.feedback_slots import SampleConfig
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.writer import Writer

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
    from tunesmith.models.adapters import load_adapter
    from tunesmith.models.load import ModelConfig, load_base
    from tunesmith.models.resolve import EMBEDDED_MODEL
    from tunesmith.recipes.chat import base_of
    from tunesmith.rollout.generate import LocalGenerator
    from tunesmith.rollout.local_writer import LocalWriter

    named = [Path(one) for one in adapters if one != BARE]
    base = load_base(ModelConfig(model_name_or_path=model or (base_of(named[0]) if named else None) or EMBEDDED_MODEL))
    roles: list[str | None] = [
        None if one == BARE else load_adapter(base, Path(one), f"writer{i}").adapter for i, one in enumerate(adapters)
    ] or [None]
    generator = LocalGenerator(base, max_rows=config.prompts_at_once)
    resolved = base.resolved
    digests = {
        "model_digest": base.digest,
        "tokenizer_digest": resolved.tokenizer_digest,
        "template_digest": resolved.template_digest,
    }
    tokenizers = {id(tokenizer): tokenizer for tokenizer in (base.tokenizer_of(role) for role in roles)}
    writers = [
        LocalWriter(
            generator,
            base.tokenizer_of(role),
            name=resolved.name,
            digests=digests,
            adapter=role,
            portion=config.prompts_at_once,
        )
        for role in roles
    ]
    limit = base.context_tokens_of(*roles)
    prompts, notes = _that_fit(config, loaded, generator, list(tokenizers.values()), limit)
    return Opened(prompts=prompts, writers=writers, notes=[*loaded.notes(), *notes, *base.notes])


def open_endpoint(config: SampleConfig, endpoint: EndpointConfig) -> Opened:
    """The prompts, and a server as the only writer; nothing is sent yet. Raises DataError, ConfigError."""
    loaded = load_prompts(config.prompts, config.columns, on_bad_row=config.on_bad_row)
    writer = Endpoint(endpoint, seed=config.seed)
    return Opened(prompts=loaded.prompts, writers=[writer], notes=[*loaded.notes(), *writer.notes])


def _that_fit(
    config: SampleConfig, loaded: LoadedPrompts, generator: object, tokenizers: Sequence[object], limit: int
) -> tuple[list[PromptRow], list[str]]:
    """The prompts that leave room for an answer under every tokenizer, and what was left out. Raises DataError.

    limit: tokens of a prompt and its answer.
    """
    from tunesmith.rollout.generate import LocalGenerator
    from tunesmith.tokens.render import render_prompt

    assert isinstance(generator, LocalGenerator)
    faults, kept = FaultLog(), list[PromptRow]()
    for prompt in loaded:
        longest = max(len(render_prompt(prompt.messages, tokenizer)) for tokenizer in tokenizers)
        need = generator.tokens_needed(longest, config.max_new_tokens)
        if need > limit:
            cause = "the prompt with its answer is longer than the model's context."
            fix = "Shorten it, or lower --max-new-tokens."
            faults.add(Fault(prompt.where, cause, fix, f"{need} tokens of {limit}"))
        else:
            kept.append(prompt)
    if config.on_bad_row == "error":
        faults.raise_if_any(config.prompts, len(loaded))
    if not kept:
        raise DataError(config.prompts, f"no prompt fits.\n{faults.table()}\n", "Shorten them.")
    return kept, [f"{number} prompts left out: {cause}" for cause, number in faults.by_cause().items()]
