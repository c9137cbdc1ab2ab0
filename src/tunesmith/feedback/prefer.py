"""A feedback store -> weighted preference pairs with their provenance, and every contradiction found on the way.

Votes on one pair are added up; where they contradict each other the majority's surplus is the weight, and an exact
tie gives no pair. Rings (A > B > C > A) are reported, and kept unless the config says otherwise: a pairwise loss
weighs them, and which pair is wrong nobody can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tunesmith.data.pairs import LeftOut
from tunesmith.feedback.judgements import Answer, Edited, Judgement, Kind, Origin, candidate_id_of
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.votes import Single, Vote, VoteConfig, votes_of
from tunesmith.records import Message, Pair, PreferenceGroup, Where

# Sums of a few weights differ by rounding only below this share of them.
_SAME = 1e-9


class PreferConfig(VoteConfig):
    """How judgements become pairs."""

    cycles: Literal["keep", "drop"] = "keep"
    """What becomes of the pairs of a ring A > B > C > A: kept with their weights, or all dropped and counted."""
    both_ways: bool = False
    """Write a pair in both directions, each with all the weight that speaks for it (of a tie half): the target of a
    pairwise loss is then the votes' share (of one soft label its p). False: in one, with the surplus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferredPair:
    """Two answers by id, the better first; weight: votes for less votes against; margin: the mean of those for.

    Where pairs go both ways, weight is all that speaks for the better, and weight_back for the worse.
    """

    better: str
    worse: str
    weight: float
    margin: float
    weight_for: float
    weight_against: float
    kinds: tuple[Kind, ...]
    annotators: tuple[str, ...]
    judgements: tuple[str, ...]
    sources: tuple[Origin, ...] = ()
    weight_back: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two answers of which either was called the better one; dropped: the votes are even, so that no pair is left.

    people_against_ai: all votes of one side come from models, and none of the other's.
    """

    prompt_id: str
    better: str
    worse: str
    weight_for: float
    weight_against: float
    annotators_for: tuple[str, ...]
    annotators_against: tuple[str, ...]
    judgements: tuple[str, ...]
    dropped: bool
    people_against_ai: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A shortest ring among answers: each is better than the next, and the last better than the first."""

    prompt_id: str
    answers: tuple[str, ...]
    annotators: tuple[str, ...]
    judgements: tuple[str, ...]
    pairs_dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPreferences:
    """A prompt with the answers that pairs or votes speak of, by id."""

    prompt_id: str
    prompt: tuple[Message, ...]
    answers: Mapping[str, Answer]
    sources: Mapping[str, str]
    """Answer -> what wrote it: a model, with its adapter; ``edit`` for what people wrote."""
    pairs: tuple[PreferredPair, ...]
    votes: tuple[Vote, ...]
    singles: tuple[Single, ...]

    def directed(self) -> Iterator[tuple[str, str, PreferredPair, float, float]]:
        """(better, worse, pair, weight, margin) for each pair, and once more the other way where it goes both."""
        for pair in self.pairs:
            yield pair.better, pair.worse, pair, pair.weight, pair.margin
            if pair.weight_back:
                yield pair.worse, pair.better, pair, pair.weight_back, 0.0

    def group(self, row_id: int, where: Where) -> PreferenceGroup:
        """The record that training reads; answers in the order of ``answers``."""
        index = {answer: i for i, answer in enumerate(self.answers)}
        pairs = [
            Pair(better=index[better], worse=index[worse], weight=weight, margin=margin)
            for better, worse, _, weight, margin in self.directed()
        ]
        answers = tuple(self.answers.values())
        return PreferenceGroup(prompt=self.prompt, answers=answers, pairs=tuple(pairs), row_id=row_id, where=where)


@dataclass(slots=True, kw_only=True)
class Preferences:
    """All prompts that were judged, and what was found; ``judgements`` and ``votes`` by kind."""

    store: str
    prompts: list[PromptPreferences] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    cycles: list[Cycle] = field(default_factory=list)
    judgements: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    """Judgements that stand, by source."""
    votes: dict[str, int] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=dict)
    withdrawn: int = 0

    @property
    def num_pairs(self) -> int:
        return sum(len(prompt.pairs) for prompt in self.prompts)

    @property
    def singles(self) -> list[tuple[PromptPreferences, Single]]:
        """Thumbs and flags that no other answer stands against: for methods that take single answers."""
        return [(prompt, single) for prompt in self.prompts for single in prompt.singles]

    def groups(self) -> list[PreferenceGroup]:
        """One record a prompt that has a pair, in the store's order."""
        return [
            prompt.group(i, Where(self.store, None, prompt.prompt_id))
            for i, prompt in enumerate(prompt for prompt in self.prompts if prompt.pairs)
        ]

    def summary(self) -> dict[str, Any]:
        """The numbers, for --json."""
        return {
            "judgements": self.judgements, "judgements_by_source": self.sources, "withdrawn": self.withdrawn,
            "votes": self.votes, "pairs": self.num_pairs,
            "prompts_with_pairs": sum(bool(prompt.pairs) for prompt in self.prompts), "singles": len(self.singles),
            "conflicts": len(self.conflicts), "conflicts_dropped": sum(c.dropped for c in self.conflicts),
            "conflicts_people_against_ai": sum(c.people_against_ai for c in self.conflicts),
            "cycles": len(self.cycles), "left_out": self.left_out,
        }  # fmt: skip


