"""Who judges: a local model, an endpoint or a person, by the settings every verb that has a judge shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.errors import ConfigError
from tunesmith.evals.judge import Judge, LikelihoodJudge, WriterJudge
from tunesmith.evals.judge_agreement import agreement_line
from tunesmith.evals.judge_detector import DetectorJudge
from tunesmith.evals.judge_person import PersonJudge
from tunesmith.evals.rubrics import Rubric, settings_digest
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.roles import Base
from tunesmith.rollout.endpoint import Endpoint, EndpointConfig
from tunesmith.rollout.likelihood import LocalLikelihood
from tunesmith.rollout.sampling import Sampling

LOCAL, PERSON, DETECTOR = "local", "person", "detector"


class JudgeSettings(Config):
    """Who judges, and where it is filed how far they agree with people."""

    judge: str = LOCAL
    """local: a model on this machine, by the probabilities of its verdict tokens; an OpenAI-compatible address;
    person: you, in the terminal; or detector: the rules that read refusals."""
    judge_model: str | None = None
    """local: the judge's base, empty for the one that is measured; an address: the model's name there."""
    judge_adapter: str | None = None
    """local: folder of an adapter the judge has."""
    judge_max_new_tokens: int = Field(512, ge=1)
    """An address: most tokens of reasons and verdict."""
    judge_temperature: float = Field(0.0, ge=0, le=10)
    """An address: 0 asks for the likeliest verdict."""
    annotator: str = "person"
    """person: their name; each has verdicts of their own."""
    api_key_env: str = "TUNESMITH_API_KEY"
    """An address: environment variable that holds the key."""
    timeout_seconds: float = Field(120.0, gt=0)
    """An address: for one verdict."""
    max_attempts: int = Field(6, ge=1, le=20)
    """An address: tries of one request in all."""
    backoff_seconds: float = Field(1.0, gt=0)
    """An address: wait before the second try; it doubles with every further one."""
    num_connections: int = Field(4, ge=1, le=64)
    """An address: requests under way at once."""
    give_up_after: int = Field(20, ge=0)
    """So many verdicts of which none can be read end the job; 0: never."""
    calibrations: str = "runs/judges"
    """Folder in which `judge calibrate` files how far judges agree with people."""

    @model_validator(mode="after")
    def _a_judge(self) -> Self:
        if self.judge not in (LOCAL, PERSON, DETECTOR) and not self.judge.startswith(("http://", "https://")):
            raise ValueError("judge is local, person, detector, or an address such as http://localhost:8000/v1")
        if self.judge not in (LOCAL, PERSON, DETECTOR) and self.judge_model is None:
            raise ValueError("an address needs judge_model, the model's name there")
        if not self.annotator.strip():
            raise ValueError("annotator is empty: say who judges")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyboard:
    """How a person is asked: a function that waits for a key, and one that shows a screen."""

    read_key: Callable[[], str]
    show: Callable[[str], None]


def open_judge(
    settings: JudgeSettings, model: ModelConfig, base: Base | None = None, keyboard: Keyboard | None = None
) -> tuple[Judge, list[str]]:
    """The judge and what is to be said of it. ``base``: one that is loaded already, which a local judge may share.

    Raises ConfigError where a person is to judge and there is no keyboard, and what opening a model raises.
    """
    if settings.judge == PERSON:
        if keyboard is None:
            raise ConfigError("judge", "there is nobody at a keyboard.", "Judge from the command line.")
        return PersonJudge(settings.annotator.strip(), keyboard.read_key, keyboard.show), []
    if settings.judge == DETECTOR:
        return DetectorJudge(), []
    if settings.judge == LOCAL:
        return _local(settings, model, base)
    assert settings.judge_model is not None
    names = ("api_key_env", "timeout_seconds", "max_attempts", "backoff_seconds", "num_connections")
    endpoint = Endpoint(
        EndpointConfig(
            url=settings.judge, model=settings.judge_model, **{name: getattr(settings, name) for name in names}
        )
    )
    sampling = Sampling(max_new_tokens=settings.judge_max_new_tokens, temperature=settings.judge_temperature)
    return WriterJudge(endpoint, sampling), list(endpoint.notes)


def _local(settings: JudgeSettings, model: ModelConfig, base: Base | None) -> tuple[Judge, list[str]]:
    notes: list[str] = []
    if base is None or settings.judge_model not in (None, model.model_name_or_path):
        name = settings.judge_model or model.model_name_or_path
        base = load_base(model.model_copy(update={"model_name_or_path": name}))
        notes += base.notes
    adapter = None
    if settings.judge_adapter is not None:
        adapter = load_adapter(base, Path(settings.judge_adapter), "judge").adapter
    return LikelihoodJudge(LocalLikelihood(base, adapter)), notes


def describe_judge(judge: Judge, rubrics: Mapping[str, Rubric], folder: str) -> dict[str, object]:
    """For JSON: who judges, and of each rubric the digest of the settings and the agreement that is filed under it."""
    digests = {name: settings_digest(judge.identity, rubric, judge.style) for name, rubric in rubrics.items()}
    return {
        "identity": dict(judge.identity),
        "name": judge.identity.get("model", judge.identity["judge"]),
        "digests": digests,
        "agreement": {name: agreement_line(Path(folder), digest) for name, digest in digests.items()},
    }
