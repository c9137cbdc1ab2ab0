"""Preference groups -> token ids: each answer as its whole conversation, loss on the answer alone.

An answer is in the loss with every turn the assistant says in it and the token that ends the turn; the prompt is not.
A reward is read at the last token in the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.data.check import RowError
from tunesmith.errors import DataError
from tunesmith.records import Conversation, Example, Message, Pair, PreferenceGroup, Where
from tunesmith.tokens.render import RenderConfig, render_many


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedGroup:
    """K examples of one prompt, ready for ``share_prefix``, with pairs and ratings (K or none) by their index."""

    examples: tuple[Example, ...]
    pairs: tuple[Pair, ...]
    ratings: tuple[float | None, ...]
    row_id: int
    where: Where

    @property
    def num_tokens(self) -> int:
        """Tokens of all K whole examples, the prompt counted K times."""
        return sum(example.num_tokens for example in self.examples)


@dataclass(slots=True)
class GroupReport:
    """What rendering did: every answer is used, cut, or dropped and counted, and so are the pairs it takes along."""

    num_groups: int = 0
    num_answers: int = 0
    num_pairs: int = 0
    num_tokens: int = 0
    longest_tokens: int = 0
    answers_cut: int = 0
    tokens_cut: int = 0
    answers_dropped: int = 0
    """Answers longer than max_length, left out with over_length: drop."""
    pairs_dropped: int = 0
    """Pairs of a dropped answer."""
    pairs_equal: int = 0
    """Pairs whose two answers are the same tokens once they are cut or written by the template; left out."""
    groups_dropped: int = 0
    """Prompts of which neither a pair nor a grade is left."""

    def add(self, group: RenderedGroup) -> None:
        """Note a prompt that is kept."""
        self.num_groups += 1
        self.num_answers += len(group.examples)
        self.num_pairs += len(group.pairs)
        self.num_tokens += group.num_tokens
        self.longest_tokens = max([self.longest_tokens, *(example.num_tokens for example in group.examples)])
        self.answers_cut += sum(example.tokens_cut > 0 for example in group.examples)
        self.tokens_cut += sum(example.tokens_cut for example in group.examples)


def render_groups(
    groups: Sequence[PreferenceGroup],
    tokenizer: Any,
    config: RenderConfig,
    *,
    max_tokens: int,
    needs_pairs: bool = True,
) -> tuple[list[RenderedGroup], GroupReport]:
    """Render the answers of every group, each with at most ``max_tokens`` tokens, its prompt included.

    needs_pairs False keeps groups that have neither pair nor grade, as scoring wants them. Raises DataError for an
    answer that is too long (over_length: error), that the template refuses or rewrites, whose prompt alone fills
    ``max_tokens``, or that no one sequence can hold, and where no group is left.
    """
    report = GroupReport()
    rendered = render_many(_conversations(groups), tokenizer, config, max_tokens=max_tokens)
    out = []
    for group in groups:
        answers = [_one_sequence(next(rendered), group.where) for _ in group.answers]
        kept = _kept(group, answers, report)
        if not needs_pairs or kept.pairs or any(rating is not None for rating in kept.ratings):
            report.add(kept)
            out.append(kept)
        else:
            report.groups_dropped += 1
    if not out:
        cause = f"of {len(groups)} prompts no pair is left once answers over {max_tokens} tokens are out."
        raise DataError("max_length", cause, "Raise max_length, or set over_length: truncate.")
    return out, report


def answer_conversation(
    prompt: Sequence[Message], answer: Sequence[Message], row_id: int, where: Where
) -> Conversation:
    """Prompt and answer as one conversation of which the answer's assistant turns are trained, and nothing else."""
    before = [replace(message, train=False) if message.role == "assistant" else message for message in prompt]
    after = [replace(message, train=True) if message.role == "assistant" else message for message in answer]
    return Conversation(messages=(*before, *after), row_id=row_id, where=where)


def _conversations(groups: Sequence[PreferenceGroup]) -> Iterator[Conversation]:
    for group in groups:
        for answer in group.answers:
            yield answer_conversation(group.prompt, answer, group.row_id, group.where)


def _one_sequence(examples: list[Example], where: Where) -> Example | None:
    """The answer's example; None for one dropped for its length."""
    if len(examples) > 1:
        raise RowError(
            where,
            "the chat template rewrites the earlier turns of an answer, which no single sequence can then hold.",
            "Give answers of one turn, with the turns before it in the prompt.",
        )
    return examples[0] if examples else None


def _kept(group: PreferenceGroup, answers: list[Example | None], report: GroupReport) -> RenderedGroup:
    """What is left of a group, its answers numbered anew."""
    kept = [i for i, example in enumerate(answers) if example is not None]
    number = {old: new for new, old in enumerate(kept)}
    examples = tuple(example for example in answers if example is not None)
    pairs = [
        replace(pair, better=number[pair.better], worse=number[pair.worse])
        for pair in group.pairs
        if pair.better in number and pair.worse in number
    ]
    report.answers_dropped += len(answers) - len(kept)
    report.pairs_dropped += len(group.pairs) - len(pairs)
    different = tuple(pair for pair in pairs if not np.array_equal(examples[pair.better].ids, examples[pair.worse].ids))
    report.pairs_equal += len(pairs) - len(different)
    ratings = tuple(group.ratings[i] for i in kept) if group.ratings else ()
    return RenderedGroup(examples=examples, pairs=different, ratings=ratings, row_id=group.row_id, where=group.where)
