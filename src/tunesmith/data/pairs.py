"""Human feedback -> what trains: pairs of answers to one prompt, or conversations with the answers people approved.

What neither holds is counted by cause in ``left_out``; nothing is dropped without a count.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.records import Conversation, Edit, Feedback, Flag, Message, Preference, Ranking, Rating, Thumb, Where

Answer = tuple[Message, ...]
LeftOut = dict[str, int]


def approved(feedback: Feedback, min_rating: int, left_out: LeftOut) -> Iterator[Conversation]:
    """The conversations whose answers people approved.

    The chosen answer of a pair, the first tier of a ranking, ratings from ``min_rating`` on, thumbs up, what was looked
    at and not flagged, the corrected answer of an edit.
    """
    good, others, cause = _sides(feedback, min_rating)
    _count(left_out, cause, others)
    for answer in good:
        yield Conversation(messages=(*feedback.prompt, *answer), row_id=feedback.row_id, where=feedback.where)


def _sides(feedback: Feedback, min_rating: int) -> tuple[list[Answer], int, str]:
    """Approved answers, the number of the others, and what those are called."""
    if isinstance(feedback, Preference):
        return [feedback.chosen], 1, "rejected answer"
    if isinstance(feedback, Ranking):
        best = [feedback.candidates[name] for name in feedback.tiers[0]]
        return best, len(feedback.candidates) - len(best), "answer ranked below the first"
    if isinstance(feedback, Edit):
        return [feedback.corrected], 1, "answer as it was before its correction"
    if isinstance(feedback, Rating):
        is_good, cause = feedback.rating >= min_rating, f"answer rated below {min_rating}"
    elif isinstance(feedback, Thumb):
        is_good, cause = feedback.up, "answer with a thumb down"
    else:
        is_good, cause = not feedback.flagged, "flagged answer"
    return ([feedback.completion], 0, cause) if is_good else ([], 1, cause)


def pairs_within(feedback: Preference | Ranking | Edit, left_out: LeftOut) -> Iterator[Preference]:
    """The pairs that one record holds: all of a ranking's but the ties, and corrected over original for an edit."""
    if isinstance(feedback, Preference):
        yield feedback
        return
    if isinstance(feedback, Edit):
        yield _pair(feedback.prompt, feedback.corrected, feedback.original, feedback.row_id, feedback.where)
        return
    tiers = [[feedback.candidates[name] for name in tier] for tier in feedback.tiers]
    _count(left_out, "pair of tied answers", sum(len(tier) * (len(tier) - 1) // 2 for tier in tiers))
    for better, worse in itertools.combinations(tiers, 2):
        for chosen, rejected in itertools.product(better, worse):
            if _said(chosen) == _said(rejected):
                _count(left_out, "pair of answers that say the same", 1)
            else:
                yield _pair(feedback.prompt, chosen, rejected, feedback.row_id, feedback.where)


def pairs_between(group: Sequence[Rating | Thumb | Flag], min_gap: int, left_out: LeftOut) -> Iterator[Preference]:
    """The pairs among single answers to one prompt, in the file's order.

    A rating is above another by ``min_gap`` or more; a thumb up is above a thumb down, and what was looked at and not
    flagged above what was flagged.
    """
    if len(group) < 2:
        _count(left_out, "answer without another one to its prompt", len(group))
        return
    for a, b in itertools.combinations(group, 2):
        gap = _score(a) - _score(b)
        if gap == 0:
            _count(left_out, "pair of tied answers", 1)
        elif isinstance(a, Rating) and abs(gap) < min_gap:
            _count(left_out, f"pair rated less than {min_gap} apart", 1)
        elif _said(a.completion) == _said(b.completion):
            _count(left_out, "pair of answers that say the same", 1)
        else:
            better, worse = (a, b) if gap > 0 else (b, a)
            yield _pair(a.prompt, better.completion, worse.completion, better.row_id, better.where)


def _score(answer: Rating | Thumb | Flag) -> int:
    if isinstance(answer, Rating):
        return answer.rating
    return int(answer.up) if isinstance(answer, Thumb) else int(not answer.flagged)


def _pair(prompt: Answer, chosen: Answer, rejected: Answer, row_id: int, where: Where) -> Preference:
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, row_id=row_id, where=where)


def _said(answer: Answer) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in answer]


def _count(left_out: LeftOut, cause: str, number: int) -> None:
    if number:
        left_out[cause] = left_out.get(cause, 0) + number


def prompt_key(prompt: Answer) -> bytes:
    """16 bytes that are the same for equal prompts, and in practice for no others."""
    return hashlib.blake2b(repr(_said(prompt)).encode(), digest_size=16).digest()


def groups_of(keys: bytes, row_ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows of equal keys together, groups and rows in the file's order; ``keys`` holds 16 bytes for each row (N,)."""
    if not len(row_ids):
        return
    table = np.frombuffer(keys, dtype=np.uint64).reshape(-1, 2)
    # Stable, so that rows of one group stay in order.
    order = np.lexsort((table[:, 1], table[:, 0]))
    cuts = np.flatnonzero((np.diff(table[order], axis=0) != 0).any(axis=1)) + 1
    begins = np.concatenate(([0], cuts))
    ends = np.concatenate((cuts, [len(order)]))
    for i in np.argsort(order[begins], kind="stable"):
        yield row_ids[order[begins[i] : ends[i]]]
