"""Texts scored by how well a model predicts them: bits a byte, which vocabularies cannot change, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict
from tunesmith.stats import Interval

READING_METRICS = ("bits_per_byte", "nats_per_token")
# Sums over sums: a long text counts for what it is, as in one text made of all of them.
READING_RATIOS: Mapping[str, tuple[str, str]] = {
    "bits_per_byte": ("bits", "bytes"),
    "nats_per_token": ("nats", "tokens"),
}


def reading_scorer() -> Scorer:
    """Score the likelihood of an item's target as a text.

    Values: nats, tokens, bits and UTF-8 bytes of the text, whose sums a task divides (READING_RATIOS), and this text's
    own bits_per_byte = nats / ln 2 / bytes and nats_per_token. Tokens are the model's own: perplexities of two
    vocabularies cannot be compared, bits a byte can. Raises ValueError without exactly one likelihood.
    """

    def score(item: Item, reply: Reply) -> Verdict:
        if len(reply.likelihoods) != 1 or not item.target:
            raise ValueError(f"item {item.id}: {len(reply.likelihoods)} likelihoods for one text")
        nats, tokens = -reply.likelihoods[0].logprob, reply.likelihoods[0].num_tokens
        bits, size = nats / math.log(2), len(item.target.encode())
        sums = {"nats": nats, "tokens": float(tokens), "bits": bits, "bytes": float(size)}
        return Verdict(values={**sums, "bits_per_byte": bits / size, "nats_per_token": nats / tokens})

    return score


def perplexity(nats_per_token: Interval) -> Interval:
    """Perplexity a token with its interval: exp of the mean nats and of the interval's ends."""
    return Interval(math.exp(nats_per_token.value), math.exp(nats_per_token.low), math.exp(nats_per_token.high))


def passages(text: str, num_characters: int = 1000) -> list[str]:
    """A text in passages of whole lines that begin a new one once they hold ``num_characters``; joined they are it."""
    out, held, size = [], list[str](), 0
    for line in text.splitlines(keepends=True):
        held.append(line)
        size += len(line)
        if size >= num_characters:
            out.append("".join(held))
            held, size = [], 0
    rest = "".join(held)
    if rest.strip() or not out:
        return [*out, rest]
    return [*out[:-1], out[-1] + rest]
