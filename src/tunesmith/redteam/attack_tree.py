"""TAP: a tree of attacks whose leaves branch, of which what has left the goal and what scored low is cut off.

Source: Mehrotra et al. 2023, "Tree of attacks: jailbreaking black-box LLMs automatically", arXiv:2312.02119,
algorithm 1. Ours differs in two points: the branches of the root take different ways to persuade; a leaf none of whose
branches can be used goes on with a frame of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import Field

from tunesmith.redteam.attack import Attack, Draw, Steps
from tunesmith.redteam.attacker import Proposal
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.search import Line, Search, SearchConfig, name_of, succeeded


class TreeConfig(SearchConfig):
    """The budget: at each depth at most width * branching messages. The paper takes depth 10, width 10, branching 4."""

    depth: int = Field(2, ge=1)
    """Layers of the tree."""
    branching: int = Field(2, ge=1)
    """Messages the attacker writes from one leaf."""
    width: int = Field(2, ge=1)
    """Leaves kept after a layer, by score."""

    @property
    def num_messages(self) -> int:
        """The most messages of one tree."""
        leaves, total = 1, 0
        for _ in range(self.depth):
            total += leaves * self.branching
            leaves = min(leaves * self.branching, self.width)
        return total


def tree_attack(config: TreeConfig | None = None) -> Attack:
    """TAP with a budget."""
    config = config or TreeConfig()
    shape = f"depth {config.depth}, branching {config.branching}, width {config.width}"
    return Attack(
        name=name_of("tap", config),
        family="search",
        about=f"A model grows a tree of messages, pruned by topic and by score: {shape}.",
        run=partial(_run, config),
        source="arXiv:2312.02119 (TAP)",
        num_target_calls=config.num_messages,
        num_attacker_calls=config.num_messages * (2 if config.topic == "asked" else 1),
        num_judge_calls=config.num_messages,
    )


def _run(config: TreeConfig, goal: Goal, draw: Draw) -> Steps:
    search = Search(goal, draw, config)
    leaves = [search.root()]
    for depth in range(config.depth):
        grown = [[search.branch(leaf, number) for number in range(config.branching)] for leaf in leaves]
        lines = [line for branches in grown for line in branches]
        proposals = yield from search.propose(lines)
        usable = _usable(search, grown, proposals)
        lines = yield from search.put_to_target([line for line, _ in usable], [proposal for _, proposal in usable])
        if succeeded(lines):
            break
        leaves = _best(search, lines, config.width, depth)
    return {**search.details(), "pruned": search.num_attacker_texts + search.num_frames - len(search.tries)}


def _usable(
    search: Search, grown: Sequence[Sequence[Line]], proposals: Sequence[Proposal]
) -> list[tuple[Line, Proposal]]:
    """Of each leaf's branches those with a message without fault; one with a frame where there is none."""
    out, rest = list[tuple[Line, Proposal]](), iter(proposals)
    for branches in grown:
        sound = [(line, proposal) for line, proposal in zip(branches, rest, strict=False) if not proposal.fault]
        out += sound or [(branches[0], search.frame())]
    return out


def _best(search: Search, lines: Sequence[Line], width: int, depth: int) -> list[Line]:
    """The lines that went furthest, in the order they stand in; equal scores are chosen among by chance."""
    chance = search.draw.rng("prune", depth).permutation(len(lines))
    order = sorted(range(len(lines)), key=lambda i: (-lines[i].score, chance[i]))
    return [lines[i] for i in sorted(order[:width])]
