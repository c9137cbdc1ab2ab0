"""Rows of a suite -> the questions that are asked: parts kept apart, examples before a question, chat or plain text."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.data.read import open_rows
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.samples import over_samples
from tunesmith.evals.scorers import normalised
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.task import Generate, Item, Reply, Request, Scorer, Solver, Task, choose_shots, subset, with_shots
from tunesmith.randomness import derive_seed
from tunesmith.records import Message, Verdict, Where

# Share of the rows behind the examples on which prompts and shots are chosen, where a set has no part for that.
VALIDATION_SHARE = 0.2
# What a model without a chat template sees before its answer.
ANSWER_CUE = "\nAnswer:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Items by what they may be used for; no question stands in two of the parts."""

    examples: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]


def read_table(path: Path, texts: Sequence[str] = (), others: Sequence[str] = ()) -> list[tuple[dict[str, Any], Where]]:
    """Rows of a file with their places; ``texts`` must hold words and ``others`` anything but null.

    Raises DataError naming file:line:field, such as for a row without its gold answer.
    """
    rows = open_rows(str(path))
    out = []
    for row, where in (rows[i] for i in range(len(rows))):
        for name in (*texts, *others):
            value = row.get(name)
            empty = not isinstance(value, str) or not value.strip() if name in texts else value is None
            if empty:
                raise DataError(where.at(name), "the suite needs this field.", "Fill it in, or remove the row.")
        out.append((row, where))
    return out


def question(name: str, text: str, target: str, choices: Sequence[str] = (), **fields: Any) -> Item:
    """An item that asks ``text``; its id is a suite's prefix and a digest of what is asked."""
    number = hashlib.sha256(text.encode()).hexdigest()[:12]
    messages = (Message(role="user", content=text),)
    return Item(id=f"{name}-{number}", messages=messages, target=target, choices=tuple(choices), metadata=fields)


def divide(
    name: str,
    items: Iterable[Item],
    *,
    num_examples: int = 0,
    validation_share: float = VALIDATION_SHARE,
    by: str | None = None,
) -> Parts:
    """Divide a set that comes in one piece, in the order of a hash of each item; neither seed nor file order matters.

    num_examples: kept to be shown before questions, for each value of the metadata field ``by``. Items of one group
    stay together.
    """
    classes: dict[str, list[Item]] = {}
    for item in items:
        classes.setdefault(str(item.metadata[by]) if by else "", []).append(item)
    parts: tuple[list[Item], ...] = ([], [], [])
    for members in classes.values():
        ordered = sorted(members, key=lambda item: (derive_seed(0, "suite_part", name, item.group or item.id), item.id))
        ends = (num_examples, num_examples + round(validation_share * max(0, len(ordered) - num_examples)))
        begun: dict[str, int] = {}
        for place, item in enumerate(ordered):
            first = begun.setdefault(item.group or item.id, place)
            parts[sum(first >= end for end in ends)].append(item)
    return Parts(examples=tuple(parts[0]), validation=tuple(parts[1]), test=tuple(parts[2]))


def with_own_test(name: str, train: Iterable[Item], test: Iterable[Item], *, num_examples: int) -> Parts:
    """Parts of a set that brings a test file: examples and validation are taken from its training rows."""
    own = divide(name, train, num_examples=num_examples, validation_share=1.0)
    return Parts(examples=own.examples, validation=own.validation, test=tuple(test))


def balanced(name: str, items: Iterable[Item]) -> list[Item]:
    """As many items of each target as the rarest one has, chosen by a hash of the item."""
    classes: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: derive_seed(0, "suite_balance", name, item.id)):
        classes.setdefault(item.target, []).append(item)
    size = min((len(members) for members in classes.values()), default=0)
    return [item for members in classes.values() for item in members[:size]]


