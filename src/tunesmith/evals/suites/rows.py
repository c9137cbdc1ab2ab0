"""A suite over one's own rows: ``rows:FILE``, everything told from the columns, or a YAML file with ``type: rows``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.config import Config, load_config
from tunesmith.data.read import Split, find_split, open_rows
from tunesmith.data.templates import TemplateConfig, compile_template
from tunesmith.errors import ConfigError
from tunesmith.evals.asking import Parts, question_words, suite_task
from tunesmith.evals.choice import choice_chance
from tunesmith.evals.reading import READING_RATIOS
from tunesmith.evals.suite import Answers, Suite, SuiteConfig
from tunesmith.evals.suites.rows_items import PlacedRow, Reading, read_items
from tunesmith.evals.suites.rows_scorers import find_scorer, make_scorer
from tunesmith.evals.task import Item, Task
from tunesmith.records import Where


class RowsConfig(Config):
    """A suite over one's own rows."""

    type: Literal["rows"]
    """What kind of suite the file is."""
    rows: str | list[dict[str, Any]]
    """The rows to measure on: a .jsonl, .json, .csv, .parquet or .txt file, a folder with test, validation and train
    files, or the rows themselves. Paths are relative to the YAML file."""
    name: str = Field("", pattern=r"^[\w.-]*$")
    """What results call it; empty: the file's name without its ending."""
    version: int = Field(1, ge=1)
    """Raise it when the suite changes in a way that makes earlier results incomparable."""
    validation: str | list[dict[str, Any]] | None = None
    """Rows to choose prompts and shots on; empty: the folder's own file."""
    examples: str | list[dict[str, Any]] | None = None
    """Solved rows that may be shown before a question; empty: the folder's training file."""
    prompt: str | None = None
    """What is asked: Jinja over a row's columns, {{ option_lines }} being its choices. Empty: told from the columns."""
    target: str | None = None
    """With prompt, the right answer: Jinja over a row's columns; for choices also a place from 0 or a letter."""
    choices: list[str] | str | None = None
    """The answers to choose from: a list for all rows, or the column of each row's own. Empty: the column choices."""
    id: str | None = None
    """Column that names a row; empty: a digest of its question."""
    group: str | None = None
    """Column of rows that are not independent, such as wordings of one question; intervals know it."""
    scorer: str | None = None
    """How answers are scored; empty: choice where there are choices, reading for texts, else exact."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the scorer, such as fields: [city, date] for json."""
    headline: str | None = None
    """The metric to compare models by; empty: the scorer's first."""
    shots: int = Field(0, ge=0)
    """Examples shown before each question."""
    max_new_tokens: int = Field(64, ge=1)
    """Tokens the longest sensible answer takes."""
    about: str = ""
    """What the suite measures."""
    source: str = "your own rows"
    """Where the rows come from."""
    licence: str = "yours"
    """Under which licence."""

    @field_validator("choices", mode="before")
    @classmethod
    def _texts(cls, choices: Any) -> Any:
        if isinstance(choices, list) and any(isinstance(choice, bool) for choice in choices):
            raise ValueError("to YAML yes and no mean true and false; put them into quotes")
        return [str(c) if isinstance(c, int | float) else c for c in choices] if isinstance(choices, list) else choices


def rows_suite(source: str) -> Suite:
    """The suite of a file or folder of rows as it is: shape, choices and scorer told from the columns."""
    config = RowsConfig(type="rows", rows=source, name=f"rows-{_file_name(source)}")
    return _suite(config, f"rows:{source}", Path())


def yaml_suite(path: Path) -> Suite:
    """The suite a YAML file describes. Raises ConfigError naming file:line:key."""
    config, _ = load_config(RowsConfig, path)
    return _suite(config.model_copy(update={"name": config.name or _file_name(path.name)}), str(path), path.parent)


def _file_name(source: str) -> str:
    """Letters, digits, dots and hyphens of a file's name, without its ending."""
    return "".join(c if c.isalnum() or c in ".-_" else "-" for c in Path(source).stem) or "rows"


