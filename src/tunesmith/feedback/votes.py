"""What the judgements of one prompt say of its answers, two by two: votes for the better one, and ties.

The rules are docs/feedback.md's table. Ratings are compared within one annotator only, whose scale is their own; thumbs
and flags of several annotators on one answer are added up first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.pairs import LeftOut
from tunesmith.feedback.judgements import (
    Compared,
    Edited,
    Flagged,
    Judgement,
    Kind,
    Origin,
    Ranked,
    Rated,
    Thumbed,
    candidate_id_of,
)


class VoteConfig(Config):
    """How much a judgement of each kind counts; a weight of 0 leaves the kind out."""

    comparison_weight: float = Field(1.0, ge=0)
    """Two answers seen side by side."""
    ranking_weight: float = Field(1.0, ge=0)
    """Each of the pairs that a ranking implies."""
    edit_weight: float = Field(1.0, ge=0)
    """The corrected answer over the original."""
    rating_weight: float = Field(0.5, ge=0)
    """Two answers graded by one annotator; less than a comparison, since they were not seen side by side."""
    thumb_weight: float = Field(0.5, ge=0)
    """An answer with a thumb up over one with a thumb down."""
    flag_weight: float = Field(0.5, ge=0)
    """An answer that nobody flagged over a flagged one."""
    min_gap: float = Field(1.0, gt=0, le=4)
    """Two ratings closer than this say nothing."""
    rating_margin: float = Field(0.25, ge=0)
    """Margin of a pair of rated answers, for each grade they are apart: 0.25 asks for 1 between grades 1 and 5."""
    source_weights: dict[Origin, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Source (human, ai, import) -> what its judgements' weights are multiplied by, 1 where none is given; 0 leaves
    it out."""

    def weight(self, kind: Kind) -> float:
        """The weight of a kind."""
        return {
            "comparison": self.comparison_weight, "ranking": self.ranking_weight, "edit": self.edit_weight,
            "rating": self.rating_weight, "thumb": self.thumb_weight, "flag": self.flag_weight,
        }[kind]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vote:
    """Somebody's word that one answer is better than another; a tie where ``is_tie``. Answers by their id."""

    better: str
    worse: str
    weight: float
    margin: float
    kind: Kind
    judgements: tuple[str, ...]
    annotators: tuple[str, ...]
    is_tie: bool = False
    sources: tuple[Origin, ...] = ()
    both_ways: float = 0.0
    """Weight that a soft label gives either answer alike: of p, all of 1 - |2p - 1| in halves."""


@dataclass(frozen=True, slots=True)
class Single:
    """A thumb or flag, added up over annotators, that no other answer to its prompt stands against."""

    answer: str
    good: bool
    weight: float
    kind: Kind
    judgements: tuple[str, ...]
    annotators: tuple[str, ...]


@dataclass(slots=True)
class Votes:
    """All that was said of one prompt's answers, in the order it was said; ``left_out``: cause -> number."""

    votes: list[Vote] = field(default_factory=list)
    singles: list[Single] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=dict)

    def count(self, cause: str, number: int = 1) -> None:
        """Note what gave no vote."""
        if number:
            self.left_out[cause] = self.left_out.get(cause, 0) + number


def votes_of(judgements: Sequence[Judgement], candidates: Sequence[str], config: VoteConfig) -> Votes:
    """The votes that judgements of one prompt hold; ``candidates`` are the ids of all its answers in the store.

    A hidden repeat measures its annotator and is no second vote, unless the first was withdrawn.
    """
    out = Votes()
    counted, stand = [], {judgement.id for judgement in judgements}
    for judgement in judgements:
        if judgement.asked_again_of in stand:
            out.count("hidden repeat")
        elif config.weight(judgement.kind) == 0:
            out.count(f"{judgement.kind} of weight 0")
        elif (share := config.source_weights.get(judgement.source, 1.0)) == 0:
            out.count(f"judgement of source {judgement.source}, of weight 0")
        else:
            counted.append(judgement if share == 1 else replace(judgement, weight=judgement.weight * share))
    for judgement in counted:
        weight = config.weight(judgement.kind) * judgement.weight
        if isinstance(judgement.value, Compared):
            _comparison(judgement, judgement.value, weight, out)
        elif isinstance(judgement.value, Ranked):
            _ranking(judgement, judgement.value, weight, out)
        elif isinstance(judgement.value, Edited):
            corrected = candidate_id_of(judgement.prompt_id, judgement.value.corrected)
            out.votes.append(_vote(corrected, judgement.candidates[0], weight, [judgement]))
    _ratings([j for j in counted if isinstance(j.value, Rated)], config, out)
    _thumbs([j for j in counted if isinstance(j.value, Thumbed)], config, out)
    _flags([j for j in counted if isinstance(j.value, Flagged)], candidates, config, out)
    return out


def _vote(
    better: str,
    worse: str,
    weight: float,
    judgements: Sequence[Judgement],
    *,
    margin: float = 0.0,
    is_tie: bool = False,
    both_ways: float = 0.0,
) -> Vote:
    annotators = tuple(dict.fromkeys(judgement.annotator for judgement in judgements))
    ids = tuple(dict.fromkeys(judgement.id for judgement in judgements))
    sources = tuple(dict.fromkeys(judgement.source for judgement in judgements))
    return Vote(better, worse, weight, margin, judgements[0].kind, ids, annotators, is_tie, sources, both_ways)


