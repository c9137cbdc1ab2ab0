"""Attempts side by side: which are the same but for the model, and what is counted in one."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.redteam.attempts import Attempt


def name_of(attempt: Attempt) -> tuple[object, ...]:
    """What makes two attempts the same but for the model: goal, attack, converters, draw, and their first words.

    Later turns, and what a search comes to, depend on what was answered.
    """
    messages = attempt.tries[0].messages if attempt.tries else ()
    words = next((turn.content for turn in messages if turn.role == "user"), "")
    return attempt.goal.id, attempt.attack, attempt.converters, attempt.index, attempt.request, words


def pair_up(before: Sequence[Attempt], after: Sequence[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    """The attempts that both models were given, in the order of the first; of one made twice the last counts."""
    own, others = ({name_of(one): one for one in side} for side in (before, after))
    both = [name for name in own if name in others]
    return [own[name] for name in both], [others[name] for name in both]


def plain_asks(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those that asked as anybody would; all, where none did."""
    return [one for one in attempts if one.family == "direct" and not one.converters] or list(attempts)


def declines(attempt: Attempt) -> bool:
    """Whether every answer declined, at least in part."""
    return all(one.judgement.kind in ("refuse", "partly") for one in attempt.tries)


def is_nonsense(attempt: Attempt) -> bool:
    """Whether no answer said anything."""
    return all(one.judgement.kind == "nonsense" for one in attempt.tries)


def was_read(attempt: Attempt) -> bool:
    """Whether an answer was more than nonsense, and the judge could tell what it did."""
    return attempt.success or any(
        one.judgement.kind != "nonsense" and not one.judgement.details.get("unread") for one in attempt.tries
    )


def score_of(attempt: Attempt) -> float:
    """How far the best answer went, 0 to 1."""
    return 0.0 if attempt.best is None else attempt.best.judgement.score
