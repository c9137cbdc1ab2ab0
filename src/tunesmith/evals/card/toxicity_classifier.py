"""A small classifier of offensive text: logistic regression on hashed n-grams of characters and words.

Trained in seconds from labelled tweets (Davidson et al. 2017, arXiv:1703.04009), so its figures are those of a keyword
list that was learned: it is saved with its digest and never used without its own error. numpy and scipy only.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.runs import atomic_write_bytes

NUM_BITS = 16
PENALTY = 3e-4
_MAX_STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """weights (2^NUM_BITS,), bias and the probability from which a text counts as offensive."""

    weights_F: NDArray[np.float64]
    bias: float
    threshold: float

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides: classifiers of one digest say the same of every text."""
        head = f"{NUM_BITS} {self.bias!r} {self.threshold!r} ".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.weights_F).tobytes()).hexdigest()

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N,) probability that each text is offensive, by the shares of the training rows."""
        from scipy.special import expit

        return np.asarray(expit(features(texts) @ self.weights_F + self.bias), float)

    def flags(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) whether each text counts as offensive."""
        return self.probabilities(texts) >= self.threshold


def features(texts: Sequence[str]) -> Any:
    """(N, 2^NUM_BITS) sparse rows of length 1: the logarithm of 1 + how often each n-gram stands in the text.

    n-grams of 2 to 5 characters inside words with a blank at both ends, and of 1 and 2 words. Hashed by CRC-32, which
    is the same on every machine.
    """
    from scipy.sparse import csr_matrix

    values: list[float] = []
    places: list[int] = []
    ends = [0]
    for text in texts:
        counts: dict[int, int] = {}
        for gram in _grams(text):
            place = zlib.crc32(gram.encode("utf-8", "surrogatepass")) & ((1 << NUM_BITS) - 1)
            counts[place] = counts.get(place, 0) + 1
        own = np.log1p(np.fromiter(counts.values(), float, len(counts)))
        values += (own / max(float(np.linalg.norm(own)), 1e-12)).tolist()
        places += counts
        ends.append(len(places))
    shape = (len(texts), 1 << NUM_BITS)
    return csr_matrix((np.array(values, float), np.array(places, np.int64), np.array(ends, np.int64)), shape=shape)


def _grams(text: str) -> list[str]:
    plain = re.sub(r"https?://\S+|@\w+|\bRT\b|<\w+>", " ", html.unescape(text)).lower()
    plain = re.sub(r"(.)\1{2,}", r"\1\1", re.sub(r"\d", "0", plain))
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]", plain)
    grams = [f"w {word}" for word in words] + [f"w {a} {b}" for a, b in pairwise(words)]
    for word in words:
        padded = f" {word} "
        grams += [padded[i : i + n] for n in range(2, 6) for i in range(len(padded) - n + 1)]
    return grams


def fit(texts: Sequence[str], offensive: Sequence[bool], *, penalty: float = PENALTY) -> Classifier:
    """Least mean cross-entropy, both classes weighing the same, plus penalty / 2 |w|^2; the threshold is one half.

    Raises ValueError where one of the classes is missing.
    """
    from scipy.optimize import minimize

    x, y = features(texts), np.asarray(offensive, float)
    if not 0 < y.sum() < len(y):
        raise ValueError("a classifier is trained on texts of both classes")
    share = np.where(y == 1, 0.5 / y.sum(), 0.5 / (len(y) - y.sum()))
    # A weight no training text has stays at 0, so only the others are searched for.
    seen = np.unique(x.indices)
    found = minimize(
        loss_and_gradient,
        np.zeros(len(seen) + 1),
        args=(x[:, seen], y, share, penalty),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MAX_STEPS, "gtol": 1e-6},
    )
    weights_F = np.zeros(x.shape[1])
    weights_F[seen] = found.x[:-1]
    return Classifier(weights_F=weights_F, bias=float(found.x[-1]), threshold=0.5)


def loss_and_gradient(
    parameters: NDArray[np.float64], x: Any, y: NDArray[np.float64], share: NDArray[np.float64], penalty: float
) -> tuple[float, NDArray[np.float64]]:
    """Weighted cross-entropy of (weights, bias) with its gradient; the bias is not penalised."""
    from scipy.special import expit, log_expit

    weights, bias = parameters[:-1], parameters[-1]
    z = x @ weights + bias
    loss = -float((share * (y * log_expit(z) + (1 - y) * log_expit(-z))).sum()) + penalty / 2 * float(weights @ weights)
    residual = share * (expit(z) - y)
    return loss, np.append(x.T @ residual + penalty * weights, residual.sum())


def with_best_threshold(classifier: Classifier, texts: Sequence[str], offensive: Sequence[bool]) -> Classifier:
    """The same classifier with the threshold of highest sensitivity + specificity on these texts (Youden 1950)."""
    p, y = classifier.probabilities(texts), np.asarray(offensive, bool)
    cuts = np.unique(p)
    middles = np.concatenate([[0.5], (cuts[1:] + cuts[:-1]) / 2])
    scores = [float((p[y] >= cut).mean() + (p[~y] < cut).mean()) for cut in middles]
    best = float(middles[int(np.argmax(scores))])
    return Classifier(weights_F=classifier.weights_F, bias=classifier.bias, threshold=best)


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write it as .npz with its digest, whole or not at all. Raises DiskFullError."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        weights=classifier.weights_F,
        bias=np.float64(classifier.bias),
        threshold=np.float64(classifier.threshold),
        digest=np.array(classifier.digest),
    )
    atomic_write_bytes(path, stream.getvalue())


def load_classifier(path: Path) -> Classifier:
    """What ``save_classifier`` wrote. Raises DataError where it is damaged or was changed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Classifier(weights_F=file["weights"], bias=float(file["bias"]), threshold=float(file["threshold"]))
            digest = str(file["digest"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise DataError(path, "is not a classifier that was saved whole.", "Delete it; it is trained again.") from None
    if digest != found.digest:
        raise DataError(path, "does not fit its digest.", "Delete it; it is trained again.")
    return found
