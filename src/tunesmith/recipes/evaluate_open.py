"""What ``tunesmith eval`` opens: who is measured, whom it is compared with, and the suites as plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.evals.replay import FACTS_FILE, Earlier
from tunesmith.evals.subject import Subject, endpoint_subject, local_subject
from tunesmith.evals.suite import Suite
from tunesmith.evals.suites.catalogue import find_suite
from tunesmith.evals.task import Task
from tunesmith.models.adapters import is_adapter_folder, load_adapter
from tunesmith.models.load import load_base
from tunesmith.models.resolve import EMBEDDED_MODEL
from tunesmith.models.roles import Base
from tunesmith.recipes.chat import base_of
from tunesmith.recipes.evaluate_config import EvalConfig
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.sampling import Sampling
from tunesmith.stats import Interval

BARE = "base"
# Answers written together: as many as a batch of the generator has rows, so that the bar moves with every batch.
_PORTION = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Subjects, the measured one first; evaluations of earlier days; and what the user should know."""

    subjects: Sequence[Subject]
    earlier: Sequence[Earlier]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotChoice:
    """The number of shots that did best on validation, by the mean of the headline over all subjects."""

    chosen: int
    num_items: int
    tried: Mapping[int, Mapping[str, Interval]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One suite as it is asked; choice: where its number of shots came from, if it was chosen."""

    suite: Suite
    task: Task
    sampling: Sampling
    settings: Mapping[str, Any]
    choice: ShotChoice | None = None


def open_subjects(config: EvalConfig) -> Opened:
    """Load who is measured and compared; adapters share one base. Raises ConfigError, ModelError, RunError."""
    named = [config.adapter, *(one for one in config.compare if _is_adapter(one))]
    model = config.model_name_or_path
    if model == EMBEDDED_MODEL:
        model = next((own for one in named if one and (own := base_of(Path(one)))), model)
    notes: list[str] = []

    @cache
    def base_at(name: str) -> tuple[Base, LocalGenerator]:
        base = load_base(config.model_copy(update={"model_name_or_path": name}))
        generator = LocalGenerator(base)
        notes.extend(base.notes)
        return base, generator

    numbers = count()

    def local(folder: str | None, label: str) -> Subject:
        whole = folder is not None and not _is_adapter(folder) and (Path(folder) / "config.json").is_file()
        base, generator = base_at(str(folder) if whole else model)
        adapter = None
        if folder is not None and not whole:
            adapter = load_adapter(base, Path(folder), f"subject_{next(numbers)}").adapter
        template = config.chat_template
        return local_subject(base, generator, adapter, label, chat_template=template, portion=_PORTION)

    labels: dict[str, int] = {}
    if config.endpoint is not None:
        subject = endpoint_subject(config.endpoint, seed=config.seed)
        labels[subject.label] = 1
    else:
        subject = local(config.adapter, _label(config.adapter, labels))
    subjects, earlier = [subject], []
    for one in config.compare:
        if one != BARE and (Path(one) / FACTS_FILE).is_file():
            earlier.append(Earlier.open(Path(one), _label(one, labels)))
        elif one == BARE or Path(one).is_dir():
            subjects.append(local(None if one == BARE else one, _label(one, labels)))
        else:
            fix = "Name base, the folder of an adapter, or the output folder of an earlier evaluation."
            raise ConfigError(f"compare: {one}", "there is no such folder.", fix)
        if earlier and Path(one).resolve() == Path(config.output_dir).resolve():
            raise ConfigError(f"compare: {one}", "is the output folder of this evaluation.", "Name another --output.")
    _refuse_itself(subjects)
    return Opened(subjects=subjects, earlier=earlier, notes=list(dict.fromkeys(notes)))


def make_plan(
    config: EvalConfig,
    suite: Suite,
    *,
    shots: int | None = None,
    validation: bool = False,
    choice: ShotChoice | None = None,
) -> Plan:
    """The suite's task and how it is asked. Raises DataError, ConfigError."""
    own = config.for_suite(suite, shots=shots, validation=validation)
    sampling = config.sampling(suite)
    drawn = suite.answers == "text"
    return Plan(
        suite=suite,
        task=suite.build(own),
        sampling=sampling,
        settings={
            "version": suite.version,
            "chat_template": own.chat_template,
            "shots": suite.shots if own.shots is None else own.shots,
            "samples": own.samples,
            "sampling": sampling.model_dump(mode="json") if drawn else None,
        },
        choice=choice,
    )


def find_suites(names: Sequence[str], subjects: Sequence[Subject], *, select_shots: bool) -> list[Suite]:
    """The suites by their names. Raises ConfigError for one that a subject cannot answer, and for two of one name."""
    suites = [find_suite(name) for name in names]
    # Results, comparisons and choices of shots are kept by the suite's name: one of two would be lost.
    for suite in suites:
        if len(own := [n for s, n in zip(suites, names, strict=True) if s.name == suite.name]) > 1:
            fix = "Give one another name in a .yaml file, or measure them in calls of their own."
            raise ConfigError(f"suites {', '.join(own)}", f"are all called '{suite.name}'.", fix)
    mute = [subject.label for subject in subjects if subject.likelihood is None]
    if mute and (refused := [suite.name for suite in suites if suite.needs_likelihood]):
        raise ConfigError(
            f"suites {', '.join(refused)}",
            f"ask how likely given words are, which '{mute[0]}' does not tell: an endpoint writes answers only.",
            "Leave them out, or measure the model's weights on this machine with --model.",
        )
    if select_shots and (read := [suite.name for suite in suites if suite.answers == "reading"]):
        cause = "are read and not answered, so they show no examples whose number could be chosen."
        raise ConfigError(f"suites {', '.join(read)}, select_shots", cause, "Measure them in a call of their own.")
    return suites


def _is_adapter(name: str | None) -> bool:
    return name is not None and is_adapter_folder(Path(name))


def _label(folder: str | None, taken: dict[str, int]) -> str:
    """A short name for a table; a second one of a name gets a number."""
    name = BARE if folder in (None, BARE) else Path(str(folder)).resolve().name
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name} ({taken[name]})"


def _refuse_itself(subjects: Sequence[Subject]) -> None:
    first = subjects[0]
    for other in subjects[1:]:
        if other.identity == first.identity:
            cause = f"'{other.label}' and '{first.label}' are the same weights."
            raise ConfigError("compare", cause, "Name another adapter with --adapter or --compare.")
