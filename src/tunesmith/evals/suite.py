"""A suite: a public set or one's own rows as a task, with everything that must be said of a figure measured on it.

A suite keeps three parts of its rows apart, whatever the seed: examples that are shown before a question, validation,
on which prompts and shots are chosen, and test, on which the choice is reported once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from tunesmith.config import Config
from tunesmith.errors import DataError
from tunesmith.evals.task import Task

# The folder that holds the public sets, where the command line names none.
DATA_VARIABLE = "TUNESMITH_DATA"
# How a suite is answered: by a written text, by the likeliest of an item's choices, or by reading a text itself.
Answers = Literal["text", "choice", "reading"]


class SuiteConfig(Config):
    """How a suite is asked; every model that is compared is asked the same way."""

    data_dir: str | None = None
    """Folder of the public sets; empty: the environment's TUNESMITH_DATA, else ../shared/data where that exists."""
    split: Literal["test", "validation"] = "test"
    """Prompts, shots and checkpoints are chosen on validation; test is for the figure that is reported."""
    limit: int | None = Field(None, ge=1)
    """So many items at most, the first of a seeded shuffle; empty: all of the split."""
    shots: int | None = Field(None, ge=0)
    """Solved examples shown before each question; empty: the suite's own number."""
    seed: int = 0
    """Chooses the items under a limit and the examples shown."""
    chat_template: bool = True
    """Ask in the model's chat template; false: as plain text that the model goes on with."""
    samples: int = Field(1, ge=1)
    """Answers drawn an item, for pass@k; 1 for suites that are not answered by a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named, versioned suite. source: where the rows were published; licence: theirs; about: what it measures.

    headline: the metric to compare models by. shots: examples shown unless the config says otherwise. max_new_tokens:
    what the longest sensible answer takes. build raises DataError for rows that are missing, faulty or without gold,
    and ConfigError for settings the suite cannot follow.
    """

    name: str
    version: int
    source: str
    licence: str
    about: str
    answers: Answers
    headline: str
    build: Callable[[SuiteConfig], Task]
    shots: int = 0
    max_new_tokens: int = 64

    @property
    def needs_likelihood(self) -> bool:
        """Whether the model must tell the log-likelihood of given texts, as few endpoints do."""
        return self.answers != "text"


def data_file(config: SuiteConfig, name: str, published: str) -> Path:
    """A file of the public sets by its path in their folder. Raises DataError saying where it is published."""
    folder = data_folder(config)
    path = folder / name if folder is not None else None
    if path is None or not path.is_file():
        raise DataError(
            str(path) if path is not None else name,
            "the suite's rows are not there." if path is not None else "no folder with the suites' rows was found.",
            f"Take them from {published}, and name the folder with data_dir or {DATA_VARIABLE}.",
        )
    return path


def data_folder(config: SuiteConfig) -> Path | None:
    """The folder of the public sets: the config's, the environment's, or ../shared/data where that exists."""
    named = config.data_dir or os.environ.get(DATA_VARIABLE)
    if named:
        return Path(named).expanduser()
    beside = Path.cwd().parent / "shared" / "data"
    return beside if beside.is_dir() else None
