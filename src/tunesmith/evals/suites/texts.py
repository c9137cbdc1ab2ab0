"""Running text and human answers, read and not answered: bits a byte and perplexity."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from tunesmith.errors import DataError
from tunesmith.evals.asking import divide, read_table, suite_task
from tunesmith.evals.reading import READING_METRICS, READING_RATIOS, passages, reading_scorer
from tunesmith.evals.suite import Suite, SuiteConfig, data_file
from tunesmith.evals.task import Item, Task
from tunesmith.records import Message, Where

_TURN = re.compile(r"### (Human|Assistant):")
_BITS = " Bits a byte can be compared between vocabularies, perplexity a token cannot."


def passage_items(name: str, text: str) -> list[Item]:
    """Passages of about 1,000 characters, each read by itself and named by a digest of what it says."""
    pieces = passages(text)
    names = [hashlib.sha256(piece.encode()).hexdigest()[:12] for piece in pieces]
    return [Item(id=f"{name}-{digest}", messages=(), target=piece) for digest, piece in zip(names, pieces, strict=True)]


def dialogue(text: str, where: Where) -> tuple[Message, ...]:
    """The turns of '### Human: ... ### Assistant: ...', up to an answer that is to come. Raises DataError."""
    marks = list(_TURN.finditer(text))
    if not marks:
        raise DataError(where.at("input"), "no turn begins with '### Human:'.", "Correct the row.")
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    turns = [(mark[1], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    roles = ["user" if name == "Human" else "assistant" for name, _ in turns]
    expected = ["user", "assistant"] * (len(turns) // 2)
    if roles != expected or turns[-1][1] or not all(words for _, words in turns[:-1]):
        raise DataError(where.at("input"), "the turns do not take turns up to an open answer.", "Correct the row.")
    return tuple(Message(role="user" if name == "Human" else "assistant", content=words) for name, words in turns[:-1])


def _of_text(suite: Callable[[], Suite], file: str) -> Callable[[SuiteConfig], Task]:
    def build(config: SuiteConfig) -> Task:
        own = suite()
        text = data_file(config, file, own.source).read_text(encoding="utf-8")
        return _task(own, config, passage_items(own.name, text))

    return build


def _task(suite: Suite, config: SuiteConfig, items: Sequence[Item]) -> Task:
    parts = divide(suite.name, items)
    return suite_task(suite, config, parts, reading_scorer(), READING_METRICS, ratios=READING_RATIOS)


def _build_oasst(config: SuiteConfig) -> Task:
    items = []
    path = data_file(config, "oasst_pairs/pairs_en.jsonl", OASST.source)
    for row, where in read_table(path, ("message_id", "input", "output")):
        messages = dialogue(row["input"], where)
        # Answers within one dialogue, and to one first question, share what they are about.
        group = hashlib.sha256(messages[0].content.encode()).hexdigest()[:12]
        items.append(Item(id=f"oasst-{row['message_id']}", messages=messages, target=row["output"], group=group))
    return _task(OASST, config, items)


TINY_SHAKESPEARE: Suite = Suite(
    name="tiny_shakespeare",
    version=1,
    source="github.com/karpathy/char-rnn",
    licence="public domain",
    about="The end of Karpathy's Shakespeare file, in passages of about 1,000 characters." + _BITS,
    answers="reading",
    headline="bits_per_byte",
    build=_of_text(lambda: TINY_SHAKESPEARE, "tiny_shakespeare/valid.txt"),
)
BOTCHAN: Suite = Suite(
    name="botchan",
    version=1,
    source="github.com/google/sentencepiece",
    licence="public domain",
    about="A novel in translation (Soseki, Project Gutenberg), in passages of about 1,000 characters." + _BITS,
    answers="reading",
    headline="bits_per_byte",
    build=_of_text(lambda: BOTCHAN, "botchan/botchan.txt"),
)
OASST = Suite(
    name="oasst",
    version=1,
    source="github.com/artidoro/qlora (OASST1, validation)",
    licence="Apache-2.0",
    about="How well people's top-ranked answers are predicted after their dialogue (Koepf et al. 2023, "
    "arXiv:2304.07327)." + _BITS,
    answers="reading",
    headline="bits_per_byte",
    build=_build_oasst,
)
