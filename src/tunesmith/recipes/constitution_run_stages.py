"""The stages of ``tunesmith constitution run``: what each reads, which recipe does it, and what it leaves in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.constitution.principles import load_constitution, user_text
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipes import dpo, ppo, reward, sft
from tunesmith.recipes.constitution_config import ALWAYS_REFUSE, RANDOM, SELF, ReviseConfig
from tunesmith.recipes.constitution_evaluate import EVALUATION_FILE, asked_digest, jobs_of, run_evaluation
from tunesmith.recipes.constitution_label import run_label
from tunesmith.recipes.constitution_label_config import LabelConfig
from tunesmith.recipes.constitution_open import BARE, is_address
from tunesmith.recipes.constitution_revise import SFT_FILE, run_revise
from tunesmith.recipes.constitution_run_config import TRAINS, ConstitutionRunConfig, StageName, stage_config
from tunesmith.recipes.constitution_run_prompts import (
    HARMFUL_FILE,
    HARMLESS_FILE,
    LABEL_FILE,
    LABEL_HARMLESS_FILE,
    split_prompts,
)
from tunesmith.recipes.constitution_run_shop import (
    PromptsTold,
    Recipe,
    Work,
    Workshop,
    bar_of,
    drop_checkpoints,
    drop_labels,
    file_of,
    folder_of,
    rows_of,
    trains,
)
from tunesmith.recipes.dpo_prepare import DPOConfig
from tunesmith.recipes.feedback_prefer import PAIRS_FILE, FeedbackPreferConfig, make_preferences
from tunesmith.recipes.ppo_config import PPOConfig
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.reward_prepare import RewardConfig
from tunesmith.recipes.stages import Interrupted, Stage

STORE_FILE, ADAPTER_FILE = "feedback.db", "adapter_model.safetensors"
# Keys that say where a run is and what it keeps on the way, not what comes of it.
FREE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit", "logging_steps",
    "report_to", "store", "overwrite", "calibrations", "prompts_at_once",
}  # fmt: skip


# What a stage is made from: its recipe, the files it reads, those it leaves, and how it is done.
Made = tuple[Any, Mapping[str, Path | None], list[str], Work]


def build_stages(config: ConstitutionRunConfig, shop: Workshop, place: str) -> list[Recipe]:
    """Every stage of the run, checked: the keys of its section, and that what it reads will be there.

    place: the recipe's name in errors. Raises ConfigError, and DataError for a file that is not there.
    """
    builder = Builder(config, shop, place)
    return [builder.build(name) for name in config.stages]


@dataclass(slots=True)
class Builder:
    """Wires stage by stage.

    adapters: those trained so far, by stage, the newest last. made: what stages before it leave. elsewhere: folders of
    stages that another branch of the run does. results: where all answers of an evaluation are kept.
    """

    config: ConstitutionRunConfig
    shop: Workshop
    place: str
    adapters: dict[str, Path] = field(default_factory=dict)
    made: set[Path] = field(default_factory=set)
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    results: Path | None = None

    def build(self, name: StageName, suffix: str = "") -> Recipe:
        """One stage, behind those built before."""
        config, reads, leaves, work = getattr(self, f"_{name}")()
        folder = self.folder(name)
        there = {key: path for key, path in reads.items() if path is not None}
        self._check(name, there)
        if name in TRAINS:
            self.adapters[name] = folder
        self.made |= {folder, *(folder / leaf for leaf in leaves)}
        settings = {**config.model_dump(mode="json", exclude=FREE), "base": self.shop.digest}
        if "constitution" in settings:
            settings["constitution"] = load_constitution(self.config.constitution).digest
        if name in ("prompts", "evaluate"):
            settings["what is asked"] = asked_digest(self.config.evaluate, self.config.seed)
        stage = Stage(
            name=f"{name}{suffix}",
            folder=folder,
            settings=settings,
            reads=there,
            leaves=tuple(folder / leaf for leaf in leaves),
            clear=self._clear(name),
            work=work,
        )
        return Recipe(kind=name, stage=stage, config=config)

    def _clear(self, name: StageName) -> Callable[[], None]:
        """What a stage that begins anew takes away first."""
        if name == "label":
            return partial(drop_labels, self.folder(name) / STORE_FILE)
        return partial(drop_checkpoints, self.folder(name)) if name in (*TRAINS, "reward") else lambda: None

    @property
    def adapter(self) -> Path | None:
        """The newest adapter, which the next stage starts from or asks."""
        return list(self.adapters.values())[-1] if self.adapters else None

    def folder(self, name: str) -> Path:
        """Where a stage is."""
        return self.elsewhere.get(name, Path(self.config.output_dir) / name)

    def _check(self, name: str, reads: Mapping[str, Path]) -> None:
        """Raise DataError for a file that is not there and that no stage before makes."""
        for what, path in reads.items():
            if path not in self.made and not path.exists():
                cause = f"what it reads, {path} ({what}), is not there."
                stage = path.parent.name if path.parent.parent == Path(self.config.output_dir) else ""
                fix = f"Stage '{stage}' makes it: do not skip that one." if stage else "Correct the path."
                raise DataError(f"{self.place}:{name}", cause, fix)

    def _section(self, kind: Any, name: StageName, wired: Mapping[str, Any]) -> Any:
        return stage_config(kind, self.config, name, {"output_dir": str(self.folder(name)), **wired}, self.place)

    def _prompts(self) -> Made:
        config, folder, run = self.config.prompts, self.folder("prompts"), self.config
        if config is None:
            raise ConfigError(f"{self.place}:prompts", "says nothing.", "Set prompts.harmful, a file of prompts.")
        labels = "label" in run.stages

        def work(_: bool) -> Mapping[str, Any]:
            measured = [user_text(item.messages) for job in jobs_of(run.evaluate, run.seed) for item in job.task.items]
            return split_prompts(config, measured, folder, seed=run.seed, labels=labels)

        both = bool(config.harmless) and config.label_share > 0 and labels
        leaves = [HARMFUL_FILE] + ([HARMLESS_FILE] if config.harmless else []) + ([LABEL_FILE] if labels else [])
        leaves += [LABEL_HARMLESS_FILE] if both else []
        told = PromptsTold(recipe=config, measured=run.evaluate.model_dump(mode="json"), seed=run.seed, labels=labels)
        return told, {"harmful": file_of(config.harmful), "harmless": file_of(config.harmless)}, leaves, work

    def _helpful(self) -> Made:
        if "data" not in self.config.helpful:
            cause = "the helpful stage has no rows."
            raise ConfigError(f"{self.place}:helpful.data", cause, "Set helpful.data.train, or skip: [helpful].")
        config = self._section(SFTConfig, "helpful", self._quietly("helpful"))
        return config, rows_of(config.data), [ADAPTER_FILE], trains(self.shop, sft.train, config)

    def _revise(self) -> Made:
        prompts, harmless = (self.folder("prompts") / name for name in (HARMFUL_FILE, HARMLESS_FILE))
        wired: dict[str, Any] = {"prompts": str(prompts), "constitution": self.config.constitution}
        reads: dict[str, Path | None] = {"prompts": prompts}
        if self.config.prompts is not None and self.config.prompts.harmless is not None:
            wired["harmless"], reads["harmless"] = str(harmless), harmless
        if self.adapter is not None and not is_address(self.config.revise.get("model")):
            wired["adapter"], reads["adapter"] = str(self.adapter), self.adapter
        config = self._section(ReviseConfig, "revise", wired)
        if config.model is not None and not is_address(config.model):
            cause = "the run's base answers, which all stages share."
            raise ConfigError(f"{self.place}:revise.model", cause, "Set model_name_or_path, or name an address.")
        if config.critic not in (SELF, BARE, RANDOM, ALWAYS_REFUSE) and not is_address(config.critic):
            reads["critic"] = Path(config.critic)

        def work(_: bool) -> Mapping[str, Any]:
            with self.shop.base() as base, bar_of("revise: step") as tell:
                revised = run_revise(config, self.shop.say, tell, base=base)
            if revised.interrupted:
                raise Interrupted("revise")
            if not revised.summary["rows"]["own"]:
                cause = "nothing was revised, so there is nothing to train on."
                raise DataError(config.output_dir, cause, "Look at audit.jsonl there; take a stronger critic.")
            return dict(revised.summary)

        return config, {**reads, "helpful rows": file_of(config.helpful_rows)}, [SFT_FILE], work

    def _sft(self) -> Made:
        rows = self.folder("revise") / SFT_FILE
        wired = {"data": {"train": str(rows)}, **self._quietly("sft"), **self._goes_on("adapter_name_or_path")}
        config = self._section(SFTConfig, "sft", wired)
        reads = {**rows_of(config.data), "adapter": self.adapter}
        return config, reads, [ADAPTER_FILE], trains(self.shop, sft.train, config)

    def _label(self) -> Made:
        store, prompts = self.folder("label") / STORE_FILE, self.folder("prompts") / LABEL_FILE
        wired: dict[str, Any] = {"prompts": str(prompts), "store": str(store), "constitution": self.config.constitution}
        wired |= {} if self.adapter is None else {"adapters": [str(self.adapter)]}
        harmless = self.folder("prompts") / LABEL_HARMLESS_FILE
        if harmless in self.made or harmless.exists():
            wired["harmless"] = str(harmless)
        config = self._section(LabelConfig, "label", wired)

        def work(_: bool) -> Mapping[str, Any]:
            with self.shop.base() as base, bar_of("label") as tell:
                labelled = run_label(config, self.shop.say, lambda what, done, of: tell(done, of, what), base=base)
            if labelled.interrupted:
                raise Interrupted("label")
            return dict(labelled.facts)

        reads = {"prompts": prompts, "adapter": self.adapter, "judge": folder_of(config.judge_adapter)}
        reads |= {} if config.harmless is None else {"harmless": Path(config.harmless)}
        return config, reads, [STORE_FILE], work

    def _prefer(self) -> Made:
        store = self.folder("label") / STORE_FILE
        config = self._section(FeedbackPreferConfig, "prefer", {"store": str(store), "overwrite": True})

        def work(_: bool) -> Mapping[str, Any]:
            report = make_preferences(config)
            if not report.preferences.num_pairs:
                cause = "no two answers stand in an order, so there is nothing to align with."
                raise DataError(config.store, cause, "Look at label/summary.json; take another judge, or align: none.")
            return report.as_dict()

        return config, {"judgements": store}, [PAIRS_FILE], work

    def _reward(self) -> Made:
        wired = {"data": {"train": str(self.folder("prefer") / PAIRS_FILE)}}
        config = self._section(RewardConfig, "reward", wired)
        return config, rows_of(config.data), [ADAPTER_FILE], trains(self.shop, reward.train_reward, config)

    def _dpo(self) -> Made:
        wired = {"data": {"train": str(self.folder("prefer") / PAIRS_FILE)}, **self._goes_on("adapter_name_or_path")}
        config = self._section(DPOConfig, "dpo", wired)
        reads = {**rows_of(config.data), "adapter": self.adapter}
        return config, reads, [ADAPTER_FILE], trains(self.shop, dpo.train, config)

    def _ppo(self) -> Made:
        prompts, model = self.folder("prompts") / LABEL_FILE, self.folder("reward")
        wired = {"rewards": [{"model": str(model)}], "data": {"train": str(prompts)}, **self._goes_on("sft_adapter")}
        config = self._section(PPOConfig, "ppo", wired)
        reads = {"prompts": prompts, "reward": model, "adapter": self.adapter}
        return config, reads, [ADAPTER_FILE], trains(self.shop, ppo.align, config)

    def _evaluate(self) -> Made:
        adapters, config, folder = dict(self.adapters), self.config.evaluate, self.folder("evaluate")

        def work(_: bool) -> Mapping[str, Any]:
            with self.shop.base() as base:
                return run_evaluation(
                    config, base, adapters, folder, seed=self.config.seed, say=self.shop.say, results=self.results
                )

        reads = {"judge": folder_of(config.judge.judge_adapter)}
        return (
            config,
            {**reads, **{f"adapter of {name}": path for name, path in adapters.items()}},
            [EVALUATION_FILE],
            work,
        )

    def _quietly(self, name: StageName) -> dict[str, Any]:
        """A look back after every training would cost more than the training; the last stage looks."""
        return {} if "after_training" in getattr(self.config, name) else {"after_training": "off"}

    def _goes_on(self, key: str) -> dict[str, Any]:
        return {} if self.adapter is None else {key: str(self.adapter)}
