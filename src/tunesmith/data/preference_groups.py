"""Records of human feedback -> one group a prompt: its different answers, weighted pairs, grades.

Two answers are the same where their turns say the same. Pairs that several rows state alike are one, with the sum of
their weights; pairs that contradict each other are both kept, and counted: which is right is not for a loader to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tunesmith.data.pairs import LeftOut, prompt_key
from tunesmith.records import (
    Edit,
    Feedback,
    Flag,
    Message,
    Pair,
    Preference,
    PreferenceGroup,
    Ranking,
    Rating,
    Thumb,
    Where,
)

Answer = tuple[Message, ...]


@dataclass(slots=True)
class _Prompt:
    """One prompt while its rows are read; weight_of: (better, worse, margin) -> summed weight."""

    prompt: Answer
    row_id: int
    where: Where
    answers: list[Answer] = field(default_factory=list)
    index_of: dict[bytes, int] = field(default_factory=dict)
    weight_of: dict[tuple[int, int, float], float] = field(default_factory=dict)
    grades_of: dict[int, list[float]] = field(default_factory=dict)

    def index(self, answer: Answer) -> int:
        """The answer's number in the group, a new one for an answer not seen yet."""
        key = prompt_key(answer)
        if key not in self.index_of:
            self.index_of[key] = len(self.answers)
            self.answers.append(answer)
        return self.index_of[key]

    def prefer(self, better: int, worse: int, weight: float, margin: float) -> None:
        key = (better, worse, margin)
        self.weight_of[key] = self.weight_of.get(key, 0.0) + weight

    def grades(self) -> dict[int, float]:
        """Answer -> the mean of the grades it was given."""
        return {answer: sum(self.grades_of[answer]) / len(self.grades_of[answer]) for answer in sorted(self.grades_of)}


@dataclass(slots=True)
class Grouping:
    """Collects records of any kinds; ``groups`` gives one PreferenceGroup a prompt in the order of their first rows."""

    min_gap: float = 1.0
    """Ratings closer than this make no pair."""
    rating_margin: float = 0.25
    """Margin of a pair of rated answers, for each grade they are apart."""
    left_out: LeftOut = field(default_factory=dict)
    """Cause -> pairs that were not made."""
    _prompts: dict[bytes, _Prompt] = field(default_factory=dict)

    def add(self, record: Feedback, *, weight: float = 1.0, margin: float = 0.0) -> None:
        """Note one row; weight and margin are those of every pair it states itself."""
        group = self._prompts.setdefault(prompt_key(record.prompt), _Prompt(record.prompt, record.row_id, record.where))
        if isinstance(record, Preference):
            group.prefer(group.index(record.chosen), group.index(record.rejected), weight, margin)
        elif isinstance(record, Edit):
            group.prefer(group.index(record.corrected), group.index(record.original), weight, margin)
        elif isinstance(record, Ranking):
            self._add_ranking(group, record, weight, margin)
        else:
            group.grades_of.setdefault(group.index(record.completion), []).append(_grade(record))

    def _add_ranking(self, group: _Prompt, record: Ranking, weight: float, margin: float) -> None:
        tiers = [[group.index(record.candidates[name]) for name in tier] for tier in record.tiers]
        for rank, tier in enumerate(tiers):
            self._count("pair of tied answers", len(tier) * (len(tier) - 1) // 2)
            for better in tier:
                for worse in (answer for lower in tiers[rank + 1 :] for answer in lower):
                    if better == worse:
                        self._count("pair of answers that say the same", 1)
                    else:
                        group.prefer(better, worse, weight, margin)

    def groups(self, *, of_ratings: bool) -> list[PreferenceGroup]:
        """The groups; of_ratings: the grades are 1 to 5, whose gaps are margins, not shares of good verdicts."""
        return [self._group(prompt, of_ratings=of_ratings) for prompt in self._prompts.values()]

    def _group(self, prompt: _Prompt, *, of_ratings: bool) -> PreferenceGroup:
        grades = prompt.grades()
        pairs = [
            Pair(better=better, worse=worse, weight=weight, margin=margin)
            for (better, worse, margin), weight in prompt.weight_of.items()
        ]
        if len(grades) == 1 and not pairs:
            self._count("answer without another one to its prompt", 1)
        for (a, grade), (b, other) in itertools.combinations(grades.items(), 2):
            gap = abs(grade - other)
            better, worse = (a, b) if grade > other else (b, a)
            if gap == 0:
                self._count("pair of tied answers", 1)
            elif not of_ratings:
                pairs.append(Pair(better=better, worse=worse, weight=gap))
            elif gap < self.min_gap:
                self._count(f"pair rated less than {self.min_gap:g} apart", 1)
            else:
                pairs.append(Pair(better=better, worse=worse, margin=self.rating_margin * gap))
        return PreferenceGroup(
            prompt=prompt.prompt,
            answers=tuple(prompt.answers),
            pairs=tuple(pairs),
            row_id=prompt.row_id,
            where=prompt.where,
            ratings=tuple(grades.get(i) for i in range(len(prompt.answers))) if grades else (),
        )

    def _count(self, cause: str, number: int) -> None:
        if number:
            self.left_out[cause] = self.left_out.get(cause, 0) + number


def _grade(record: Rating | Thumb | Flag) -> float:
    """A rating as it is; 1 for an answer found good and 0 for one found bad."""
    if isinstance(record, Rating):
        return float(record.rating)
    return float(record.up) if isinstance(record, Thumb) else float(not record.flagged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradictions:
    """conflicts: pairs stated both ways; cycles: rings of three or more answers (A > B > C > A) without such a pair."""

    conflicts: int
    cycles: int
    places: tuple[str, ...]
    """The first rows of the prompts concerned, the most frequent kind of trouble not told apart."""


def find_contradictions(groups: Sequence[PreferenceGroup], *, most_places: int = 5) -> Contradictions:
    """Count what a group's pairs say against each other; nothing is changed.

    A cycle is a strongly connected set of three or more answers once both directions of every conflict are taken out.
    """
    conflicts = cycles = 0
    places: list[str] = []
    for group in groups:
        stated = {(pair.better, pair.worse) for pair in group.pairs}
        both_ways = {(a, b) for a, b in stated if (b, a) in stated}
        found = len(both_ways) // 2, _num_rings(stated - both_ways, len(group.answers))
        conflicts, cycles = conflicts + found[0], cycles + found[1]
        if any(found) and len(places) < most_places:
            places.append(str(group.where))
    return Contradictions(conflicts=conflicts, cycles=cycles, places=tuple(places))


def _num_rings(edges: set[tuple[int, int]], num_answers: int) -> int:
    if len(edges) < 3:
        return 0
    better, worse = zip(*sorted(edges), strict=True)
    graph = coo_array((np.ones(len(edges)), (better, worse)), shape=(num_answers, num_answers))
    _, label = connected_components(graph, directed=True, connection="strong")
    return int((np.bincount(label) >= 3).sum())
