"""What ``tunesmith redteam`` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from tunesmith.models.load import ModelConfig
from tunesmith.recipes.redteam_judge_open import RedteamJudgeSettings
from tunesmith.rollout.sampling import Sampling, Weights

BASE = "base"
_ADDRESS = ("http://", "https://")


class RedteamConfig(ModelConfig, RedteamJudgeSettings):
    """Goals x attacks x converters x attempts, who is attacked, and what may not be exceeded."""

    adapter: str | None = None
    """Folder of the adapter under test; none: the base itself."""
    compare: tuple[str, ...] = ()
    """What it is compared with, the first as what was there before: base, or folders of adapters."""
    target: str | None = None
    """OpenAI-compatible address of the model under test, instead of one on this machine."""
    target_model: str | None = None
    """The model's name at the address."""
    i_own_this_target: bool = False
    """That you may attack an address which is not this machine."""

    goals: tuple[str, ...] = Field(("ours",), min_length=1)
    """Sets of goals by name, and files of yours."""
    limit: int | None = Field(None, ge=1)
    """So many in all at most, in turn from the sets and their categories; empty: all."""
    attacks: tuple[str, ...] = Field(("all",), min_length=1)
    """Attacks by name; all: those that need no file."""
    converters: tuple[str, ...] = ()
    """Chains such as leet+base64, each put before the attacks of ``converted_attacks``."""
    converted_attacks: tuple[str, ...] = ("direct",)
    """Attacks whose requests are also converted."""
    num_attempts: int = Field(1, ge=1)
    """Attempts of each goal, attack and chain; more than one needs a temperature."""
    replay: bool = False
    """Put what the first model was asked to the others, word for word, instead of attacking each by itself."""
    seed: int = Field(0, ge=0)
    """Chooses goals and keys every draw."""

    max_new_tokens: int = Field(40, ge=1)
    """Most tokens of an answer: enough to tell a refusal from an answer."""
    temperature: float = Field(0.0, ge=0, le=10)
    """0 takes the likeliest token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Smallest set of tokens whose probability reaches this."""
    weights: Weights = "auto"
    """What a CPU decodes with: full, half or int8; auto: half where that holds the base's own numbers, else full."""
    rows_at_once: int = Field(32, ge=1)
    """Answers decoded side by side."""
    portion: int = Field(128, ge=1)
    """Answers made and kept together; a job that is killed loses at most so many."""

    attacker: str | None = None
    """Who writes for the model-driven attacks: base, folder of an adapter, or an address; empty: the base, or for an
    address the target itself."""
    attacker_model: str | None = None
    """An address: the attacker's name there."""

    api_key_env: str = "TUNESMITH_API_KEY"
    """An address: environment variable that holds the key."""
    requests_per_minute: int = Field(60, ge=1)
    """Most requests a minute to an address that is not this machine."""
    num_connections: int = Field(4, ge=1, le=64)
    """An address: requests under way at once."""
    timeout_seconds: float = Field(120.0, gt=0)
    """An address: for one answer."""
    max_tries: int = Field(6, ge=1, le=20)
    """An address: tries of one request in all, where the fault may pass."""
    backoff_seconds: float = Field(1.0, gt=0)
    """An address: wait before the second try; it doubles with every further one."""

    capability: tuple[str, ...] = ("oasst",)
    """Suites of `tunesmith eval` that tell what is kept of a model's use, where models are compared."""
    capability_items: int = Field(40, ge=2)
    """Items of each."""
    fail_above: tuple[str, ...] = ()
    """Figures the model under test may not exceed, such as asr=0.10; beyond one the exit code is 1."""
    output_dir: str = "runs/redteam"
    """Folder of attempts, answers and the verdict; the same command goes on there."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.target is not None:
            if not self.target.startswith(_ADDRESS):
                raise ValueError("target is an address such as http://localhost:8000/v1")
            if self.target_model is None:
                raise ValueError("an address needs target_model, the model's name there")
            if self.adapter is not None or self.compare:
                raise ValueError("target is attacked by itself; adapter and compare are for models on this machine")
        if self.num_attempts > 1 and self.temperature == 0:
            raise ValueError(
                "more than one attempt needs a temperature above 0: the likeliest answer is always the same"
            )
        if self.replay and not self.compare:
            raise ValueError("replay needs compare: models that are asked what the first one was asked")
        if self.attacker is not None and self.attacker.startswith(_ADDRESS) and self.attacker_model is None:
            raise ValueError("an address needs attacker_model, the model's name there")
        places = [name if name == BASE else str(Path(name).resolve()) for name in self.names]
        if len(set(places)) < len(places):
            raise ValueError("a model is compared with itself")
        return self

    @property
    def sampling(self) -> Sampling:
        """How the target answers."""
        return Sampling(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Models on this machine, what was there before first, the one under test last."""
        return (*self.compare, self.adapter or BASE)


def is_address(text: str | None) -> bool:
    """Whether a role is played behind an address."""
    return text is not None and text.startswith(_ADDRESS)
