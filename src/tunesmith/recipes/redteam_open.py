"""Who is attacked, and who attacks: models on one base in memory, or endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, DataError
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.recipes.chat import base_of
from tunesmith.recipes.redteam_config import BASE, RedteamConfig, is_address
from tunesmith.records import Message
from tunesmith.redteam.calls import Speaker
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.local_writer import LocalWriter

OWN_FLAG = "--i-own-this-target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The targets by label, what was there before first, and the attacker; local: those on this machine."""

    targets: dict[str, Speaker]
    attacker: Speaker | None
    local: LocalModels | None
    notes: list[str]


def open_targets(config: RedteamConfig, *, needs_attacker: bool, base: Base | None = None) -> Opened:
    """Load the models, or look at the address; nothing is sent yet. base: one that is in memory already.

    Raises ConfigError for an address that is not this machine and not said to be one's own; ModelError,
    AdapterMismatchError.
    """
    own_attacker = needs_attacker and not is_address(config.attacker or config.target)
    local = LocalModels(config, base) if config.target is None or own_attacker else None
    notes = [] if local is None else list(local.base.notes)
    targets: dict[str, Speaker] = {}
    if config.target is not None:
        assert config.target_model is not None
        targets[config.target_model] = _remote(config, config.target, config.target_model, notes)
    else:
        assert local is not None
        targets = {label_of(name, config): local.speaker(name) for name in config.names}
    attacker = None
    if own_attacker:
        assert local is not None
        attacker = local.speaker(config.attacker or BASE)
    elif needs_attacker and config.attacker is not None:
        assert config.attacker_model is not None
        attacker = _remote(config, config.attacker, config.attacker_model, notes)
    elif needs_attacker:
        (attacker,) = targets.values()
    return Opened(targets=targets, attacker=attacker, local=local, notes=notes)


def label_of(name: str, config: RedteamConfig) -> str:
    """What a model is called in tables: base, or the adapter's folder, with as many parents as tell it from others."""
    if name == BASE:
        return BASE
    others = [one for one in config.names if one != name]
    taken = [(BASE,) if one == BASE else Path(one).absolute().parts for one in others]
    own = Path(name).absolute().parts
    length = next((n for n in range(1, len(own)) if all(one[-n:] != own[-n:] for one in taken)), len(own))
    return "/".join(own[-length:])


class LocalModels:
    """One base in memory and the adapters that were put on it."""

    def __init__(self, config: RedteamConfig, base: Base | None) -> None:
        if base is None:
            name = config.model_name_or_path
            adapters = [one for one in (*config.names, config.attacker) if one not in (None, BASE)]
            if name == EMBEDDED_MODEL and adapters and not is_address(adapters[0]):
                name = base_of(Path(str(adapters[0]))) or name
            settings = {key: getattr(config, key) for key in ModelConfig.model_fields}
            base = load_base(ModelConfig(**{**settings, "model_name_or_path": name}))
        self.config, self.base = config, base
        self.generator = LocalGenerator(base, max_rows=config.rows_at_once, weights=config.weights)
        self._roles: dict[str, str | None] = {BASE: None}

    def role(self, name: str) -> str | None:
        """What the adapter of a name is called on the base, where it is put once; None for the base itself."""
        if name not in self._roles:
            self._roles[name] = load_adapter(self.base, Path(name), f"redteam{len(self._roles)}").adapter
        return self._roles[name]

    def speaker(self, name: str) -> Speaker:
        """The model of a name as one who answers."""
        role, resolved = self.role(name), self.base.resolved
        digests = {
            "model_digest": self.base.digest,
            "tokenizer_digest": resolved.tokenizer_digest,
            "template_digest": resolved.template_digest,
        }
        writer = LocalWriter(
            self.generator, self.base.tokenizer_of(role), name=resolved.name, digests=digests, adapter=role,
            portion=self.config.portion,
        )  # fmt: skip
        limit = self.base.context_tokens_of(role)

        def why_not(messages: Sequence[Message], max_new_tokens: int) -> str:
            try:
                need = self.generator.tokens_needed(len(writer.render(messages)), max_new_tokens)
            except DataError as error:
                return f"cannot be put into the model's template: {error.cause}"
            return f"beyond the context: {need} tokens with the answer, of {limit}" if need > limit else ""

        return Speaker(
            writer=writer, sampling=self.config.sampling, why_not=why_not, portion=self.config.portion, whole=True
        )

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt as the base reads it; 0 where it cannot be rendered."""
        writer = self.speaker(BASE).writer
        assert isinstance(writer, LocalWriter)
        try:
            return len(writer.render(messages))
        except DataError:
            return 0


def _endpoint(config: RedteamConfig, url: str, model: str) -> Endpoint:
    names = ("api_key_env", "timeout_seconds", "num_connections", "backoff_seconds")
    settings: dict[str, Any] = {name: getattr(config, name) for name in names}
    # A prompt that a server does not take is an answer withheld, and no reason to stop.
    settings |= {"url": url, "model": model, "max_attempts": config.max_tries, "refused_requests": "withheld"}
    endpoint = Endpoint(EndpointConfig(**settings), seed=config.seed)
    if endpoint.is_local:
        return endpoint
    if not config.i_own_this_target:
        raise ConfigError(
            "target",
            f"{url} is not this machine; attacking somebody else's service may be against its terms and the law.",
            f"Pass {OWN_FLAG} if it is yours, or if its owner asked you to.",
        )
    return Endpoint(EndpointConfig(**settings, requests_per_minute=config.requests_per_minute), seed=config.seed)


def _remote(config: RedteamConfig, url: str, model: str, notes: list[str]) -> Speaker:
    endpoint = _endpoint(config, url, model)
    notes += endpoint.notes
    if pace := endpoint.config.requests_per_minute:
        notes.append(f"at most {pace} requests a minute go to {url}.")
    return Speaker(writer=endpoint, sampling=config.sampling, portion=config.portion)