def prefer(store: FeedbackStore, config: PreferConfig) -> Preferences:
    """Apply the rules to every judgement that stands; memory holds the judgements, and the texts of judged prompts."""
    out = Preferences(store=str(store.path), withdrawn=store.counts().withdrawn)
    of_prompt: dict[str, list[Judgement]] = {}
    for judgement in store.judgements():
        of_prompt.setdefault(judgement.prompt_id, []).append(judgement)
        out.judgements[judgement.kind] = out.judgements.get(judgement.kind, 0) + 1
        out.sources[judgement.source] = out.sources.get(judgement.source, 0) + 1
    for prompt in store.prompts():
        if prompt.id in of_prompt:
            out.prompts.append(_prompt(store, prompt.id, prompt.messages, of_prompt[prompt.id], config, out))
    return out


def _prompt(
    store: FeedbackStore,
    prompt_id: str,
    messages: tuple[Message, ...],
    judgements: Sequence[Judgement],
    config: PreferConfig,
    out: Preferences,
) -> PromptPreferences:
    candidates = {candidate.id: candidate for candidate in store.candidates(prompt_id)}
    answers = {key: candidate.answer for key, candidate in candidates.items()}
    sources = {
        key: " + ".join(filter(None, (candidate.model, (candidate.adapter_digest or "")[:8])))
        for key, candidate in candidates.items()
    }
    for judgement in judgements:
        if isinstance(judgement.value, Edited):
            corrected = candidate_id_of(prompt_id, judgement.value.corrected)
            sources.setdefault(corrected, "edit")
            answers.setdefault(corrected, judgement.value.corrected)
    found = votes_of(judgements, list(candidates), config)
    for cause, number in found.left_out.items():
        _count(out.left_out, cause, number)
    for vote in found.votes:
        if not vote.is_tie:
            out.votes[vote.kind] = out.votes.get(vote.kind, 0) + 1
    pairs, conflicts = aggregate(found.votes, prompt_id, both_ways=config.both_ways)
    pairs, cycles = without_cycles(pairs, prompt_id, config.cycles)
    out.conflicts += conflicts
    out.cycles += cycles
    _count(out.left_out, "pair whose votes are even", sum(conflict.dropped for conflict in conflicts))
    _count(out.left_out, "pair of a ring", sum(cycle.pairs_dropped for cycle in cycles))
    spoken = {key for vote in found.votes for key in (vote.better, vote.worse)} | {s.answer for s in found.singles}
    return PromptPreferences(
        prompt_id=prompt_id, prompt=messages, answers={key: answers[key] for key in answers if key in spoken},
        sources=sources, pairs=tuple(pairs), votes=tuple(found.votes), singles=tuple(found.singles),
    )  # fmt: skip


