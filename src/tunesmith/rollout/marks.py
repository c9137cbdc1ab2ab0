"""The verdict that a written judgement marks with [[...]], without torch."""

from __future__ import annotations

import re
from collections.abc import Callable

_MARK = re.compile(r"\[\[\s*([^\[\]\n]{1,24}?)\s*\]\]")
# The lesser form is taken only where there is no mark.
_SINGLE = re.compile(r"\[\s*([^\[\]\n]{1,24}?)\s*\]")


def final_mark(text: str, known: Callable[[str], bool]) -> str | None:
    """What stands in [[...]] where the text decides: the only such mark, or the one it ends with; None for neither.

    known: which contents are verdicts; a judge that repeats its instructions ("[[rating]]") writes others. Where two
    different verdicts are marked and neither ends the text, nothing says which is meant.
    """
    for pattern in (_MARK, _SINGLE):
        found = [match for match in pattern.finditer(text) if known(match[1])]
        if not found:
            continue
        if len({match[1].upper() for match in found}) == 1:
            return found[-1][1]
        behind = text[found[-1].end() :]
        return found[-1][1] if not re.search(r"\w", behind) else None
    return None
