"""The evaluation sets whose overlap with the training rows is looked for: held-out rows, questions, suites, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.data.ngrams import TextSet
from tunesmith.data.texts import iter_texts
from tunesmith.errors import ConfigError, DataError, MissingExtraError
from tunesmith.evals.after.retained import all_questions
from tunesmith.evals.after.rows import Records, text_of
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.task import Item


@dataclass(slots=True)
class EvaluationSets:
    """Sets in a fixed order; absent: shipped suites whose rows are not on this machine, with the reason."""

    sets: list[TextSet] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def evaluation_sets(
    suites: Mapping[str, Suite], files: Sequence[str], validation: Records, data_dir: str | None
) -> EvaluationSets:
    """Every set there is. Raises DataError for one of the files that cannot be read."""
    out = EvaluationSets()
    if len(validation):
        out.sets.append(TextSet("validation rows", [(str(row.where), text_of(row)) for row in validation]))
    out.sets.append(TextSet("retained abilities", [(item.id, _text(item)) for item in all_questions()]))
    for name, suite in suites.items():
        try:
            items = suite.build(SuiteConfig(data_dir=data_dir)).items
        except (DataError, ConfigError, MissingExtraError) as error:
            out.absent[name] = error.cause
            continue
        out.sets.append(TextSet(name, [(item.id, _text(item)) for item in items]))
    for file in files:
        out.sets.append(TextSet(Path(file).name, list(_rows_of(file))))
    return out


def _text(item: Item) -> str:
    """A question and its answer; the choices beside it are often the same words in every item."""
    return "\n".join([*(message.content for message in item.messages), item.target])


def _rows_of(file: str) -> Iterator[tuple[str, str]]:
    """(place, all that it says) of each row of a file, whatever its columns."""
    place, texts = "", list[str]()
    for text, where in iter_texts([file]):
        own = str(where).rpartition(":")[0]
        if own != place and texts:
            yield place, "\n".join(texts)
            texts = []
        place = own
        texts.append(text)
    if texts:
        yield place, "\n".join(texts)