def _suite(config: RowsConfig, place: str, folder: Path) -> Suite:
    if (config.prompt is None) != (config.target is None):
        raise ConfigError(f"{place}:prompt", "prompt and target belong together.", "Set both, or neither.")
    first = _read(config.rows, "test", folder, place)
    kind = config.scorer or _kind_of(config, first, place)
    scoring = find_scorer(kind, place)
    scorer, metrics = make_scorer(scoring, config.options, place)
    headline = config.headline or metrics[0]
    if headline not in metrics:
        raise ConfigError(f"{place}:headline", f"the scorer has no '{headline}'.", f"Take {', '.join(metrics)}.")

    def build(asked: SuiteConfig) -> Task:
        parts = _parts(config, folder, place)
        if asked.split == "validation":
            _refuse_told(parts, place)
        _refuse_unfit(parts, scoring.answers, kind, place)
        chance = choice_chance if scoring.answers == "choice" else None
        ratios = READING_RATIOS if scoring.answers == "reading" else None
        return suite_task(suite, asked, parts, scorer, metrics, chance=chance, ratios=ratios)

    suite = Suite(
        name=config.name,
        version=config.version,
        source=config.source,
        licence=config.licence,
        about=config.about,
        answers=scoring.answers,
        headline=headline,
        shots=config.shots,
        max_new_tokens=config.max_new_tokens,
        build=build,
    )
    return suite


def _kind_of(config: RowsConfig, rows: Sequence[PlacedRow], place: str) -> str:
    (item, *_) = read_items(config.name, rows[:1], _reading(config, place))
    return "choice" if item.choices else "exact" if item.messages else "reading"


def _reading(config: RowsConfig, place: str) -> Reading:
    template = None
    if config.prompt is not None and config.target is not None:
        asked = TemplateConfig(input=config.prompt, target=config.target)
        template = compile_template(asked, config.name, "prompt", place)
    choices = tuple(config.choices) if isinstance(config.choices, list) else config.choices
    if isinstance(choices, tuple) and (
        len(choices) < 2 or len({choice.strip() for choice in choices} - {""}) < len(choices)
    ):
        raise ConfigError(f"{place}:choices", "two or more different texts are expected.", "Write [red, blue].")
    return Reading(template=template, choices=choices, id=config.id, group=config.group)


def _parts(config: RowsConfig, folder: Path, place: str) -> Parts:
    reading = _reading(config, place)
    sources: dict[Split, str | list[dict[str, Any]] | None] = {
        "train": config.examples, "validation": config.validation, "test": config.rows,
    }  # fmt: skip
    items: dict[Split, tuple[Item, ...]] = {}
    for split, source in sources.items():
        if source is None and isinstance(config.rows, str) and find_split(str(folder / config.rows), split):
            source = config.rows
        rows = [] if source is None else _read(source, split, folder, place)
        items[split] = tuple(read_items(config.name, rows, reading)) if rows else ()
    return Parts(examples=items["train"], validation=items["validation"], test=items["test"])


def _read(source: str | list[dict[str, Any]], split: Split, folder: Path, place: str) -> list[PlacedRow]:
    if isinstance(source, str):
        rows = open_rows(str(folder / Path(source).expanduser()), split=split)
        return [rows[i] for i in range(len(rows))]
    if not source:
        raise ConfigError(f"{place}:rows", "there is no row to measure on.", "Give the suite rows.")
    return [(row, Where(place, None, f"rows[{i}]")) for i, row in enumerate(source)]


def _refuse_told(parts: Parts, place: str) -> None:
    """Raise ConfigError where rows to choose on are also rows to report: the choice would have seen the test."""
    tested = {question_words(item) for item in parts.test}
    if told := [item.id for item in parts.validation if question_words(item) in tested]:
        cause = f"{len(told)} of {len(parts.validation)} rows also stand among the test rows, {told[0]} for one."
        raise ConfigError(f"{place}:validation", cause, "Remove them from one of the two.")


def _refuse_unfit(parts: Parts, answers: Answers, kind: str, place: str) -> None:
    for item in (*parts.test, *parts.validation, *parts.examples):
        if answers == "choice" and not item.choices:
            raise ConfigError(f"{place}:scorer", f"item {item.id} has no choices.", "Set choices, or another scorer.")
        if answers == "text" and not item.messages:
            cause = f"'{kind}' reads an answer, and item {item.id} asks nothing."
            raise ConfigError(f"{place}:scorer", cause, "Take the scorer reading, or set prompt and target.")
