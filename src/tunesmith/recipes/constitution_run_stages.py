"""The stages of ``tunesmith constitution run``: what each reads, which recipe does it, and what it leaves.

Stages meet in files alone, so each can be looked at, replaced, or run by its own verb with the recipe that is printed
by ``--plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.constitution.principles import load_constitution
from tunesmith.data.load import DataConfig
from tunesmith.errors import ConfigError, DataError
from tunesmith.models.adapters import drop_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import resolve_model
from tunesmith.models.roles import Base
from tunesmith.recipes import dpo, ppo, reward, sft
from tunesmith.recipes.constitution_evaluate import EVALUATION_FILE, evaluate_stages
from tunesmith.recipes.constitution_label import LabelConfig, run_label
from tunesmith.recipes.constitution_revise import ReviseConfig, run_revise
from tunesmith.recipes.constitution_run_config import TRAINS, ConstitutionRunConfig, StageName, stage_config
from tunesmith.recipes.dpo_prepare import DPOConfig
from tunesmith.recipes.feedback_prefer import FeedbackPreferConfig, make_preferences
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.reward_prepare import RewardConfig
from tunesmith.recipes.stages import Interrupted, Stage

ROWS_FILE, STORE_FILE, PAIRS_FILE = "sft.jsonl", "feedback.db", "pairs.jsonl"
ADAPTER_FILE = "adapter_model.safetensors"
# Keys that say where a run is and what it keeps on the way, not what comes of it.
_FREE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit", "logging_steps",
    "report_to", "store", "overwrite", "calibrations",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Workshop:
    """The one base all stages share, loaded when the first of them needs it; none leaves an adapter on it."""

    config: ModelConfig
    say: Callable[[str], None]
    loaded: Base | None = None
    _notes: int = field(default=0, init=False)

    @contextmanager
    def base(self) -> Iterator[Base]:
        """The base for a stage; adapters that it put there are gone afterwards."""
        if self.loaded is None:
            self.loaded = load_base(self.config)
            for note in self.loaded.notes:
                self.say(note)
        base = self.loaded
        before = set(base.methods)
        try:
            yield base
        finally:
            for name in set(base.methods) - before:
                drop_adapter(base, name)

    @property
    def digest(self) -> str:
        """Of the base's weights; it need not be loaded for that."""
        if self.loaded is not None:
            return self.loaded.resolved.base_digest
        return resolve_model(
            self.config.model_name_or_path, trust_remote_code=self.config.trust_remote_code
        ).base_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A stage with the recipe of its own verb, which --plan prints and the cost is counted from."""

    stage: Stage
    config: Config
    starts_from: Path | None
    """The adapter it goes on from or asks; None for the bare base."""


def build_stages(config: ConstitutionRunConfig, shop: Workshop, place: str) -> list[Recipe]:
    """Every stage of the run, checked: keys of sections, and that what it reads will be there.

    place: the recipe's name in errors. Raises ConfigError, and DataError for rows that are not there.
    """
    builder = _Builder(config, shop, place)
    recipes = [builder.build(name) for name in config.stages]
    builder.check(recipes)
    return recipes


@dataclass(slots=True)
class _Builder:
    """Wires stage by stage; ``adapter`` is the newest one, ``adapters`` all by the stage that leaves them."""

    config: ConstitutionRunConfig
    shop: Workshop
    place: str
    adapter: Path | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    made: set[Path] = field(default_factory=set)

    def build(self, name: StageName) -> Recipe:
        """One stage, behind those built before."""
        before = self.adapter
        config, reads, leaves, work = getattr(self, f"_{name}")()
        folder = self.folder(name)
        if name in TRAINS:
            self.adapter = self.adapters[name] = folder
        self.made |= {folder, *(folder / leaf for leaf in leaves)}
        stage = Stage(
            name=name,
            folder=folder,
            settings={**config.model_dump(mode="json", exclude=_FREE), "base": self.shop.digest},
            reads={key: path for key, path in reads.items() if path is not None},
            leaves=tuple(folder / leaf for leaf in leaves),
            work=work,
        )
        return Recipe(stage=stage, config=config, starts_from=before)

    def folder(self, name: str) -> Path:
        return Path(self.config.output_dir) / name

    def check(self, recipes: list[Recipe]) -> None:
        """Raise DataError for a file that is not there and that no stage will make."""
        for recipe in recipes:
            for what, path in recipe.stage.reads.items():
                if path in self.made or path.exists() or what == "hub":
                    continue
                raise DataError(
                    f"{self.place}:{recipe.stage.name}", f"its {what}, {path}, is not there.", _how_to_get(path)
                )

    def _section(self, kind: Any, name: StageName, wired: Mapping[str, Any]) -> Any:
        return stage_config(kind, self.config, name, {"output_dir": str(self.folder(name)), **wired}, self.place)

    def _helpful(self) -> Any:
        if "data" not in self.config.helpful:
            cause = "the helpful stage has no rows."
            raise ConfigError(f"{self.place}:helpful.data", cause, "Set helpful.data.train, or skip: [helpful].")
        config = self._section(SFTConfig, "helpful", self._quietly("helpful"))
        return config, rows_of(config.data), [ADAPTER_FILE], self._trains(sft.train, config)

    def _sft(self) -> Any:
        rows = self.folder("revise") / ROWS_FILE
        wired = {"data": {"train": str(rows)}, **self._quietly("sft"), **self._goes_on("adapter_name_or_path")}
        config = self._section(SFTConfig, "sft", wired)
        reads = {**rows_of(config.data), "adapter": self.adapter}
        return config, reads, [ADAPTER_FILE], self._trains(sft.train, config)

    def _dpo(self) -> Any:
        pairs = self.folder("prefer") / PAIRS_FILE
        wired = {"data": {"train": str(pairs)}, **self._goes_on("adapter_name_or_path")}
        config = self._section(DPOConfig, "dpo", wired)
        reads = {**rows_of(config.data), "adapter": self.adapter}
        return config, reads, [ADAPTER_FILE], self._trains(dpo.train, config)

    def _reward(self) -> Any:
        pairs = self.folder("prefer") / PAIRS_FILE
        config = self._section(RewardConfig, "reward", {"data": {"train": str(pairs)}})
        return config, rows_of(config.data), [ADAPTER_FILE], self._trains(reward.train_reward, config)

    def _ppo(self) -> Any:
        wired = {"rewards": [{"model": str(self.folder("reward"))}], **self._goes_on("sft_adapter")}
        config = self._section(PPOConfig, "ppo", wired)
        reads = {"prompts": _file(config.data.train), "reward": self.folder("reward"), "adapter": self.adapter}
        return config, reads, [ADAPTER_FILE], self._trains(ppo.align, config)

    def _prefer(self) -> Any:
        store = self.folder("label") / STORE_FILE
        config = self._section(FeedbackPreferConfig, "prefer", {"store": str(store), "overwrite": True})

        def work(_: bool) -> Mapping[str, Any]:
            return make_preferences(config).as_dict()

        return config, {"judgements": store}, [PAIRS_FILE], work

    def _evaluate(self) -> Any:
        adapters = dict(self.adapters)
        config = self.config.evaluate
        folder = self.folder("evaluate")

        def work(_: bool) -> Mapping[str, Any]:
            with self.shop.base() as base:
                return evaluate_stages(config, base, adapters, folder, seed=self.config.seed, say=self.shop.say)

        return config, {f"adapter of {name}": path for name, path in adapters.items()}, [EVALUATION_FILE], work

    def _quietly(self, name: StageName) -> dict[str, Any]:
        """A look back after every training would cost more than the training; the last stage looks."""
        return {} if "after_training" in getattr(self.config, name) else {"after_training": "off"}

    def _goes_on(self, key: str) -> dict[str, Any]:
        return {} if self.adapter is None else {key: str(self.adapter)}

    def _trains(self, train: Callable[..., Any], config: Any) -> Callable[[bool], Mapping[str, Any]]:
        def work(going_on: bool) -> Mapping[str, Any]:
            how = {"resume_from_checkpoint": "auto"} if going_on else {"overwrite_output_dir": True}
            with self.shop.base() as base:
                trained = train(config.model_copy(update=how), base=base)
            if trained.interrupted:
                raise Interrupted(config.output_dir)
            return dict(trained.as_dict())

        return work


def rows_of(data: Any) -> dict[str, Path | None]:
    """The files of a data section; a hub data set has none."""
    return {"rows": _file(data.train), "validation rows": None if data.validation is None else _file(data.validation)}


def _file(source: str) -> Path | None:
    """A source as a path, None for a data set of a hub."""
    path = Path(source)
    return path if path.exists() or path.suffix or len(path.parts) != 2 else None


def _how_to_get(path: Path) -> str:
    return f"An earlier stage makes it: do not skip '{path.parent.name}', or correct the path."
