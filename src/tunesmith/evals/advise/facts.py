"""The freshness test: facts that change after tuning. What reads an index can follow them, weights cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.read import open_rows
from tunesmith.errors import DataError
from tunesmith.evals.scorers import normalised
from tunesmith.evals.task import Item, Reply
from tunesmith.randomness import permutation
from tunesmith.records import Message, Verdict

METRICS = ("says_new", "says_old")
_THINGS = (
    "amber lamp", "copper kettle", "silver flute", "marble globe", "walnut clock", "linen map", "jade comb",
    "velvet drum", "bronze bell", "ivory fan", "cedar chest", "glass harp", "wicker cradle", "slate sundial",
    "pewter jug", "straw crown",
)  # fmt: skip
_HALLS = (
    "Birch", "Falcon", "Orchid", "Granite", "Willow", "Heron", "Saffron", "Cobalt", "Juniper", "Otter", "Tulip",
    "Flint", "Maple", "Raven", "Clover", "Quartz",
)  # fmt: skip
# The museum is ours: no base can know where its things are. The first wording is asked, the others are learnt.
_WORDINGS = (
    "In which hall of the Larkwell Museum is the {thing}?",
    "Where does the Larkwell Museum keep the {thing}?",
    "Which hall of the Larkwell Museum holds the {thing}?",
    "Larkwell Museum: hall of the {thing}?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A question whose answer was ``old`` when the model was tuned and is ``new`` now; equal: it did not change.

    taught: the wordings it is tuned and indexed in; the question itself is asked.
    """

    question: str
    old: str
    new: str
    taught: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return self.old != self.new


def invented_facts(num_facts: int, num_changed: int, seed: int) -> list[Fact]:
    """Things in the halls of a museum that does not exist; the first ``num_changed`` move to another's hall.

    Raises ValueError for more facts than there are things, or a single one that changes.
    """
    if not 2 <= num_changed <= num_facts <= len(_THINGS):
        raise ValueError(f"{num_changed} changes of {num_facts} facts: 2 at least, {len(_THINGS)} facts at most")
    things = [_THINGS[i] for i in permutation(len(_THINGS), seed, "facts_things")[:num_facts]]
    halls = [_HALLS[i] for i in permutation(len(_HALLS), seed, "facts_halls")[:num_facts]]
    # They move round: every answer stays as frequent as it was, so none can be guessed from the change.
    now = [*halls[1:num_changed], halls[0], *halls[num_changed:]]
    facts = []
    for thing, old, new in zip(things, halls, now, strict=True):
        asked, *taught = (wording.format(thing=thing) for wording in _WORDINGS)
        facts.append(Fact(question=asked, old=old, new=new, taught=tuple(taught)))
    return facts


def read_facts(path: str) -> list[Fact]:
    """The user's facts: rows of question, old, new and, where there are some, other wordings as a list.

    Raises DataError naming the row that is not that, and where fewer than two change.
    """
    rows, facts = open_rows(path), []
    for i in range(len(rows)):
        row, where = rows[i]
        for name in ("question", "old", "new"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise DataError(
                    where.at(name), "a text is expected.", 'Write {"question": ..., "old": ..., "new": ...}.'
                )
        others = row.get("wordings") or [row["question"]]
        if not isinstance(others, list) or not all(isinstance(text, str) and text.strip() for text in others):
            raise DataError(where.at("wordings"), "a list of texts is expected.", "Correct it, or leave it out.")
        new, old = (f" {normalised(row[name])} " for name in ("new", "old"))
        if row["new"] != row["old"] and (new in old or old in new):
            cause = "of the old and the new answer one holds the other, so that nobody can tell which was said."
            raise DataError(where.at("new"), cause, "Write both so that neither stands in the other.")
        facts.append(Fact(question=row["question"], old=row["old"], new=row["new"], taught=tuple(others)))
    if sum(fact.changed for fact in facts) < 2:
        raise DataError(Path(path), "fewer than two facts change.", "Write some whose old and new answers differ.")
    return facts


def taught_items(facts: Sequence[Fact], *, new: bool) -> list[Item]:
    """The rows that teach the facts, every taught wording with its answer: tuned on (old), searched (old, then new)."""
    return [
        Item(id=f"fact-{i}-{j}", messages=(_user(text),), target=fact.new if new else fact.old)
        for i, fact in enumerate(facts)
        for j, text in enumerate(fact.taught)
    ]


def learnt_items(facts: Sequence[Fact]) -> list[Item]:
    """The questions with their old answers: how well tuning has taught them, before anything changes."""
    return [Item(id=f"learnt-{i}", messages=(_user(f.question),), target=f.old) for i, f in enumerate(facts)]


def asked_items(facts: Sequence[Fact]) -> tuple[Item, ...]:
    """The facts as questions; the right answer is the new one, and the old one is noted."""
    return tuple(
        Item(id=f"ask-{i}", messages=(_user(fact.question),), target=fact.new, metadata={"old": fact.old})
        for i, fact in enumerate(facts)
    )


def which_fact(item: Item, reply: Reply) -> Verdict:
    """says_new, says_old (0 or 1): the words of the one answer stand in the reply, and not those of the other."""
    said = f" {normalised(reply.text)} "
    new, old = item.target, str(item.metadata["old"])
    has_new, has_old = f" {normalised(new)} " in said, f" {normalised(old)} " in said
    if new == old:
        return Verdict(values={"says_new": float(has_new), "says_old": float(has_new)}, explanation="")
    values = {"says_new": float(has_new and not has_old), "says_old": float(has_old and not has_new)}
    return Verdict(values=values, explanation="" if values["says_new"] else "not the new answer alone")


def _user(text: str) -> Message:
    return Message(role="user", content=text)
