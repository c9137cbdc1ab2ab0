"""Suffixes typed behind a request: those that a search found, read from its file, and random letters as the control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Message
from tunesmith.redteam.attack import AskTarget, Attack, Draw, Family, Steps
from tunesmith.redteam.goals import Goal
from tunesmith.rollout.results import ResultsFile
from tunesmith.runs import file_digest

PAPER = "arXiv:2307.15043"
# Letters of a random suffix: about what twenty tokens of a searched one take.
_LETTERS = 60
# Printable ASCII without the blank, which ends words.
_FIRST, _LAST = 33, 126
ABOUT: Mapping[str, tuple[Family, str]] = {
    "gcg": ("gradient", "A suffix that the model's gradients led to, from a file of `tunesmith redteam gcg`."),
    "random-search": ("random", "A suffix found by swaps that no gradient chose, from the same file."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffix:
    """A suffix, and the goal that it was searched for."""

    goal: str
    request: str
    text: str


def suffix_messages(goal: Goal, suffix: str) -> tuple[Message, ...]:
    """What the target is sent: the goal's request with the suffix right behind it, under its system message."""
    system = (Message(role="system", content=goal.system),) if goal.system else ()
    return (*system, Message(role="user", content=goal.request + suffix))


def read_suffixes(file: Path, method: str = "gcg") -> list[Suffix]:
    """The suffixes of one method in a file of ``tunesmith redteam gcg``, in its order.

    Raises RunError for a file that is none, DataError where it holds no suffix of the method or those of two models.
    """
    if not file.is_file():
        raise DataError(file, "there is no such file.", "Make one with: tunesmith redteam gcg")
    rows = list(ResultsFile(file).rows())
    own = [row for row in rows if row.get("method") == method and row.get("suffix")]
    found = [Suffix(goal=row["goal"], request=row["request"], text=row["suffix"]) for row in own]
    searched = {(row.get("model_digest"), row.get("adapter_digest")) for row in own}
    if len(searched) > 1:
        fix = "Search each in a folder of its own (--output)."
        raise DataError(file, f"holds suffixes that were searched for {len(searched)} different models.", fix)
    if not found:
        held = ", ".join(sorted({str(row.get("method")) for row in rows})) or "nothing"
        raise DataError(file, f"holds no suffix of the method {method} ({held}).", "Search with that method first.")
    return found


def suffix_attack(file: Path, method: str = "gcg") -> Attack:
    """The attack that types the suffixes of a file behind requests.

    The first attempt at a goal that is in the file takes its own suffix; every other one takes one that was searched
    for another goal, drawn at random, which asks whether suffixes carry over. Raises what ``read_suffixes`` raises.
    """
    suffixes = read_suffixes(file, method)
    own = {(one.goal, one.request): one for one in suffixes}

    def run(goal: Goal, draw: Draw) -> Steps:
        chosen = own.get((goal.id, goal.request))
        if chosen is None or draw.index:
            others = [one for one in suffixes if one is not chosen]
            chosen = others[int(draw.rng("suffix").integers(len(others)))] if others else chosen
        assert chosen is not None
        yield (AskTarget(messages=suffix_messages(goal, chosen.text)),)
        return {"suffix_of": chosen.goal}

    family, about = ABOUT[method]
    return Attack(name=method, family=family, about=about, run=run, source=PAPER, data=file_digest(file))


def gcg_suffixes(argument: str, data_dir: str | None) -> Attack:
    """``gcg:FILE``. Raises ConfigError without a file, and what ``suffix_attack`` raises."""
    return _from_argument("gcg", argument)


def random_search_suffixes(argument: str, data_dir: str | None) -> Attack:
    """``random-search:FILE``. Raises ConfigError without a file, and what ``suffix_attack`` raises."""
    return _from_argument("random-search", argument)


def _from_argument(method: str, argument: str) -> Attack:
    if not argument:
        fix = f"Write {method}:FILE, with the suffixes.jsonl of: tunesmith redteam gcg"
        raise ConfigError("attacks", f"{method} needs a file of suffixes.", fix)
    return suffix_attack(Path(argument).expanduser(), method)


def _random_letters(goal: Goal, draw: Draw) -> Steps:
    letters = draw.rng("letters").integers(_FIRST, _LAST + 1, _LETTERS).tolist()
    text = "".join(map(chr, letters))
    words = [text[first : first + 6] for first in range(0, _LETTERS, 6)]
    yield (AskTarget(messages=suffix_messages(goal, " " + " ".join(words))),)


RANDOM_SUFFIX = Attack(
    name="random-suffix",
    family="random",
    about="Random letters behind the request: the control for suffixes that were searched.",
    run=_random_letters,
    source=PAPER,
)
