"""MT-Bench: one or two models answer two-turn questions, a judge grades each answer and compares the two models.

Read top to bottom: config, load, answer, judge, count, write. What is in the folder's files is neither answered nor
judged again, so the same command goes on after a stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tunesmith.errors import ConfigError
from tunesmith.evals.contests import Decision, Talk, hold
from tunesmith.evals.judge import Judge, Ruling, hear
from tunesmith.evals.mt_bench import LoadedQuestions, Question, answer_all, contests_of, graded_turns, load_questions
from tunesmith.evals.replay import refuse_other
from tunesmith.evals.rubrics import GRADE, PAIR
from tunesmith.evals.subject import Subject, endpoint_subject, local_subject
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.randomness import permutation
from tunesmith.recipes.chat import base_of
from tunesmith.recipes.judge_open import JudgeSettings, Keyboard, describe_judge, open_judge
from tunesmith.recipes.mt_bench_result import RESULT_FILE, Played, write_result
from tunesmith.rollout.endpoint import EndpointConfig
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.results import ResultsFile
from tunesmith.runs import hold_file, machine_summary

ANSWERS_FILE, VERDICTS_FILE = "answers.jsonl", "verdicts.jsonl"
BARE = "base"


class MTBenchConfig(ModelConfig, JudgeSettings):
    """What ``tunesmith eval mt-bench`` can be told."""

    questions: str = Field(min_length=1)
    """Rows of question_id, category and turns: MT-Bench's question.jsonl, or questions of one's own."""
    references: str | None = None
    """Rows of question_id and choices[0].turns: right answers for maths, reasoning and coding."""
    adapter: str | None = None
    """Folder of the adapter that is measured; empty: the bare base."""
    endpoint: EndpointConfig | None = None
    """Measure a model behind an address instead."""
    compare: str | None = None
    """Whom it is compared with: base, or the folder of an adapter."""
    mode: Literal["all", "grade", "pair"] = "all"
    """grade every answer by itself, compare the two models' answers, or all that can be done."""
    limit: int | None = Field(None, ge=1)
    """So many questions, one of each category in turn; empty: all."""
    max_new_tokens: int = Field(256, ge=1)
    """Most tokens of one answer."""
    seed: int = 0
    """Keys the draws and picks the examples."""
    num_examples: int = Field(4, ge=0)
    """Questions shown with all answers and verdicts."""
    output_dir: str = "runs/mt-bench"
    """Where answers, verdicts, result and page are written."""
    overwrite_output_dir: bool = False
    """Replace the result of other models, questions or another judge in output_dir; answers and verdicts stay."""

    @model_validator(mode="after")
    def _two_models(self) -> Self:
        if self.mode == "pair" and self.compare is None:
            raise ValueError("pairs need two models: name the other one with compare")
        if self.endpoint is not None and self.adapter is not None:
            raise ValueError("an endpoint takes no adapter: measure one of the two")
        return self

    def asked(self) -> dict[str, Any]:
        """Whose result it is: who answers what, and who judges. How much of it may grow from call to call."""
        who = {"questions", "references", "model_name_or_path", "adapter", "endpoint", "compare", "max_new_tokens"}
        judged = {"seed", "judge", "judge_model", "judge_adapter", "annotator"}
        return self.model_dump(mode="json", include=who | judged)


Bar = Callable[[str, int, int], None]


