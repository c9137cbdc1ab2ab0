"""How likely a model finds given words: the question behind choices, perplexity and a judge that cannot be misread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunesmith.errors import DataError
from tunesmith.models.adapters import adapter_digest
from tunesmith.models.forward import scored_targets
from tunesmith.models.roles import Base
from tunesmith.records import Example, Likelihood, Message, Where
from tunesmith.tokens.continuation import continuation_examples, text_examples
from tunesmith.tokens.forest import forest_of, num_forest_tokens
from tunesmith.tokens.pack import micro_batches, pack

# A context and its continuations; without messages each continuation is a text of its own.
Asked = tuple[Sequence[Message], Sequence[str]]


class LikelihoodModel(Protocol):
    """Anything that tells the log-likelihood of words it did not choose."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What the numbers depend on besides the words."""
        ...

    def score(self, asked: Sequence[Asked]) -> list[tuple[Likelihood, ...]]:
        """One Likelihood a continuation, in order. Raises DataError for what cannot be asked."""
        ...


@dataclass(slots=True)
class LocalLikelihood:
    """Log-likelihoods on our own base, whose adapter may be switched between calls.

    A context is computed once for all its continuations. A number does not depend on what is asked beside it: to
    1e-5 in fp32, bit for bit on the reference path. micro_batch_tokens: tokens in one pack, for memory alone.
    """

    base: Base
    adapter: str | None = None
    chat_template: bool = True
    micro_batch_tokens: int = 2048
    model_digest: str | None = None
    """Of weights that are no longer those on the disk, as after full tuning."""
    num_tokens: int = 0
    """Tokens worked through since it was made."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Digests of base, tokenizer, template and adapter, and the number format it computes in."""
        resolved = self.base.resolved
        return {
            "model": resolved.name,
            "model_digest": self.model_digest or self.base.digest,
            "tokenizer_digest": resolved.tokenizer_digest,
            "template_digest": resolved.template_digest if self.chat_template else "none",
            "adapter_digest": adapter_digest(self.base, self.adapter),
            "dtype": str(self.base.dtype).removeprefix("torch."),
        }

    def score(self, asked: Sequence[Asked]) -> list[tuple[Likelihood, ...]]:
        """One Likelihood a continuation, in order. Raises DataError for what is empty or beyond the context."""
        groups, place = self._groups(asked)
        sums: list[list[list[float]]] = [[[0.0, 0, 1] for _ in continuations] for _, continuations in asked]
        flat = [one for group in self.score_examples(groups) for one in group]
        for (number, i), one in zip(place, flat, strict=True):
            total = sums[number][i]
            total[0] += one.logprob
            total[1] += one.num_tokens
            total[2] *= one.greedy
        return [
            tuple(Likelihood(logprob=own[0], num_tokens=int(own[1]), greedy=bool(own[2])) for own in row)
            for row in sums
        ]

    def num_tokens_of(self, asked: Sequence[Asked]) -> int:
        """Tokens that scoring these would work through; nothing is computed. Raises DataError as ``score`` does."""
        return sum(num_forest_tokens(group) for group in self._groups(asked)[0])

    def _groups(self, asked: Sequence[Asked]) -> tuple[list[list[Example]], list[list[int]]]:
        """Examples that share a context, and for each in order the request and the continuation it belongs to."""
        tokenizer = self.base.tokenizer_of(self.adapter)
        groups: list[list[Example]] = []
        place: list[list[int]] = []
        for number, (messages, continuations) in enumerate(asked):
            where = Where("request", number + 1)
            if messages:
                groups.append(
                    continuation_examples(
                        messages, continuations, tokenizer, chat_template=self.chat_template, where=where
                    )
                )
                place += [[number, i] for i in range(len(continuations))]
                continue
            for i, text in enumerate(continuations):
                chunks = text_examples(
                    text, tokenizer, max_tokens=self.base.context_tokens_of(self.adapter), where=where
                )
                if not chunks:
                    raise DataError(where, "the text has no token.", "Leave it out.")
                groups += [[chunk] for chunk in chunks]
                place += [[number, i]] * len(chunks)
        return groups, place

    def score_examples(self, groups: Sequence[Sequence[Example]]) -> list[tuple[Likelihood, ...]]:
        """The same for examples that are tokenised already: groups that share a context, one Likelihood an example."""
        limit = self.base.context_tokens_of(self.adapter)
        for example in (example for group in groups for example in group):
            longest = max(len(example.ids), 0 if example.source_ids is None else len(example.source_ids))
            if longest > limit:
                cause = f"context and continuation have {longest} tokens, the model reads {limit}."
                raise DataError(example.where, cause, "Shorten it, or take fewer shots.")
        if self.base.is_encoder_decoder:
            return self._score_each(groups)
        sizes = [num_forest_tokens(group) for group in groups]
        out: list[tuple[Likelihood, ...]] = [()] * len(groups)
        for batch in micro_batches(sizes, self.micro_batch_tokens):
            segments, parents, tails = forest_of([groups[i] for i in batch])
            packed = pack(segments, self.adapter, parents)
            self.num_tokens += packed.num_tokens
            values = iter(scored_targets(self.base, packed))
            by_segment = {s: next(values) for s, segment in enumerate(segments) if segment.num_loss_tokens}
            for i, own in zip(batch, tails, strict=True):
                out[i] = tuple(_likelihood(*by_segment[s]) for s in own)
        return out

    def _score_each(self, groups: Sequence[Sequence[Example]]) -> list[tuple[Likelihood, ...]]:
        flat = [example for group in groups for example in group]
        done: list[Likelihood | None] = [None] * len(flat)
        for batch in micro_batches([example.num_tokens for example in flat], self.micro_batch_tokens):
            packed = pack([flat[i] for i in batch], self.adapter)
            self.num_tokens += sum(flat[i].num_tokens for i in batch)
            for i, values in zip(batch, scored_targets(self.base, packed), strict=True):
                done[i] = _likelihood(*values)
        rest = iter(one for one in done if one is not None)
        return [tuple(next(rest) for _ in group) for group in groups]


def _likelihood(logprobs: Sequence[float], greedy: Sequence[bool]) -> Likelihood:
    return Likelihood(logprob=sum(logprobs), num_tokens=len(logprobs), greedy=all(greedy))
