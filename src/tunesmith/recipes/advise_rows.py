"""The rows of ``tunesmith advise``: read, split so that nothing leaks, sampled; and the passages of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.near import near_clusters
from tunesmith.data.read import open_rows
from tunesmith.data.split import assign_parts
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.advise.conditions import question_of
from tunesmith.evals.task import Item
from tunesmith.randomness import derive_seed, permutation
from tunesmith.recipes.advise_config import RowsConfig
from tunesmith.records import Conversation, Document


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """Rows to learn from (in a seeded order, so that a share of them is a sample), to choose on, to measure on.

    num_leaks: training rows left out because their question is a near copy of a validation or test question.
    num_not_chosen_on: validation rows left out because theirs is one of a test question.
    """

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    num_leaks: int
    num_not_chosen_on: int
    num_read: int

    def with_choices(self, choices: tuple[str, ...]) -> TaskRows:
        """The same rows, every one of them offering these choices."""
        train, validation, test = (
            tuple(replace(item, choices=choices) for item in side) for side in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)

    def notes(self) -> list[str]:
        """What a reader must know of the split."""
        used = (
            f"{len(self.train)} rows to learn from, {len(self.validation)} to choose on, {len(self.test)} to measure on"
        )
        lines = [f"{used} (of {self.num_read} read)."]
        if self.num_leaks:
            lines.append(
                f"{self.num_leaks} training rows were left out: their questions are near copies of held-out ones."
            )
        if self.num_not_chosen_on:
            lines.append(
                f"{self.num_not_chosen_on} validation rows were left out: their questions are near copies of test ones."
            )
        return lines


def load_rows(config: RowsConfig) -> TaskRows:
    """Read and split. Raises DataError for rows without a question and an answer, ConfigError for too few."""
    train = _items(config, config.task, "train")
    validation = _items(config, config.validation, "validation") if config.validation else []
    test = _items(config, config.test, "test") if config.test else []
    num_read = len(train) + len(validation) + len(test)
    train, parts = _held_out(train, config, [not validation, not test])
    validation, test = validation or parts[0], test or parts[1]
    # Copies may also stand in two files.
    texts = [question_of(item) for item in (*train, *validation, *test)]
    clusters = near_clusters(texts, config.near_threshold)
    held_out = clusters[len(train) :].tolist()
    known, asked = set(held_out), set(held_out[len(validation) :])
    chosen_on = [item for item, cluster in zip(validation, held_out, strict=False) if cluster not in asked]
    clean = [item for item, cluster in zip(train, clusters.tolist(), strict=False) if cluster not in known]
    sides = {
        "train": _sample(clean, config.limit, config.seed, "train"),
        "validation": _sample(chosen_on, config.validation_limit, config.seed, "validation"),
        "test": _sample(test, config.test_limit, config.seed, "test"),
    }
    for (name, items), least in zip(sides.items(), (8, 4, 8), strict=True):
        if len(items) < least:
            raise ConfigError(
                config.task, f"{len(items)} {name} rows are left, {least} at least are needed.", "Bring more rows."
            )
    return TaskRows(
        **sides,
        num_leaks=len(train) - len(clean),
        num_not_chosen_on=len(validation) - len(chosen_on),
        num_read=num_read,
    )


def _items(config: RowsConfig, source: str, side: str) -> list[Item]:
    settings = DataConfig(
        train=source, validation_share=0, shape=config.shape, columns=config.columns, merge_same_role=True
    )
    return [_item(record, side) for record in load_data(settings).train]


def _item(record: Conversation | Document, side: str) -> Item:
    if isinstance(record, Document):
        raise DataError(
            record.where, "raw text has no question and no answer.", "Bring rows of questions and right answers."
        )
    *asked, answer = record.messages
    if answer.role != "assistant" or not any(message.role == "user" for message in asked):
        raise DataError(record.where, "the row does not end with an answer to a user.", "Correct it, or remove it.")
    return Item(id=f"{side}-{record.row_id}", messages=tuple(asked), target=answer.content)


def _held_out(items: list[Item], config: RowsConfig, wanted: Sequence[bool]) -> tuple[list[Item], list[list[Item]]]:
    """(training, [validation, test]) items: seeded, near copies of a question on one side; [] where not wanted."""
    shares = [share for share, take in zip((config.validation_share, config.test_share), wanted, strict=True) if take]
    if not shares:
        return items, [[], []]
    keys = np.array([derive_seed(config.seed, "advise_split", question_of(item)) for item in items], np.int64)
    clusters = near_clusters([question_of(item) for item in items], config.near_threshold)
    groups = np.array([derive_seed(config.seed, "advise_group", int(cluster)) for cluster in clusters], np.int64)
    part_N = assign_parts(keys, shares, groups=groups)
    sides = [[item for item, part in zip(items, part_N, strict=True) if part == p] for p in range(len(shares) + 1)]
    held = iter(sides[1:])
    return sides[0], [next(held) if take else [] for take in wanted]


def _sample(items: Sequence[Item], limit: int | None, seed: int, side: str) -> tuple[Item, ...]:
    return tuple(items[i] for i in permutation(len(items), seed, "advise_sample", side)[:limit])


def read_passages(sources: Sequence[str], most_words: int) -> list[str]:
    """Passages of at most ``most_words`` words from texts, paragraphs joined up to that; exact copies once.

    Raises DataError for a file that is not text or holds none.
    """
    passages: dict[str, None] = {}
    for source in sources:
        before = len(passages)
        for text in _texts(source):
            passages.update(dict.fromkeys(_cut(text, most_words)))
        if len(passages) == before:
            raise DataError(Path(source), "holds no passage that is not there already.", "Name other documents.")
    return list(passages)


def _texts(source: str) -> list[str]:
    path = Path(source).expanduser()
    if path.suffix.lower() in (".txt", ".md"):
        try:
            return [path.read_text(encoding="utf-8")]
        except FileNotFoundError:
            raise DataError(path, "no such file.", "Check the path.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(path, f"cannot be read as UTF-8 text: {error}.", "Save it as UTF-8.") from None
    rows, texts = open_rows(source), []
    for i in range(len(rows)):
        row, where = rows[i]
        if not isinstance(row.get("text"), str):
            raise DataError(where.at("text"), "a text is expected.", 'Write rows of {"text": ...}, or a .txt file.')
        texts.append(row["text"])
    return texts


def _cut(text: str, most_words: int) -> list[str]:
    out: list[str] = []
    held: list[str] = []
    for paragraph in text.split("\n\n"):
        said = paragraph.split()
        if held and len(held) + len(said) > most_words:
            out.append(" ".join(held))
            held = []
        held += said
        while len(held) > most_words:
            out.append(" ".join(held[:most_words]))
            held = held[most_words:]
    return [*out, " ".join(held)] if held else out
