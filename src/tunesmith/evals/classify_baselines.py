"""What a classifier must beat: the most frequent class, and a linear model of the texts' letters and words.

The linear model is softmax regression on hashed n-grams; numpy and scipy only. Shape letters: N texts, F features,
K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.evals.card.toxicity_classifier import NUM_BITS, features
from tunesmith.randomness import permutation

MAJORITY, N_GRAMS = "the most frequent class", "a linear model of n-grams"
PENALTY = 1e-4
MOST_ROWS, MOST_WEIGHTS = 20_000, 1 << 20
_MAX_STEPS = 200
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def baselines(
    train_texts: Sequence[str], train_N: Ints, texts: Sequence[str], num_classes: int, seed: int
) -> dict[str, Ints]:
    """Name -> the class each of ``texts`` is said to be, learned from the training rows alone.

    The linear model learns from MOST_ROWS of them at most, drawn by ``seed``.
    """
    most = int(np.bincount(train_N, minlength=num_classes).argmax())
    drawn = permutation(len(train_texts), seed, "linear_baseline")[:MOST_ROWS]
    linear = fit_linear([train_texts[i] for i in drawn], train_N[drawn], num_classes)
    return {MAJORITY: np.full(len(texts), most, np.int64), N_GRAMS: linear.classes(texts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearClassifier:
    """weights_FK over the hashed features and bias_K."""

    weights_FK: Floats
    bias_K: Floats

    def classes(self, texts: Sequence[str]) -> Ints:
        """(N,) the likeliest class of each text, the first of equals."""
        return np.asarray((_folded(texts, len(self.weights_FK)) @ self.weights_FK + self.bias_K).argmax(axis=1))


def fit_linear(texts: Sequence[str], class_N: Ints, num_classes: int, *, penalty: float = PENALTY) -> LinearClassifier:
    """Least mean cross-entropy plus penalty / 2 |W|^2; the biases are not penalised."""
    from scipy.optimize import minimize

    # Fewer features the more classes there are: L-BFGS remembers the weights twenty times.
    x = _folded(texts, min(1 << NUM_BITS, 1 << (MOST_WEIGHTS // num_classes).bit_length() - 1))
    # A weight no training text has stays at 0, so only the others are searched for.
    seen = np.unique(x.indices)
    found = minimize(
        loss_and_gradient,
        np.zeros((len(seen) + 1) * num_classes),
        args=(x[:, seen], np.eye(num_classes)[class_N], penalty),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MAX_STEPS, "gtol": 1e-6},
    )
    parameters = found.x.reshape(len(seen) + 1, num_classes)
    weights_FK = np.zeros((x.shape[1], num_classes))
    weights_FK[seen] = parameters[:-1]
    return LinearClassifier(weights_FK=weights_FK, bias_K=parameters[-1])


def _folded(texts: Sequence[str], num_features: int) -> Any:
    """(N, F) sparse hashed n-grams of texts; ones whose numbers differ by a multiple of F are one feature."""
    from scipy.sparse import csr_matrix

    x = features(texts)
    out = csr_matrix((x.data, x.indices % num_features, x.indptr), shape=(len(texts), num_features))
    out.sum_duplicates()
    return out


def loss_and_gradient(parameters: Floats, x: Any, truth_NK: Floats, penalty: float) -> tuple[float, Floats]:
    """Mean cross-entropy in nats of (W, bias), laid flat, with its gradient."""
    from scipy.special import log_softmax

    weights = parameters.reshape(-1, truth_NK.shape[1])
    logprobs_NK = log_softmax(x @ weights[:-1] + weights[-1], axis=1)
    loss = -float((truth_NK * logprobs_NK).sum()) / len(truth_NK) + penalty / 2 * float((weights[:-1] ** 2).sum())
    residual_NK = (np.exp(logprobs_NK) - truth_NK) / len(truth_NK)
    gradient = np.vstack([x.T @ residual_NK + penalty * weights[:-1], residual_NK.sum(axis=0)])
    return loss, gradient.ravel()
