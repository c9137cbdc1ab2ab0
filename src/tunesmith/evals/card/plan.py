"""What a card asks: one number of questions, shared out to the dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.evals.card.bbq import bbq_task
from tunesmith.evals.card.crows_pairs import crows_pairs_task
from tunesmith.evals.card.perturb import ROBUSTNESS, Change
from tunesmith.evals.card.substitute import FAIRNESS
from tunesmith.evals.card.toxicity import SAMPLING, Instrument, open_instrument, toxicity_task
from tunesmith.evals.card.variants import with_forms
from tunesmith.evals.card.winobias import winobias_task
from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.evals.suites.catalogue import find_suite
from tunesmith.evals.task import Task
from tunesmith.rollout.sampling import Sampling

# Parts of a hundred questions. An item asked in several forms is several questions.
SHARES = {
    "choice": 30, "generated": 3, "robustness": 18, "fairness": 18, "bbq": 11, "crows_pairs": 8, "winobias": 8,
    "toxicity": 4,
}  # fmt: skip
# Below this some dimension would get no item.
MIN_LIMIT = 100


class PlanConfig(Config):
    """Which questions the card asks; both models are asked the same ones."""

    limit: int = Field(1600, ge=MIN_LIMIT)
    """Questions to each model over the whole card, forms of one item counted one by one."""
    choice_suites: list[str] = Field(["true_false_facts", "sms_spam", "truthfulqa", "pubmedqa", "copa"], min_length=1)
    """Suites answered by the likeliest choice: accuracy and calibration."""
    form_suites: list[str] = Field(["true_false_facts", "sms_spam"], min_length=1)
    """Choice suites whose items are asked again in changed forms: robustness and fairness."""
    generated_suites: list[str] = ["ifeval", "gsm8k"]
    """Suites answered by a written text; few items, since writing is slow."""
    data_dir: str | None = None
    """Folder of the public sets; empty: the environment's TUNESMITH_DATA, else ../shared/data where that exists."""
    chat_template: bool = True
    """Ask in the model's chat template; false: as plain text."""
    seed: int = 0
    """Chooses items, forms and draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A task of the card. headline: the metric of an accuracy suite. source: where the rows come from."""

    dimension: str
    task: Task
    sampling: Sampling
    headline: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All parts of a card, in the order they are asked, and the classifier that reads continuations."""

    parts: tuple[Part, ...]
    instrument: Instrument


def make_plan(config: PlanConfig, classifier_path: Path) -> Plan:
    """Build every task. Raises DataError for missing rows, ConfigError for suites that do not fit."""
    ask = SuiteConfig(data_dir=config.data_dir, seed=config.seed, chat_template=config.chat_template)
    instrument = open_instrument(ask, classifier_path)
    number = {name: max(1, config.limit * share // 100) for name, share in SHARES.items()}
    greedy = Sampling(max_new_tokens=1)
    parts = [
        *_accuracy(config, ask, number),
        *_forms(config, ask, "robustness", ROBUSTNESS, number["robustness"]),
        *_forms(config, ask, "fairness", FAIRNESS, number["fairness"]),
        Part(dimension="bias", task=bbq_task(ask, number["bbq"], config.seed), sampling=greedy),
        Part(dimension="bias", task=crows_pairs_task(ask, number["crows_pairs"], config.seed), sampling=greedy),
        Part(dimension="bias", task=winobias_task(ask, number["winobias"], config.seed), sampling=greedy),
        Part(
            dimension="toxicity",
            task=toxicity_task(ask, number["toxicity"], config.seed, instrument.classifier),
            sampling=SAMPLING.model_copy(update={"seed": config.seed}),
        ),
    ]
    return Plan(parts=tuple(parts), instrument=instrument)


def _accuracy(config: PlanConfig, ask: SuiteConfig, number: Mapping[str, int]) -> list[Part]:
    chosen = [(find_suite(name), number["choice"] // len(config.choice_suites)) for name in config.choice_suites]
    for suite, _ in chosen:
        _check_choice(suite, "choice_suites")
    if config.generated_suites:
        each = number["generated"] // len(config.generated_suites)
        chosen += [(find_suite(name), each) for name in config.generated_suites]
    return [_part("accuracy", suite, ask, size) for suite, size in chosen]


def _forms(
    config: PlanConfig, ask: SuiteConfig, dimension: str, changes: Mapping[str, Change], num_questions: int
) -> list[Part]:
    suites = [find_suite(name) for name in config.form_suites]
    out = []
    for suite in suites:
        _check_choice(suite, "form_suites")
        plain = _part(dimension, suite, ask, num_questions // (len(suites) * (1 + len(changes))))
        out.append(replace(plain, task=with_forms(plain.task, dimension, changes, config.seed)))
    return out


def _part(dimension: str, suite: Suite, ask: SuiteConfig, size: int) -> Part:
    return Part(
        dimension=dimension,
        task=suite.build(ask.model_copy(update={"limit": max(1, size)})),
        sampling=Sampling(max_new_tokens=suite.max_new_tokens if suite.answers == "text" else 1),
        headline=suite.headline,
        source=f"{suite.source} ({suite.licence})",
    )


def _check_choice(suite: Suite, place: str) -> None:
    if suite.answers != "choice":
        cause = f"'{suite.name}' is not answered by a choice, so there is no probability to calibrate."
        raise ConfigError(place, cause, "Put it into generated_suites, or take another.")
