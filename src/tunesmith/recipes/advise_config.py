"""What ``tunesmith advise`` can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.data.shape import Shape
from tunesmith.evals.advise.answers import Kind
from tunesmith.evals.advise.decide import Rules
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.load import ModelConfig


class RowsConfig(ModelConfig):
    """Which rows are asked, and which are kept for what."""

    task: str = Field(min_length=1)
    """Rows with questions and right answers, in any shape ``sft`` reads; those to learn from, or all of them."""
    validation: str | None = None
    """Rows to choose prompts, shots and stopping on; empty: a share of the task's."""
    test: str | None = None
    """Rows every condition is measured on once; empty: a share of the task's."""
    validation_share: float = Field(0.15, gt=0, lt=1)
    """Share of the different questions, where there is no validation file."""
    test_share: float = Field(0.25, gt=0, lt=1)
    """Share of the different questions, where there is no test file."""
    shape: Literal["auto"] | Shape = "auto"
    """What the columns mean; auto tells it from their names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> theirs."""
    limit: int | None = Field(None, ge=8)
    """Most rows to learn from: a seeded sample, not the first ones."""
    validation_limit: int = Field(24, ge=4)
    """Most rows to choose on: a seeded sample."""
    test_limit: int = Field(60, ge=8)
    """Most rows to measure on: a seeded sample."""
    near_threshold: float = Field(0.8, gt=0, le=1)
    """Questions that share so many of their runs of three words are never on two sides."""
    seed: int = Field(0, ge=0)
    """Keys the split, the samples, the shots, the adapter's start and the order of rows."""


class AdviseConfig(RowsConfig):
    """The whole of ``tunesmith advise``: rows, conditions, tuning, thresholds, budget."""

    answers: Kind | Literal["auto"] = "auto"
    """How answers are scored; auto tells it from the training rows and says so."""
    by_choice: bool | None = None
    """Labels by log-likelihood instead of writing; empty: where there are at most 20 and none begins another."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Most tokens of an answer; empty: a quarter more than the longest of the training rows."""
    prompts: list[str] = []
    """Prompts of yours to try: a system message, or with {input} in it the whole question."""
    shots: list[int] = Field([1, 3, 5], min_length=1)
    """Numbers of fixed examples to choose from on the validation rows."""
    retrieved: list[int] = Field([1, 3, 5], min_length=1)
    """Numbers of retrieved examples, or passages, to choose from on the validation rows."""
    documents: list[str] = []
    """Texts (.txt, .md, or rows of ``text``) whose passages are retrieved, besides the training rows."""
    passage_words: int = Field(80, ge=10)
    """Most words of a passage; paragraphs are joined up to it and longer ones cut there into several."""
    dense: bool | None = None
    """Retrieval by sentence vectors too; empty: where the encoder is installed."""
    curve: list[float] = Field([0.25, 0.5], max_length=6)
    """Shares of the training rows at which tuning and retrieval are measured besides all of them."""
    adapter: AdapterConfig = AdapterConfig(r=16, lora_alpha=32)
    """What is trained."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """Peak learning rate of the tuning."""
    num_train_epochs: float = Field(2.0, gt=0)
    """Passes over the rows; the weights of the lowest validation loss are kept."""
    per_device_train_batch_size: int = Field(4, ge=1)
    """Rows of an optimiser step."""
    freshness: bool = True
    """Ask for facts that change after a tuning of their own."""
    facts: str | None = None
    """Your facts, rows of question, old, new; empty: an invented museum, whose things change halls."""
    fact_epochs: float = Field(8.0, gt=0)
    """Passes over the facts' rows, which are to be learnt by heart."""
    timed_requests: int = Field(4, ge=1)
    """Test rows asked one at a time with every condition, for the time of a request."""
    requests: int = Field(10_000, ge=1)
    """Requests you expect over the life of the model: what setting up is spread over."""
    margin: float = Field(0.05, ge=0, lt=1)
    """Quality you would give up for a cheaper condition, as a share of the rows."""
    facts_change: bool = False
    """Your facts change oftener than you want to tune again."""
    usable: float = Field(0.5, ge=0, le=1)
    """Quality below which nothing is called a solution."""
    max_minutes: float | None = Field(None, gt=0)
    """Parts that would not fit are left out and named; refused where the core of it does not fit."""
    output_dir: str = "runs/advise"
    """Where answers, adapters, pictures and the report are written; a second call goes on there."""

    @property
    def rules(self) -> Rules:
        return Rules(margin=self.margin, num_requests=self.requests, facts_change=self.facts_change, usable=self.usable)
