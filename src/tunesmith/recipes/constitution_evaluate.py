"""The last stage of a constitution's run: base and tuned models on the same prompts.

Read top to bottom: what is asked, everybody's answers into one results file, the judge, the facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.prompts import load_prompts
from tunesmith.errors import DataError
from tunesmith.evals.alignment import counts_of, harmful_compliance, kinds_of, over_refusal, verdict
from tunesmith.evals.compare_many import compare_many
from tunesmith.evals.contests import Contest, Decision, hold, prefers_longer
from tunesmith.evals.judge_agreement import agreement_line
from tunesmith.evals.judge_stats import bounded_rate, judge_statistics
from tunesmith.evals.kept import (
    creative_task,
    helpful_task,
    load_scenarios,
    prompt_items,
    reference_items,
    reference_task,
    scenario_task,
)
from tunesmith.evals.reading import perplexity
from tunesmith.evals.results import ResultsFile
from tunesmith.evals.rubrics import PAIR, settings_digest
from tunesmith.evals.run import TaskResult, run_task
from tunesmith.evals.subject import Subject, local_subject
from tunesmith.evals.suite import SuiteConfig
from tunesmith.evals.task import Task, subset
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig
from tunesmith.models.roles import Base
from tunesmith.progress import Bar
from tunesmith.recipes.constitution_evaluate_config import ConstitutionEvaluateConfig
from tunesmith.recipes.judge_open import open_judge
from tunesmith.records import Conversation, Message
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.sampling import Sampling
from tunesmith.runs import atomic_write_text

RESULTS_FILE, VERDICTS_FILE, EVALUATION_FILE = "results.jsonl", "verdicts.jsonl", "evaluation.json"
HARMFUL, SAFE = ("advbench", "harmbench"), "xstest_safe"
EXAMPLES = files("tunesmith.data.examples").joinpath("constitution")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task, how its answers are drawn, and the metric that is tested."""

    task: Task
    sampling: Sampling
    headline: str
