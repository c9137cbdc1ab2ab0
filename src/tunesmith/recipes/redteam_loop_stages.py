"""The stages of ``tunesmith redteam loop``: what each reads, how it is done, and what it leaves in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.evals.subject import local_subject
from tunesmith.models.adapters import load_adapter
from tunesmith.recipes import dpo, sft
from tunesmith.recipes.constitution_run_shop import Work, Workshop, bar_of, drop_checkpoints, file_of, rows_of, trains
from tunesmith.recipes.constitution_run_stages import ADAPTER_FILE, FREE
from tunesmith.recipes.dpo_prepare import DPOConfig
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.redteam import CAMPAIGN_FILE, run_redteam
from tunesmith.recipes.redteam_config import BASE, RedteamConfig
from tunesmith.recipes.redteam_export import ROWS_FILES, run_export
from tunesmith.recipes.redteam_export_config import RedteamExportConfig
from tunesmith.recipes.redteam_help import HELP_FILE, help_path, write_help
from tunesmith.recipes.redteam_helpful import OURS
from tunesmith.recipes.redteam_loop_config import RedteamLoopConfig, StageName, section_config
from tunesmith.recipes.redteam_loop_facts import AGAIN_FILE, again_facts
from tunesmith.recipes.stages import Interrupted, Stage
from tunesmith.redteam.attack import Attack, Family
from tunesmith.redteam.attempt_rows import ATTEMPTS_FILE, goal_row
from tunesmith.redteam.catalogue import ALL, ATTACKS, find_attacks
from tunesmith.redteam.export import Target, split_goals
from tunesmith.redteam.goal_sets import load_goals
from tunesmith.rollout.generate import LocalGenerator
from tunesmith.rollout.refusal import detector_digest
from tunesmith.runs import atomic_write_text

TRAIN_GOALS, TEST_GOALS = "train_goals.jsonl", "test_goals.jsonl"
ROWS_OF: Mapping[str, Target] = {"sft": "sft", "dpo": "preferences"}
# Settings, files it reads, files it leaves, and how it is done.
Made = tuple[Mapping[str, Any], Mapping[str, Path | None], list[str], Work]


def build_loop(config: RedteamLoopConfig, shop: Workshop, place: str) -> list[Stage]:
    """Every stage, checked: the keys of its section, and that there are attacks of both sides.

    place: the recipe's name in errors. Raises ConfigError, DataError.
    """
    return [_Builder(config, shop, place).build(name) for name in config.stages]


@dataclass(frozen=True, slots=True)
class _Builder:
    config: RedteamLoopConfig
    shop: Workshop
    place: str

    def build(self, name: StageName) -> Stage:
        """A stage by its name."""
        settings, reads, leaves, work = getattr(self, f"_{name}")()
        folder = self.folder(name)
        return Stage(
            name=name,
            folder=folder,
            settings={**settings, "base": self.shop.digest},
            reads={key: path for key, path in reads.items() if path is not None},
            leaves=tuple(folder / leaf for leaf in leaves),
            clear=self._clear(name),
            work=work,
        )

    def folder(self, name: str) -> Path:
        return Path(self.config.output_dir) / name

    @property
    def start(self) -> Path | None:
        """The adapter that is attacked first."""
        return None if self.config.adapter is None else Path(self.config.adapter)

    @property
    def tuned(self) -> Path:
        """The adapter that is attacked again."""
        return self.folder(self.config.trained[-1])

    def _clear(self, name: StageName) -> Callable[[], None]:
        """What a stage that begins anew takes away first; attempts are kept, under all they depend on."""
        return partial(drop_checkpoints, self.folder(name)) if name in ROWS_OF else lambda: None

    def _goals(self) -> Made:
        config, folder = self.config, self.folder("goals")
        goals = load_goals(config.goals, limit=config.num_goals, seed=config.seed, data_dir=config.data_dir)

        def work(_: bool) -> Mapping[str, Any]:
            attacked = [goal for goal in goals if goal.kind != "safe"]
            held_out = split_goals(attacked, config.test_share, config.goal_likeness, config.seed)
            train = [goal for goal in attacked if goal.id not in held_out]
            test = [goal for goal in goals if goal.id in held_out or goal.kind == "safe"]
            for name, rows in ((TRAIN_GOALS, train), (TEST_GOALS, test)):
                atomic_write_text(folder / name, "".join(json.dumps(goal_row(goal)) + "\n" for goal in rows))
            if not any(goal.kind == "safe" for goal in test):
                self.shop.say("goals: none is safe, so over-refusal is not measured. Add xstest-safe, or safe ones.")
            return {"train": len(train), "test": len(held_out), "safe": len(test) - len(held_out)}

        told = {name: getattr(config, name) for name in ("test_share", "goal_likeness", "seed")}
        return {**told, "goals": [goal_row(goal) for goal in goals]}, {}, [TRAIN_GOALS, TEST_GOALS], work

    def _attack(self) -> Made:
        goals, attacks = self.folder("goals") / TRAIN_GOALS, self._attacks(self.config.train_families)
        wired: dict[str, Any] = {"goals": [str(goals)], "attacks": [name for name, _ in attacks]}
        wired |= {} if self.start is None else {"adapter": str(self.start)}
        config = self._campaign("attack", wired)

        def work(_: bool) -> Mapping[str, Any]:
            campaign = self._run(config, "attack")
            return {"counts": campaign.facts["counts"], "rates": campaign.facts["rates"]}

        return self._told(config, attacks), {"goals": goals, "adapter": self.start}, [CAMPAIGN_FILE], work

    def _again(self) -> Made:
        families = (*self.config.train_families, *self.config.test_families)
        goals, attacks = self.folder("goals") / TEST_GOALS, self._attacks(families)
        before = BASE if self.start is None else str(self.start)
        wired = {"goals": [str(goals)], "attacks": [name for name, _ in attacks], "adapter": str(self.tuned)}
        config, folder = self._campaign("again", {**wired, "compare": [before]}), self.folder("again")

        def work(_: bool) -> Mapping[str, Any]:
            return again_facts(self.config, self._run(config, "again"), folder)

        reads = {"goals": goals, "adapter before": self.start, "adapter": self.tuned}
        return self._told(config, attacks), reads, [AGAIN_FILE], work

    def _help(self) -> Made:
        how, folder, helpful = self.config.help, self.folder("help"), self._helpful()
        assert how is not None

        def work(_: bool) -> Mapping[str, Any]:
            with self.shop.base() as base, bar_of("help: answer") as tell:
                role = None if self.start is None else load_adapter(base, self.start, "help").adapter
                writer = local_subject(base, LocalGenerator(base), role, "help").writer
                return write_help(how, helpful, writer, folder, self.config.seed, tell)

        rows = None if helpful == OURS else file_of(helpful)
        reads = {"prompts": Path(help_path(how)), "rows": rows, "adapter": self.start}
        settings = {**how.model_dump(mode="json"), "seed": self.config.seed, "detector": detector_digest()}
        return settings, reads, [HELP_FILE], work

    def _export(self) -> Made:
        run, goals = self.folder("attack"), self.folder("goals") / TEST_GOALS
        targets = [ROWS_OF[name] for name in self.config.trained]
        section = {key: value for key, value in self.config.export.items() if key != "helpful"}
        wired: dict[str, Any] = {
            "run": str(run), "output_dir": str(self.folder("export")), "overwrite": True, "test_share_of_goals": 0.0,
            "train_families": self.config.train_families, "test_families": self.config.test_families,
            "helpful": str(self.folder("help") / HELP_FILE) if self.config.help else self._helpful(),
        }  # fmt: skip
        loop = self.config.model_copy(update={"export": section})
        configs = [
            section_config(RedteamExportConfig, loop, "export", {**wired, "to": to}, self.place) for to in targets
        ]

        def work(_: bool) -> Mapping[str, Any]:
            measured = [goal.request for goal in load_goals([str(goals)])]
            facts: dict[str, Any] = {}
            for config in configs:
                with self.shop.base() as base, bar_of("export: step") as tell:
                    exported = run_export(config, self.shop.say, tell, base=base, measured=measured)
                if exported.interrupted:
                    raise Interrupted("export")
                facts[config.to] = dict(exported.summary)
            return facts

        helpful = file_of(configs[0].helpful) if configs[0].helpful != OURS else None
        reads = {
            "campaign": run / CAMPAIGN_FILE,
            "attempts": run / ATTEMPTS_FILE,
            "test goals": goals,
            "helpful": helpful,
        }
        settings = configs[0].model_dump(mode="json", exclude={*FREE, "run", "to", "helpful"})
        told = {**settings, "to": targets, "detector": detector_digest()}
        return told, reads, [ROWS_FILES[to] for to in targets], work

    def _sft(self) -> Made:
        rows = self.folder("export") / ROWS_FILES["sft"]
        wired = {"data": {"train": str(rows)}, "output_dir": str(self.folder("sft"))}
        # A look back after the training would cost more than the training; the last stage looks.
        wired |= {} if "after_training" in self.config.sft else {"after_training": "off"}
        wired |= {} if self.start is None else {"adapter_name_or_path": str(self.start)}
        config = section_config(SFTConfig, self.config, "sft", wired, self.place)
        reads = {**rows_of(config.data), "adapter": self.start}
        return config.model_dump(mode="json", exclude=FREE), reads, [ADAPTER_FILE], trains(self.shop, sft.train, config)

    def _dpo(self) -> Made:
        rows = self.folder("export") / ROWS_FILES["preferences"]
        start = self.folder("sft") if "sft" in self.config.trained else self.start
        wired = {"data": {"train": str(rows)}, "output_dir": str(self.folder("dpo"))}
        wired |= {} if start is None else {"adapter_name_or_path": str(start)}
        config = section_config(DPOConfig, self.config, "dpo", wired, self.place)
        reads = {**rows_of(config.data), "adapter": start}
        return config.model_dump(mode="json", exclude=FREE), reads, [ADAPTER_FILE], trains(self.shop, dpo.train, config)

    def _helpful(self) -> str:
        return str(self.config.export.get("helpful", OURS))

    def _attacks(self, families: Sequence[Family]) -> list[tuple[str, Attack]]:
        """(name, attack) of those of the families. Raises ConfigError for a family of which there is none."""
        data_dir = self.config.data_dir
        names = [name for one in self.config.attacks for name in (ATTACKS if one == ALL else [one])]
        all_of = [(name, find_attacks([name], data_dir=data_dir)[0]) for name in dict.fromkeys(names)]
        there = {attack.family for _, attack in all_of}
        if missing := [family for family in families if family not in there]:
            cause = f"no attack is of the family '{missing[0]}'; there are {', '.join(sorted(there))}."
            raise ConfigError(f"{self.place}:attacks", cause, "Name an attack of it, or leave the family out.")
        return [(name, attack) for name, attack in all_of if attack.family in families]

    def _campaign(self, name: str, wired: Mapping[str, Any]) -> RedteamConfig:
        ours = {"output_dir": str(self.folder(name)), **wired}
        ours |= {} if self.config.data_dir is None else {"data_dir": self.config.data_dir}
        return section_config(RedteamConfig, self.config, "attack", ours, self.place)

    def _told(self, config: RedteamConfig, attacks: Sequence[tuple[str, Attack]]) -> dict[str, Any]:
        """What attempts depend on besides goals and adapters."""
        settings = config.model_dump(mode="json", exclude={*FREE, "goals", "adapter", "compare"})
        versions = {attack.name: attack.version for _, attack in attacks}
        return {**settings, "attacks": versions, "detector": detector_digest()}

    def _run(self, config: RedteamConfig, name: str) -> Any:
        """A campaign on the base that all stages share. Raises Interrupted where the user stopped it."""
        with self.shop.base() as base, bar_of(f"{name}: answer") as tell:
            campaign = run_redteam(
                config,
                self.shop.say,
                lambda label, counts: tell(counts.answers_done, counts.answers, label),
                base=base,
            )
        if campaign.interrupted:
            raise Interrupted(name)
        return campaign
