"""One round of ``tunesmith ppo``: the present policy answers, its answers are scored, and what that says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.losses.masked import masked_mean
from tunesmith.recipes.ppo_prepare import Prepared, iteration_seed
from tunesmith.recipes.ppo_show import Clock
from tunesmith.records import Rollout
from tunesmith.rollout.experience import Experience, observe
from tunesmith.rollout.generate import Generator, Sampling
from tunesmith.rollout.rewards import Answered, Scores
from tunesmith.training.guards import Iteration, repeated_share


@dataclass(frozen=True, slots=True)
class Answers:
    """B answers and their scores; the answers to one prompt are neighbours."""

    rollouts: list[Rollout]
    items: list[Answered]
    scores: Scores

    @property
    def ended_B(self) -> NDArray[np.bool_]:
        """Whether an answer ended itself."""
        return np.array([rollout.stop_reason == "end_of_turn" for rollout in self.rollouts])


def answer(prepared: Prepared, generator: Generator, iteration: int, clock: Clock) -> Answers:
    """The present policy's answers to one iteration's prompts, scored. Raises RewardError."""
    config = prepared.config
    rows, asked = prepared.asked(iteration)
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=iteration_seed(config, iteration),
    )
    rollouts = generator.generate(asked, sampling, prepared.roles.policy.adapter)
    clock.lap("seconds/sample")
    items = [
        Answered(
            messages=rows[i // config.num_generations].messages,
            text=rollout.text,
            stop_reason=rollout.stop_reason,
            row_id=rollout.row_id,
            sample=asked[i].sample,
            ids=rollout.ids,
            prompt_ids=rollout.prompt_ids,
        )
        for i, rollout in enumerate(rollouts)
    ]
    scores = prepared.rewards.score_parts(items)
    clock.lap("seconds/score")
    return Answers(rollouts, items, scores)


def observe_answers(prepared: Prepared, answers: Answers, micro_batch_tokens: int) -> Experience:
    """What every role says of every token of the answers."""
    return observe(
        prepared.base,
        prepared.roles,
        answers.rollouts,
        num_samples=prepared.config.num_generations,
        micro_batch_tokens=micro_batch_tokens,
        temperature=prepared.config.temperature,
    )


def earned(
    prepared: Prepared, step: int, answers: Answers, seen: Experience, metrics: Mapping[str, float]
) -> Iteration:
    """What the guards and the choice of the best policy go by; ``step`` iterations lie behind the policy."""
    watched = {source.name for source, weight in prepared.rewards.sources if weight == 0}
    return Iteration(
        step=step,
        reward=metrics["objective/scores"],
        kl=metrics["objective/kl"],
        length=metrics["objective/length"],
        entropy=float(masked_mean(seen.entropy_BT, seen.mask_BT)),
        repetition=float(np.mean([repeated_share([int(i) for i in r.ids]) for r in answers.rollouts])),
        reward_std=metrics["objective/scores_std"],
        watched={name: mean for name, mean in answers.scores.means().items() if name in watched},
    )


def source_metrics(prepared: Prepared, scores: Scores) -> dict[str, float]:
    """What each source of several gave on average, and what the sources counted."""
    means = {f"reward/{name}": mean for name, mean in scores.means().items()} if len(scores.parts) > 1 else {}
    return means | {f"reward/{name}": float(count) for name, count in prepared.rewards.counts.items()}
