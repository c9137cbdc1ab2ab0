"""The fit of strengths beside the pairs: pairs it speaks against, and how strong the writers of the answers are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tunesmith.feedback.prefer import Preferences, PromptPreferences
from tunesmith.feedback.strength import Games, Strengths, connectivity, fit_strengths
from tunesmith.feedback.votes import Vote

# Standard deviation, in logits, of a prior that says next to nothing.
_WIDE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A pair that all votes on its prompt together speak against: the fit's chance that its order is right."""

    prompt_id: str
    better: str
    worse: str
    weight: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStrengths:
    """A fit over what wrote the answers; votes: decided ones and ties between different sources.

    One annotator's votes, and the pairs of one ranking, are not independent: the intervals are then too narrow.
    """

    names: tuple[str, ...]
    fit: Strengths
    num_votes: int


def doubts(preferences: Preferences, *, below: float) -> list[Doubt]:
    """The pairs whose order is unlikely under a Bradley-Terry-Davidson fit of their prompt, the least likely first.

    Fitted is each set of answers that beat or tied one another around in a circle, for only there the votes bound the
    strengths: an order without a circle is in no doubt, however uneven its votes.
    """
    found = [doubt for prompt in preferences.prompts for doubt in _of_prompt(prompt, below)]
    return sorted(found, key=lambda doubt: doubt.probability)


def _of_prompt(prompt: PromptPreferences, below: float) -> list[Doubt]:
    number = {answer: i for i, answer in enumerate(prompt.answers)}
    games = _games((vote, number[vote.better], number[vote.worse]) for vote in prompt.votes)
    if len(games) < 3:
        return []
    out = []
    for circle in connectivity(len(number), games).circular:
        # Two answers have one chance alone, the one that was counted.
        if len(circle) < 3:
            continue
        place = {item: i for i, item in enumerate(circle)}
        inside = [
            replace(game, first=place[game.first], second=place[game.second])
            for game in games
            if game.first in place and game.second in place
        ]
        # Answers tied all around have no order.
        if not any(game.wins_first or game.wins_second for game in inside):
            continue
        try:
            fit = fit_strengths(len(circle), inside)
        except ValueError:
            # Weights that are orders of magnitude apart put the maximum too far out; the prior hardly moves signs.
            fit = fit_strengths(len(circle), inside, prior_sd=_WIDE)
        for pair in prompt.pairs:
            better, worse = number[pair.better], number[pair.worse]
            if better in place and worse in place:
                chance = fit.probability(place[better], place[worse])
                if chance < below:
                    out.append(
                        Doubt(
                            prompt_id=prompt.prompt_id, better=pair.better, worse=pair.worse, weight=pair.weight,
                            probability=chance,
                        )
                    )  # fmt: skip
    return out


def source_strengths(preferences: Preferences, *, prior_sd: float) -> SourceStrengths | None:
    """The writers of the answers on one scale; None where no vote is between two that are known and not the same.

    Edits by people are no source: an edit is always above its original. Where some source never lost, or two were
    never compared, the prior holds the strengths, and ``fit.prior_sd`` says so.
    """
    met = []
    for prompt in preferences.prompts:
        for vote in prompt.votes:
            pair = prompt.sources.get(vote.better, ""), prompt.sources.get(vote.worse, "")
            if vote.kind != "edit" and all(pair) and "edit" not in pair and pair[0] != pair[1]:
                met.append((vote, *pair))
    names = sorted({name for _, *pair in met for name in pair})
    if not any(not vote.is_tie for vote, _, _ in met):
        return None
    number = {name: i for i, name in enumerate(names)}
    games = _games((vote, number[better], number[worse]) for vote, better, worse in met)
    try:
        fit = fit_strengths(len(names), games)
    except ValueError:
        fit = fit_strengths(len(names), games, prior_sd=prior_sd)
    return SourceStrengths(names=tuple(names), fit=fit, num_votes=len(met))


def _games(votes: Iterable[tuple[Vote, int, int]]) -> list[Games]:
    """Votes on the same two items as one game of weights."""
    said: dict[tuple[int, int], list[float]] = {}
    for vote, better, worse in votes:
        first, second = sorted((better, worse))
        sums = said.setdefault((first, second), [0.0, 0.0, 0.0])
        sums[2 if vote.is_tie else int(better > worse)] += vote.weight
    return [Games(first, second, *sums) for (first, second), sums in said.items()]
