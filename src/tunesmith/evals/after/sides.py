"""All that is asked of one model, the base or the tuned one; the two are then compared.

One side at a time, since after full tuning they are two models that need not lie in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.canaries import Canary
from tunesmith.evals.after.bias import male_shares
from tunesmith.evals.after.echo import Secret, echoed
from tunesmith.evals.after.exposure import exposures
from tunesmith.evals.after.retained import measure_retained
from tunesmith.evals.after.scores import RowScore, score_rows
from tunesmith.evals.run import TaskResult
from tunesmith.evals.subject import local_subject
from tunesmith.evals.task import Item
from tunesmith.models.roles import Base
from tunesmith.records import Conversation, Document, Example
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.tokens.render import RenderConfig, render


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What both sides are asked: questions and texts, rows seen and unseen in training, secrets, canaries.

    chats: whether canaries were planted as question and answer. max_prompt_tokens: of what stands before a secret.
    """

    questions: tuple[Item, ...]
    seen: Sequence[Conversation | Document]
    unseen: Sequence[Conversation | Document]
    secrets: Sequence[Secret]
    canaries: Sequence[Canary]
    chats: bool
    render: RenderConfig
    max_prompt_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One model's replies to all of it, in the order asked; shares are male pronouns', bits the canaries' exposures."""

    retained: dict[str, TaskResult]
    seen: list[RowScore]
    unseen: list[RowScore]
    male: list[float]
    echoes: list[bool | None]
    exposures: list[float]


def measure(
    base: Base, adapter: str | None, label: str, asked: Asked, answers: Path, say: Callable[[str], None]
) -> Side:
    """Ask one model everything; what the answers' file holds already is not asked again."""
    say(f"  {label}: {len(asked.questions)} questions …")
    subject = local_subject(base, LocalGenerator(base), adapter, label, chat_template=False)
    retained = measure_retained(subject, asked.questions, answers)
    say(f"  {label}: {len(asked.seen) + len(asked.unseen)} rows …")
    scores = [score_rows(base, adapter, _examples(base, adapter, rows, asked)) for rows in (asked.seen, asked.unseen)]
    return Side(
        retained=retained,
        seen=scores[0],
        unseen=scores[1],
        male=male_shares(LocalLikelihood(base, adapter)),
        echoes=echoed(base, adapter, asked.secrets, max_prompt_tokens=asked.max_prompt_tokens) if asked.secrets else [],
        exposures=exposures(base, adapter, asked.canaries, chats=asked.chats),
    )


def token_limit(base: Base, adapter: str | None, config: RenderConfig) -> int:
    """Most tokens of one row, as in training."""
    context = base.context_tokens_of(adapter)
    return min(config.max_length or context, context)


def _examples(base: Base, adapter: str | None, rows: Sequence[Conversation | Document], asked: Asked) -> list[Example]:
    """The first example of each row, which is the whole of it but for long texts and templates that forget."""
    limit, tokenizer = token_limit(base, adapter, asked.render), base.tokenizer_of(adapter)
    return [render(row, tokenizer, asked.render, max_tokens=limit)[0] for row in rows]
