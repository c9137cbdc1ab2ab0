"""Answers -> tasks and instances. Nothing here raises on any text: what cannot be read is None or an empty list."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.data.bootstrap.seeds import Instance

NO_INPUT = "none"
# Ways to say that there is no input, as models write them.
_NOTHING = re.compile(r"[<\[(]?\s*(?:none|no ?input|n/?a|not needed|empty)\s*[>\])]?\s*\.?", re.IGNORECASE)
# A line's beginning: Input:, Output 2:, **Label:** or **Label**:; emphasis belongs to the label only where it opens it.
_LABEL = re.compile(
    r"^[ \t#]*(\*\*|__)?(input|output|label)[ \t]*\d{0,2}[ \t]*(?:\1)?:(?:\1)?[ \t]*", re.IGNORECASE | re.MULTILINE
)
_LEAD = re.compile(
    r"""\A\s*(?:(?:sure|certainly|of\ course)\b[^\n:]*[:!.]\s*)?     # a courtesy before the task
    (?:[-*•]\s+|\#+\s+)?                                             # a bullet or a heading
    (?:\**(?:new\ )?(?:task|instruction)(?:\s+\d+)?\**\s*:\**\s*)?   # a label
    (?:\(?\d{1,2}[.):]\s+)?                                          # a number
    """,
    re.IGNORECASE | re.VERBOSE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}


def parse_instruction(text: str) -> str:
    """The task in an answer: without courtesies, label, number, or quotation marks around the whole; may be empty."""
    text = _LEAD.sub("", text, count=1).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def parse_yes_no(text: str) -> bool | None:
    """True for an answer that begins with yes, False for no, None for any other."""
    match = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return None if match is None else match[1].lower() == "yes"


def parse_instances(text: str) -> list[Instance]:
    """Instances written as ``Input:`` then ``Output:``, or as ``Label:`` then ``Input:``, in the order they stand.

    Text before the first label is passed over. A block without its partner makes the answer unreadable: an empty list.
    """
    marks = list(_LABEL.finditer(text))
    if not marks or len(marks) % 2:
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    blocks = [(m[2].lower(), text[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True)]
    out = []
    for (first, one), (second, two) in zip(blocks[::2], blocks[1::2], strict=True):
        if (first, second) == ("input", "output"):
            out.append(Instance(_input(one), two))
        elif (first, second) == ("label", "input"):
            out.append(Instance(_input(two), one))
        else:
            return []
    return out


def parse_input(text: str) -> str | None:
    """The first ``Input:`` of an answer up to the next label, whatever follows; None where there is none."""
    marks = list(_LABEL.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for index, mark in enumerate(marks):
        if mark[2].lower() == "input":
            return _input(text[mark.end() : ends[index]].strip())
    return None


def _input(text: str) -> str:
    return "" if _NOTHING.fullmatch(text) else text


def format_instances(instances: Sequence[Instance], *, label_first: bool) -> str:
    """Instances as an answer shows them; ``parse_instances`` reads them back.

    Exact for texts without white space at their ends and without a line that begins like a label, and inputs that do
    not themselves say that there is none.
    """
    if label_first:
        return "\n".join(f"Label: {one.output}\nInput: {one.input or NO_INPUT}" for one in instances)
    return "\n".join(f"Input: {one.input or NO_INPUT}\nOutput: {one.output}" for one in instances)


def is_well_formed(instance: Instance) -> bool:
    """Whether an instance survives being formatted and parsed, so that it can be shown as an example."""
    text = format_instances([instance], label_first=False)
    return bool(instance.output) and parse_instances(text) == [instance]
