"""How varied new rows are, in numbers that need no model: likeness to the seeds, first words, lengths, distinct-n."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.data.bootstrap.rouge import Pool, tokens_of
from tunesmith.data.bootstrap.seeds import Instance, Task
from tunesmith.randomness import permutation

NUM_BINS = 10
# Words that carry little: skipped between the first word and the one shown beside it.
_SMALL_WORDS = (
    "a an the this that these those some any all each every of to for in on at by with from and or is are was were be "
    "do does did can could would should will me my i you your it its given following new one"
)
_SMALL = frozenset(_SMALL_WORDS.split())


def first_words(text: str) -> str:
    """An instruction's first word and the next one that carries meaning: a plain stand-in for its verb and noun."""
    words = tokens_of(text)
    if not words:
        return ""
    following = next((word for word in words[1:] if word not in _SMALL), "")
    return f"{words[0]} {following}".strip()


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct groups of n words over all of them (Li et al. 2016); 0 where there is none. Falls with more text."""
    grams: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = tokens_of(text)
        grams.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return len(grams) / grams.total() if grams else 0.0


def describe_rows(
    instructions: Sequence[str], instances: Sequence[Instance], seeds: Sequence[Task], *, seed: int
) -> dict[str, Any]:
    """Facts about the new rows, one instruction and one instance a row, beside the same facts about the seeds.

    Of an instruction with several rows the instruction counts once. distinct-n is taken over equally many new
    instructions and seeds, chosen by ``seed``, since it depends on how much text there is.
    """
    once = list(dict.fromkeys(instructions))
    seed_texts = [task.instruction for task in seeds]
    pool = Pool()
    for task in seeds:
        pool.add(task.id, task.instruction)
    nearest = [(found.score if (found := pool.nearest(text)) else 0.0) for text in once]
    # A score of exactly 0.3 belongs to the bin it opens, whatever binary fractions make of it.
    bins = np.clip(np.floor(np.array(nearest) * NUM_BINS + 1e-9), 0, NUM_BINS - 1).astype(np.int64)
    openings = Counter(first_words(text) for text in once)
    size = min(len(once), len(seed_texts))
    few_new = [once[i] for i in permutation(len(once), seed, "bootstrap_distinct", "new")[:size]]
    few_seeds = [seed_texts[i] for i in permutation(len(seed_texts), seed, "bootstrap_distinct", "seeds")[:size]]
    pairs = Counter(
        (" ".join(tokens_of(text)), " ".join(tokens_of(one.input)))
        for text, one in zip(instructions, instances, strict=True)
    )
    seed_instances = [one for task in seeds for one in task.instances]
    return {
        "num_rows": len(instructions),
        "num_instructions": len(once),
        "num_rows_repeated": len(instructions) - len(pairs),
        "share_with_input": _share([bool(one.input) for one in instances]),
        "rouge_l_to_nearest_seed": {
            "counts": np.bincount(bins, minlength=NUM_BINS).tolist(),
            "bin_width": 1 / NUM_BINS,
            **_quantiles(nearest),
        },
        "first_words": dict(sorted(openings.items(), key=lambda pair: (-pair[1], pair[0]))[:25]),
        "num_first_words": len(openings),
        "num_words": {
            "instruction": _quantiles([len(tokens_of(text)) for text in once]),
            "input": _quantiles([len(tokens_of(one.input)) for one in instances if one.input]),
            "output": _quantiles([len(tokens_of(one.output)) for one in instances]),
            "seed_instruction": _quantiles([len(tokens_of(text)) for text in seed_texts]),
            "seed_input": _quantiles([len(tokens_of(one.input)) for one in seed_instances if one.input]),
            "seed_output": _quantiles([len(tokens_of(one.output)) for one in seed_instances]),
        },
        "distinct": {
            "num_instructions": size,
            **{f"new_{n}": round(distinct_n(few_new, n), 4) for n in (1, 2, 3)},
            **{f"seeds_{n}": round(distinct_n(few_seeds, n), 4) for n in (1, 2, 3)},
        },
    }


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4) if flags else 0.0


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Least, median, 90th percentile and greatest; nothing where there is no value."""
    if not values:
        return {}
    points = np.quantile(np.array(values, np.float64), [0, 0.5, 0.9, 1])
    return {name: round(float(v), 4) for name, v in zip(("min", "median", "p90", "max"), points, strict=True)}
