"""Exposure of planted canaries: among all secrets a canary could have had, how likely does the model find the true one?

Source: Carlini et al. 2019, arXiv:1802.08232, definition 5: log2 of the number of candidates minus log2 of the rank.
Every candidate is scored, none sampled: they share words, so their log-likelihoods are read off a tree of them.
Shape letters: N nodes of the tree, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.data.canaries import Canary, all_secrets
from tunesmith.kernels.head_loss import CHUNK_ROWS, logits_of
from tunesmith.models.forward import hidden_states
from tunesmith.models.roles import Base
from tunesmith.models.token_rows import head_for
from tunesmith.records import Example, Message, Where
from tunesmith.stats import Interval, bootstrap_mean, bootstrap_paired_difference
from tunesmith.tokens.pack import ROOT, pack
from tunesmith.tokens.template import apply_template, chat_format, encode_many, mark

Tail = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Bits, from 0 (last of all candidates) to log2(num_candidates); a canary never seen has 1.44 on average.

    each: (locker, copies planted, base, tuned). p: of the tuned model's ranks if it knew nothing, exact but for ties:
    the secrets were drawn evenly, so every rank is as likely, and the sum of ln(candidates / rank) is at most
    gamma-distributed.
    """

    num_candidates: int
    base: Interval
    tuned: Interval
    difference: Interval
    p: float
    each: list[tuple[int, int, float, float]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; intervals as value, low and high."""
        return asdict(self)


def exposures(base: Base, adapter: str | None, canaries: Sequence[Canary], *, chats: bool) -> list[float]:
    """Bits of exposure of each canary; chats: whether it was planted as question and answer or as plain text.

    Ties count against the secret. Raises DataError where a template refuses the question.
    """
    secrets, out = all_secrets(), []
    for canary in canaries:
        candidates = _candidates(base.tokenizer_of(adapter), canary, secrets, chats=chats)
        logprobs = candidate_logprobs(base, adapter, candidates)
        own = logprobs[secrets.index(canary.secret)]
        out.append(math.log2(len(secrets)) - math.log2(int((logprobs >= own).sum())))
    return out


def compare_exposures(canaries: Sequence[Canary], base: Sequence[float], tuned: Sequence[float], seed: int) -> Exposure:
    """What tuning did to the exposure of the same canaries. Raises ValueError without any."""
    from scipy.special import gammaincc

    return Exposure(
        num_candidates=len(all_secrets()),
        base=bootstrap_mean(base, seed),
        tuned=bootstrap_mean(tuned, seed),
        difference=bootstrap_paired_difference(base, tuned, seed),
        p=float(gammaincc(len(tuned), math.log(2) * sum(tuned))),
        each=[(c.locker, c.copies, b, t) for c, b, t in zip(canaries, base, tuned, strict=True)],
    )


def _candidates(tokenizer: Any, canary: Canary, secrets: Sequence[str], *, chats: bool) -> list[list[int]]:
    """Token ids of every candidate as training would have rendered it, up to the end of the secret."""
    where = Where("canaries", canary.locker)
    if chats:
        question = (Message(role="user", content=canary.question),)
        before = apply_template(tokenizer, question, where, generation=True)
    else:
        before = f"{mark(canary.opening, tokenizer, where)} "
    ids = encode_many([before + secret for secret in secrets], tokenizer, [where] * len(secrets))
    begin = chat_format(tokenizer).begin_id
    return [row if chats or begin is None else [begin, *row] for row in ids]


@torch.no_grad()
def candidate_logprobs(
    base: Base, adapter: str | None, candidates: Sequence[Sequence[int]], *, micro_batch_tokens: int = 1024
) -> NDArray[np.float64]:
    """Log-probability (nats) of each candidate's tokens behind those that all of them share, at least one.

    Each place in the tree of candidates is read once. Raises ValueError where they share no beginning.
    """
    # What the first and the last in order begin with, all between them do.
    ends = [min(map(tuple, candidates)), max(map(tuple, candidates))]
    shared = next((i for i, (a, b) in enumerate(zip(*ends, strict=False)) if a != b), min(map(len, ends)))
    if not shared:
        raise ValueError("the candidates share no beginning")
    tails = [tuple(ids[shared:]) for ids in candidates]
    # What may come next behind each beginning; beginnings that none of the others goes on are read, with all in them.
    nexts: dict[Tail, set[int]] = {}
    for tail in tails:
        for at in range(len(tail)):
            nexts.setdefault(tail[:at], set()).add(tail[at])
    leaves = [node for node in nexts if node and not any((*node, token) in nexts for token in nexts[node])]
    step: dict[tuple[Tail, int], float] = {}
    root = list(candidates[0][:shared])
    size = max(1, micro_batch_tokens // max(map(len, leaves), default=1))
    for first in range(0, max(1, len(leaves)), size):
        _read(base, adapter, root, leaves[first : first + size], nexts, step)
    return np.array([sum(step[tail[:at], tail[at]] for at in range(len(tail))) for tail in tails])


def _read(
    base: Base,
    adapter: str | None,
    root: Sequence[int],
    leaves: Sequence[Tail],
    nexts: dict[Tail, set[int]],
    step: dict[tuple[Tail, int], float],
) -> None:
    """Note in ``step`` the log-probability of each token that may follow the root and the beginnings of the leaves."""
    packed = pack([_silent(ids) for ids in (root, *leaves)], adapter, [ROOT, *([0] * len(leaves))])
    hidden_TD = hidden_states(base, packed)
    nodes: dict[Tail, int] = {(): packed.length_S[0] - 1}
    for leaf, start in zip(leaves, packed.start_S[1:], strict=True):
        for at in range(1, len(leaf) + 1):
            nodes.setdefault(leaf[:at], start + at - 1)
    todo = [(node, at) for node, at in nodes.items() if node in nexts]
    head, _, _ = head_for(base.token_rows, base.head, packed.adapter_S, "none")
    for first in range(0, len(todo), CHUNK_ROWS):
        part = todo[first : first + CHUNK_ROWS]
        logits_NV = logits_of(hidden_TD[[at for _, at in part]], head)
        total_N = torch.logsumexp(logits_NV, dim=-1)
        for row, (node, _) in enumerate(part):
            tokens = sorted(nexts[node])
            values = (logits_NV[row, tokens] - total_N[row]).double().tolist()
            step.update({(node, token): value for token, value in zip(tokens, values, strict=True)})


def _silent(ids: Sequence[int]) -> Example:
    return Example(
        ids=np.array(ids, np.int64), loss_weight=np.zeros(len(ids), np.float32), row_id=0, where=Where("canary")
    )
