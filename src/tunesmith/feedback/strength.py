"""How strong answers, or what wrote them, are by what was said of them two by two: Bradley-Terry, Davidson with ties.

With strengths l_i, d = l_i - l_j and a tie parameter v (Davidson 1970, JASA 65:317, in logarithms):
P(i wins) = e^(d/2) / D, P(j wins) = e^(-d/2) / D, P(tie) = v / D, D = e^(d/2) + e^(-d/2) + v; v = 0 is Bradley-Terry
(1952, Biometrika 39:324). Only differences are known: strengths are given with mean 0, in logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.stats import Interval

# The search ends with a step that is this short, squared and in standard errors; what is left is its square.
_TOLERANCE = 1e-12
_MAX_STEPS = 200
_UNEVEN = "the fit of the strengths did not converge: the weights are too uneven"


@dataclass(frozen=True, slots=True)
class Games:
    """What was said of two items, by number; weights need not be whole."""

    first: int
    second: int
    wins_first: float = 0.0
    wins_second: float = 0.0
    ties: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Connectivity:
    """Sets of items, each in its order: compared at all with one another, and beaten (or tied) around in a circle.

    Strengths of different ``compared`` sets have no common scale. With more than one ``circular`` set in one of them,
    some items never lost to the others, and their strength has no upper limit (Ford 1957, Am. Math. Monthly 64:28).
    """

    compared: tuple[tuple[int, ...], ...]
    circular: tuple[tuple[int, ...], ...]

    @property
    def is_identified(self) -> bool:
        return len(self.circular) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """A fit of K items. strengths: logits with mean 0 and their Wald intervals; tie: v, None without ties.

    covariance: (K, K) of the strengths, from the observed information. log_likelihood: of the data alone.
    """

    strengths: tuple[Interval, ...]
    tie: Interval | None
    covariance: NDArray[np.float64]
    log_likelihood: float
    num_games: float
    prior_sd: float | None
    connectivity: Connectivity
    confidence: float = 0.95

    def difference(self, first: int, second: int) -> Interval:
        """By how much the first is stronger than the second, in logits."""
        value = self.strengths[first].value - self.strengths[second].value
        cov = self.covariance
        variance = cov[first, first] + cov[second, second] - 2 * cov[first, second]
        return _wald(value, variance, self.confidence)

    def probability(self, first: int, second: int) -> float:
        """The chance that the first is called the better of the two, where one is."""
        return 1 / (1 + math.exp(self.strengths[second].value - self.strengths[first].value))


def connectivity(num_items: int, games: Iterable[Games]) -> Connectivity:
    """Which items can be placed on one scale, and which of them without a limit."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    wins = np.zeros((num_items, num_items))
    for game in games:
        # A tie is half a win each way.
        wins[game.first, game.second] += game.wins_first + game.ties / 2
        wins[game.second, game.first] += game.wins_second + game.ties / 2
    sets = []
    for kind in ("weak", "strong"):
        _, label = connected_components(coo_array(wins), directed=True, connection=kind)
        members = [tuple(np.flatnonzero(label == name).tolist()) for name in dict.fromkeys(label.tolist())]
        sets.append(tuple(members))
    return Connectivity(compared=sets[0], circular=sets[1])


def fit_strengths(
    num_items: int, games: Sequence[Games], *, prior_sd: float | None = None, confidence: float = 0.95
) -> Strengths:
    """Maximum likelihood by Newton's method; the likelihood is concave in the strengths and log v.

    prior_sd: standard deviation, in logits, of a normal prior on each strength; estimates are then the posterior's
    mode, there for any data. Raises ValueError for no decided game, for an item out of range, where weights are too
    uneven for fp64, and, without a prior, where the strengths are not identified.
    """
    index_GI = np.array([(game.first, game.second) for game in games], np.int64).reshape(-1, 2)
    said_G3 = np.array([(game.wins_first, game.wins_second, game.ties) for game in games], float).reshape(-1, 3)
    if len(games) and (index_GI.min() < 0 or index_GI.max() >= num_items or (index_GI[:, 0] == index_GI[:, 1]).any()):
        raise ValueError(f"a game is between two of items 0 to {num_items - 1}")
    if not np.isfinite(said_G3).all() or (said_G3 < 0).any() or said_G3[:, :2].sum() <= 0:
        raise ValueError("no game was decided, or a weight is no number of at least 0")
    linked = connectivity(num_items, games)
    if prior_sd is None and not linked.is_identified:
        raise ValueError(
            f"{len(linked.compared)} sets of items were never compared with each other, and {len(linked.circular)} "
            "never lost to the others: their strengths have no limit; a prior gives them one"
        )
    basis_KJ = _mean_zero_basis(num_items)
    has_ties = bool(said_G3[:, 2].sum() > 0)
    theta = _newton(basis_KJ, index_GI, said_G3, prior_sd, has_ties=has_ties)
    num_free = basis_KJ.shape[1]
    likelihood, _, hessian = _derivatives(theta, basis_KJ, index_GI, said_G3, prior_sd, has_ties=has_ties)
    inverse = np.linalg.inv(hessian)
    if not (np.diag(inverse) > 0).all():
        raise ValueError(_UNEVEN)
    strengths = basis_KJ @ theta[:num_free]
    covariance = basis_KJ @ inverse[:num_free, :num_free] @ basis_KJ.T
    tie = None
    if has_ties:
        log_tie = _wald(float(theta[-1]), float(inverse[-1, -1]), confidence)
        tie = Interval(*(math.exp(x) for x in (log_tie.value, log_tie.low, log_tie.high)))
    penalty = 0.0 if prior_sd is None else float(strengths @ strengths) / (2 * prior_sd**2)
    return Strengths(
        strengths=tuple(_wald(float(s), float(covariance[i, i]), confidence) for i, s in enumerate(strengths)),
        tie=tie, covariance=covariance, log_likelihood=-(likelihood - penalty), num_games=float(said_G3.sum()),
        prior_sd=prior_sd, connectivity=linked, confidence=confidence,
    )  # fmt: skip


