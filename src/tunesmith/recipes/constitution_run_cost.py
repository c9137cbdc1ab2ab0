"""What a run will take, stage by stage, told before it starts: tokens from rows and settings, pace from a probe.

Tokens that are written are the most there can be; rows that an earlier stage has still to make are estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.constitution.principles import load_constitution
from tunesmith.data.load import load_data
from tunesmith.models.roles import Base
from tunesmith.recipes.constitution_config import ALWAYS_REFUSE, RANDOM, ReviseConfig
from tunesmith.recipes.constitution_evaluate import jobs_of, measured_stages
from tunesmith.recipes.constitution_evaluate_config import ConstitutionEvaluateConfig
from tunesmith.recipes.constitution_label_config import LabelConfig
from tunesmith.recipes.constitution_run_config import TRAINS
from tunesmith.recipes.constitution_run_pace import Cost, Pace
from tunesmith.recipes.constitution_run_prompts import HARMFUL_FILE, HARMLESS_FILE, LABEL_FILE, prompts_where
from tunesmith.recipes.constitution_run_shop import PromptsTold, Recipe
from tunesmith.recipes.feedback_prefer import PAIRS_FILE
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.records import Conversation, Message, Where
from tunesmith.tokens.template import encode

# Rows whose tokens are counted; the others are taken to be as long.
_COUNTED = 64
# Tokens of a chat template around a turn, and of a critic's or a judge's question beside what it is about.
_TURN, _ASKED = 8, 150


# (read, written, trained on).
Tokens = tuple[float, float, float]


def costs_of(recipes: Sequence[Recipe], base: Base, pace: Pace) -> dict[str, Cost]:
    """The cost of every stage, by name."""
    counter = _Counter(base)
    out = {}
    for recipe in recipes:
        read, written, trained = counter.tokens(recipe)
        seconds = read / pace.read + written / pace.write + trained / pace.train
        out[recipe.stage.name] = Cost(read=read, written=written, trained=trained, seconds=seconds)
    return out


@dataclass(slots=True)
class _Counter:
    """Counts tokens; what a stage is expected to leave is noted for those behind it: file -> (rows, tokens a row)."""

    base: Base
    expected: dict[Path, tuple[int, float]] = field(default_factory=dict)
    adapters: dict[str, Path] = field(default_factory=dict)
    helpful_share: float = 0.0

    def tokens(self, recipe: Recipe) -> tuple[int, int, int]:
        """(read, written, trained on) of one stage."""
        kind, name = recipe.kind, recipe.stage.name
        if kind in TRAINS and name == kind:
            self.adapters[kind] = recipe.stage.folder
        if name.startswith("mix@"):
            share = float(recipe.stage.settings["share"])
            own, each = self.expected[recipe.stage.reads["rows"]]
            num = own * (1 - self.helpful_share) / (1 - share)
            self.expected[recipe.stage.leaves[0]] = (round(num), each)
            return 0, 0, 0
        read, written, trained = getattr(self, f"_{kind}")(recipe)
        return round(read), round(written), round(trained)

    def _prompts(self, recipe: Recipe) -> Tokens:
        told = recipe.config
        assert isinstance(told, PromptsTold)
        how, folder = told.recipe, recipe.stage.folder
        rows_of = {HARMFUL_FILE: (prompts_where(how.harmful, how.harmful_columns, {}), how.harmful_limit)}
        if how.harmless is not None:
            rows = prompts_where(how.harmless, how.harmless_columns, how.harmless_where)
            rows_of[HARMLESS_FILE] = (rows, how.harmless_limit)
        kept = how.label_share if told.labels else 0.0
        both, sizes = 0.0, []
        for file, (rows, limit) in rows_of.items():
            num, each = min(len(rows), limit or len(rows)), self._mean([one.messages for one in rows[:_COUNTED]])
            self.expected[folder / file] = (round((1 - kept) * num), each)
            both += kept * num
            sizes.append(each)
        self.expected[folder / LABEL_FILE] = (round(both), max(sizes))
        return 0, 0, 0

    def _helpful(self, recipe: Recipe) -> Tokens:
        return self._training(recipe.config, *self._rows(recipe.config))

    _sft = _helpful

    def _revise(self, recipe: Recipe) -> Tokens:
        config = recipe.config
        assert isinstance(config, ReviseConfig)
        num, each = self.expected[Path(config.prompts)]
        more = 0 if config.harmless is None else self.expected[Path(config.harmless)][0]
        held = num + (more if config.criticise_harmless else 0)
        num, steps = num + more, held * config.num_rounds * config.principles_per_round
        answer, told = config.answer_tokens, config.critique_tokens
        rows = num / (1 - config.helpful_share)
        if recipe.stage.name == "revise":
            self.helpful_share = config.helpful_share
        self.expected[recipe.stage.leaves[0]] = (round(rows), each + answer)
        critic, reviser = config.critic not in (RANDOM, ALWAYS_REFUSE), config.critic != ALWAYS_REFUSE
        shown = self._demonstrations(config)
        asked = each + answer + _ASKED + shown
        read = num * each + steps * asked * (2 * critic + reviser)
        written = num * answer + steps * (told * critic + answer * reviser)
        # A control finds the run's first answers.
        return (read, written, 0) if recipe.stage.name == "revise" else (read - num * each, written - num * answer, 0)

    def _demonstrations(self, config: ReviseConfig) -> float:
        """Tokens of the demonstrations a critic is shown, by the mean principle."""
        principles = load_constitution(config.constitution).principles
        most = max(config.max_demonstrations, 0 if config.revision == "asked" else config.num_shown)
        shown = [[one.prompt + one.answer + one.critique for one in p.examples[:most]] for p in principles]
        return float(np.mean([self._length(texts) for texts in shown]))

    def _label(self, recipe: Recipe) -> Tokens:
        config = recipe.config
        assert isinstance(config, LabelConfig)
        num, each = self.expected[Path(config.prompts)]
        answer = config.max_new_tokens
        self.expected[recipe.stage.folder.parent / "prefer" / PAIRS_FILE] = (num, each + 2 * answer)
        asked = _ASKED + each + 2 * answer
        return num * (each + 2 * config.num_principles * asked), num * config.num_candidates * answer, 0

    def _prefer(self, recipe: Recipe) -> Tokens:
        return 0, 0, 0

    def _dpo(self, recipe: Recipe) -> Tokens:
        read, written, trained = self._training(recipe.config, *self.expected[Path(recipe.config.data.train)])
        # The reference reads every pair once.
        return read + trained / recipe.config.num_train_epochs, written, trained

    def _reward(self, recipe: Recipe) -> Tokens:
        return self._training(recipe.config, *self.expected[Path(recipe.config.data.train)])

    def _ppo(self, recipe: Recipe) -> Tokens:
        config = recipe.config
        assert isinstance(config, PPOConfig)
        each = self.expected[Path(config.data.train)][1]
        num = (config.num_iterations + 1) * config.prompts_per_iteration * config.num_generations
        written = num * config.max_new_tokens
        seen = num * (each + config.max_new_tokens)
        # Policy, reference, value and reward read each answer; policy and value learn from it in every epoch.
        return 4 * seen, written, 2 * seen * config.num_ppo_epochs

    def _evaluate(self, recipe: Recipe) -> Tokens:
        config = recipe.config
        assert isinstance(config, ConstitutionEvaluateConfig)
        models = len(measured_stages(config, self.adapters)) + (recipe.stage.name == "evaluate")
        read = written = 0.0
        for job in jobs_of(config, 0):
            items = job.task.items
            read += models * len(items) * self._mean([one.messages for one in items[:_COUNTED]])
            if job.task.name == "reference":
                read += models * len(items) * self._length([one.target for one in items[:_COUNTED]]) / len(items)
                continue
            draws = config.creative.num_samples if job.task.name == "creative" and config.creative else 1
            written += models * len(items) * draws * job.sampling.max_new_tokens
        if config.helpful is not None:
            read += (models - 1) * config.helpful.num_judged * 2 * (_ASKED + 2 * config.max_new_tokens)
        return read, written, 0

    def _training(self, config: Any, num: int, each: float) -> Tokens:
        held = 0.0 if config.data.validation is not None else config.data.validation_share
        steps = config.max_steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
        seen = steps if config.max_steps > 0 else num * (1 - held) * config.num_train_epochs
        # About ten looks at the rows held out.
        return 10 * held * num * each, 0, seen * each

    def _rows(self, config: Any) -> tuple[int, float]:
        """Rows of a training file and their mean tokens; as expected where a stage has still to make it."""
        data = config.data
        if Path(data.train) in self.expected:
            return self.expected[Path(data.train)]
        rows = load_data(data.model_copy(update={"validation_share": 0.0, "cache": False}), seed=0).train
        some = [rows[i] for i in range(min(_COUNTED, len(rows)))]
        return len(rows), self._mean([one.messages for one in some if isinstance(one, Conversation)])

    def _mean(self, talks: Sequence[Sequence[Message]]) -> float:
        """Mean tokens of conversations."""
        return float(np.mean([self._length([turn.content for turn in talk]) for talk in talks])) if talks else 0.0

    def _length(self, texts: Sequence[str]) -> float:
        where = Where("cost")
        return float(sum(_TURN + len(encode(text, self.base.tokenizer, where)) for text in texts))
