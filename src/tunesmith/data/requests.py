"""A question put as a request: "How can I save water?" as "Explain how to save water.".

What is learnt of questions alone need not hold of orders, and sets of bad prompts differ in just that.
"""

from __future__ import annotations

import re

from tunesmith.randomness import generator

FORMS = (
    "Explain how to {}.",
    "Write a guide on how to {}.",
    "Give me step-by-step instructions for how to {}.",
    "Make a plan for someone who wants to {}.",
    "Teach me how to {}.",
    "Describe in detail how to {}.",
)
_ASKED = re.compile(r"\A\s*how (?:(?:can|could|do|should|would|might) (?:i|we|you|one|someone|people)|to) (?=\w)", re.I)


def as_request(question: str, seed: int = 0) -> str | None:
    """The question as an order, in a form that its words and the seed choose; None where it does not ask how."""
    found = _ASKED.match(question)
    if found is None or "?" in question.rstrip().rstrip("?"):
        return None
    deed = question[found.end() :].rstrip().rstrip("?.! ")
    form = FORMS[int(generator(seed, "as_request", question).integers(len(FORMS)))]
    return form.format(deed) if deed else None