def aggregate(
    votes: Iterable[Vote], prompt_id: str, *, both_ways: bool = False
) -> tuple[list[PreferredPair], list[Conflict]]:
    """One pair for each two answers that votes favour one of, in the order of their first votes; and the conflicts.

    both_ways: a tie then speaks for either answer with half its weight, as a soft label of 1/2 does.
    """
    of_pair: dict[tuple[str, str], list[Vote]] = {}
    ties: dict[frozenset[str], list[Vote]] = {}
    for vote in votes:
        if vote.is_tie and both_ways:
            ties.setdefault(frozenset((vote.better, vote.worse)), []).append(vote)
        elif not vote.is_tie and vote.weight > 0:
            backwards = (vote.worse, vote.better)
            of_pair.setdefault(backwards if backwards in of_pair else (vote.better, vote.worse), []).append(vote)
    pairs, conflicts = [], []
    for (a, b), cast in of_pair.items():
        sides = [[vote for vote in cast if vote.better == one] for one in (a, b)]
        sums = [sum(vote.weight for vote in side) for side in sides]
        if sums[1] > sums[0]:
            (a, b), sides, sums = (b, a), sides[::-1], sums[::-1]
        even = sums[0] - sums[1] <= _SAME * sums[0]
        if sides[1]:
            conflicts.append(
                Conflict(
                    prompt_id=prompt_id, better=a, worse=b, weight_for=sums[0], weight_against=sums[1],
                    annotators_for=_all(vote.annotators for vote in sides[0]),
                    annotators_against=_all(vote.annotators for vote in sides[1]),
                    judgements=_all(vote.judgements for vote in cast), dropped=even,
                    people_against_ai=_people_against_ai(*sides),
                )
            )  # fmt: skip
        if not even:
            # What a soft label gives both answers alike takes no side, and counts only where both sides are written.
            tied = ties.get(frozenset((a, b)), [])
            alike = sum(vote.both_ways for vote in cast) + sum(vote.weight for vote in tied) / 2
            cast = [*cast, *tied]
            pairs.append(
                PreferredPair(
                    better=a, worse=b, weight=sums[0] + alike if both_ways else sums[0] - sums[1],
                    weight_back=sums[1] + alike if both_ways else 0.0, weight_for=sums[0], weight_against=sums[1],
                    margin=sum(vote.weight * vote.margin for vote in sides[0]) / sums[0],
                    kinds=tuple(dict.fromkeys(vote.kind for vote in cast)),
                    annotators=_all(vote.annotators for vote in cast),
                    judgements=_all(vote.judgements for vote in cast),
                    sources=_all(vote.sources for vote in cast),
                )
            )  # fmt: skip
    return pairs, conflicts


def _people_against_ai(one: Sequence[Vote], other: Sequence[Vote]) -> bool:
    """Whether one side's votes are models' alone, and the other's people's alone; imported ones count as people's."""
    sides = [{source == "ai" for vote in side for source in vote.sources} for side in (one, other)]
    return sides in ([{True}, {False}], [{False}, {True}])


def without_cycles(
    pairs: list[PreferredPair], prompt_id: str, policy: Literal["keep", "drop"]
) -> tuple[list[PreferredPair], list[Cycle]]:
    """The pairs that stay, and a shortest ring of each strongly connected set of answers."""
    below: dict[str, list[str]] = {}
    for pair in pairs:
        below.setdefault(pair.better, []).append(pair.worse)
    reach = {answer: _distances(answer, below) for answer in below}
    cycles, seen, ringed = [], set[str](), set[tuple[str, str]]()
    for answer in below:
        if answer in seen or answer not in reach[answer]:
            continue
        component = [other for other in reach[answer] if answer in reach.get(other, {})]
        seen.update(component)
        inside = [pair for pair in pairs if pair.better in component and pair.worse in component]
        ringed.update((pair.better, pair.worse) for pair in inside)
        ring = min((_ring(pair, reach, below) for pair in inside), key=len)
        on_ring = set(zip(ring, [*ring[1:], ring[0]], strict=True))
        told = [pair for pair in inside if (pair.better, pair.worse) in on_ring]
        cycles.append(
            Cycle(
                prompt_id=prompt_id, answers=tuple(ring), annotators=_all(pair.annotators for pair in told),
                judgements=_all(pair.judgements for pair in told),
                pairs_dropped=len(inside) if policy == "drop" else 0,
            )
        )  # fmt: skip
    if policy == "drop":
        pairs = [pair for pair in pairs if (pair.better, pair.worse) not in ringed]
    return pairs, cycles


def _distances(start: str, below: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Answer -> steps down to it, for all below ``start``; itself only where it stands in a ring."""
    out: dict[str, int] = {}
    edge, steps = list(below.get(start, ())), 1
    while edge:
        fresh = [answer for answer in dict.fromkeys(edge) if answer not in out]
        out.update(dict.fromkeys(fresh, steps))
        edge, steps = [lower for answer in fresh for lower in below.get(answer, ())], steps + 1
    return out


def _ring(pair: PreferredPair, reach: Mapping[str, Mapping[str, int]], below: Mapping[str, Sequence[str]]) -> list[str]:
    """A shortest way from the pair's better answer over its worse one back to the better."""
    ring = [pair.better, pair.worse]
    while pair.better not in below[ring[-1]]:
        ring.append(
            min((a for a in below[ring[-1]] if pair.better in reach.get(a, {})), key=lambda a: reach[a][pair.better])
        )
    return ring


_Name = TypeVar("_Name", bound=str)


def _all(names: Iterable[Sequence[_Name]]) -> tuple[_Name, ...]:
    """All names once, in their order."""
    return tuple(dict.fromkeys(name for several in names for name in several))


def _count(left_out: LeftOut, cause: str, number: int) -> None:
    if number:
        left_out[cause] = left_out.get(cause, 0) + number