def _mean_zero_basis(num_items: int) -> NDArray[np.float64]:
    """(K, K - 1) orthonormal columns that each sum to 0: Helmert's contrasts."""
    basis = np.zeros((num_items, num_items - 1))
    for j in range(num_items - 1):
        basis[: j + 1, j] = 1.0
        basis[j + 1, j] = -(j + 1.0)
        basis[:, j] /= math.sqrt((j + 1) * (j + 2))
    return basis


def _newton(
    basis_KJ: NDArray[np.float64],
    index_GI: NDArray[np.int64],
    said_G3: NDArray[np.float64],
    prior_sd: float | None,
    *,
    has_ties: bool,
) -> NDArray[np.float64]:
    """The parameters, strengths in the basis and log v last, where the penalised likelihood is highest."""
    theta = np.zeros(basis_KJ.shape[1] + has_ties)
    for _ in range(_MAX_STEPS):
        value, gradient, hessian = _derivatives(theta, basis_KJ, index_GI, said_G3, prior_sd, has_ties=has_ties)
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            break
        if gradient @ step <= _TOLERANCE:
            return np.asarray(theta - step, float)
        # Halved until it helps: far out, the quadratic overshoots.
        size = 1.0
        while size > 1e-8 and not _value(
            theta - size * step, basis_KJ, index_GI, said_G3, prior_sd, has_ties=has_ties
        ) <= value - 1e-4 * size * float(gradient @ step) + 1e-12 * abs(value):
            size /= 2
        theta = theta - size * step
    raise ValueError(_UNEVEN)


def _value(
    theta: NDArray[np.float64],
    basis_KJ: NDArray[np.float64],
    index_GI: NDArray[np.int64],
    said_G3: NDArray[np.float64],
    prior_sd: float | None,
    *,
    has_ties: bool,
) -> float:
    return _derivatives(theta, basis_KJ, index_GI, said_G3, prior_sd, has_ties=has_ties)[0]


def _derivatives(
    theta: NDArray[np.float64],
    basis_KJ: NDArray[np.float64],
    index_GI: NDArray[np.int64],
    said_G3: NDArray[np.float64],
    prior_sd: float | None,
    *,
    has_ties: bool,
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The negative log-likelihood with the prior's penalty, its gradient and Hessian."""
    num_free = basis_KJ.shape[1]
    strengths_K = basis_KJ @ theta[:num_free]
    half_G = (strengths_K[index_GI[:, 0]] - strengths_K[index_GI[:, 1]]) / 2
    terms_G3 = np.stack([half_G, -half_G, np.full_like(half_G, theta[-1] if has_ties else -np.inf)], axis=1)
    top_G1 = terms_G3.max(axis=1, keepdims=True)
    log_sum_G = (top_G1 + np.log(np.exp(terms_G3 - top_G1).sum(axis=1, keepdims=True)))[:, 0]
    chance_G3 = np.exp(terms_G3 - log_sum_G[:, None])
    games_G = said_G3.sum(axis=1)
    value = float((games_G * log_sum_G).sum() - (said_G3[:, :2] * terms_G3[:, :2]).sum())
    # How the three terms of each game move with the parameters; the likelihood is a log-sum-exp of them.
    difference_GJ = (basis_KJ[index_GI[:, 0]] - basis_KJ[index_GI[:, 1]]) / 2
    slopes_G3P = np.zeros((len(half_G), 3, len(theta)))
    slopes_G3P[:, 0, :num_free], slopes_G3P[:, 1, :num_free] = difference_GJ, -difference_GJ
    if has_ties:
        value -= float(said_G3[:, 2].sum() * theta[-1])
        slopes_G3P[:, 2, -1] = 1.0
    mean_GP = np.einsum("gt,gtp->gp", chance_G3, slopes_G3P)
    gradient = games_G @ mean_GP - np.einsum("gt,gtp->p", said_G3, slopes_G3P)
    second = np.einsum("g,gt,gtp,gtq->pq", games_G, chance_G3, slopes_G3P, slopes_G3P)
    hessian = second - np.einsum("g,gp,gq->pq", games_G, mean_GP, mean_GP)
    if prior_sd is not None:
        # The basis is orthonormal: the strengths' sum of squares is that of its coordinates.
        value += float(theta[:num_free] @ theta[:num_free]) / (2 * prior_sd**2)
        gradient[:num_free] += theta[:num_free] / prior_sd**2
        hessian[:num_free, :num_free] += np.eye(num_free) / prior_sd**2
    return value, gradient, hessian


def _wald(value: float, variance: float, confidence: float) -> Interval:
    from scipy.special import ndtri

    half = float(ndtri(0.5 + confidence / 2)) * math.sqrt(max(0.0, variance))
    return Interval(value, value - half, value + half)
