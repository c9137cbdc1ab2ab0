"""Scorers by the name a suite's YAML gives them, with the options each takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.evals.choice import CHOICE_METRICS, choice_scorer
from tunesmith.evals.ifeval import IFEVAL_METRICS, instruction_following
from tunesmith.evals.numeric import numeric_answer
from tunesmith.evals.overlap import OVERLAP_METRICS, overlap
from tunesmith.evals.patterns import pattern_answer, pattern_match
from tunesmith.evals.python_run import RunLimits, python_tests
from tunesmith.evals.reading import READING_METRICS, reading_scorer
from tunesmith.evals.scorers import ToneRules, exact_text, json_fields
from tunesmith.evals.sql import QueryLimits, sql_execution
from tunesmith.evals.suite import Answers
from tunesmith.evals.task import Scorer
from tunesmith.evals.tone import has_sentiment, tone

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Named:
    """A scorer by name: made from its options; the metrics they give, the headline first; what it reads."""

    make: Callable[..., Scorer]
    metrics: Callable[[Options], tuple[str, ...]]
    answers: Answers = "text"


def _sql(*, seconds: float = 2.0, max_rows: int = 10_000) -> Scorer:
    return sql_execution(QueryLimits(seconds=seconds, max_rows=max_rows))


def _python(*, allow_execution: bool = False, seconds: float = 5.0, memory_mib: int = 512) -> Scorer:
    return python_tests(allow_execution=allow_execution, limits=RunLimits(seconds=seconds, memory_mib=memory_mib))


def _tone(
    *, max_words: int, num_emojis: int = 0, cheerful_words: Sequence[str], gloomy_words: Sequence[str] = ()
) -> Scorer:
    words = {"cheerful_words": tuple(cheerful_words), "gloomy_words": tuple(gloomy_words)}
    return tone(ToneRules(max_words=max_words, num_emojis=num_emojis, **words))


SCORERS: Mapping[str, Named] = {
    "exact": Named(lambda: exact_text, lambda options: ("exact", "contained")),
    "number": Named(numeric_answer, lambda options: ("numeric", "marked") if options.get("mark") else ("numeric",)),
    "match": Named(pattern_match, lambda options: ("match",)),
    "extract": Named(pattern_answer, lambda options: ("match", "extracted")),
    "json": Named(json_fields, lambda options: ("all_fields", "valid_json", *options["fields"])),
    "overlap": Named(overlap, lambda options: ("rougeL", *(name for name in OVERLAP_METRICS if name != "rougeL"))),
    "instructions": Named(instruction_following, lambda options: IFEVAL_METRICS),
    "tone": Named(_tone, lambda options: ("tone", "length", "emojis", "words", "sentiment")),
    "sentiment": Named(lambda: has_sentiment, lambda options: ("sentiment",)),
    "sql": Named(_sql, lambda options: ("execution", "executes")),
    "python": Named(_python, lambda options: ("passes",)),
    "choice": Named(choice_scorer, lambda options: CHOICE_METRICS, "choice"),
    "reading": Named(reading_scorer, lambda options: READING_METRICS, "reading"),
}


def find_scorer(name: str, place: str) -> Named:
    """A scorer by name. Raises ConfigError with the nearest one."""
    if name not in SCORERS:
        near = difflib.get_close_matches(name, SCORERS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Take {', '.join(SCORERS)}."
        raise ConfigError(f"{place}:scorer", f"there is no scorer '{name}'.", hint)
    return SCORERS[name]


def make_scorer(named: Named, options: Options, place: str) -> tuple[Scorer, tuple[str, ...]]:
    """The scorer and its metrics. Raises ConfigError for an option it does not take, lacks, or cannot use."""
    known = inspect.signature(named.make).parameters
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"It takes {', '.join(known) or 'none'}."
            raise ConfigError(f"{place}:options.{name}", "the scorer has no such option.", hint)
    if missing := [name for name, p in known.items() if p.default is p.empty and name not in options]:
        raise ConfigError(f"{place}:options", f"the scorer needs {', '.join(missing)}.", "Set it under options.")
    try:
        return named.make(**options), named.metrics(options)
    except ConfigError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        cause = str(error).rstrip(".")
        raise ConfigError(f"{place}:options", f"the scorer refuses them: {cause}.", "Correct them.") from None
