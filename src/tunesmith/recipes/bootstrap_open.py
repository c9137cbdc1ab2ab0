"""Who writes the new rows: a base of ours, with or without an adapter, or an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith.errors import ConfigError
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.writer import Writer

# Below this a model neither answers the question for the kind better than chance nor gives input and output at once.
SMALL_BELOW_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A writer, the scheme that suits it, and what the user should know."""

    writer: Writer
    scheme: Literal["paper", "small"]
    notes: list[str]


def open_local(model: str, adapter: Path | None) -> Opened:
    """Load a base of ours. Raises ModelError, AdapterMismatchError."""
    # Here, since an endpoint needs no torch.
    from tunesmith.recipes.chat import Session
    from tunesmith.rollout.local_writer import LocalWriter

    session = Session.open(model, adapter)
    base, resolved = session.base, session.base.resolved
    writer = LocalWriter(
        session.generator,
        base.tokenizer_of(session.adapter),
        name=resolved.name,
        digests={
            "model_digest": base.digest,
            "tokenizer_digest": resolved.tokenizer_digest,
            "template_digest": resolved.template_digest,
        },
        adapter=session.adapter,
    )
    notes = list(base.notes)
    small = base.num_parameters < SMALL_BELOW_PARAMETERS
    if small:
        notes.append(
            f"{resolved.name} has {base.num_parameters / 1e6:.0f}M parameters: expect to read and sort the rows "
            "by hand. Self-Instruct was made with 175B; see docs/data-bootstrap.md."
        )
    return Opened(writer=writer, scheme="small" if small else "paper", notes=notes)


def open_endpoint(config: EndpointConfig, *, seed: int) -> Opened:
    """Speak to a server; nothing is sent before the first request. Raises ConfigError."""
    endpoint = Endpoint(config, seed=seed)
    return Opened(writer=endpoint, scheme="paper", notes=endpoint.notes)


def check_choice(model: str | None, adapter: Path | None, url: str | None, endpoint_model: str | None) -> None:
    """Raise ConfigError unless the options name one writer."""
    if url is None and endpoint_model is not None:
        raise ConfigError("--endpoint-model", "needs --endpoint.", "Name the server's address.")
    if url is not None and endpoint_model is None:
        raise ConfigError("--endpoint", "needs --endpoint-model.", "Name the model as the server calls it.")
    if url is not None and (model is not None or adapter is not None):
        raise ConfigError("--endpoint", "cannot go with --model or --adapter.", "Keep one writer.")
