"""Agreement coefficients written down a second time, by their definitions over pairs of judgements; plain loops.

Run it to print the published examples: Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C;
Fleiss (1971), Psychological Bulletin 76:5, table 1; the fifty grant proposals of Wikipedia's article on Cohen's kappa.
"""

from __future__ import annotations

import itertools

import numpy as np

X = float("nan")
# Observers A to D, units 1 to 12; X: missing.
KRIPPENDORFF = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
    [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
]).T  # fmt: skip
KRIPPENDORFF_ALPHA = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}
# Thirty patients, six psychiatrists, five diagnoses.
FLEISS = np.array([
    [0, 0, 0, 6, 0], [0, 3, 0, 0, 3], [0, 1, 4, 0, 1], [0, 0, 0, 0, 6], [0, 3, 0, 3, 0], [2, 0, 4, 0, 0],
    [0, 0, 4, 0, 2], [2, 0, 3, 1, 0], [2, 0, 0, 4, 0], [0, 0, 0, 0, 6], [1, 0, 0, 5, 0], [1, 1, 0, 4, 0],
    [0, 3, 3, 0, 0], [1, 0, 0, 5, 0], [0, 2, 0, 3, 1], [0, 0, 5, 0, 1], [3, 0, 0, 1, 2], [5, 1, 0, 0, 0],
    [0, 2, 0, 4, 0], [1, 0, 2, 0, 3], [0, 0, 0, 0, 6], [0, 1, 0, 5, 0], [0, 2, 0, 1, 3], [2, 0, 0, 4, 0],
    [1, 0, 0, 4, 1], [0, 5, 0, 1, 0], [4, 0, 0, 0, 2], [0, 2, 0, 4, 0], [1, 0, 5, 0, 0], [0, 0, 0, 0, 6],
])  # fmt: skip
FLEISS_TOTALS, FLEISS_KAPPA = [26, 26, 30, 55, 43], 0.430
# Fifty proposals, two readers who say yes or no.
COHEN = np.array([[20, 5], [10, 15]])
COHEN_KAPPA = 0.400


def alpha(values_NR: np.ndarray, level: str) -> float:
    """1 - mean squared difference within items over that between all judgements, pair by pair."""
    items = [[v for v in row if not np.isnan(v)] for row in values_NR]
    items = [item for item in items if len(item) >= 2]
    everything = [v for item in items for v in item]

    def apart(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= v <= high for v in everything)
        ends = sum(v == low for v in everything) + sum(v == high for v in everything)
        return 0.0 if a == b else (between - ends / 2) ** 2

    within = sum(
        sum(apart(a, b) for a, b in itertools.permutations(item, 2)) / (len(item) - 1) for item in items
    ) / len(everything)
    pairs = list(itertools.permutations(everything, 2))
    return 1 - within / (sum(apart(a, b) for a, b in pairs) / len(pairs))


def fleiss(counts_NC: np.ndarray) -> float:
    """Share of agreeing pairs of annotators within items, beyond that of two judgements drawn at random."""
    items = [[c for c, number in enumerate(row) for _ in range(int(number))] for row in counts_NC]
    agreeing = []
    for item in items:
        pairs = list(itertools.combinations(item, 2))
        agreeing.append(sum(a == b for a, b in pairs) / len(pairs))
    everything = [c for item in items for c in item]
    by_chance = sum((everything.count(c) / len(everything)) ** 2 for c in set(everything))
    return (sum(agreeing) / len(agreeing) - by_chance) / (1 - by_chance)


def cohen(first: list[float], second: list[float]) -> float:
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    by_chance = sum(first.count(c) * second.count(c) for c in {*first, *second}) / len(first) ** 2
    return (same - by_chance) / (1 - by_chance)


def cohen_judgements() -> tuple[list[float], list[float]]:
    pairs = [(float(i), float(j)) for i in range(2) for j in range(2) for _ in range(COHEN[i, j])]
    return [a for a, _ in pairs], [b for _, b in pairs]


if __name__ == "__main__":
    for level in KRIPPENDORFF_ALPHA:
        print(f"Krippendorff 2011 {level}: {alpha(KRIPPENDORFF, level):.4f}")
    print(f"Fleiss 1971: {fleiss(FLEISS):.4f}, totals {FLEISS.sum(axis=0).tolist()}")
    print(f"Cohen, 50 proposals: {cohen(*cohen_judgements()):.4f}")
