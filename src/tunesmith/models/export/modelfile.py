"""What Ollama needs beside a GGUF file: the chat template in its own language, the system message, the stop tokens.

Ollama's templates are Go's, not Jinja's, and no general translation exists. The pieces around each role are read off
what the Jinja template writes, and taken only if they give back, to the letter, what it writes of other conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Message, Where
from tunesmith.tokens.template import apply_template, chat_format

# Ollama reads at most 4096 tokens unless told; beyond this a long context would cost a small machine its memory.
MOST_CONTEXT_TOKENS = 8192
SYSTEM, USER, ANSWER, USER_2 = "zq0system", "zq1user", "zq2answer", "zq3user"


@dataclass(frozen=True, slots=True)
class Pieces:
    """A template as text around what each role says. default_system: what it says where nobody gives a system message.

    begin stands before the first turn, generation where the assistant is to speak.
    """

    begin: str
    around: dict[str, tuple[str, str]]
    generation: str
    default_system: str | None

    def apply(self, messages: Sequence[Message]) -> str:
        """What these pieces make of a conversation the assistant is to go on with."""
        if self.default_system is not None and messages[0].role != "system":
            messages = [Message(role="system", content=self.default_system), *messages]
        turns = [self.around[m.role][0] + m.content + self.around[m.role][1] for m in messages]
        return self.begin + "".join(turns) + self.generation


def _says(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]


def read_pieces(tokenizer: Any) -> Pieces | None:
    """The pieces of a tokenizer's template, or None where it does more than put text around what is said."""

    def written(messages: Sequence[Message], *, generation: bool = False) -> str:
        return apply_template(tokenizer, messages, Where("chat template"), generation=generation)

    system, user, answer, user_2 = ("system", SYSTEM), ("user", USER), ("assistant", ANSWER), ("user", USER_2)
    try:
        pieces = _cut(
            written(_says(system, user, answer, user_2)),
            written(_says(user)),
            written(_says(user), generation=True),
            written(_says(user, answer)),
        )
        probes = (
            _says(user),
            _says(system, user),
            _says(user, answer, user_2),
            _says(system, user, answer, user_2, answer, user),
            _says(("user", "One.\n\nTwo"), ("assistant", "{{ three }}"), ("user", "4")),
        )
        agrees = pieces is not None and all(pieces.apply(m) == written(m, generation=True) for m in probes)
    except DataError:
        return None
    return pieces if agrees else None


def _cut(full: str, asked: str, open_ended: str, answered: str) -> Pieces | None:
    """Pieces from what a template writes of four conversations; None where their parts do not fit together."""
    before_system, _, rest = full.partition(SYSTEM)
    between_1, _, rest = rest.partition(USER)
    between_2, _, rest = rest.partition(ANSWER)
    between_3 = rest.partition(USER_2)[0]
    head, _, after_user = asked.partition(USER)
    after_answer = answered.partition(ANSWER)[2]
    fits = between_2.startswith(after_user) and between_3.startswith(after_answer) and open_ended.startswith(asked)
    before_user = between_3[len(after_answer) :]
    if not (fits and before_user and between_1.endswith(before_user) and head.endswith(before_user)):
        return None
    after_system = between_1.removesuffix(before_user)
    begin, default_system = head.removesuffix(before_user), None
    if begin != before_system and begin.startswith(before_system) and after_system and begin.endswith(after_system):
        begin, default_system = "", begin.removeprefix(before_system).removesuffix(after_system)
    if not before_system.startswith(begin):
        return None
    around = {
        "system": (before_system.removeprefix(begin), after_system),
        "user": (before_user, after_user),
        "assistant": (between_2.removeprefix(after_user), after_answer),
    }
    return Pieces(begin, around, open_ended.removeprefix(asked), default_system)


def go_template(pieces: Pieces) -> str | None:
    """The pieces in Ollama's language; None where a piece spells what that language would take for its own."""
    texts = [pieces.begin, pieces.generation, *(text for pair in pieces.around.values() for text in pair)]
    if any(mark in text for text in texts for mark in ("{{", "}}", '"""')):
        return None
    cases = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}' for role, (before, after) in pieces.around.items()
    )
    return f"{pieces.begin}{{{{ range .Messages }}}}{{{{ {cases}{{{{ end }}}}{{{{ end }}}}{pieces.generation}"


def write_modelfile(file_name: str, tokenizer: Any, stops: Sequence[str], context: int, base: str | None) -> str:
    """The text of a Modelfile. base: name of the base's file where ``file_name`` holds an adapter alone."""
    lines = ["# ollama create MY-NAME -f this file"]
    lines += [f"FROM ./{file_name}"] if base is None else [f"FROM ./{base}", f"ADAPTER ./{file_name}"]
    pieces = read_pieces(tokenizer)
    template = go_template(pieces) if pieces is not None else None
    if pieces is None or template is None:
        lines.append(
            "# No TEMPLATE: this chat template has no such form; Ollama takes the one inside the file it knows."
        )
    else:
        # Ollama puts the begin token before a text itself, where the file tells it to.
        begin = chat_format(tokenizer).begin_id
        lines.append(f'TEMPLATE """{template.removeprefix(tokenizer.bos_token) if begin is not None else template}"""')
        if pieces.default_system and '"""' not in pieces.default_system:
            lines.append(f'SYSTEM """{pieces.default_system}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if '"' not in stop]
    lines.append(f"PARAMETER num_ctx {min(context, MOST_CONTEXT_TOKENS)}")
    return "\n".join(lines) + "\n"
