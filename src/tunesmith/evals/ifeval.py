"""Instruction following by constraints a program can verify (IFEval, Zhou et al. 2023, arXiv:2311.07911)."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.constraints import CHECKS
from tunesmith.evals.task import Item, Reply, Scorer
from tunesmith.records import Verdict

IFEVAL_METRICS = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")
# Over all instructions, as the paper has it, a prompt with three of them weighs thrice.
IFEVAL_RATIOS = {
    "instruction_strict": ("num_met_strict", "num_instructions"),
    "instruction_loose": ("num_met_loose", "num_instructions"),
}


def instruction_following() -> Scorer:
    """Score a reply by the item's constraints, metadata ``instruction_id_list`` and ``kwargs`` as published.

    Values: prompt_strict and prompt_loose (1 where every constraint is met), instruction_strict and instruction_loose
    (the share of the item's constraints), and the counts IFEVAL_RATIOS divides for the figure over all constraints.
    Loose: met by the reply or by one of its ``loose_variants``. details: strict and loose, one truth value a
    constraint. Raises DataError for an unknown constraint or arguments it does not take.
    """

    def score(item: Item, reply: Reply) -> Verdict:
        asked, variants = instructions_of(item), loose_variants(reply.text)
        strict, loose = list[bool](), list[bool]()
        for name, arguments in asked:
            try:
                strict.append(is_followed(reply.text, name, arguments))
                loose.append(strict[-1] or any(is_followed(text, name, arguments) for text in variants))
            except (TypeError, ValueError, AttributeError) as error:
                cause = f"'{name}' cannot use its arguments: {error}."
                raise DataError(f"item {item.id}", cause, "Correct its entry in kwargs.") from None
        values = {
            "prompt_strict": float(all(strict)),
            "prompt_loose": float(all(loose)),
            "instruction_strict": sum(strict) / len(strict),
            "instruction_loose": sum(loose) / len(loose),
            "num_met_strict": float(sum(strict)),
            "num_met_loose": float(sum(loose)),
            "num_instructions": float(len(asked)),
        }
        broken = [name for (name, _), ok in zip(asked, strict, strict=True) if not ok]
        details = {"instructions": [name for name, _ in asked], "strict": strict, "loose": loose}
        return Verdict(values=values, explanation="; ".join(broken), details=details)

    return score


def instructions_of(item: Item) -> list[tuple[str, dict[str, Any]]]:
    """The item's constraints with their arguments, those given as null left out. Raises DataError."""
    names, arguments = item.metadata.get("instruction_id_list"), item.metadata.get("kwargs")
    place = f"item {item.id}"
    if not names or not isinstance(arguments, Sequence) or len(names) != len(arguments):
        raise DataError(
            place, "instruction_id_list and kwargs are not lists of one length.", "Give each instruction its arguments."
        )
    out = []
    for name, given in zip(names, arguments, strict=True):
        if name not in CHECKS:
            near = get_close_matches(str(name), CHECKS, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known are {', '.join(CHECKS)}."
            raise DataError(place, f"unknown instruction '{name}'.", hint)
        known = {key: value for key, value in (given or {}).items() if value is not None}
        wanted = set(inspect.signature(CHECKS[name]).parameters) - {"response"}
        if known.keys() != wanted:
            cause = f"'{name}' takes the arguments {sorted(wanted)}, not {sorted(known)}."
            raise DataError(place, cause, "Correct its entry in kwargs.")
        out.append((str(name), known))
    return out


def is_followed(response: str, instruction: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a response keeps one constraint; an empty response keeps none."""
    return bool(response.strip()) and CHECKS[instruction](response, **arguments)


def loose_variants(response: str) -> list[str]:
    """The seven other texts that count for loose accuracy (section 3.2 of the paper).

    Without the asterisks of markdown, without the first line, without the last line, and each combination of these.
    """
    lines = response.split("\n")
    cut = {(first, last): "\n".join(lines[first : len(lines) - last]).strip() for first, last in _CUTS}
    texts = [cut[edges].replace("*", "") if bare else cut[edges] for bare, edges in itertools.product((0, 1), _CUTS)]
    return texts[1:]


# Lines left out at the start and at the end; the first pair leaves the response as it is.
_CUTS = ((0, 0), (1, 0), (0, 1), (1, 1))
