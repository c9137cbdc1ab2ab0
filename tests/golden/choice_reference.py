"""Choice scores, chance and bits a byte written down a second time, in plain loops and by their definitions."""

from __future__ import annotations

import math


def choice_scores(logprobs: list[float], choices: list[str], gold: set[int]) -> dict[str, float]:
    """acc, acc_norm, acc_bytes: share of right ones among the best; mass: sum over right of p_i / sum p."""
    out = {}
    lengths = {
        "acc": [1 for _ in choices],
        "acc_norm": [sum(1 for _ in choice) for choice in choices],
        "acc_bytes": [sum(len(letter.encode()) for letter in choice) for choice in choices],
    }
    for name, sizes in lengths.items():
        best, number, right = -math.inf, 0, 0
        for i in range(len(choices)):
            value = logprobs[i] / sizes[i]
            if value > best:
                best, number, right = value, 0, 0
            if value == best:
                number += 1
                right += i in gold
        out[name] = right / number
    total = sum(math.exp(value) for value in logprobs)
    out["mass"] = sum(math.exp(logprobs[i]) for i in gold) / total
    return out


def reading(texts: list[tuple[str, float, int]]) -> dict[str, float]:
    """(text, log-likelihood in nats, tokens): bits a byte and nats a token over all texts together."""
    bits = sum(-nats * math.log2(math.e) for _, nats, _ in texts)
    size = sum(1 for text, _, _ in texts for _ in text.encode())
    tokens = sum(number for _, _, number in texts)
    return {"bits_per_byte": bits / size, "nats_per_token": sum(-nats for _, nats, _ in texts) / tokens}


# By hand: "a" at -1, "bbbb" at -2, "éé" (4 bytes) at -2.2.
# acc: "a". By character: -1, -0.5, -1.1: "bbbb". By byte: -1, -0.5, -0.55: "bbbb" again.
# mass of "bbbb": e^-2 / (e^-1 + e^-2 + e^-2.2) = 0.135335 / 0.614018 = 0.220409.
BY_HAND = (
    ["a", "bbbb", "éé"],
    [-1.0, -2.0, -2.2],
    1,
    {"acc": 0.0, "acc_norm": 1.0, "acc_bytes": 1.0, "mass": 0.220409},
)

if __name__ == "__main__":
    print(choice_scores(BY_HAND[1], BY_HAND[0], {BY_HAND[2]}))
