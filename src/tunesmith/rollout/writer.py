"""Messages -> texts: the protocol of whoever writes words, be it a base of ours or an endpoint.

The token-level protocol is ``rollout.generate.Generator``. Work that needs words alone, such as new training rows,
stands on this one, and needs no torch for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tunesmith.records import Message, StopReason
from tunesmith.rollout.sampling import Sampling

# An endpoint may also withhold an answer.
WriterStop = StopReason | Literal["content_filter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Messages that end with what the assistant is to answer; ``row_id`` keys the draws together with the seed."""

    messages: tuple[Message, ...]
    row_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An answer's text, why it ended, and what the writer reported beside it (tokens, the model's own name)."""

    text: str
    stop_reason: WriterStop
    details: Mapping[str, Any] = field(default_factory=dict)


class Writer(Protocol):
    """Anything that answers messages with text."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What an answer depends on besides the messages and the sampling; no secret is among it."""
        ...

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        """(index into ``asked``, answer) as answers arrive, in any order; each index once.

        An error is raised after the answers that had arrived by then.
        """
        ...
