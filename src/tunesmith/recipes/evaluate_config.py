"""What ``tunesmith eval`` can be told, by options or by a recipe's keys."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tunesmith.evals.suite import Suite, SuiteConfig
from tunesmith.models.load import ModelConfig
from tunesmith.rollout.endpoint import EndpointConfig
from tunesmith.rollout.sampling import Sampling


class EvalConfig(ModelConfig):
    """Who is measured on what, how each suite is asked, and where the result goes."""

    suites: list[str] = Field(min_length=1)
    """Names of shipped suites, rows:FILE or a .yaml file for rows of one's own, lm-eval:NAME, mt-bench."""
    adapter: str | None = None
    """Folder of the adapter, or of the fully tuned model, that is measured; empty: the bare base."""
    endpoint: EndpointConfig | None = None
    """Measure a model behind an OpenAI-compatible address instead; it takes suites that are answered by a text."""
    compare: list[str] = []
    """What it is compared with: base, folders of adapters, or output folders of earlier evaluations."""
    limit: int | None = Field(None, ge=1)
    """So many items of each suite at most, the first of a seeded shuffle; empty: all."""
    shots: int | None = Field(None, ge=0)
    """Solved examples before each question; empty: each suite's own number."""
    select_shots: list[int] = []
    """Numbers of shots to choose from on each suite's validation items; the test items are then asked once."""
    samples: int = Field(1, ge=1)
    """Answers drawn an item, for pass@k; more than one needs a temperature."""
    temperature: float = Field(0.0, ge=0, le=10)
    """Divides the logits before an answer is drawn; 0 takes the likeliest token."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Most tokens of one answer; empty: each suite's own number."""
    chat_template: bool = True
    """Ask in the model's chat template; false: as plain text that it goes on with."""
    data_dir: str | None = None
    """Folder of the public sets; empty: the environment's TUNESMITH_DATA, else ../shared/data where that exists."""
    seed: int = 0
    """Chooses the items under a limit, the examples shown and the draws."""
    num_examples: int = Field(3, ge=0)
    """Worst cases, and of each kind of change, shown a suite on the page."""
    estimate_only: bool = False
    """Say what it would take and stop; the probe's few answers are kept."""
    output_dir: str = "runs/eval"
    """Where replies, result and pages are written; answers that lie there already are used again."""
    overwrite_output_dir: bool = False
    """Replace the result of another evaluation in output_dir; its replies stay."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 are all the same at temperature 0; set temperature=0.8, for example")
        if self.select_shots and self.shots is not None:
            raise ValueError("shots is a number and select_shots a choice of it; keep one of the two")
        if any(number < 0 for number in self.select_shots) or len(set(self.select_shots)) != len(self.select_shots):
            raise ValueError("select_shots must be different numbers from 0 on")
        if self.endpoint is not None and self.adapter is not None:
            raise ValueError("an endpoint takes no adapter; measure the adapter, and the endpoint into another folder")
        if self.endpoint is not None and not self.chat_template:
            raise ValueError("an endpoint applies its own chat template; chat_template=false cannot reach it")
        if twice := sorted({name for name in self.suites if self.suites.count(name) > 1}):
            raise ValueError(f"suites {', '.join(twice)} are named twice")
        return self

    def for_suite(self, suite: Suite, *, shots: int | None = None, validation: bool = False) -> SuiteConfig:
        """How a suite is built; samples are drawn only where answers are texts."""
        return SuiteConfig(
            data_dir=self.data_dir,
            split="validation" if validation else "test",
            limit=self.limit,
            shots=shots if shots is not None else self.shots,
            seed=self.seed,
            chat_template=self.chat_template,
            samples=self.samples if suite.answers == "text" else 1,
        )

    def sampling(self, suite: Suite) -> Sampling:
        """How a suite's answers are drawn."""
        most = self.max_new_tokens or suite.max_new_tokens
        return Sampling(max_new_tokens=most, temperature=self.temperature, seed=self.seed)

    def asked(self) -> dict[str, object]:
        """What the result depends on: all but where it goes and how it is shown."""
        apart = {"output_dir", "overwrite_output_dir", "estimate_only", "num_examples"}
        return self.model_dump(mode="json", exclude=apart)
