"""Several samples of one question: pass@k, and any text scorer over all of a reply's draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Chance that one of k samples drawn from these without putting back is right: 1 - C(n - c, k) / C(n, k).

    Unbiased for the chance that one of k fresh samples is, which 1 - (1 - c/n)^k is not (Chen et al. 2021,
    arXiv:2107.03374, equation 1). Raises ValueError unless 0 <= num_right <= num_samples and 1 <= k <= num_samples.
    """
    if not 0 <= num_right <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples, {num_right} of them right, is not defined")
    all_wrong = 1.0
    # C(n - c, k) / C(n, k) as a product of k ratios, each at most 1; 0 where fewer than k are wrong.
    for i in range(k):
        all_wrong *= max(0, num_samples - num_right - i) / (num_samples - i)
    return 1.0 - all_wrong


def over_samples(scorer: Scorer, metric: str, ks: Sequence[int]) -> Scorer:
    """Score every draw of a reply; the values are pass@k of the scorer's metric and its mean over the draws.

    A draw is right where the metric is 1. Values: ``pass@<k>`` each, and the metric itself. Raises ValueError for more
    than the reply has, or no k.
    """
    if not ks:
        raise ValueError("pass@k needs a k")

    def score(item: Item, reply: Reply) -> Verdict:
        verdicts = [scorer(item, replace(reply, text=text, samples=())) for text in reply.texts]
        each = [verdict.values[metric] for verdict in verdicts]
        num_right = sum(value >= 1.0 for value in each)
        values = {f"pass@{k}": pass_at_k(len(each), num_right, k) for k in ks}
        explanation = f"{num_right} of {len(each)} right" + (f"; {verdicts[0].explanation}" if each[0] < 1 else "")
        return Verdict(
            values={**values, metric: sum(each) / len(each)}, explanation=explanation, details={"each": each}
        )

    return score
