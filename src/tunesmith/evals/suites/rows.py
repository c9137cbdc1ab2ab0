"""A suite over one's own rows: ``rows:FILE`` with everything told from the columns, or a YAML file with ``type: rows``."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.config import Config, load_config
from tunesmith.data.read import find_split, open_rows
from tunesmith.data.sources import Split
from tunesmith.data.templates import Template, TemplateConfig, compile_template
from tunesmith.errors import ConfigError, DataError
from tunesmith.evals.asking import Parts, refuse_overlap, suite_task
from tunesmith.evals.choice import CHOICE_METRICS, choice_chance, choice_scorer
from tunesmith.evals.numeric import numeric_answer
from tunesmith.evals.overlap import OVERLAP_METRICS, overlap
from tunesmith.evals.reading import READING_METRICS, READING_RATIOS, reading_scorer
from tunesmith.evals.scorers import exact_text, json_fields
from tunesmith.evals.suite import Answers, Suite, SuiteConfig
from tunesmith.evals.suites.rows_items import PlacedRow, Reading, read_items
from tunesmith.evals.task import Item, Scorer, Task
from tunesmith.records import Where

Scoring = tuple[Scorer, tuple[str, ...]]
