"""What ``tunesmith constitution revise`` can be told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.constitution.critic import CriticSettings
from tunesmith.constitution.principles import OURS
from tunesmith.constitution.revise import ReviseSettings
from tunesmith.constitution.wording import Style, Way
from tunesmith.recipes.constitution_open import is_address
from tunesmith.rollout.sampling import Sampling

SELF, RANDOM, ALWAYS_REFUSE = "self", "random", "always-refuse"


class ReviseConfig(Config):
    """How answers are criticised and revised, and what rows become of them."""

    prompts: str = Field(min_length=1)
    """File of prompts, or of rows that hold one each: those a model should not simply answer."""
    output_dir: str = Field(min_length=1)
    """Folder of the audit log, the rows, the requests and the summary."""
    harmless: str | None = Field(None, min_length=1)
    """Prompts that ask for nothing bad; their answers become rows even where nothing was found."""
    criticise_harmless: bool = True
    """false: their answers are kept as they are, which a weak critic's false alarms would spoil."""
    helpful_rows: str | None = Field(None, min_length=1)
    """Rows of good answers that are mixed in, so that the model does not learn to refuse everything."""
    helpful_share: float = Field(0.0, ge=0, lt=1)
    """Their share of all rows."""
    constitution: str = Field(OURS, min_length=1)
    """A file of principles, or ``ours``."""
    model: str | None = Field(None, min_length=1)
    """Who answers and revises: hub id, folder, .gguf file or address; empty: the adapter's base, or the embedded."""
    endpoint_model: str | None = Field(None, min_length=1)
    """Where model is an address: its name there."""
    adapter: str | None = Field(None, min_length=1)
    """Folder of an adapter that answers and revises."""
    critic: str = Field(SELF, min_length=1)
    """self; base, without the adapter; an adapter's folder; an OpenAI-compatible address; or a control: random,
    always-refuse."""
    critic_model: str | None = Field(None, min_length=1)
    """Where critic is an address: the model's name there."""
    reviser: Literal["model", "critic"] = "model"
    """Who writes revisions; a critic that is stronger than the model may."""
    num_rounds: int = Field(2, ge=1, le=16)
    """Most rounds of critique and revision for a prompt."""
    principles_per_round: int = Field(1, ge=1, le=16)
    """Principles sampled in a round, one after the other."""
    style: Style = "turns"
    """turns: the critic goes on with the conversation, as the paper has it; quoted: it is shown question and answer."""
    revision: Literal["auto", "asked", "shown"] = "auto"
    """asked: behind the critique, as the paper has it; shown: prompts with good answers go before the prompt, which is
    answered anew; auto: shown where a model of ours below 1B parameters revises."""
    revision_sentences: int | None = Field(None, ge=0)
    """A revision is cut to so many sentences; 0: not at all; empty: to 2 where it is shown, else not at all."""
    threshold: float | None = None
    """A verdict read from tokens is a fault where its log-odds, in nats, are above this; empty: halfway between those
    of a principle's own demonstrations with a fault and without, and 0 for a principle that has not both, or where the
    verdict stands behind the critique."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """The same for single principles, by their id."""
    verdict: Literal["opening", "question", "behind"] = "opening"
    """Where a critic of ours gives its verdict: as the critique's first word, before it as the answer to a question of
    its own, or behind it. But for the last, only what is found is put in words. An address marks it in its text."""
    random_share: float = Field(0.5, ge=0, le=1)
    """critic random: how often it finds something."""
    max_demonstrations: int = Field(2, ge=0)
    """Most demonstrations shown to a critic, or where a revision is asked for; fewer where they do not fit."""
    num_shown: int = Field(6, ge=0)
    """Most demonstrations where a revision is shown; those of the principle's category fill up its own."""
    max_retries: int = Field(1, ge=0, le=20)
    """How often more what is of no use (empty, an echo, endless, a verdict that cannot be read) is asked for."""
    give_up_after: int = Field(20, ge=0)
    """So many critiques at the beginning without a single verdict end the job; 0: never."""
    answer_tokens: int = Field(128, ge=1)
    """Most new tokens of a first answer, and of a revision."""
    critique_tokens: int = Field(64, ge=1)
    """Most new tokens of a critique."""
    temperature: float = Field(0.7, ge=0, le=10)
    """Of answers and revisions."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Of answers and revisions."""
    critic_temperature: float = Field(0.0, ge=0, le=10)
    """Of critiques; 0 asks for the likeliest."""
    unrevised: Literal["drop", "keep"] = "drop"
    """Answers to ``prompts`` in which nothing was changed: no rows, or rows as they are."""
    rows_of_prompts: Literal["all", "declined"] = "all"
    """declined: of the answers to ``prompts`` only those that the refusal detector reads as declining, at least in
    part, become rows; for prompts of which none should be followed, where a weak reviser often still does."""
    seed: int = Field(0, ge=0)
    """Keys every draw: of principles, of words, of the mixture."""
    prompts_at_once: int = Field(32, ge=1)
    """Prompts a model of ours answers in one batch."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> that of the file of prompts."""
    limit: int | None = Field(None, ge=1)
    """Only the first prompts, of each file."""
    on_bad_row: Literal["error", "drop"] = "error"
    """A faulty or too long prompt stops the job, or is left out and counted."""
    estimate_only: bool = False
    """Say what it would take, and stop."""
    api_key_env: str = "TUNESMITH_API_KEY"
    """An address: environment variable that holds the key."""
    timeout_seconds: float = Field(120.0, gt=0)
    """An address: for one answer."""
    max_attempts: int = Field(6, ge=1, le=20)
    """An address: tries of one request in all."""
    backoff_seconds: float = Field(1.0, gt=0)
    """An address: wait before the second try; it doubles with every further one."""
    num_connections: int = Field(4, ge=1, le=64)
    """An address: requests under way at once."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.helpful_share) != (self.helpful_rows is not None):
            raise ValueError("helpful_rows and helpful_share go together")
        if is_address(self.model) != (self.endpoint_model is not None):
            raise ValueError("an address as model and endpoint_model, its name there, go together")
        if is_address(self.critic) != (self.critic_model is not None):
            raise ValueError("an address as critic and critic_model, its name there, go together")
        if is_address(self.model) and self.adapter is not None:
            raise ValueError("an adapter of ours cannot answer behind an address")
        if self.reviser == "critic" and self.critic in (RANDOM, ALWAYS_REFUSE):
            raise ValueError(f"the control {self.critic} writes no revisions")
        return self

    def revise_settings(self, *, small: bool) -> ReviseSettings:
        """What the loop is told; small: a model of ours below 1B parameters revises."""
        way: Way = ("shown" if small else "asked") if self.revision == "auto" else self.revision
        sentences = self.revision_sentences
        words = Sampling(
            max_new_tokens=self.answer_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed
        )
        return ReviseSettings(
            answer=words,
            revision=words,
            num_rounds=self.num_rounds,
            principles_per_round=self.principles_per_round,
            style=self.style,
            way=way,
            max_sentences=(2 if way == "shown" else 0) if sentences is None else sentences,
            max_retries=self.max_retries,
            max_demonstrations=self.num_shown if way == "shown" else self.max_demonstrations,
            criticise_harmless=self.criticise_harmless,
            give_up_after=self.give_up_after,
        )

    def critic_settings(self) -> CriticSettings:
        """What a critic that is a model is told."""
        return CriticSettings(
            sampling=Sampling(max_new_tokens=self.critique_tokens, temperature=self.critic_temperature, seed=self.seed),
            style=self.style,
            threshold=self.threshold or 0.0,
            thresholds=self.thresholds,
            verdict=self.verdict,
            max_retries=self.max_retries,
            max_demonstrations=self.max_demonstrations,
        )
