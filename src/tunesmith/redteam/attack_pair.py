"""PAIR: streams of an attacker that rewrites its message from the target's last answer and its score.

Source: Chao et al. 2023, "Jailbreaking black box large language models in twenty queries", arXiv:2310.08419,
algorithm 1. Ours differs in three points: a message that has left its goal is no try, since a judge that reads answers
alone would call it a success; where the attacker's text is of no use, a frame of ours takes its turn; all streams stop
at the end of the round in which one succeeds.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from tunesmith.redteam.attack import Attack, Draw, Steps
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.search import Search, SearchConfig, name_of, succeeded


class PairConfig(SearchConfig):
    """The budget: streams * depth messages to the target at most. The paper takes 20 to 30 streams of depth 3."""

    streams: int = Field(2, ge=1)
    """Searches side by side that do not know of each other; each has its own way to persuade."""
    depth: int = Field(2, ge=1)
    """Messages of one stream."""


def pair_attack(config: PairConfig | None = None) -> Attack:
    """PAIR with a budget."""
    config = config or PairConfig()
    calls = config.streams * config.depth
    return Attack(
        name=name_of("pair", config),
        family="search",
        about=f"A model refines its message by the last answer: {config.streams} streams of {config.depth} messages.",
        run=partial(_run, config, True),
        source="arXiv:2310.08419 (PAIR)",
        num_target_calls=calls,
        num_attacker_calls=calls * (2 if config.topic == "asked" else 1),
        num_judge_calls=calls,
    )


def frames_attack(config: PairConfig | None = None) -> Attack:
    """The control: as many messages in the same rounds, made of our frames alone, without a model that writes."""
    config = config or PairConfig()
    calls = config.streams * config.depth
    return Attack(
        name=name_of("frames", config),
        family="search",
        about=f"The control of the searches: {calls} frames around the request, with no model that writes.",
        run=partial(_run, config, False),
        num_target_calls=calls,
        num_judge_calls=calls,
    )


def _run(config: PairConfig, has_attacker: bool, goal: Goal, draw: Draw) -> Steps:
    search = Search(goal, draw, config)
    lines = [search.branch(search.root(), number) for number in range(config.streams)]
    for depth in range(config.depth):
        if depth:
            lines = [search.branch(line, 0) for line in lines]
        proposals = (yield from search.propose(lines)) if has_attacker else [None] * len(lines)
        usable = [proposal if proposal and not proposal.fault else search.frame() for proposal in proposals]
        lines = yield from search.put_to_target(lines, usable)
        if succeeded(lines):
            break
    return search.details()
