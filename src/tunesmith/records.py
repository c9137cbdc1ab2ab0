"""The words every stage speaks: frozen records without torch, written once and first.

Data flows rows -> Conversation or Document -> Example -> Packed -> loss -> adapter -> Rollout -> Verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
StopReason = Literal["end_of_turn", "length"]


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the user's input; prints as ``file:line:field`` with the unknown parts left out."""

    file: str
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.field) if part is not None)

    def at(self, field_name: str) -> Where:
        """The same line, pointing at one field."""
        return Where(self.file, self.line, field_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation; ``train`` False keeps an assistant turn out of the loss."""

    role: Role
    content: str
    train: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A chat, ``row_id`` being its 0-based position in the source it was read from."""

    messages: tuple[Message, ...]
    row_id: int
    where: Where
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Raw text for continued training: every token is in the loss, no template is applied."""

    text: str
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two answers to one prompt, the first liked better; an answer may go on over several turns."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Named answers to one prompt in tiers, the best first; the names in one tier are tied."""

    prompt: tuple[Message, ...]
    candidates: Mapping[str, tuple[Message, ...]]
    tiers: tuple[tuple[str, ...], ...]
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One answer with a grade from 1 (worst) to 5 (best)."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    rating: int
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumb:
    """One answer with a thumb up (True) or down."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    up: bool
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One answer that somebody flagged, with the reason, or looked at and did not."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    flagged: bool
    reason: str
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An answer and what somebody made of it."""

    prompt: tuple[Message, ...]
    original: tuple[Message, ...]
    corrected: tuple[Message, ...]
    row_id: int
    where: Where


Feedback = Preference | Ranking | Rating | Thumb | Flag | Edit


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers of one group by their index, the first liked better: how much it counts and by how much at least."""

    better: int
    worse: int
    weight: float = 1.0
    margin: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceGroup:
    """A prompt, its K answers and what is known of them: pairs, or one grade an answer (None: not graded).

    All that is known of one prompt is one element of a reward model's step: K forward passes, not K (K - 1).
    """

    prompt: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], ...]
    pairs: tuple[Pair, ...]
    row_id: int
    where: Where
    ratings: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text and the class it belongs to, by its name."""

    text: str
    label: str
    row_id: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Tokens ready to train on.

    ids: (T,) int64. loss_weight: (T,) float32, the weight of predicting token t from the tokens before it;
    0 keeps the token out of the loss, and position 0 of a root is always 0 because nothing comes before it.
    end_in_loss: every end-of-turn token of a trained turn is in the loss. source_ids: (S,) int64, what an
    encoder-decoder model's encoder reads; ids are then the decoder's, its start token first.
    """

    ids: NDArray[np.int64]
    loss_weight: NDArray[np.float32]
    row_id: int
    where: Where
    end_in_loss: bool = True
    tokens_cut: int = 0
    source_ids: NDArray[np.int64] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens the model works through, the encoder's included."""
        return len(self.ids) + (0 if self.source_ids is None else len(self.source_ids))

    @property
    def num_loss_tokens(self) -> int:
        return int(np.count_nonzero(self.loss_weight))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One generated answer: ids (T,) without the prompt, logprobs (T,) natural log at temperature 1."""

    prompt_ids: NDArray[np.int64]
    ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    text: str
    stop_reason: StopReason
    adapter_digest: str
    row_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """How likely given words are: nats of all their tokens, how many those are, whether each was the likeliest."""

    logprob: float
    num_tokens: int
    greedy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a scorer says of one answer: named values in [0, 1] plus a free-text explanation."""

    values: Mapping[str, float]
    explanation: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """What a critic said of an answer by one principle.

    found: whether it finds a fault; None where it gave no verdict, and ``outcome`` says why. score: ln P(fault) -
    ln P(no fault), less the critic's threshold, in nats, where the verdict's tokens were read. text: in words, where it
    wrote some. who: digest of the critic's identity. num_demonstrations: how many were shown to it. revision: the
    answer put right, where the critic gives that too.
    """

    principle: str
    found: bool | None
    who: str
    text: str = ""
    score: float | None = None
    outcome: str = ""
    num_demonstrations: int = 0
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One step from an answer to the next one: a line of a constitution's audit log.

    Step 0 of a prompt is its first answer (``critique`` None, ``parent`` empty); every other step names by ``parent``
    the step whose ``after`` it read. id: digest of all that is said here and of the parent. outcome: what came of the
    step; wherever that is not "revised", ``after`` is ``before``. stopped: why this step is the last one of its prompt;
    empty on the others. who: digest of the identity of whoever wrote ``after``. constitution: digest of its file.
    """

    id: str
    parent: str
    prompt_id: str
    where: Where
    round: int
    step: int
    prompt: tuple[Message, ...]
    before: str
    critique: Critique | None
    after: str
    outcome: str
    who: str
    constitution: str
    stopped: str = ""
