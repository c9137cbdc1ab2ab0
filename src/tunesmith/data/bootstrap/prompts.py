"""What the writer is asked, as chats whose earlier turns show seeds: few-shot turns, not one long list.

A chat model that is shown a numbered list copies it, and a small one loses the numbering; shown as turns, every example
ends where an answer ends (docs/data-bootstrap.md has both, measured). One answer is one task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.data.bootstrap.parse import format_instances, is_well_formed
from tunesmith.data.bootstrap.rouge import tokens_of
from tunesmith.data.bootstrap.seeds import Task
from tunesmith.randomness import generator, permutation
from tunesmith.records import Message

FIRST_TASK = "Write a task that one could give to a helpful assistant."
NEXT_TASK = "Write another task, different from the ones before."
IS_CLASSIFICATION = "Task: {}\n\nMust the answer be one of a few fixed labels? Answer yes or no."
INPUT_FIRST = (
    "Task: {}\n\nWrite an example: the input that the task is about, and the right output. "
    "If the task needs no input, write: Input: none"
)
LABEL_FIRST = "Task: {}\n\nWrite an example: one of the possible labels, and an input for which it is right."
# Examples of instances are drawn from the shortest seeds of a kind: they are many, and long ones crowd out the rest.
NUM_SHORTEST = 24

_CUE = re.compile(
    r"\b(?:classif\w+|categori[sz]e|true or false|yes or no|positive or negative|spam|sentiment|"
    r"(?:decide|determine|detect|identify|judge|tell me|predict|verify|check|find out)\b.{0,60}\b(?:if|whether|which)|"
    r"(?:select|choose|pick|find)\b.{0,40}\b(?:from|which|option|index|longest|oldest|best|one of)|"
    r"(?:answer|respond|reply|output|label)\w*\s+(?:with\s+)?[\"'“]?\w+[\"'”]?(?:,\s*[\"'“]?\w+[\"'”]?)*,?\s+or\s+[\"'“]?\w+|"
    r"which category|what category|is it (?:true|possible)|multiple[- ]choice)\b",
    re.IGNORECASE | re.DOTALL,
)


def looks_like_classification(instruction: str) -> bool:
    """The rule used where the writer is too small to be asked: words that ask for one of a few labels."""
    return _CUE.search(instruction) is not None


def kind_of(task: Task) -> bool:
    """Whether a task is classification: as its file says, else by the rule."""
    return looks_like_classification(task.instruction) if task.is_classification is None else task.is_classification


def draw_shown(
    seeds: Sequence[Task], made: Sequence[Task], *, num_shown: int, num_made: int, seed: int, step: int
) -> list[Task]:
    """The tasks shown for one new instruction: at most ``num_made`` machine-made, the others seeds, in any order."""
    chosen_made = permutation(len(made), seed, "bootstrap_made", step)[:num_made]
    chosen_seeds = permutation(len(seeds), seed, "bootstrap_seeds", step)[: num_shown - len(chosen_made)]
    tasks = [made[i] for i in chosen_made] + [seeds[i] for i in chosen_seeds]
    return [tasks[i] for i in permutation(len(tasks), seed, "bootstrap_order", step)]


def ask_instruction(shown: Sequence[Task]) -> tuple[Message, ...]:
    """Ask for a new task after the tasks shown."""
    turns = []
    for index, task in enumerate(shown):
        turns += _turn(NEXT_TASK if index else FIRST_TASK, task.instruction)
    return (*turns, Message(role="user", content=NEXT_TASK if shown else FIRST_TASK))


def ask_classification(instruction: str, seeds: Sequence[Task], *, seed: int, step: int) -> tuple[Message, ...]:
    """Ask whether a task is classification, after three seeds of either kind in any order."""
    turns = []
    chosen = [task for kind in (True, False) for task in _draw(seeds, kind, 3, seed, step)]
    for i in permutation(len(chosen), seed, "bootstrap_kinds", step):
        turns += _turn(IS_CLASSIFICATION.format(_one_line(chosen[i])), "Yes" if kind_of(chosen[i]) else "No")
    return (*turns, Message(role="user", content=IS_CLASSIFICATION.format(" ".join(instruction.split()))))


def ask_instance(
    instruction: str, seeds: Sequence[Task], *, label_first: bool, num_shots: int, seed: int, step: int
) -> tuple[Message, ...]:
    """Ask for an instance, after instances of seeds of the same kind.

    Input first suits open tasks. For classification the label comes first: asked for an input first, models write
    inputs of one label only (arXiv:2212.10560, section 2.2).
    """
    question = LABEL_FIRST if label_first else INPUT_FIRST
    turns = []
    for task in _draw(seeds, label_first, num_shots, seed, step):
        shown = [one for one in task.instances if is_well_formed(one)][:1]
        turns += _turn(question.format(task.instruction), format_instances(shown, label_first=label_first))
    return (*turns, Message(role="user", content=question.format(instruction)))


def ask_answer(instruction: str, given: str) -> tuple[Message, ...]:
    """Give the task itself, as training will show it: the input after a blank line."""
    return (Message(role="user", content=f"{instruction}\n\n{given}" if given else instruction),)


def _draw(seeds: Sequence[Task], kind: bool, count: int, seed: int, step: int) -> list[Task]:
    """Seeds of a kind whose first instance can be shown, from the shortest ones, inputs and none in turn."""
    fitting = [task for task in seeds if kind_of(task) is kind and any(map(is_well_formed, task.instances))]
    fitting = sorted(fitting, key=_length)
    halves = [
        [task for task in fitting if bool(task.instances[0].input) is with_input][:NUM_SHORTEST]
        for with_input in (True, False)
    ]
    drawn = [[half[i] for i in permutation(len(half), seed, "bootstrap_shots", step, int(kind))] for half in halves]
    if generator(seed, "bootstrap_first_shot", step).random() < 0.5:
        drawn.reverse()
    out: list[Task] = []
    while len(out) < count and any(drawn):
        out += [half.pop() for half in drawn if half]
    return out[:count]


def _length(task: Task) -> tuple[int, str]:
    first = task.instances[0]
    return len(tokens_of(f"{task.instruction} {first.input} {first.output}")), task.id


def _one_line(task: Task) -> str:
    return " ".join(task.instruction.split())


def _turn(question: str, answer: str) -> list[Message]:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]
