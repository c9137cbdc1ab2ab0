"""Groups of tokens and rows of pairs that a tiny model can learn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tunesmith.randomness import generator
from tunesmith.records import Example, Pair, Where
from tunesmith.tokens.preference import RenderedGroup

RANKING = (Pair(better=0, worse=1), Pair(better=1, worse=2), Pair(better=0, worse=2))


def group(
    number: int, *lengths: int, pairs: tuple[Pair, ...] = RANKING, ratings: tuple[float | None, ...] = ()
) -> RenderedGroup:
    """Answers of these lengths behind one drawn prompt."""
    draws = generator(0, "reward_rows", number)
    prompt = draws.integers(3, 260, 5 + number % 4)
    examples = []
    for length in lengths:
        weight = np.concatenate([np.zeros(len(prompt)), np.ones(length)]).astype(np.float32)
        ids = np.concatenate([prompt, draws.integers(3, 260, length)])
        examples.append(Example(ids=ids, loss_weight=weight, row_id=number, where=Where("rows", number)))
    return RenderedGroup(
        examples=tuple(examples), pairs=pairs, ratings=ratings, row_id=number, where=Where("rows", number)
    )


def write_pairs(path: Path, num_rows: int = 24) -> Path:
    """Pairs whose better answer ends in 'please': a rule that is easy and has nothing to do with length."""
    rows = []
    for i in range(num_rows):
        word = f"w{i}"
        good, bad = f"{word} please", f"{word} now!!!"[: 7 + len(word)]
        rows.append({"prompt": f"say {word}", "chosen": good, "rejected": bad})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
