"""Which principles apply to a prompt, and which of them are drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.constitution.principles import Constitution, Principle, user_text
from tunesmith.randomness import generator
from tunesmith.records import Message


class Applicability:
    """Of a constitution."""

    def __init__(self, constitution: Constitution) -> None:
        self.constitution = constitution

    def applying(self, prompts: Sequence[Sequence[Message]]) -> list[tuple[Principle, ...]]:
        """The principles for each prompt."""
        return [
            tuple(
                one
                for one in self.constitution.principles
                if one.weight
                and (one.applies.pattern is None or re.search(one.applies.pattern, user_text(prompt), re.I))
            )
            for prompt in prompts
        ]


def sample_principles(applying: Sequence[Principle], n: int, seed: int, key: str) -> tuple[Principle, ...]:
    """n of them by weight, without replacement."""
    weights = [one.weight for one in applying]
    chosen = generator(seed, "principles", key).choice(
        len(applying), size=min(n, len(applying)), replace=False, p=[w / sum(weights) for w in weights]
    )
    return tuple(applying[i] for i in chosen)
