"""The recipe of ``tunesmith ppo``: what may be written into its YAML file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tunesmith.config import Config
from tunesmith.models.adapters import AdapterConfig
from tunesmith.models.load import ModelConfig
from tunesmith.recipes.ppo_report import HeldOutConfig
from tunesmith.rollout.reward_open import SourceConfig
from tunesmith.training.guards import GuardConfig
from tunesmith.training.rl_update import UpdateConfig


class PromptConfig(Config):
    """Where the prompts are and how they are read."""

    train: str
    """A file, folder or hub data set of prompts: rows as for training, whose last answer is left out, or lines."""
    columns: dict[str, str] = {}
    """Our name of a column -> the file's."""
    limit: int | None = Field(None, ge=1)
    """Only the first rows."""
    system: str | None = None
    """A system message for prompts that have none."""
    max_prompt_length: int | None = Field(None, ge=1)
    """Most tokens of a prompt; empty: what the model reads less max_new_tokens."""
    over_length: Literal["error", "drop"] = "error"
    """A longer prompt is an error, or is dropped and counted; prompts are never cut."""


class PPOConfig(ModelConfig, UpdateConfig):
    """The whole recipe of ``tunesmith ppo``: PPO, RLOO or GRPO on one base."""

    data: PromptConfig
    """Where the prompts are."""
    rewards: list[SourceConfig] = Field(min_length=1)
    """What judges an answer: reward models, functions, judges, and what each one counts."""
    sft_adapter: str | None = None
    """The adapter the policy starts from and must stay near; empty: a fresh one, near the bare base."""
    adapter: AdapterConfig = AdapterConfig()
    """A fresh policy's and a fresh value role's adapter."""
    output_dir: str = "runs/ppo"
    """Where the run is written; a folder in use is refused."""
    overwrite_output_dir: bool = False
    """Delete what an earlier, finished run left in output_dir."""
    resume_from_checkpoint: str | None = None
    """auto continues the newest whole checkpoint of output_dir; a path continues that one."""
    num_iterations: int = Field(12, ge=1)
    """Rounds of answering and learning."""
    prompts_per_iteration: int = Field(64, ge=1)
    """Prompts of a round; each gets num_generations answers."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate of the policy."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "constant"
    """Shape after the warm-up, over all optimiser steps of the run."""
    kl_budget: float = Field(15.0, gt=0)
    """Nats an answer: the result is the policy with the highest reward among those this near to the reference."""
    guards: GuardConfig = GuardConfig()
    """When to warn."""
    held_out: HeldOutConfig | None = None
    """A blind win rate against the reference at the end; empty: none is measured."""
    gradient_checkpointing: Literal["auto", "attention"] | bool = "auto"
    """Recompute activations in the backward pass; attention: keep attention's; auto: only where memory demands it."""
    rollout_rows: int = Field(64, ge=1)
    """Answers written side by side."""
    seed: int = Field(0, ge=0)
    """Keys all randomness: adapters, order of prompts and mini-batches, every draw of a token."""
    save_steps: int = Field(1, ge=1)
    """Iterations between two checkpoints, the most a crash can lose."""
    save_total_limit: int = Field(2, ge=1)
    """Checkpoints kept besides the best one."""
    sample_steps: int = Field(1, ge=1)
    """Iterations between two tables of samples."""
    num_samples: int = Field(5, ge=1)
    """Answers in a table of samples; all of an iteration's if it has fewer."""
    plot_steps: int = Field(1, ge=1)
    """Iterations between two drawings of ppo.png."""
    report_to: list[Literal["none", "tensorboard", "wandb", "trackio"]] = []
    """Trackers that also get the metrics, through their own libraries."""

    @model_validator(mode="after")
    def _can_run(self) -> PPOConfig:
        if self.adapter.method == "full":
            raise ValueError("adapter.method full rewrites the base that the other roles share: use lora")
        if self.adapter.lora_dropout:
            raise ValueError("adapter.lora_dropout must be 0: with dropout the ratio to the old policy is never 1")
        if self.num_mini_batches > self.prompts_per_iteration:
            raise ValueError("num_mini_batches is larger than prompts_per_iteration")
        return self
