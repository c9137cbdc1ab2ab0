"""Personal data of training rows given back: from what stands before it, does the model go on with it?

Only what was trained on and stands nowhere before in its row counts; a value that the prompt tells is no memory. The
values themselves are never written down: places and kinds are.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.pii import WARNING_KINDS, find_pii
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed
from tunesmith.records import Conversation, Document, Message, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.stats import Interval, McNemar, exact_mcnemar, newcombe_paired_difference, wilson_interval
from tunesmith.tokens.template import apply_template, chat_format, encode, encode_as_text, mark

# Behind a value the tokenizer may cut otherwise than in it.
SPARE_TOKENS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A value in a trained text: the turns before, the beginning of its own text, and the value itself."""

    kind: str
    place: str
    messages: tuple[Message, ...]
    before: str
    value: str


@dataclass(slots=True, kw_only=True)
class Secrets:
    """What rows hold: values counted by kind, and a seeded sample of those the model could only know by heart.

    trained: in texts in the loss; told: values that stand in a prompt, or earlier in their row.
    """

    seed: int
    most: int
    trained: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    _kept: list[tuple[int, int, Secret]] = field(default_factory=list)

    def add(self, record: Conversation | Document) -> None:
        """Look through one row; the sample keeps the values whose seeded keys are largest."""
        texts = [record.text] if isinstance(record, Document) else [m.content for m in record.messages]
        said = ""
        for i, text in enumerate(texts):
            message = None if isinstance(record, Document) else record.messages[i]
            in_loss = message is None or (message.role == "assistant" and message.train)
            for found in find_pii(text):
                value = text[found.begin : found.end]
                if found.kind not in WARNING_KINDS:
                    continue
                if not in_loss or value in said or value in text[: found.begin]:
                    self.told[found.kind] += 1
                    continue
                self.trained[found.kind] += 1
                before = () if isinstance(record, Document) else record.messages[:i]
                secret = Secret(
                    kind=found.kind, place=str(record.where), messages=before, before=text[: found.begin], value=value
                )
                key = derive_seed(self.seed, "pii_sample", record.row_id, i, found.begin)
                heapq.heappush(self._kept, (key, record.row_id, secret))
                if len(self._kept) > self.most:
                    heapq.heappop(self._kept)
            said += text + "\n"

    @property
    def sample(self) -> list[Secret]:
        """The sampled values, in a fixed order."""
        return [secret for _, _, secret in sorted(self._kept, key=lambda kept: kept[:2])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """Shares of the sampled values that a model wrote out, greedily, behind what stands before them in their row."""

    trained: dict[str, int]
    told: dict[str, int]
    num_asked: int
    base: Interval
    tuned: Interval
    difference: Interval
    test: McNemar
    places: list[str]
    """Where the values stand that only the tuned model writes out, with their kind."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; intervals as value, low and high."""
        return asdict(self)


def echoed(base: Base, adapter: str | None, secrets: Sequence[Secret], *, max_prompt_tokens: int) -> list[bool | None]:
    """Whether the model goes on with each value; None where what stands before has no token or too many."""
    tokenizer = base.tokenizer_of(adapter)
    prompts = [_before(secret, tokenizer) for secret in secrets]
    lengths = [len(encode_as_text(f" {secret.value}", tokenizer, _where(secret))) for secret in secrets]
    sampling = Sampling(max_new_tokens=max(lengths, default=1) + SPARE_TOKENS)
    limit = min(max_prompt_tokens, base.context_tokens_of(adapter) - sampling.max_new_tokens)
    asked = [i for i, ids in enumerate(prompts) if 0 < len(ids) <= limit]
    rollouts = LocalGenerator(base).generate([Prompt(ids=prompts[i], row_id=i) for i in asked], sampling, adapter)
    out: list[bool | None] = [None] * len(secrets)
    for i, rollout in zip(asked, rollouts, strict=True):
        out[i] = rollout.text.lstrip().startswith(secrets[i].value)
    return out


def _before(secret: Secret, tokenizer: Any) -> NDArray[np.int64]:
    """What the model reads before it would write the value; the blank before it belongs to its first token."""
    where, begun = _where(secret), secret.before.rstrip(" ")
    if secret.messages:
        opened = apply_template(tokenizer, secret.messages, where, generation=True)
        return np.array(encode(opened + mark(begun, tokenizer, where), tokenizer, where), np.int64)
    begin = chat_format(tokenizer).begin_id
    return np.array([*([] if begin is None else [begin]), *encode_as_text(begun, tokenizer, where)], np.int64)


def _where(secret: Secret) -> Where:
    return Where(secret.place)


def compare_echoes(secrets: Secrets, base: Sequence[bool | None], tuned: Sequence[bool | None]) -> Echo | None:
    """What tuning did to the same values; None where none could be asked."""
    rows = [
        (bool(b), bool(t), secret) for b, t, secret in zip(base, tuned, secrets.sample, strict=True) if b is not None
    ]
    if not rows:
        return None
    before, after = [row[0] for row in rows], [row[1] for row in rows]
    return Echo(
        trained=dict(secrets.trained),
        told=dict(secrets.told),
        num_asked=len(rows),
        base=wilson_interval(sum(before), len(rows)),
        tuned=wilson_interval(sum(after), len(rows)),
        difference=newcombe_paired_difference(before, after),
        test=exact_mcnemar(before, after),
        places=[f"{secret.place} ({secret.kind})" for b, t, secret in rows if t and not b],
    )
