"""How far annotators agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha, with bootstrap intervals.

Letters: N items, R annotators, C categories, B resamples. A matrix of judgements is values_NR, float, NaN where an
annotator said nothing of an item. clusters_N: items with one number are drawn together, since the items of one prompt
are not independent; without it every item is drawn by itself. What is undefined (one category only, nobody judged the
same item) is said in words, never given as NaN. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.randomness import generator

Level = Literal["nominal", "ordinal", "interval"]
Floats = NDArray[np.float64]
Clusters = Sequence[int] | NDArray[np.int64] | None
NUM_RESAMPLES = 2_000
# A bound of 16 million numbers at once, whatever the number of items.
_NUMBERS_AT_ONCE = 16_000_000
ONE_CATEGORY = "every judgement is of one and the same category"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A coefficient with its 95 % bootstrap interval over items, or None with the reason why there is none.

    undefined_resamples: share of the resamples in which the coefficient does not exist; the interval leaves them out.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    num_items: int = 0
    reason: str = ""
    undefined_resamples: float = 0.0

    def __str__(self) -> str:
        if self.value is None:
            return f"undefined: {self.reason}"
        limits = "no interval" if self.low is None else f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f} {limits}"

    def as_dict(self) -> dict[str, Any]:
        """For --json; what is undefined is null, with its reason."""
        out: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "items": self.num_items}
        if self.reason:
            out["reason"] = self.reason
        if self.undefined_resamples:
            out["undefined_resamples"] = self.undefined_resamples
        return out


def cohen_kappa(
    first_N: Sequence[float] | Floats, second_N: Sequence[float] | Floats, *, clusters_N: Clusters = None, seed: int = 0
) -> Agreement:
    """Cohen's kappa of two annotators over the items both judged (Cohen 1960); NaN: not judged.

    Raises ValueError when the lengths differ.
    """
    pair_N2 = np.column_stack([_as_floats(first_N), _as_floats(second_N)])
    both_N = (~np.isnan(pair_N2)).sum(axis=1) == 2
    pair_N2, clusters = pair_N2[both_N], _of(clusters_N, both_N)
    if not len(pair_N2):
        return Agreement(value=None, reason="the two judged no item in common")
    codes_N2, num_categories = _codes(pair_N2)
    cells_NCC = np.zeros((len(codes_N2), num_categories, num_categories))
    cells_NCC[np.arange(len(codes_N2)), codes_N2[:, 0], codes_N2[:, 1]] = 1
    return _with_interval(cells_NCC, _kappa_of_tables, seed, clusters, "both gave every item one and the same category")


def _kappa_of_tables(table_BCC: Floats) -> Floats:
    total_B = table_BCC.sum(axis=(1, 2))
    observed_B = np.trace(table_BCC, axis1=1, axis2=2) / total_B
    expected_B = (table_BCC.sum(axis=2) * table_BCC.sum(axis=1)).sum(axis=1) / total_B**2
    return _beyond(observed_B, expected_B)


def fleiss_kappa(
    counts_NC: Sequence[Sequence[float]] | Floats, *, clusters_N: Clusters = None, seed: int = 0
) -> Agreement:
    """Fleiss' kappa of a table of how many annotators put item n into category c (Fleiss 1971).

    Items that fewer than two annotators judged are left out. Where their number differs from item to item, an item's
    agreement is that among its own pairs; with equal numbers this is Fleiss' own formula. Raises ValueError for counts
    that are none.
    """
    table_NC = np.asarray(counts_NC, np.float64)
    if table_NC.ndim != 2 or (table_NC < 0).any() or (table_NC != np.round(table_NC)).any():
        raise ValueError("counts are whole numbers from 0, one row an item")
    judged_N = table_NC.sum(axis=1) >= 2
    table_NC, clusters = table_NC[judged_N], _of(clusters_N, judged_N)
    if not len(table_NC):
        return Agreement(value=None, reason="no item was judged by two annotators")
    number_N = table_NC.sum(axis=1)
    agreed_N = ((table_NC**2).sum(axis=1) - number_N) / (number_N * (number_N - 1))
    parts = np.column_stack([agreed_N, np.ones(len(table_NC)), table_NC])
    return _with_interval(parts, _fleiss_of_sums, seed, clusters, ONE_CATEGORY)


def _fleiss_of_sums(sums_BP: Floats) -> Floats:
    """Of (sum of the items' agreements, number of items, judgements a category)."""
    observed_B = sums_BP[:, 0] / sums_BP[:, 1]
    share_BC = sums_BP[:, 2:] / sums_BP[:, 2:].sum(axis=1, keepdims=True)
    return _beyond(observed_B, (share_BC**2).sum(axis=1))


def krippendorff_alpha(
    values_NR: Sequence[Sequence[float]] | Floats, level: Level, *, clusters_N: Clusters = None, seed: int = 0
) -> Agreement:
    """Krippendorff's alpha of any number of annotators with missing judgements (Krippendorff 2011).

    1 is perfect agreement, 0 what chance gives, below 0 systematic disagreement.
    """
    matrix_NR, clusters = _pairable(values_NR, clusters_N)
    if not len(matrix_NR):
        return Agreement(value=None, reason="no item was judged by two annotators")
    coincidences_NCC, category_C = _coincidences(matrix_NR)
    return _with_interval(
        coincidences_NCC,
        lambda sums_BCC: _alpha_of_coincidences(sums_BCC, category_C, level),
        seed,
        clusters,
        ONE_CATEGORY,
    )


def agreement_with_rest(
    values_NR: Floats, annotator: int, level: Level, *, clusters_N: Clusters = None, seed: int = 0
) -> Agreement:
    """Alpha of the pairs an annotator is one half of: their disagreement with the others over that of chance.

    Chance is that of all judgements, so that the coefficients of several annotators can be compared.
    """
    matrix_NR, clusters = _pairable(values_NR, clusters_N)
    judged_N = ~np.isnan(matrix_NR[:, annotator])
    matrix_NR, clusters = matrix_NR[judged_N], _of(clusters, judged_N)
    if not len(matrix_NR):
        return Agreement(value=None, reason="nobody else judged what this annotator judged")
    return _with_interval(*_with_rest(matrix_NR, annotator, level), seed, clusters, ONE_CATEGORY)


def _with_rest(matrix_NR: Floats, annotator: int, level: Level) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Per-item sums (N, 2, C, C): coincidences with the annotator and among all; and what makes an alpha of them."""
    all_NCC, category_C = _coincidences(matrix_NR)
    codes = {value: code for code, value in enumerate(category_C)}
    mine_NCC = np.zeros_like(all_NCC)
    for item, row_R in enumerate(matrix_NR):
        own = codes[row_R[annotator]]
        others = [codes[value] for i, value in enumerate(row_R) if i != annotator and not np.isnan(value)]
        for other in others:
            mine_NCC[item, own, other] += 0.5 / len(others)
            mine_NCC[item, other, own] += 0.5 / len(others)

    def alpha(sums_B2CC: Floats) -> Floats:
        mine_BCC, all_BCC = sums_B2CC[:, 0], sums_B2CC[:, 1]
        apart_BCC = _distances(all_BCC.sum(axis=2), category_C, level)
        expected_B = _expected(all_BCC.sum(axis=2), apart_BCC)
        observed_B = (mine_BCC * apart_BCC).sum(axis=(1, 2)) / mine_BCC.sum(axis=(1, 2))
        return 1 - _ratio(observed_B, expected_B)

    return np.stack([mine_NCC, all_NCC], axis=1), alpha


def without_minus_with(
    values_NR: Floats, annotator: int, level: Level, *, clusters_N: Clusters = None, seed: int = 0
) -> Agreement:
    """How much better the others agree among each other than this annotator with them, on the items both are known for.

    Above 0 with its whole interval: the annotator disagrees with people who agree with each other.
    """
    matrix_NR, clusters = _pairable(values_NR, clusters_N)
    others_NR = np.delete(matrix_NR, annotator, axis=1)
    both_N = ~np.isnan(matrix_NR[:, annotator]) & ((~np.isnan(others_NR)).sum(axis=1) >= 2)
    if not both_N.any():
        return Agreement(value=None, reason="fewer than three annotators judged one item")
    mine_N2CC, alpha_of_mine = _with_rest(matrix_NR[both_N], annotator, level)
    rest_NCC, category_C = _coincidences(others_NR[both_N])
    size, mine_size = rest_NCC[0].size, mine_N2CC[0].size
    parts = np.column_stack([mine_N2CC.reshape(-1, mine_size), rest_NCC.reshape(-1, size)])

    def difference(sums_BP: Floats) -> Floats:
        mine = alpha_of_mine(sums_BP[:, :mine_size].reshape(-1, *mine_N2CC.shape[1:]))
        rest = _alpha_of_coincidences(sums_BP[:, mine_size:].reshape(-1, *rest_NCC.shape[1:]), category_C, level)
        return rest - mine

    return _with_interval(parts, difference, seed, _of(clusters, both_N), ONE_CATEGORY)


def _as_floats(values: Sequence[float] | Floats) -> Floats:
    return np.asarray(values, np.float64)


def _of(clusters_N: Clusters, kept_N: NDArray[np.bool_]) -> Clusters:
    return None if clusters_N is None else np.asarray(clusters_N)[kept_N]


def _pairable(values_NR: Sequence[Sequence[float]] | Floats, clusters_N: Clusters) -> tuple[Floats, Clusters]:
    """The items that two annotators or more judged. Raises ValueError for what is no matrix."""
    matrix_NR = np.asarray(values_NR, np.float64)
    if matrix_NR.ndim != 2:
        raise ValueError("judgements are a matrix: one row an item, one column an annotator")
    kept_N = (~np.isnan(matrix_NR)).sum(axis=1) >= 2
    return matrix_NR[kept_N], _of(clusters_N, kept_N)


def _codes(values: Floats) -> tuple[NDArray[np.int64], int]:
    categories, codes = np.unique(values, return_inverse=True)
    return codes.reshape(values.shape).astype(np.int64), len(categories)


def _coincidences(matrix_NR: Floats) -> tuple[Floats, Floats]:
    """Each item's coincidence matrix (N, C, C) and the categories (C,): ordered pairs of its values over m - 1."""
    category_C = np.unique(matrix_NR[~np.isnan(matrix_NR)])
    counts_NC = (matrix_NR[:, :, None] == category_C).sum(axis=1).astype(np.float64)
    same_NCC = counts_NC[:, :, None] * np.eye(len(category_C))
    pairs_NCC = counts_NC[:, :, None] * counts_NC[:, None, :] - same_NCC
    return pairs_NCC / (counts_NC.sum(axis=1) - 1)[:, None, None], category_C


def _distances(total_BC: Floats, category_C: Floats, level: Level) -> Floats:
    """Squared differences (B, C, C) between categories; ordinal ones depend on how often each category was given."""
    num_resamples, num_categories = total_BC.shape
    if level == "nominal":
        return np.broadcast_to(1 - np.eye(num_categories), (num_resamples, num_categories, num_categories))
    if level == "interval":
        apart_CC = (category_C[:, None] - category_C[None]) ** 2
        return np.broadcast_to(apart_CC, (num_resamples, num_categories, num_categories))
    # All that was given from one category up to another, each end by half: the difference of the middles' ranks.
    middle_BC = total_BC.cumsum(axis=1) - total_BC / 2
    return (middle_BC[:, :, None] - middle_BC[:, None, :]) ** 2


def _expected(total_BC: Floats, apart_BCC: Floats) -> Floats:
    number_B = total_BC.sum(axis=1)
    product_BCC = total_BC[:, :, None] * total_BC[:, None, :]
    expected_B: Floats = (product_BCC * apart_BCC).sum(axis=(1, 2)) / (number_B * (number_B - 1))
    return expected_B


def _alpha_of_coincidences(sums_BCC: Floats, category_C: Floats, level: Level) -> Floats:
    total_BC = sums_BCC.sum(axis=2)
    apart_BCC = _distances(total_BC, category_C, level)
    observed_B = (sums_BCC * apart_BCC).sum(axis=(1, 2)) / total_BC.sum(axis=1)
    return 1 - _ratio(observed_B, _expected(total_BC, apart_BCC))


def _beyond(observed_B: Floats, expected_B: Floats) -> Floats:
    """Agreement beyond chance over the most there can be; NaN where chance alone gives all of it."""
    return _ratio(observed_B - expected_B, 1 - expected_B)


def _ratio(above_B: Floats, below_B: Floats) -> Floats:
    # Sums of whole numbers over whole numbers: what is no zero is far above rounding.
    fine_B = below_B > 1e-12
    return np.where(fine_B, above_B / np.where(fine_B, below_B, 1.0), np.nan)


def _with_interval(
    parts: Floats, coefficient: Callable[[Floats], Floats], seed: int, clusters: Clusters, undefined: str
) -> Agreement:
    """The coefficient of the sum of the items' parts (N, ...), and its percentile interval over resampled clusters."""
    num_items = len(parts)
    value = float(coefficient(parts.sum(axis=0, keepdims=True))[0])
    if np.isnan(value):
        return Agreement(value=None, num_items=num_items, reason=undefined)
    if clusters is not None:
        _, index = np.unique(clusters, return_inverse=True)
        together = np.zeros((index.max() + 1, *parts.shape[1:]))
        np.add.at(together, index, parts)
        parts = together
    drawable = len(parts)
    if drawable < 2:
        return Agreement(value=value, num_items=num_items, reason="one item alone has no interval")
    rng, flat = generator(seed, "agreement_bootstrap"), parts.reshape(drawable, -1)
    drawn = []
    step = max(1, _NUMBERS_AT_ONCE // max(drawable, flat.shape[1]))
    for start in range(0, NUM_RESAMPLES, step):
        size = min(step, NUM_RESAMPLES - start)
        times_BN = rng.multinomial(drawable, np.full(drawable, 1 / drawable), size=size)
        drawn.append(coefficient((times_BN @ flat).reshape(size, *parts.shape[1:])))
    values = np.concatenate(drawn)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Agreement(value=value, num_items=num_items, reason="no resample gives a coefficient")
    low, high = np.quantile(defined, [0.025, 0.975])
    return Agreement(
        value=value,
        low=float(low),
        high=float(high),
        num_items=num_items,
        undefined_resamples=1 - len(defined) / len(values),
    )
