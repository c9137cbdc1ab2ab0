"""Who is measured: somebody who writes answers and, where it can, tells how likely given words are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.models.roles import Base
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.generate import Generator
from tunesmith.rollout.likelihood import LikelihoodModel, LocalLikelihood
from tunesmith.rollout.local_writer import LocalWriter
from tunesmith.rollout.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model under measurement; likelihood is None where it cannot tell them, as with an endpoint."""

    label: str
    writer: Writer
    likelihood: LikelihoodModel | None

    @property
    def identity(self) -> Mapping[str, str]:
        """What its answers depend on besides the question and the sampling."""
        return self.writer.identity


def local_subject(
    base: Base,
    generator: Generator,
    adapter: str | None,
    label: str,
    *,
    chat_template: bool = True,
    model_digest: str | None = None,
    portion: int = 64,
) -> Subject:
    """A base of ours, bare or with an adapter.

    model_digest: of weights that are no longer those on the disk, as after full tuning. portion: answers written
    together, so the most that a killed run loses.
    """
    resolved = base.resolved
    digests = {
        "model_digest": model_digest or base.digest,
        "tokenizer_digest": resolved.tokenizer_digest,
        "template_digest": resolved.template_digest if chat_template else "none",
        "dtype": str(base.dtype).removeprefix("torch."),
    }
    writer = LocalWriter(
        generator,
        base.tokenizer_of(adapter),
        name=resolved.name,
        digests=digests,
        adapter=adapter,
        portion=portion,
        chat_template=chat_template,
    )
    likelihood = LocalLikelihood(base, adapter, chat_template=chat_template, model_digest=model_digest)
    return Subject(label=label, writer=writer, likelihood=likelihood)


def endpoint_subject(config: EndpointConfig, *, seed: int = 0) -> Subject:
    """A model behind an OpenAI-compatible address; ``seed`` keys the jitter of its waits. Raises ConfigError."""
    return Subject(label=config.model, writer=Endpoint(config, seed=seed), likelihood=None)
