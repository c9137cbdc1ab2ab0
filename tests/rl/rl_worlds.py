"""Small worlds for reinforcement learning: roles on a tiny base and one iteration of the real code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.models.adapters import AdapterConfig, add_adapter
from tunesmith.models.heads import add_head
from tunesmith.models.roles import Base
from tunesmith.randomness import derive_seed
from tunesmith.records import Message, Rollout
from tunesmith.rollout.experience import Experience, RLRoles, observe
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.tokens.render import render_prompt
from tunesmith.training.credit import Credit, CreditState, assign_credit
from tunesmith.training.rl_update import UpdateConfig, build_rl_optimizer, update

Score = Callable[[Rollout], float]
TEXTS = ("hi", "what now?", "tell me more", "the other one, please")


def fresh_roles(base: Base, *, value: bool = True, stir: float = 0.0) -> RLRoles:
    """A policy that starts as the bare base (or is stirred away from it), the bare base as reference."""
    adapter = AdapterConfig(r=4, lora_alpha=8)
    policy = add_adapter(base, "policy", adapter, seed=1)
    role = add_head(base, add_adapter(base, "value", adapter, seed=2), seed=3) if value else None
    if stir:
        generator = torch.Generator().manual_seed(5)
        for parameter in [*policy.parameters.values(), *(role.parameters.values() if role else ())]:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.add_((stir * noise).to(parameter.dtype))
    return RLRoles(policy=policy, reference=None, value=role)


def ask(base: Base, texts: Sequence[str] = TEXTS, samples: int = 1) -> list[Prompt]:
    ids = [render_prompt([Message(role="user", content=text)], base.tokenizer) for text in texts]
    return [Prompt(ids=x, row_id=row, sample=k) for row, x in enumerate(ids) for k in range(samples)]


class World:
    """Prompts, a score of an answer, and the roles that learn from it."""

    def __init__(self, base: Base, roles: RLRoles, config: UpdateConfig, score: Score, texts: Sequence[str] = TEXTS):
        self.base, self.roles, self.config, self.score, self.texts = base, roles, config, score, texts
        self.optimizer = build_rl_optimizer(roles, config)
        self.state = CreditState(kl_coef=config.kl_coef)
        self.generator = LocalGenerator(base, max_rows=512)

    def answers(self, iteration: int) -> list[Rollout]:
        config = self.config
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=derive_seed(0, "rollouts", iteration),
        )
        prompts = ask(self.base, self.texts, config.num_generations)
        return self.generator.generate(prompts, sampling, self.roles.policy.adapter)

    def observe(self, rollouts: Sequence[Rollout]) -> Experience:
        config = self.config
        return observe(
            self.base,
            self.roles,
            rollouts,
            num_samples=config.num_generations,
            micro_batch_tokens=config.micro_batch_tokens,
            temperature=config.temperature,
        )

    def credit(self, seen: Experience, rollouts: Sequence[Rollout]) -> Credit:
        scores = np.array([self.score(rollout) for rollout in rollouts])
        ended = np.array([rollout.stop_reason == "end_of_turn" for rollout in rollouts])
        return assign_credit(seen, scores, ended, self.config, self.state)

    def iterate(self, iteration: int, num_iterations: int) -> dict[str, Any]:
        rollouts = self.answers(iteration)
        seen = self.observe(rollouts)
        credit = self.credit(seen, rollouts)
        metrics = update(
            self.base,
            self.roles,
            seen,
            credit,
            self.optimizer,
            self.config,
            seed=0,
            iteration=iteration,
            num_iterations=num_iterations,
            kl_coef=self.state.kl_coef,
        )
        return {**credit.metrics, **metrics}
