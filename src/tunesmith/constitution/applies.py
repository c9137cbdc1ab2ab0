"""Which principles a prompt falls under, and which of those are drawn for it.

Letters: L prompts a principle is for, U prompts it is not for, N = L + U, D width of a sentence vector.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.constitution.principles import Constitution, Principle, user_text
from tunesmith.data.patterns import SECONDS, bounded_search, compile_pattern
from tunesmith.models.sentence_encoder import SentenceEncoder
from tunesmith.randomness import derive_seed
from tunesmith.records import Message
from tunesmith.retrieval.dense import Encode

# Chosen on HarmfulQA and OASST prompts, see docs/constitution.md; each side's prompts weigh 1 together.
RIDGE = 0.3

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Nearer:
    """Tells prompts that are nearer to one side than to the other: a plane halfway between the two sides' means."""

    centre_D: Float64
    slope_D: Float64

    def score(self, vectors_XD: NDArray[np.floating]) -> Float64:
        """(X,) about 1 for prompts like those it is for, about -1 for the others; above 0 it applies."""
        return np.asarray((vectors_XD - self.centre_D) @ self.slope_D, np.float64)


def fit_nearer(like_LD: NDArray[np.floating], unlike_UD: NDArray[np.floating], ridge: float = RIDGE) -> Nearer:
    """The plane by regularised least squares on +1 and -1, both sides of equal weight however many prompts they have.

    Solved for the N prompts, not the D directions (Hoerl and Kennard 1970; Saunders et al. 1998 for the dual form).
    """
    vectors_ND = np.concatenate([like_LD, unlike_UD]).astype(np.float64)
    num_like, num_unlike = len(like_LD), len(unlike_UD)
    targets_N = np.repeat([1.0, -1.0], [num_like, num_unlike])
    inverse_weights_N = np.repeat([float(num_like), float(num_unlike)], [num_like, num_unlike])
    centre_D = (vectors_ND[:num_like].mean(0) + vectors_ND[num_like:].mean(0)) / 2
    around_ND = vectors_ND - centre_D
    kernel_NN = around_ND @ around_ND.T + ridge * np.diag(inverse_weights_N)
    return Nearer(centre_D, around_ND.T @ np.linalg.solve(kernel_NN, targets_N))


def left_out_right(like_LD: Float32, unlike_UD: Float32) -> tuple[list[bool], list[bool]]:
    """Whether each prompt of either side is told right by a plane fitted without it; a side's only prompt is not."""

    def right(side: Float32, other: Float32, fitted_like_first: bool) -> list[bool]:
        out = []
        for i in range(len(side)):
            rest = np.delete(side, i, 0)
            if not len(rest):
                out.append(False)
                continue
            plane = fit_nearer(rest, other) if fitted_like_first else fit_nearer(other, rest)
            out.append(bool((plane.score(side[i : i + 1])[0] > 0) == fitted_like_first))
        return out

    return right(like_LD, unlike_UD, True), right(unlike_UD, like_LD, False)


