"""Use what was tuned: answer prompts, or talk over several turns with the tokens streaming."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.errors import DataError
from tunesmith.models.adapters import PROVENANCE_FILE, is_adapter_folder, load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.records import Message, Rollout
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.tokens.render import render_prompt

HELP = """/reset         forget the conversation
/system TEXT   set the system message and start anew; without TEXT, remove it
/help          this list
/exit          leave (Ctrl-D does too)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A base with at most one adapter, ready to answer."""

    base: Base
    adapter: str | None
    generator: LocalGenerator

    @classmethod
    def open(cls, model: str, adapter: Path | None) -> Session:
        """Load a base and an adapter. Without a model of its own, an adapter brings the base it was trained on."""
        if adapter is not None and not is_adapter_folder(adapter) and (adapter / "config.json").is_file():
            # A fully tuned run is a whole model, not an adapter.
            model, adapter = str(adapter), None
        if adapter is not None and model == EMBEDDED_MODEL:
            model = base_of(adapter) or model
        base = load_base(ModelConfig(model_name_or_path=model))
        name = load_adapter(base, adapter, "default").adapter if adapter is not None else None
        return cls(base=base, adapter=name, generator=LocalGenerator(base))

    def answer_all(self, texts: Sequence[str], system: str | None, sampling: Sampling) -> list[Rollout]:
        """One single-turn answer a text."""
        tokenizer = self.base.tokenizer_of(self.adapter)
        prompts = [
            Prompt(ids=render_prompt([*_opening(system), Message(role="user", content=text)], tokenizer), row_id=i)
            for i, text in enumerate(texts)
        ]
        return self.generator.generate(prompts, sampling, self.adapter)

    def stream(self, messages: Sequence[Message], turn: int, sampling: Sampling) -> Iterator[str]:
        """Pieces of the next assistant turn."""
        prompt = Prompt(ids=render_prompt(messages, self.base.tokenizer_of(self.adapter)), row_id=turn)
        return self.generator.stream(prompt, sampling, self.adapter)


def base_of(adapter: Path) -> str | None:
    """The base an adapter says it was trained on; None where it does not say."""
    for name, key in ((PROVENANCE_FILE, "base_name"), ("adapter_config.json", "base_model_name_or_path")):
        if (adapter / name).is_file():
            value = json.loads((adapter / name).read_text()).get(key)
            if isinstance(value, str) and value:
                return value
    return None


def _opening(system: str | None) -> list[Message]:
    return [Message(role="system", content=system)] if system else []


@dataclass(slots=True)
class _Talk:
    system: str | None
    messages: list[Message] = field(default_factory=list)
    turns: int = 0


def talk(
    session: Session,
    system: str | None,
    sampling: Sampling,
    *,
    read: Callable[[], str | None],
    write: Callable[[str], None],
) -> None:
    """The chat loop; read gives the user's lines (None ends it), write shows pieces of text."""
    state = _Talk(system=system)
    write(f"{session.base.resolved.name}{' + adapter' if session.adapter else ''}. /help lists the commands.\n")
    while (line := read()) is not None:
        line = line.strip()
        if line in ("/exit", "/quit"):
            break
        if not line:
            continue
        if line.startswith("/"):
            write(_command(state, line))
            continue
        _turn(session, state, line, sampling, write)


def _command(state: _Talk, line: str) -> str:
    name, _, rest = line.partition(" ")
    if name == "/reset":
        state.messages.clear()
        return "forgotten.\n"
    if name == "/system":
        state.system = rest.strip() or None
        state.messages.clear()
        return f"system message {'set' if state.system else 'removed'}; the conversation starts anew.\n"
    return HELP if name == "/help" else f"unknown command {name}. /help lists the commands.\n"


def _turn(session: Session, state: _Talk, line: str, sampling: Sampling, write: Callable[[str], None]) -> None:
    messages = [*_opening(state.system), *state.messages, Message(role="user", content=line)]
    pieces = []
    try:
        for piece in session.stream(messages, state.turns, sampling):
            pieces.append(piece)
            write(piece)
    except DataError as error:
        write(f"{error.cause} /reset starts anew.\n")
        return
    except KeyboardInterrupt:
        write(" [stopped]")
    write("\n")
    state.turns += 1
    state.messages += [Message(role="user", content=line), Message(role="assistant", content="".join(pieces))]
