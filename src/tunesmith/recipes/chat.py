"""Use what was tuned: answer prompts, or talk over several turns with the tokens streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunesmith.errors import ConfigError, DataError
from tunesmith.models.adapters import PROVENANCE_FILE, is_adapter_folder, load_adapter, read_mapping
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.records import Message, Rollout
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.rollout.sampling import Weights
from tunesmith.tokens.render import render_prompt

HELP = """/reset         forget the conversation
/system TEXT   set the system message and start anew; without TEXT, remove it
/adapter NAME  let another adapter answer from here on; without NAME, list them
/help          this list
/exit          leave (Ctrl-D does too)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A base ready to answer, and the adapter that does.

    adapters: every adapter on it, by what the user calls it (its folder) -> its name on the base.
    """

    base: Base
    adapter: str | None
    generator: LocalGenerator
    adapters: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def open(cls, model: str, adapter: Path | None) -> Session:
        """Load a base and an adapter. Without a model of its own, an adapter brings the base it was trained on."""
        return cls.open_all(model, [] if adapter is None else [adapter])

    @classmethod
    def open_all(cls, model: str, folders: Sequence[Path], weights: Weights = "auto") -> Session:
        """Load one base and several adapters on it; the first one answers until another is asked for.

        weights: what tokens are decoded with, see ``LocalGenerator``.

        Raises AdapterMismatchError for an adapter of another base, ConfigError for a folder named twice.
        """
        if len(folders) == 1 and not is_adapter_folder(folders[0]) and (folders[0] / "config.json").is_file():
            # A fully tuned run is a whole model, not an adapter.
            model, folders = str(folders[0]), []
        if folders and model == EMBEDDED_MODEL:
            model = base_of(folders[0]) or model
        if twice := [folder for folder in folders if folders.count(folder) > 1]:
            raise ConfigError("--adapter", f"'{twice[0]}' is named twice.", "Name each adapter once.")
        base = load_base(ModelConfig(model_name_or_path=model))
        names = ["default", *(f"default_{number}" for number in range(2, len(folders) + 1))]
        adapters = {
            str(folder): load_adapter(base, folder, name).adapter for folder, name in zip(folders, names, strict=False)
        }
        return cls(
            base=base,
            adapter=next(iter(adapters.values()), None),
            generator=LocalGenerator(base, weights=weights),
            adapters=adapters,
        )

    def using(self, called: str) -> Session:
        """The same base with another of its adapters answering. Raises KeyError."""
        return replace(self, adapter=self.adapters[called])

    def answer_all(self, texts: Sequence[str], system: str | None, sampling: Sampling) -> list[Rollout]:
        """One single-turn answer a text."""
        return self._answer([(i, text, self.adapter) for i, text in enumerate(texts)], system, sampling)

    def answer_each(
        self, texts: Sequence[str], system: str | None, sampling: Sampling
    ) -> list[tuple[str, str, Rollout]]:
        """(text, adapter, answer) of every adapter for each text in turn; all of them share the batches.

        An adapter goes by what the user calls it; the bare base is ''.
        """
        adapters = self.adapters or {"": self.adapter}
        asked = [(i, text, called) for i, text in enumerate(texts) for called in adapters]
        answers = self._answer([(i, text, adapters[called]) for i, text, called in asked], system, sampling)
        return [(text, called, answer) for (_, text, called), answer in zip(asked, answers, strict=True)]

    def _answer(
        self, rows: Sequence[tuple[int, str, str | None]], system: str | None, sampling: Sampling
    ) -> list[Rollout]:
        """rows: number, which keys the draws, text and adapter."""
        prompts = []
        for number, text, adapter in rows:
            messages = [*_opening(system), Message(role="user", content=text)]
            prompts.append(Prompt(ids=render_prompt(messages, self.base.tokenizer_of(adapter)), row_id=number))
        return self.generator.generate_mixed(prompts, sampling, [adapter for _, _, adapter in rows])

    def stream(self, messages: Sequence[Message], turn: int, sampling: Sampling) -> Iterator[str]:
        """Pieces of the next assistant turn."""
        prompt = Prompt(ids=render_prompt(messages, self.base.tokenizer_of(self.adapter)), row_id=turn)
        return self.generator.stream(prompt, sampling, self.adapter)


def base_of(adapter: Path) -> str | None:
    """The base an adapter says it was trained on; None where it does not say."""
    for name, key in ((PROVENANCE_FILE, "base_name"), ("adapter_config.json", "base_model_name_or_path")):
        if (adapter / name).is_file():
            value = read_mapping(adapter / name).get(key)
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
        if line.partition(" ")[0] == "/adapter":
            session, said = _other_adapter(session, line.partition(" ")[2].strip())
            write(said)
            continue
        if line.startswith("/"):
            write(_command(state, line))
            continue
        _turn(session, state, line, sampling, write)


def _other_adapter(session: Session, called: str) -> tuple[Session, str]:
    """The session that goes on, and what to say; the conversation stays."""
    if called in session.adapters:
        return session.using(called), f"{called} answers from here on.\n"
    listed = "".join(f"{'*' if name == session.adapter else ' '} {one}\n" for one, name in session.adapters.items())
    unknown = f"no adapter '{called}' was given with --adapter.\n" if called else ""
    return session, unknown + (listed or "the base answers; no adapter was given with --adapter.\n")


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
