"""One pass over the training rows for everything that is read off them: overlaps, personal data, gendered pronouns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith.data.gender_words import PronounCount
from tunesmith.data.ngrams import Overlap, TextSet, find_overlaps
from tunesmith.evals.after.echo import Secrets
from tunesmith.randomness import generator
from tunesmith.records import Conversation, Document

Records = Sequence[Conversation | Document]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What the rows hold; num_rows were read of num_all."""

    num_rows: int
    num_all: int
    overlaps: list[Overlap]
    secrets: Secrets
    pronouns: PronounCount


def read_rows(
    rows: Records,
    sets: Sequence[TextSet],
    *,
    seed: int,
    max_rows: int | None,
    max_secrets: int,
    progress: Callable[[int], None] = lambda _: None,
) -> RowFacts:
    """Read every row once, or a seeded sample of ``max_rows`` where there are more; memory does not grow with them."""
    places = range(len(rows))
    if max_rows is not None and len(rows) > max_rows:
        draws = generator(seed, "after_rows").choice(len(rows), size=max_rows, replace=False)
        chosen: Sequence[int] = sorted(int(i) for i in draws)
    else:
        chosen = places
    secrets, pronouns = Secrets(seed=seed, most=max_secrets), PronounCount()

    def texts() -> Iterator[tuple[str, str]]:
        for i in chosen:
            record = rows[i]
            secrets.add(record)
            for text in trained_texts(record):
                pronouns.add(text)
            yield str(record.where), text_of(record)

    overlaps = find_overlaps(sets, texts(), progress)
    return RowFacts(num_rows=len(chosen), num_all=len(rows), overlaps=overlaps, secrets=secrets, pronouns=pronouns)


def text_of(record: Conversation | Document) -> str:
    """All that a row says."""
    if isinstance(record, Document):
        return record.text
    return "\n".join(message.content for message in record.messages)


def trained_texts(record: Conversation | Document) -> list[str]:
    """What of a row is in the loss."""
    if isinstance(record, Document):
        return [record.text]
    return [message.content for message in record.messages if message.role == "assistant" and message.train]
