"""A person as the judge: one key a verdict, saved at once; a state machine that a function giving keys drives.

As in the labeller, ``read_key`` gives a key (empty at the end of the input) and ``show`` takes a screen, so that a test
drives it with a list of keys and the command line with a terminal. Who wrote what is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tunesmith.evals.judge import Said
from tunesmith.evals.rubrics import Case, Rubric, Style
from tunesmith.feedback.screen import visible

_BACKSPACES = "\x7f\b"


class PersonJudge:
    """Asks a person about every case, once and in one order; u takes the last verdict of this sitting back."""

    style: Style = "verdict alone"
    num_tries = 1
    both_orders = False

    def __init__(self, name: str, read_key: Callable[[], str], show: Callable[[str], None]) -> None:
        self.name, self.read_key, self.show = name, read_key, show

    @property
    def identity(self) -> Mapping[str, str]:
        """That it is a person, and which."""
        return {"judge": "person", "model": self.name}

    def ask(self, cases: Sequence[Case], before: Sequence[str | None]) -> Iterator[tuple[int, Said]]:
        """Verdicts as keys are pressed; ends early when the person ends the sitting."""
        place, message = 0, ""
        while place < len(cases):
            case = cases[place]
            self.show(case_screen(case, f"{place + 1} of {len(cases)}, {visible(self.name)}", message))
            message = ""
            said = self._verdict(case.rubric)
            if said is None:
                return
            if said == "undo":
                message = "judge it again." if place else "nothing of this sitting to undo."
                place = max(0, place - 1)
            elif said not in case.rubric.labels:
                message = f"'{visible(said)}' is no verdict here."
            else:
                yield place, Said(text=f"[[{said}]]")
                place += 1

    def _verdict(self, rubric: Rubric) -> str | None:
        """A label, undo, a text that is neither, or None for the end; Enter ends a label longer than one key."""
        names = {label.lower(): label for label in rubric.labels}
        typed = ""
        while True:
            key = self.read_key()
            if not key or (key.lower() == "q" and not typed):
                return None
            if key.lower() == "u" and not typed and "u" not in names:
                return "undo"
            if key in "\r\n" and typed:
                return names.get(typed, typed)
            if key in _BACKSPACES:
                typed = typed[:-1]
                continue
            typed += key.lower()
            fitting = [name for name in names if name.startswith(typed)]
            if len(fitting) < 2:
                return names[fitting[0]] if fitting else typed
            self.show(f"{typed} (Enter ends it) " if typed in names else typed)


def case_screen(case: Case, progress: str, message: str = "") -> str:
    """One case as text: progress, the conversations, right answers where there are some, the question and its keys."""
    lines = [progress, ""]
    for letter, talk in zip("AB", case.shown, strict=False):
        if len(case.shown) > 1:
            lines += [f"--- {letter} ---", ""]
        for turn in talk:
            lines += [f"[{turn.role}]", *_indented(turn.content), ""]
    for text in case.reference:
        lines += ["[a right answer]", *_indented(text), ""]
    lines += [case.rubric.ask, f"verdict: {', '.join(case.rubric.labels)}    u  undo    q  quit"]
    return "\n".join([*lines, *([message] if message else [])]) + "\n"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in visible(text).split("\n")]
