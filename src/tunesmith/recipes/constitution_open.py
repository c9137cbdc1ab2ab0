"""Whom a constitution's recipes speak to: a base of ours with its adapters, an endpoint, or a control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tunesmith.constitution.asking import Voice
from tunesmith.recipes.bootstrap_open import SMALL_BELOW_PARAMETERS
from tunesmith.records import Message
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig

if TYPE_CHECKING:
    from tunesmith.models.roles import Base
    from tunesmith.rollout.generate import LocalGenerator

# The base without any adapter, among those who can be named.
BARE = "base"
# Cache slots of one batch: a critic's requests carry demonstrations.
_CACHE_TOKENS = 16_384
# UTF-8 bytes a token, as English has them in the usual vocabularies, where the tokenizer is not here.
_BYTES_A_TOKEN = 4


class ServerSettings(Protocol):
    """How an address is asked, in the keys of a recipe."""

    @property
    def api_key_env(self) -> str: ...
    @property
    def timeout_seconds(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def backoff_seconds(self) -> float: ...
    @property
    def num_connections(self) -> int: ...
    @property
    def seed(self) -> int: ...


def is_address(name: str | None) -> bool:
    """Whether a speaker's name is that of a server."""
    return name is not None and name.startswith(("http://", "https://"))


@dataclass(slots=True)
class House(AbstractContextManager["House"]):
    """Who speaks in this process: one base, loaded when first needed, an adapter each, and endpoints.

    Adapters that are put on a base from elsewhere are taken off again at the end. Use it as a context manager.
    """

    server: ServerSettings
    model: str | None = None
    base: Base | None = None
    portion: int = 32
    notes: list[str] = field(default_factory=list)
    _generator: LocalGenerator | None = None
    _roles: dict[str, str | None] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def voice(self, name: str | None, model_there: str | None = None) -> Voice:
        """The voice of an adapter's folder, of ``base`` or None (no adapter), or of an address.

        Raises ConfigError, ModelError, AdapterMismatchError; nothing is sent to an address yet.
        """
        return self._endpoint(str(name), model_there or "") if is_address(name) else self._local(name)

    def count(self, voice: Voice, messages: Sequence[Message]) -> int:
        """Tokens of a request; a guess by its bytes where it goes to a server."""
        render: Callable[[Sequence[Message]], object] | None = getattr(voice.writer, "render", None)
        if render is not None:
            return len(render(messages))  # type: ignore[arg-type]
        return sum(len(turn.content.encode()) for turn in messages) // _BYTES_A_TOKEN

    def is_small(self, voice: Voice) -> bool:
        """Whether it is a model of ours that is too small to follow a request it was not shown."""
        return (
            voice.likelihood is not None and self.base is not None and self.base.num_parameters < SMALL_BELOW_PARAMETERS
        )

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _endpoint(self, url: str, model: str) -> Voice:
        names = ("api_key_env", "timeout_seconds", "max_attempts", "backoff_seconds", "num_connections")
        keys = {name: getattr(self.server, name) for name in names}
        endpoint = Endpoint(EndpointConfig(url=url, model=model, **keys), seed=self.server.seed)
        self.notes += [note for note in endpoint.notes if note not in self.notes]
        return Voice(writer=endpoint)

    def _local(self, name: str | None) -> Voice:
        # Here, since endpoints need no torch.
        from tunesmith.rollout.likelihood import LocalLikelihood
        from tunesmith.rollout.local_writer import LocalWriter

        base, generator = self._opened(name)
        role = self._role(base, name)
        resolved = base.resolved
        writer = LocalWriter(
            generator,
            base.tokenizer_of(role),
            name=resolved.name,
            digests={
                "model_digest": base.digest,
                "tokenizer_digest": resolved.tokenizer_digest,
                "template_digest": resolved.template_digest,
            },
            adapter=role,
            portion=self.portion,
        )

        def fits(messages: Sequence[Message], max_new_tokens: int) -> bool:
            need = generator.tokens_needed(len(writer.render(messages)), max_new_tokens)
            return need <= base.context_tokens_of(role)

        return Voice(writer=writer, likelihood=LocalLikelihood(base, role), fits=fits)

    def _opened(self, name: str | None) -> tuple[Base, LocalGenerator]:
        from tunesmith.models.load import ModelConfig, load_base
        from tunesmith.models.resolve import EMBEDDED_MODEL
        from tunesmith.recipes.chat import base_of
        from tunesmith.rollout.generate import LocalGenerator

        if self.base is None:
            brought = base_of(Path(name)) if name not in (None, BARE) else None
            # Where a server answers, the base is the critic's.
            model = (None if is_address(self.model) else self.model) or brought or EMBEDDED_MODEL
            self.base = load_base(ModelConfig(model_name_or_path=model))
            self.notes += self.base.notes
        if self._generator is None:
            self._generator = LocalGenerator(self.base, max_rows=self.portion, max_cache_tokens=_CACHE_TOKENS)
        return self.base, self._generator

    def _role(self, base: Base, name: str | None) -> str | None:
        from tunesmith.models.adapters import drop_adapter, load_adapter

        if name is None or name == BARE:
            return None
        if name not in self._roles:
            role = load_adapter(base, Path(name), f"constitution{len(self._roles)}").adapter
            assert role is not None
            self._roles[name] = role
            self._stack.callback(drop_adapter, base, role)
        return self._roles[name]