def run_mt_bench(
    config: MTBenchConfig,
    say: Callable[[str], None],
    keyboard: Keyboard | None = None,
    bar: Bar = lambda what, done, total: None,
) -> dict[str, Any]:
    """Answer, judge, write; returns what ``--json`` prints. Raises ConfigError, DataError, EndpointError, RunError."""
    folder = Path(config.output_dir)
    refuse_other(folder / RESULT_FILE, config.asked(), overwrite=config.overwrite_output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with hold_file(folder / ANSWERS_FILE):
        return _play(config, folder, say, keyboard, bar)


def _play(
    config: MTBenchConfig, folder: Path, say: Callable[[str], None], keyboard: Keyboard | None, bar: Bar
) -> dict[str, Any]:
    began = time.perf_counter()
    loaded = load_questions(config.questions, config.references, config.limit)
    subjects, base, notes = _open_subjects(config)
    judge, more = open_judge(config, _judge_model(config, base), base, keyboard)
    for note in [*loaded.notes, *notes, *more, _estimate(config, loaded, len(subjects), judge)]:
        say(note)
    answers, verdicts = ResultsFile(folder / ANSWERS_FILE), ResultsFile(folder / VERDICTS_FILE)
    talks, num_cut = [], {}
    for subject in subjects:
        talk, num_cut[subject.label] = answer_all(
            loaded.questions,
            subject,
            answers,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
            on_progress=partial(bar, f"{subject.label} answers"),
        )
        talks.append(talk)
    labels = [subject.label for subject in subjects]
    grades: list[list[Ruling]] = []
    decisions: list[Decision] = []
    if config.mode != "pair":
        grades = _grade(config, judge, loaded.questions, talks, verdicts, bar)
    if config.mode != "grade" and len(subjects) > 1:
        decisions = hold(
            contests_of(loaded.questions, (labels[0], labels[1]), talks[0], talks[1]),
            judge,
            verdicts,
            give_up_after=config.give_up_after,
            on_progress=partial(bar, "comparing"),
        )
    rubrics = {rubric.name: rubric for rubric, used in ((GRADE, grades), (PAIR, decisions)) if used}
    played = Played(
        questions=loaded.questions, labels=labels, talks=talks, num_cut=num_cut, grades=grades, decisions=decisions
    )
    facts = played.facts(config.seed, config.num_examples) | {
        "asked": config.asked(),
        "judge": describe_judge(judge, rubrics, config.calibrations),
        "questions": {"source": config.questions, "references": config.references, "digest": loaded.digest},
        "identities": {subject.label: dict(subject.identity) for subject in subjects},
        "settings": {"max_new_tokens": config.max_new_tokens, "seed": config.seed, "limit": config.limit},
        "notes": [*loaded.notes, *_self_judged(judge, subjects)],
        "machine": machine_summary(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_result(folder, played, facts)
    return facts


def _self_judged(judge: Judge, subjects: Sequence[Subject]) -> list[str]:
    """A judge prefers its own words (arXiv:2404.13076): say so where it is one of the players, or their base."""
    same = [s.label for s in subjects if s.identity.get("model_digest") == judge.identity.get("model_digest")]
    stand = "stand" if len(same) > 1 else "stands"
    return (
        [f"the judge has the weights that {' and '.join(same)} {stand} on, and may like its own words."] if same else []
    )


def _open_subjects(config: MTBenchConfig) -> tuple[list[Subject], Base | None, list[str]]:
    """Who answers, the measured one first; local ones share one base. Raises ConfigError, ModelError."""
    subjects = [] if config.endpoint is None else [endpoint_subject(config.endpoint, seed=config.seed)]
    wanted = [config.adapter] if config.endpoint is None else []
    if config.compare is not None:
        wanted.append(None if config.compare == BARE else config.compare)
    if not wanted:
        return subjects, None, []
    model = config.model_name_or_path
    if model == EMBEDDED_MODEL:
        model = next((own for folder in wanted if folder and (own := base_of(Path(folder)))), model)
    base = load_base(config.model_copy(update={"model_name_or_path": model}))
    generator = LocalGenerator(base)
    for number, folder in enumerate(wanted):
        adapter = None if folder is None else load_adapter(base, Path(folder), f"player_{number}").adapter
        label = BARE if folder is None else Path(folder).resolve().name
        taken = [subject.label for subject in subjects]
        subjects.append(local_subject(base, generator, adapter, f"{label} (2)" if label in taken else label))
    if len(subjects) == 2 and subjects[0].identity == subjects[1].identity:
        raise ConfigError("compare", "the two are the same weights.", "Name another adapter.")
    return subjects, base, list(base.notes)


def _judge_model(config: MTBenchConfig, base: Base | None) -> ModelConfig:
    """The base a local judge loads unless it is told another: the one that is measured."""
    return config if base is None else config.model_copy(update={"model_name_or_path": base.resolved.name})


def _estimate(config: MTBenchConfig, loaded: LoadedQuestions, num_models: int, judge: Judge) -> str:
    """How much is to be answered and judged at most; characters over four stand for tokens."""
    turns = [(q, turn) for q in loaded.questions for turn in range(1, len(q.turns) + 1)]
    orders = (2 if judge.both_orders else 1) if num_models > 1 and config.mode != "grade" else 0
    grades = num_models if config.mode != "pair" else 0
    tokens = 0
    for question, turn in turns:
        asked = (len(GRADE.ask) + sum(map(len, question.turns[:turn] + question.reference[:turn]))) // 4
        tokens += grades * (asked + turn * config.max_new_tokens) + orders * (asked + 2 * turn * config.max_new_tokens)
    answers = num_models * len(turns)
    return (
        f"{len(loaded.questions)} questions: at most {answers} answers of up to {config.max_new_tokens} tokens, then "
        f"{grades * len(turns)} grades and {orders * len(turns)} comparisons, up to about {tokens:,} tokens for the "
        "judge to read; what is in the folder is not asked again."
    )


def _grade(
    config: MTBenchConfig,
    judge: Judge,
    questions: Sequence[Question],
    talks: Sequence[Sequence[Talk]],
    verdicts: ResultsFile,
    bar: Bar,
) -> list[list[Ruling]]:
    """Rulings on every model's answers, put in one shuffled order that tells nothing of whose they are."""
    cases = [case for own in talks for _, _, case in graded_turns(questions, own)]
    order = permutation(len(cases), config.seed, "mt_bench_grades")
    shuffled = [cases[i] for i in order]
    heard = hear(judge, shuffled, verdicts, give_up_after=config.give_up_after, on_progress=partial(bar, "grading"))
    back = dict(zip(order, heard, strict=True))
    each = len(cases) // len(talks)
    return [[back[model * each + i] for i in range(each)] for model in range(len(talks))]