def suite_task(
    suite: Suite,
    config: SuiteConfig,
    parts: Parts,
    scorer: Scorer,
    metrics: Sequence[str],
    *,
    chance: Callable[[Sequence[Item]], Mapping[str, float]] | None = None,
    ratios: Mapping[str, tuple[str, str]] | None = None,
    by: str | None = None,
) -> Task:
    """The suite's task under a config. by: a metadata field whose value an item's examples must share.

    In plain text a model goes on after its answer with further questions of its own: after examples, only what stands
    before the first empty line is scored. Of several samples the headline is scored: pass@1 and pass@k, right being 1.
    Raises ConfigError for shots, samples or a split the suite does not have, DataError for an item that stands twice
    and where an example is also asked.
    """
    items = parts.validation if config.split == "validation" else parts.test
    if not items:
        cause, fix = f"the suite has no {config.split} rows.", "Take another split, or more rows."
        raise ConfigError(f"suite '{suite.name}'", cause, fix)
    if config.samples > 1 and suite.answers != "text":
        cause = "its answers are not written, so several cannot be drawn."
        raise ConfigError(f"suite '{suite.name}', samples", cause, "Leave samples at 1 for this suite.")
    if twice := [name for name, count in Counter(item.id for item in items).items() if count > 1]:
        raise DataError(f"item {twice[0]}", "stands twice in the suite's rows.", "Remove all but one.")
    refuse_overlap(parts.examples, items)
    chosen = subset(items, None if config.limit is None else min(config.limit, len(items)), config.seed)
    num_shots = suite.shots if config.shots is None else config.shots
    if config.samples > 1:
        ks = (1, config.samples)
        scorer = over_samples(scorer, suite.headline, ks)
        metrics = (*(f"pass@{k}" for k in ks), suite.headline)
    cut = num_shots > 0 and not config.chat_template and suite.answers == "text"
    return Task(
        name=suite.name,
        version=suite.version,
        items=chosen,
        solver=_solver(suite, config, parts.examples, chosen, num_shots, by),
        scorer=_first_paragraph(scorer) if cut else scorer,
        metrics=tuple(metrics),
        chance=chance(chosen) if chance is not None else {},
        # Several samples are scored by pass@k, which has no sums to divide.
        ratios=ratios if ratios and config.samples == 1 else {},
    )


def _first_paragraph(scorer: Scorer) -> Scorer:
    def score(item: Item, reply: Reply) -> Verdict:
        first, *others = (text.strip().split("\n\n")[0] for text in reply.texts)
        return scorer(item, replace(reply, text=first, samples=tuple(others)))

    return score


def refuse_overlap(examples: Sequence[Item], items: Sequence[Item]) -> None:
    """Raise DataError where an example that may be shown asks what an item asks, letter case and punctuation aside."""
    shown = {question_words(example): example.id for example in examples}
    if told := [(item.id, shown[question_words(item)]) for item in items if question_words(item) in shown]:
        item, example = told[0]
        cause = f"{len(told)} questions also stand among the examples shown, {example} for one: they tell the answer."
        raise DataError(f"item {item}", cause, "Remove them from one of the two.")


def question_words(item: Item) -> str:
    """The question's words; of a text that is read and asks nothing, its own."""
    said = "\n".join(message.content for message in item.messages if message.role != "system") or item.target
    return normalised(said) or said


def _solver(
    suite: Suite, config: SuiteConfig, examples: Sequence[Item], items: Sequence[Item], num_shots: int, by: str | None
) -> Solver:
    shots: dict[str, tuple[Item, ...]] = {}
    for key in {_key(item, by) for item in items}:
        fitting = [example for example in examples if _key(example, by) == key]
        if num_shots > len(fitting):
            cause = f"{num_shots} are more than the {len(fitting)} examples that may be shown."
            raise ConfigError(f"suite '{suite.name}', shots", cause, f"Ask for {len(fitting)} at most.")
        shots[key] = choose_shots(fitting, num_shots, config.seed)
    arranged = with_shots if config.chat_template else plain_text
    reading = suite.answers == "reading"

    def continuations(item: Item) -> tuple[str, ...]:
        return (item.target,) if reading else item.choices if suite.answers == "choice" else ()

    def solve(asked: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        requests = [
            Request(
                item=item,
                messages=item.messages if reading else arranged(item, shots[_key(item, by)]),
                continuations=continuations(item),
                sample=number,
            )
            for item in asked
            for number in range(config.samples)
        ]
        replies = generate(requests)
        drawn = [replies[i : i + config.samples] for i in range(0, len(replies), config.samples)]
        return [first.with_draws(others) for first, *others in drawn]

    return solve


def _key(item: Item, by: str | None) -> str:
    return str(item.metadata[by]) if by else ""


def plain_text(item: Item, shots: Sequence[Item]) -> tuple[Message, ...]:
    """Question and examples as one text that ends where the answer begins, for models without a chat template."""
    system = [message.content for message in item.messages if message.role == "system"]
    solved = [f"{_question_text(shot)} {shot.target}" for shot in shots]
    return (Message(role="user", content="\n\n".join([*system, *solved, _question_text(item)])),)


def _question_text(item: Item) -> str:
    return "\n\n".join(message.content for message in item.messages if message.role != "system") + ANSWER_CUE