class Vectors:
    """Sentence vectors, made once a text; the encoder is loaded at the first text. Raises MissingExtraError."""

    def __init__(self, encode: Encode | None = None) -> None:
        self._encode, self._known = encode, dict[str, Float32]()
        self._encoder: SentenceEncoder | None = None

    def of(self, texts: Sequence[str]) -> Float32:
        """(N, D) float32 of length 1; the encoder reads a text's first 256 tokens."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            if self._encode is None:
                self._encoder = SentenceEncoder(needed_by="a principle with examples of prompts")
                self._encode = self._encoder.encode
            self._known |= dict(zip(new, self._encode(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    @property
    def num_cut(self) -> int:
        """Texts whose end the encoder did not read."""
        return 0 if self._encoder is None else self._encoder.num_cut


class Applicability:
    """Which principles of a constitution a conversation falls under; built once, asked for many.

    A principle without pattern and examples applies always. A pattern is searched in what the user said, whatever the
    case; examples apply by ``fit_nearer``; with both, both must hold. Where a pattern finds no end in time it is taken
    as found, so that no rule is lost, and counted: ``notes`` says so. encode: texts -> vectors, the house's sentence
    encoder where it is None and some principle has examples.
    """

    def __init__(self, constitution: Constitution, encode: Encode | None = None, seconds: float = SECONDS) -> None:
        self.constitution, self.vectors = constitution, Vectors(encode)
        self.unfinished = Counter[str]()
        self._seconds = seconds
        self._patterns = {
            one.id: compile_pattern(one.applies.pattern, f"{one.id}:applies.pattern", ignore_case=True)
            for one in constitution.principles
            if one.applies.pattern is not None
        }
        with_examples = [one for one in constitution.principles if one.applies.like]
        if with_examples:
            # One call for all: the encoder works in batches.
            self.vectors.of([text for one in with_examples for text in (*one.applies.like, *one.applies.unlike)])
        self._planes = {
            one.id: fit_nearer(self.vectors.of(one.applies.like), self.vectors.of(one.applies.unlike))
            for one in with_examples
        }

    def applying(self, conversations: Sequence[Sequence[Message]]) -> list[tuple[Principle, ...]]:
        """For each conversation the principles it falls under, in the order of the file."""
        return self.of_texts([user_text(messages) for messages in conversations])

    def of_texts(self, texts: Sequence[str]) -> list[tuple[Principle, ...]]:
        """For each text, as a user's only turn, the principles it falls under."""
        if not texts:
            return []
        found = np.ones((len(texts), len(self.constitution.principles)), bool)
        vectors_XD = self.vectors.of(texts) if self._planes else None
        for column, one in enumerate(self.constitution.principles):
            if one.id in self._patterns:
                found[:, column] &= [self.pattern_found(one, text) for text in texts]
            if one.id in self._planes and vectors_XD is not None:
                found[:, column] &= self._planes[one.id].score(vectors_XD) > 0
        principles = self.constitution.principles
        return [tuple(principles[column] for column in np.flatnonzero(row)) for row in found]

    def pattern_found(self, principle: Principle, text: str) -> bool:
        """Whether its pattern stands in a text, or found no end in time."""
        match, fault = bounded_search(self._patterns[principle.id], text, len(text), self._seconds)
        self.unfinished[principle.id] += bool(fault)
        return match is not None or bool(fault)

    @property
    def has_planes(self) -> bool:
        """Whether some principle has examples, so that sentence vectors are at hand."""
        return bool(self._planes)

    def notes(self) -> list[str]:
        """What was not read to its end so far, a line each; empty where all was."""
        notes = [
            f"{name}: its pattern found no end within {self._seconds} s in {count} prompts, and was taken as found."
            for name, count in self.unfinished.items()
            if count
        ]
        if cut := self.vectors.num_cut:
            notes.append(f"{cut} texts are longer than the sentence encoder reads; it saw how they begin.")
        return notes


def sample_principles(applying: Sequence[Principle], n: int, seed: int, key: int | str) -> tuple[Principle, ...]:
    """Up to n different principles, drawn by weight without replacement, in the order drawn; weight 0 never.

    A function of (seed, key) and of each principle's own id and weight: neither the order of the file nor a rule that
    comes or goes changes how the others stand to each other. Every principle draws log(u) / weight, the n largest win
    (Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir"): the first is drawn with probability
    weight / sum of weights, the next so among the rest. Raises ValueError for n < 0.
    """
    if n < 0:
        raise ValueError(f"{n} principles cannot be drawn")
    drawn = [
        (math.log((derive_seed(seed, "principle", key, one.id) + 1) / 2**63) / one.weight, one)
        for one in applying
        if one.weight > 0
    ]
    return tuple(one for _, one in sorted(drawn, key=lambda pair: -pair[0])[:n])
