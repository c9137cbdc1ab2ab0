"""How an answer, a principle and its demonstrations are put to a critic and a reviser, as turns of a chat.

Every word that is not the user's or the constitution's stands here. Two styles: ``quoted`` puts question and answer
into the request, so that the critic is not the one who answered; ``turns`` goes on with the conversation itself, as
the paper does (arXiv:2212.08073, section 3.1). Where a verdict is:

- opening: the first word of the critique, Yes for a fault. Requests are best written as questions that fit it.
- question: the answer to a question of its own about the rule, put before any critique is written.
- behind: the answer to that question, put behind the critique.
- marked: written as [[fault]] or [[no fault]] at the critique's end; the way of a critic whose tokens are not seen.

A revision is *asked* for, behind the critique, or *shown*: prompts with their good answers go before the prompt, which
is answered anew. A model too small to follow the request can follow what it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from tunesmith.constitution.principles import Demonstration, Principle, filled
from tunesmith.records import Message, Role

Style = Literal["quoted", "turns"]
Way = Literal["asked", "shown"]
Verdict = Literal["opening", "question", "behind", "marked"]
# The two verdicts, as a critic whose tokens are read continues, and as one that writes marks them.
YES, NO = "Yes", "No"
FAULT, FINE = "fault", "no fault"
VERDICT_REQUEST = "Does the answer break this rule: {principle} Reply with Yes or No."
MARK_REQUEST = (
    f"End with a line that says [[{FAULT}]] if the answer breaks the rule, or [[{FINE}]] if it does not. "
    "The rule: {principle}"
)
AGAIN = f"I could not read your verdict. Reply with [[{FAULT}]] or [[{FINE}]] and nothing else."
# What stands for the words of a critic that finds nothing where a row that trains one needs some.
NOTHING = "The answer keeps to the rule."
_SPEAKERS: dict[Role, str] = {"user": "Question", "assistant": "Answer", "system": "Instruction", "tool": "Tool"}
# A reviser that announces its answer: only the first line, and only where an answer follows.
_LABEL = re.compile(
    r"\A\W*(?:here is |here's )?(?:the |my |a )?(?:revised|revision|improved|new)\b[^\n:]{0,40}:\s*", re.I
)

Turns = tuple[Message, ...]


def critique_turns(
    style: Style, verdict: Verdict, prompt: Sequence[Message], answer: str, principle: Principle,
    shown: Sequence[Demonstration] = (),
) -> Turns:  # fmt: skip
    """The request for a critique, ``shown`` demonstrations before it; a verdict within it is asked for."""
    before = list[Message]()
    for one in shown:
        asked = _critique_asked(style, verdict, _question_of(one), one.answer, principle)
        before += [*asked, _says(_with_verdict(verdict, one.critique, found=one.fault))]
    return _with_head(prompt, [*before, *_critique_asked(style, verdict, prompt, answer, principle)])


def verdict_turns(
    style: Style, verdict: Verdict, prompt: Sequence[Message], answer: str, principle: Principle,
    shown: Sequence[Demonstration] = (), critique: str = "",
) -> Turns:  # fmt: skip
    """What ``YES`` or ``NO`` answers; ``critique``: where the verdict stands behind it."""
    if verdict == "opening":
        return critique_turns(style, verdict, prompt, answer, principle, shown)
    before = list[Message]()
    for one in shown:
        asked = _verdict_asked(style, verdict, _question_of(one), one.answer, principle, one.critique)
        before += [*asked, _says(YES if one.fault else NO)]
    return _with_head(prompt, [*before, *_verdict_asked(style, verdict, prompt, answer, principle, critique)])


def revision_turns(
    style: Style, way: Way, prompt: Sequence[Message], answer: str, principle: Principle, critique: str,
    shown: Sequence[Demonstration] = (),
) -> Turns:  # fmt: skip
    """The request for the answer put right; of the demonstrations those with a fault are shown.

    Where they are all the way, the first ones, the principle's own, come last: a small model copies what is nearest.
    """
    before = list[Message]()
    for one in reversed(shown) if way == "shown" else shown:
        if one.fault:
            question = _question_of(one)
            asked = (
                question if way == "shown" else _revision_asked(style, question, one.answer, principle, one.critique)
            )
            before += [*asked, _says(one.revision)]
    if way == "shown":
        return _with_head(prompt, [*before, *(turn for turn in prompt if turn.role != "system")])
    return _with_head(prompt, [*before, *_revision_asked(style, prompt, answer, principle, critique)])


def critic_row(
    style: Style, verdict: Verdict, prompt: Sequence[Message], answer: str, principle: Principle, critique: str,
    *, found: bool,
) -> Turns:  # fmt: skip
    """A conversation that trains a critic to say this, verdict and words, in the way it is asked."""
    words = critique or (principle.text if found else NOTHING)
    if verdict in ("opening", "marked"):
        asked = critique_turns(style, verdict, prompt, answer, principle)
        return (*_untrained(asked), _says(_with_verdict(verdict, words, found=found)))
    asked = verdict_turns(style, verdict, prompt, answer, principle, critique=words)
    learnt = words if verdict == "behind" else ""
    return (*_untrained(asked, learnt), _says(YES if found else NO))


def contradicts(words: str, *, found: bool) -> bool:
    """Whether a critique opens with the other verdict than the one it goes with."""
    return re.match(rf"{NO if found else YES}\b", words, re.IGNORECASE) is not None


def without_marks(text: str) -> str:
    """The words of a critique; its verdict stands beside them."""
    return re.sub(rf"\[\[\s*(?:{FAULT}|{FINE})\s*\]\]", "", text, flags=re.IGNORECASE).strip()


def bare_answer(text: str) -> str:
    """A revision without the words that announce it, and without the verdict of a reviser that goes on criticising."""
    stripped = without_marks(text)
    rest = _LABEL.sub("", stripped, count=1).strip()
    return rest or stripped


def _critique_asked(
    style: Style, verdict: Verdict, prompt: Sequence[Message], answer: str, principle: Principle
) -> list[Message]:
    request = _filled(principle.critique_request, prompt, answer, principle)
    if verdict == "marked":
        request += f"\n{filled(MARK_REQUEST, principle=principle.text)}"
    return _put(style, prompt, answer, request, principle.critique_request)


def _verdict_asked(
    style: Style, verdict: Verdict, prompt: Sequence[Message], answer: str, principle: Principle, critique: str
) -> list[Message]:
    request = filled(VERDICT_REQUEST, principle=principle.text)
    if verdict != "behind":
        return _put(style, prompt, answer, request, VERDICT_REQUEST)
    asked = _critique_asked(style, verdict, prompt, answer, principle)
    return [*asked, _says(critique), Message(role="user", content=request)]


def _with_verdict(verdict: Verdict, words: str, *, found: bool) -> str:
    """A critique with the verdict in it, where that is its place."""
    if verdict == "opening":
        word = YES if found else NO
        return words if re.match(rf"{word}\b", words, re.IGNORECASE) else f"{word}. {words}"
    mark = f"[[{FAULT if found else FINE}]]"
    return f"{words}\n{mark}" if verdict == "marked" and mark not in words else words


def _revision_asked(
    style: Style, prompt: Sequence[Message], answer: str, principle: Principle, critique: str
) -> list[Message]:
    asked = _critique_asked(style, "opening", prompt, answer, principle)
    request = _filled(principle.revision_request, prompt, answer, principle, critique=critique)
    return [*asked, _says(critique), Message(role="user", content=request)]


def _put(style: Style, prompt: Sequence[Message], answer: str, request: str, template: str) -> list[Message]:
    """The conversation and the request; what the request quotes by itself is not quoted twice."""
    turns = [turn for turn in prompt if turn.role != "system"]
    if style == "turns":
        return [*turns, _says(answer), Message(role="user", content=request)]
    words = [] if "{prompt}" in template else [_quoted(turns)]
    words += [] if "{answer}" in template else [f"{_SPEAKERS['assistant']}: {answer}"]
    return [Message(role="user", content="\n\n".join([*words, request]))]


def _filled(request: str, prompt: Sequence[Message], answer: str, principle: Principle, critique: str = "") -> str:
    words = {"prompt": _asked_text(prompt), "answer": answer, "principle": principle.text, "critique": critique}
    return filled(request, **words)


def _asked_text(prompt: Sequence[Message]) -> str:
    """The prompt in words: one turn as it is, several with their speakers."""
    turns = [turn for turn in prompt if turn.role != "system"]
    return turns[0].content if len(turns) == 1 else _quoted(turns)


def _quoted(turns: Sequence[Message]) -> str:
    return "\n\n".join(f"{_SPEAKERS[turn.role]}: {turn.content}" for turn in turns)


def _with_head(prompt: Sequence[Message], turns: Sequence[Message]) -> Turns:
    """The turns behind the prompt's system message; templates take that first or not at all."""
    return (*(turn for turn in prompt if turn.role == "system"), *turns)


def _untrained(turns: Sequence[Message], critique: str = "") -> list[Message]:
    """The turns, none of the assistant's in the loss but the critique, where there is one."""
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.content == critique), default=-1)
    return [
        Message(role=turn.role, content=turn.content, train=i == last) if turn.role == "assistant" else turn
        for i, turn in enumerate(turns)
    ]


def _question_of(one: Demonstration) -> list[Message]:
    return [Message(role="user", content=one.prompt)]


def _says(text: str) -> Message:
    return Message(role="assistant", content=text)
