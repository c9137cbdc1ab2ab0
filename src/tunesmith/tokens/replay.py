"""The steps of BPE and WordPiece on one word, replayed in plain Python to be shown."""

from __future__ import annotations

from collections.abc import Callable, Container

from tunesmith.data.check import shown as escaped


def visible(text: str) -> str:
    """Text on one line: spaces as ▁, control and other unprintable characters as their code."""
    return escaped(text.replace(" ", "▁"), most=len(text) + 1)


def best_pairs(
    symbols: list[str], rank: Callable[[str, str], float | None], show: Callable[[str], str] = visible
) -> tuple[list[str], list[str]]:
    """(pieces, a line a merge): the pair of lowest rank is joined first, the leftmost of equals, until none has one.

    Source: Sennrich et al. 2016, arXiv:1508.07909.
    """
    symbols = list(symbols)
    lines: list[str] = []
    while True:
        ranked = [(r, i) for i in range(len(symbols) - 1) if (r := rank(symbols[i], symbols[i + 1])) is not None]
        if not ranked:
            return symbols, lines
        best, i = min(ranked)
        left, right = symbols[i], symbols[i + 1]
        lines.append(f"{show(left)} + {show(right)} -> {show(left + right)} (rank {best:.0f})")
        symbols[i : i + 2] = [left + right]


def greedy_longest(word: str, vocab: Container[str], prefix: str) -> list[str]:
    """A line a step: the longest beginning of what is left that the vocabulary holds (Wu et al. 2016, WordPiece)."""
    lines: list[str] = []
    at = 0
    while at < len(word):
        lead = prefix if at else ""
        end = next((e for e in range(len(word), at, -1) if lead + word[at:e] in vocab), None)
        rest = visible(lead + word[at:])
        if end is None:
            return [*lines, f"{rest}: no beginning of it is in the vocabulary, so the whole word is unknown"]
        lines.append(f"{rest}: longest known beginning {visible(lead + word[at:end])}")
        at = end
    return lines
