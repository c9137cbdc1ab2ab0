"""A recipe's ``rewards:`` -> sources ready to be asked: reward models on the base in memory, functions, judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.errors import RewardError
from tunesmith.models.roles import Base
from tunesmith.rollout.reward_function import FunctionReward
from tunesmith.rollout.reward_judge import JudgeConfig, JudgeReward
from tunesmith.rollout.rewards import Answered, RewardSource, WeightedSum
from tunesmith.rollout.score import RewardModel, load_reward_model
from tunesmith.tokens.render import end_of_turn


class SourceConfig(Config):
    """One source of rewards: exactly one of model, function and judge."""

    model: str | None = None
    """Folder of a reward model that ``tunesmith reward`` trained on the same base."""
    function: str | None = None
    """A Python function as ``path/to/file.py:name`` or ``package.module:name``; its code is run."""
    judge: JudgeConfig | None = None
    """An OpenAI-compatible endpoint that grades answers from 0 to 10."""
    weight: float = 1.0
    """What its number counts in the sum; 0 only logs it, and the guards watch whether it falls as the sum rises."""
    name: str | None = Field(None, min_length=1, pattern=r"^[^\s/]+$")
    """What it is called in the metrics; by default the folder's or function's name, or the judge's model."""

    @model_validator(mode="after")
    def _is_one(self) -> SourceConfig:
        given = [kind for kind in ("model", "function", "judge") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a reward is one of model, function and judge; this one has {given or 'none of them'}")
        return self

    @property
    def label(self) -> str:
        """The name its source bears."""
        if self.name is not None:
            return self.name
        if self.model is not None:
            return Path(self.model).name or "reward"
        if self.function is not None:
            return self.function.rpartition(":")[2]
        assert self.judge is not None
        return self.judge.model.rpartition("/")[2]


class ModelReward:
    """A reward model of ours as a source; every answer is read at the token that ends a turn, cut off or not.

    The model learned to be read there and nowhere else, also where the policy ended with another of the base's end
    tokens. That an answer was cut off is a matter of its own, for which the recipe has a penalty.
    """

    def __init__(self, model: RewardModel, name: str) -> None:
        self.model, self.name = model, name
        self.identity: Mapping[str, str] = {"reward_model": model.digest}
        self.counts: Mapping[str, int] = {}
        self._end = end_of_turn(model.base.tokenizer_of(model.role.adapter))

    def score(self, items: Sequence[Answered]) -> NDArray[np.float64]:
        """(N,) rewards of the answers' tokens. Raises RewardError for an answer of which only the text is known."""
        for item in items:
            if not len(item.ids) or not len(item.prompt_ids):
                raise RewardError(
                    f"reward '{self.name}': prompt row {item.row_id}",
                    "a reward model reads tokens, and the answer came without them.",
                    "Give it answers of a model on the same base.",
                )
        answers = [self._ended(item) for item in items]
        return self.model.score([item.prompt_ids for item in items], answers) if items else np.zeros(0)

    def _ended(self, item: Answered) -> NDArray[np.int64]:
        """The answer's tokens with the end the model knows; as they are where it knows none."""
        if self._end is None:
            return item.ids
        words = item.ids if item.stop_reason == "length" else item.ids[:-1]
        # An answer that was cut off where the context ends gives its last token for it.
        context = self.model.base.context_tokens_of(self.model.role.adapter)
        return np.append(words[: context - len(item.prompt_ids) - 1], self._end)


def open_rewards(
    configs: Sequence[SourceConfig], base: Base, *, prefix: str = "reward"
) -> tuple[WeightedSum, list[str]]:
    """The weighted sum of a recipe's sources and what to tell of them; ``prefix`` begins their adapters' names.

    Raises ConfigError for two of one name, RewardError, AdapterMismatchError for a reward model of another base.
    """
    sources: list[tuple[RewardSource, float]] = []
    notes: list[str] = []
    for number, config in enumerate(configs):
        source: RewardSource
        if config.model is not None:
            adapter = prefix if number == 0 else f"{prefix}_{number}"
            source = ModelReward(load_reward_model(base, Path(config.model), adapter), config.label)
        elif config.function is not None:
            source = FunctionReward.load(config.function, config.label)
            how = "all answers at once" if source.batched else "one answer at a time"
            notes.append(f"the code of {config.function.rpartition(':')[0]} was run to load '{source.name}' ({how}).")
        else:
            assert config.judge is not None
            source = JudgeReward.open(config.judge, config.label)
            notes += source.notes
        sources.append((source, config.weight))
    return WeightedSum(sources), notes
