"""What a reinforcement-learning run leaves to look at: the page, and a blind win rate on held-out prompts if asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.data.prompts import LoadedPrompts, load_prompts, with_system
from tunesmith.errors import DataError
from tunesmith.evals.match import MatchConfig, play
from tunesmith.models.roles import Base
from tunesmith.recipes.winrate import refuse_trained_with, write_match
from tunesmith.reports.ppo import write_rl_report
from tunesmith.rollout.generate import Generator
from tunesmith.rollout.reward_open import SourceConfig, open_rewards
from tunesmith.rollout.rewards import WeightedSum
from tunesmith.runs import machine_summary
from tunesmith.tokens.render import render_prompt
from tunesmith.training.guards import GuardConfig, Iteration, Warned, guard


class HeldOutConfig(MatchConfig):
    """The blind win rate at the end: held-out prompts, and a judge the policy does not train with."""

    prompts: str
    """File of prompts that are not trained on; those without a system message get the recipe's data.system."""
    columns: dict[str, str] = {}
    """Our name of a column -> the file's."""
    limit: int | None = Field(None, ge=1)
    """Only the first rows."""
    rewards: list[SourceConfig] = Field(min_length=1)
    """Who judges; a source that is among the recipe's own rewards is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The match at the end, opened before training: a wrong file name costs no training then."""

    config: HeldOutConfig
    prompts: LoadedPrompts
    judge: WeightedSum
    notes: tuple[str, ...]

    @classmethod
    def open(
        cls,
        config: HeldOutConfig,
        base: Base,
        trained_with: Mapping[str, str],
        trained_on: LoadedPrompts,
        system: str | None = None,
    ) -> HeldOut:
        """Read the prompts and open the judge.

        Raises ConfigError where the judge is in the identity trained with, DataError for a prompt without room for its
        answer. Prompts that are trained on, too, are noted.
        """
        prompts = load_prompts(config.prompts, config.columns, limit=config.limit)
        known = {prompt.messages for prompt in trained_on}
        both = sum(prompt.messages in known for prompt in prompts)
        prompts = replace(prompts, prompts=tuple(with_system(prompt, system) for prompt in prompts))
        room = base.context_tokens_of(*base.methods) - config.sampling.max_new_tokens
        for prompt in prompts:
            if (length := len(render_prompt(prompt.messages, base.tokenizer))) > room:
                raise DataError(
                    prompt.where,
                    f"the held-out prompt has {length} tokens; with held_out.sampling.max_new_tokens "
                    f"{config.sampling.max_new_tokens} there is room for {room}.",
                    "Shorten it, or lower max_new_tokens.",
                )
        judge, notes = open_rewards(config.rewards, base, prefix="judge")
        refuse_trained_with(judge, {"this policy": trained_with}, allow=False)
        told = [f"{both} of {len(prompts)} held-out prompts are trained on, too."] if both else []
        return cls(config=config, prompts=prompts, judge=judge, notes=(*prompts.notes(), *told, *notes))

    def play(
        self,
        base: Base,
        generator: Generator,
        policy: str | None,
        reference: str | None,
        folder: Path,
        say: Callable[[str], None],
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Policy against reference; writes winrate.json, .jsonl and .html, returns the first and rows to show."""
        began, labels = time.perf_counter(), ("reference", "policy")
        match = play(
            base, generator, (labels[0], reference), [(labels[1], policy)], self.prompts, self.judge, self.config, say
        )
        facts = {
            **match.as_dict(),
            "seen_in_training": [],
            "sampling": self.config.sampling.model_dump(),
            "prompts": {"source": self.config.prompts, "digest": self.prompts.digest},
            "base": {"name": base.resolved.name, "digest": base.digest},
            "machine": machine_summary(),
            "seconds": round(time.perf_counter() - began, 1),
        }
        write_match(folder, match, facts)
        return facts, match.example_rows()


def all_warnings(history: Sequence[Iteration], config: GuardConfig) -> list[Warned]:
    """What the guards said over a whole run, in its order."""
    return [warned for end in range(1, len(history) + 1) for warned in guard(history[:end], config)]


def report_run(
    folder: Path,
    history: Sequence[Iteration],
    guards: GuardConfig,
    *,
    algorithm: str,
    kept: int,
    kl_budget: float,
    samples: Sequence[Mapping[str, Any]],
    played: tuple[dict[str, Any], list[dict[str, Any]]] | None,
    facts: Mapping[str, object],
) -> Path:
    """Write ppo.png, frontier.png and report.html into a run's folder; returns the page. Raises DiskFullError."""
    write_rl_report(
        folder,
        history,
        all_warnings(history, guards),
        title=f"{algorithm.upper()}: reward, KL and what came of it",
        kept=kept,
        kl_budget=kl_budget,
        samples=samples,
        match=None if played is None else played[0],
        examples=[] if played is None else played[1],
        facts=facts,
    )
    return folder / "report.html"