def _comparison(judgement: Judgement, value: Compared, weight: float, out: Votes) -> None:
    """A probability p votes for the likelier answer with |2p - 1| of the weight, a soft label's net pull at a draw."""
    a, b = judgement.candidates
    if value.outcome == "both bad":
        out.count("comparison where both are bad")
    elif value.outcome == "tie" or value.p == 0.5:
        out.count("tied comparison")
        out.votes.append(_vote(a, b, weight, [judgement], is_tie=True))
    else:
        pull = 1.0 if value.p is None else abs(2 * value.p - 1)
        likes_a = value.outcome == "A" if value.p is None else value.p > 0.5
        better, worse = (a, b) if likes_a else (b, a)
        out.votes.append(_vote(better, worse, weight * pull, [judgement], both_ways=weight * (1 - pull) / 2))


def _ranking(judgement: Judgement, value: Ranked, weight: float, out: Votes) -> None:
    names = judgement.candidates
    for tier in value.tiers:
        for a, b in itertools.combinations(tier, 2):
            out.count("tied pair of a ranking")
            out.votes.append(_vote(names[a], names[b], weight, [judgement], is_tie=True))
    for upper, lower in itertools.combinations(value.tiers, 2):
        for a, b in itertools.product(upper, lower):
            out.votes.append(_vote(names[a], names[b], weight, [judgement]))


def _by(judgements: Iterable[Judgement], *, answer: bool) -> dict[str, list[Judgement]]:
    """Judgements of one answer each, by that answer or by annotator, in their order."""
    out: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        out.setdefault(judgement.candidates[0] if answer else judgement.annotator, []).append(judgement)
    return out


def _ratings(judgements: Sequence[Judgement], config: VoteConfig, out: Votes) -> None:
    """Each annotator's grades among each other; a margin grows with the gap. Grades of one answer are averaged."""
    for own in _by(judgements, answer=False).values():
        graded = _by(own, answer=True)
        if len(graded) == 1:
            out.count("rating without another by the same annotator", len(own))
        for (a, of_a), (b, of_b) in itertools.combinations(graded.items(), 2):
            gap = _grade(of_a) - _grade(of_b)
            both = [*of_a, *of_b]
            weight = config.rating_weight * sum(judgement.weight for judgement in both) / len(both)
            better, worse = (a, b) if gap > 0 else (b, a)
            if gap == 0:
                out.count("pair of equal ratings")
                out.votes.append(_vote(a, b, weight, both, is_tie=True))
            elif abs(gap) < config.min_gap:
                out.count(f"pair rated less than {config.min_gap:g} apart")
            else:
                out.votes.append(_vote(better, worse, weight, both, margin=config.rating_margin * abs(gap)))


def _grade(judgements: Sequence[Judgement]) -> float:
    grades = [judgement.value.rating for judgement in judgements if isinstance(judgement.value, Rated)]
    return sum(grades) / len(grades)


def _is_good(judgement: Judgement) -> bool:
    value = judgement.value
    assert isinstance(value, Thumbed | Flagged)
    return value.up if isinstance(value, Thumbed) else not value.flagged


def _net(judgements: Iterable[Judgement]) -> float:
    """The weight of those who found an answer good less that of those who did not."""
    return sum(judgement.weight if _is_good(judgement) else -judgement.weight for judgement in judgements)


def _divided(by_answer: Mapping[str, Sequence[Judgement]], word: str, out: Votes) -> None:
    out.count(
        f"answer on which {word} are divided (their majority counts)",
        sum(len({_is_good(judgement) for judgement in own}) == 2 for own in by_answer.values()),
    )


def _thumbs(judgements: Sequence[Judgement], config: VoteConfig, out: Votes) -> None:
    by_answer = _by(judgements, answer=True)
    _divided(by_answer, "thumbs", out)
    net = {answer: _net(own) for answer, own in by_answer.items()}
    up, down = [a for a in net if net[a] > 0], [a for a in net if net[a] < 0]
    out.count("answer whose thumbs cancel out", len(net) - len(up) - len(down))
    for better, worse in itertools.product(up, down):
        weight = config.thumb_weight * min(net[better], -net[worse])
        out.votes.append(_vote(better, worse, weight, [*by_answer[better], *by_answer[worse]]))
    if not (up and down):
        _keep_singles([*up, *down], by_answer, net, out)


def _flags(judgements: Sequence[Judgement], candidates: Sequence[str], config: VoteConfig, out: Votes) -> None:
    """A flagged answer is below every answer to the prompt that nobody flagged."""
    by_answer = _by(judgements, answer=True)
    _divided(by_answer, "flags", out)
    net = {answer: _net(own) for answer, own in by_answer.items()}
    flagged = [answer for answer in net if net[answer] < 0]
    ever = {answer for answer, own in by_answer.items() if not all(_is_good(judgement) for judgement in own)}
    others = [candidate for candidate in candidates if candidate not in ever]
    out.count("answer whose flags are outvoted", len(ever) - len(flagged))
    for better, worse in itertools.product(others, flagged):
        told = [*by_answer.get(better, ()), *by_answer[worse]]
        out.votes.append(_vote(better, worse, config.flag_weight * -net[worse], told))
    if not (flagged and others):
        _keep_singles([*flagged, *(a for a in by_answer if a not in ever)], by_answer, net, out)


def _keep_singles(
    answers: Iterable[str], by_answer: Mapping[str, Sequence[Judgement]], net: Mapping[str, float], out: Votes
) -> None:
    for answer in answers:
        own = by_answer[answer]
        annotators = tuple(dict.fromkeys(judgement.annotator for judgement in own))
        ids = tuple(judgement.id for judgement in own)
        out.singles.append(Single(answer, net[answer] > 0, abs(net[answer]), own[0].kind, ids, annotators))
