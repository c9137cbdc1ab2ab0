"""Answers read by a regular expression, with a limit on text and time: some patterns take for ever on some texts."""

from __future__ import annotations

from tunesmith.data.patterns import MAX_CHARACTERS, SECONDS, bounded_search, compile_pattern
from tunesmith.evals.scorers import comparable
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict


def pattern_match(
    pattern: str | None = None,
    *,
    whole: bool = False,
    max_characters: int = MAX_CHARACTERS,
    seconds: float = SECONDS,
) -> Scorer:
    """Whether a reply holds a pattern, or is one from end to end (``whole``).

    pattern: in the syntax of Python's re; None takes the item's target as the pattern. Value (0 or 1): match. A reply
    beyond max_characters, or a search beyond ``seconds``, scores 0 and the explanation says so. Raises DataError for a
    pattern that cannot be read.
    """
    fixed = None if pattern is None else compile_pattern(pattern, f"pattern {pattern!r}")

    def score(item: Item, reply: Reply) -> Verdict:
        compiled = fixed or compile_pattern(item.target, f"item {item.id}")
        found, fault = bounded_search(compiled, reply.text, max_characters, seconds, whole=whole)
        return Verdict(values={"match": float(found is not None)}, explanation=fault or ("" if found else "no match"))

    return score


def pattern_answer(
    pattern: str, *, last: bool = True, max_characters: int = MAX_CHARACTERS, seconds: float = SECONDS
) -> Scorer:
    """Take the answer out of a reply by a pattern and compare it with the target, case and punctuation aside.

    The answer is the pattern's first group, or the whole match without one; of several matches the last or the first.
    Values (0 or 1): extracted, match. Limits and errors as with ``pattern_match``.
    """
    compiled = compile_pattern(pattern, f"pattern {pattern!r}")

    def score(item: Item, reply: Reply) -> Verdict:
        found, fault = bounded_search(compiled, reply.text, max_characters, seconds, last=last)
        said = None if found is None else found.group(1 if compiled.groups else 0)
        right = said is not None and comparable(said, item.target) == comparable(item.target, item.target)
        wrong = fault or ("no match" if said is None else f"'{said}' instead of '{item.target}'")
        values = {"extracted": float(said is not None), "match": float(right)}
        return Verdict(values=values, explanation="" if right else wrong)

    return score
