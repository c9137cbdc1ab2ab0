"""Overlap with reference texts by the field's own libraries: ROUGE (rouge-score), BLEU and chrF (sacrebleu)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.errors import DataError, MissingExtraError
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.randomness import generator
from tunesmith.records import Verdict
from tunesmith.stats import Interval

OVERLAP_METRICS = ("rouge1", "rouge2", "rougeL", "bleu", "chrf")


def references_of(item: Item) -> list[str]:
    """The texts an answer is compared with: metadata ``references`` (texts, or one), else the target.

    Raises DataError for none.
    """
    given = item.metadata.get("references") or [item.target]
    references = [given] if isinstance(given, str) else [str(text) for text in given]
    if not any(text.strip() for text in references):
        raise DataError(f"item {item.id}", "no reference text.", "Give it a target or metadata.references.")
    return references


def overlap(*, stemmer: bool = False) -> Scorer:
    """Score a reply against every reference of its item.

    Values in [0, 1]: rouge1, rouge2, rougeL (F1 against the best reference; Lin 2004), bleu (sentence BLEU with
    effective order and exponential smoothing over 13a tokens; Papineni 2002, Post 2018), chrf (chrF2, the best
    reference; Popović 2015). A sentence's BLEU is no part of a corpus's: report ``corpus_bleu``. rouge-score knows
    Latin letters and digits alone. Raises MissingExtraError, and DataError for an item without a reference.
    """
    rouge, bleu, chrf = _rouge(stemmer), _sacrebleu().BLEU(effective_order=True), _sacrebleu().CHRF()

    def score(item: Item, reply: Reply) -> Verdict:
        references = references_of(item)
        found = rouge.score_multi(references, reply.text)
        values = {name: float(found[name].fmeasure) for name in ("rouge1", "rouge2", "rougeL")}
        values["bleu"] = bleu.sentence_score(reply.text, references).score / 100
        values["chrf"] = chrf.sentence_score(reply.text, references).score / 100
        # exp(log 1) in the libraries ends a hair above 1.
        return Verdict(values={name: min(1.0, value) for name, value in values.items()})

    return score


def corpus_bleu(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    seed: int,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """sacrebleu's corpus BLEU in [0, 1] with a percentile bootstrap over the texts (Koehn 2004, EMNLP).

    references: those of each text, any number. The n-gram counts are summed before the precisions are taken, so it is
    not the mean of sentence values. Raises ValueError for no texts or lengths that differ.
    """
    if not texts or len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts for {len(references)} lists of references")
    # With the effective order only because sacrebleu warns without; the counts are the same.
    bleu = _sacrebleu().BLEU(effective_order=True)
    counts_NC = np.array([_counts(bleu.sentence_score(*pair)) for pair in zip(texts, references, strict=True)])

    def of(sums_C: Any) -> float:
        correct, total = sums_C[:4].tolist(), sums_C[4:8].tolist()
        made = bleu.compute_bleu(correct, total, int(sums_C[8]), int(sums_C[9]), smooth_method=bleu.smooth_method)
        return min(1.0, float(made.score) / 100)

    rng, size = generator(seed, "corpus_bleu"), len(texts)
    drawn = [of(counts_NC[rng.integers(size, size=size)].sum(0)) for _ in range(num_resamples)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(of(counts_NC.sum(0)), float(low), float(high))


def _counts(score: Any) -> list[int]:
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def _rouge(stemmer: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise _missing("rouge-score", "ROUGE") from None
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError:
        raise _missing("sacrebleu", "BLEU and chrF") from None
    return metrics


def _missing(library: str, what: str) -> MissingExtraError:
    return MissingExtraError(library, f"it computes {what} and is not installed.", "pip install 'tunesmith[eval]'")
