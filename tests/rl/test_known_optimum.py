"""Worlds whose best score is known: every algorithm must come within 5 % of it, through the recipe's own update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letter_worlds import Answer, FlippedLetters, Letters, letters_base

from tunesmith.training.rl_update import UpdateConfig

ALGORITHMS = ["ppo", "rloo", "grpo"]
A, LIMIT, PROMPTS = 1, 8, (1, 2, 3, 4)
# The budget: 30 iterations of 4 prompts with 8 answers each, two passes in two mini-batches.
ITERATIONS, SAMPLES = 30, 8


def settings(algorithm: str, **more: Any) -> UpdateConfig:
    basics = {
        "num_generations": SAMPLES, "max_new_tokens": LIMIT, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
        "kl_coef": 0.0,
    }  # fmt: skip
    return UpdateConfig(**{**basics, "algorithm": algorithm, **more})


def many_as(_: int, answer: Answer) -> float:
    return float(answer.count(A))


def arm(prompt: int, answer: Answer) -> float:
    """A bandit's table: 16 arms a prompt, one of them best by a tenth at least."""
    rewards = np.random.default_rng([3, prompt]).permutation(16) / 10
    return float(rewards[answer[0]])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_many_as_are_written(tmp_path: Path, algorithm: str) -> None:
    world = Letters(letters_base(tmp_path, 16), settings(algorithm), many_as, PROMPTS)
    assert world.mean_score(64) < 0.1 * LIMIT
    world.learn(ITERATIONS)
    assert world.mean_score(64) >= 0.95 * LIMIT


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_best_token_of_each_prompt_is_found(tmp_path: Path, algorithm: str) -> None:
    config = settings(algorithm, max_new_tokens=1, num_generations=16)
    world = Letters(letters_base(tmp_path, 16), config, arm, PROMPTS)
    assert world.mean_score(64) < 0.7 * 1.5
    world.learn(ITERATIONS)
    assert world.mean_score(64) >= 0.95 * 1.5


def test_with_every_advantage_turned_round_no_a_is_left(tmp_path: Path) -> None:
    world = FlippedLetters(letters_base(tmp_path, 16), settings("rloo"), many_as, PROMPTS)
    before = world.mean_score(64)
    world.learn(ITERATIONS)
    assert world.mean_score(64) < 0.5 * before < 0.1 * LIMIT
