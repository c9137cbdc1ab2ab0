"""Models that answer the same prompts, and a judge who is not told whose answer is whose.

All sides draw with the same random numbers; the judge gets all answers at once in a shuffled order.
Shape letters: P prompts, K answers of each model to a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.prompts import PromptRow
from tunesmith.errors import ConfigError
from tunesmith.evals.judge_agreement import NOT_CALIBRATED
from tunesmith.evals.winrate import Divergence, WinRate, divergence, win_rate
from tunesmith.models.forward import forward
from tunesmith.models.roles import Base
from tunesmith.randomness import permutation
from tunesmith.records import Example, Rollout, Where
from tunesmith.rollout.generate import Generator, Prompt
from tunesmith.rollout.rewards import Answered, Scores, WeightedSum
from tunesmith.rollout.sampling import Sampling
from tunesmith.stats import Interval, bootstrap_mean
from tunesmith.tokens.pack import micro_batches, pack
from tunesmith.tokens.render import render_prompt


class MatchConfig(Config):
    """How a match is played, wherever it is played."""

    num_samples: int = Field(1, ge=1)
    """Answers of each model to a prompt; the interval knows that they share it."""
    sampling: Sampling = Sampling(max_new_tokens=128, temperature=1.0)
    """How both sides draw their answers, with the same random numbers."""
    num_examples: int = Field(5, ge=0)
    """Prompts shown with all answers, chosen by the seed."""
    micro_batch_tokens: int = Field(2048, ge=64)
    """Tokens in one pack where log-probabilities are computed; changes the memory, not the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One model's answers, prompt by prompt, and what the judge gave them."""

    label: str
    adapter: str | None
    rollouts: tuple[Rollout, ...]
    scores: Scores

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer, its end token among them."""
        return [len(rollout.ids) for rollout in self.rollouts]

    @property
    def share_cut_off(self) -> float:
        """Answers that reached max_new_tokens before their end."""
        return float(np.mean([rollout.stop_reason == "length" for rollout in self.rollouts]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """All sides on the same prompts; results: label of a policy -> against the baseline, which is the first side.

    divergences: KL(policy || baseline); empty where answers were not drawn from the policies themselves.
    """

    prompts: tuple[PromptRow, ...]
    num_samples: int
    sides: tuple[Side, ...]
    results: Mapping[str, WinRate]
    divergences: Mapping[str, Divergence]
    judge: Mapping[str, str]
    counts: Mapping[str, int]
    examples: tuple[int, ...]

    @property
    def judge_agreement(self) -> str | None:
        """How far a judge that writes agrees with people, which nobody has measured; None for sources without one."""
        return NOT_CALIBRATED if any(key.rpartition(".")[2] == "template" for key in self.judge) else None

    def as_dict(self) -> dict[str, Any]:
        """For winrate.json."""
        return {
            "num_prompts": len(self.prompts),
            "num_samples": self.num_samples,
            "judge": dict(self.judge),
            "judge_counts": dict(self.counts),
            "judge_agreement": self.judge_agreement,
            "sides": {side.label: _side_facts(side, self.num_samples) for side in self.sides},
            "against": self.sides[0].label,
            "win_rates": {label: result.as_dict() for label, result in self.results.items()},
            "kl": {
                label: {"sequence": _limits(one.sequence), "token": one.token}
                for label, one in self.divergences.items()
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """For winrate.jsonl: a line a prompt and sample, the sides' answers, scores and lengths side by side."""
        out = []
        for p, prompt in enumerate(self.prompts):
            for k in range(self.num_samples):
                i = p * self.num_samples + k
                row: dict[str, Any] = {"row_id": prompt.row_id, "sample": k, "prompt": _shown_prompt(prompt)}
                row["answers"] = {side.label: side.rollouts[i].text for side in self.sides}
                row["scores"] = {side.label: float(side.scores.total[i]) for side in self.sides}
                row["parts"] = {s.label: {n: float(v[i]) for n, v in s.scores.parts.items()} for s in self.sides}
                row["tokens"] = {side.label: len(side.rollouts[i].ids) for side in self.sides}
                row["stop_reasons"] = {side.label: side.rollouts[i].stop_reason for side in self.sides}
                out.append(row)
        return out

    def example_rows(self) -> list[dict[str, Any]]:
        """The first answers to the prompts the seed picked."""
        rows = self.rows()
        return [rows[p * self.num_samples] for p in self.examples]


def play(
    base: Base,
    generator: Generator,
    baseline: tuple[str, str | None],
    policies: Sequence[tuple[str, str | None]],
    prompts: Sequence[PromptRow],
    judge: WeightedSum,
    config: MatchConfig,
    say: Callable[[str], None] = lambda _: None,
) -> Match:
    """Let baseline and policies, each (label, adapter), answer, and the judge score them. Raises RewardError."""
    labels = [label for label, _ in (baseline, *policies)]
    if len(set(labels)) < len(labels):
        raise ConfigError("policies", f"two models are called alike: {', '.join(labels)}.", "Rename a folder.")
    answered: list[tuple[Rollout, ...]] = []
    for label, adapter in (baseline, *policies):
        say(f"{label} answers {len(prompts) * config.num_samples} times …")
        answered.append(answer(base, generator, adapter, prompts, config))
    say("the judge scores the answers …")
    scores = score_blind(judge, prompts, answered, config)
    sides = [
        Side(label=label, adapter=adapter, rollouts=rollouts, scores=score)
        for (label, adapter), rollouts, score in zip((baseline, *policies), answered, scores, strict=True)
    ]
    seed, shape = config.sampling.seed, (len(prompts), config.num_samples)
    ours = [side.scores.total.reshape(shape) for side in sides]
    prompt_of = np.repeat(np.arange(shape[0]), shape[1]).tolist()
    divergences = {}
    if draws_from_the_model(config.sampling):
        divergences = {
            side.label: divergence(log_ratios(base, side, sides[0].adapter, config), prompt_of, seed)
            for side in sides[1:]
        }
    return Match(
        prompts=tuple(prompts),
        num_samples=config.num_samples,
        sides=tuple(sides),
        results={side.label: win_rate(own, ours[0], seed) for side, own in zip(sides[1:], ours[1:], strict=True)},
        divergences=divergences,
        judge=judge.identity,
        counts=judge.counts,
        examples=tuple(sorted(permutation(len(prompts), seed, "winrate_examples")[: config.num_examples])),
    )


def answer(
    base: Base, generator: Generator, adapter: str | None, prompts: Sequence[PromptRow], config: MatchConfig
) -> tuple[Rollout, ...]:
    """K answers a prompt, prompt by prompt; every draw depends on prompt and sample alone, not on who answers."""
    tokenizer = base.tokenizer_of(adapter)
    asked = [
        Prompt(ids=ids, row_id=prompt.row_id, sample=k)
        for prompt in prompts
        for ids in [render_prompt(prompt.messages, tokenizer)]
        for k in range(config.num_samples)
    ]
    return tuple(generator.generate(asked, config.sampling, adapter))


def score_blind(
    judge: WeightedSum, prompts: Sequence[PromptRow], answered: Sequence[Sequence[Rollout]], config: MatchConfig
) -> list[Scores]:
    """Each side's scores: all answers are given to the judge at once, in an order that tells nothing of the side."""
    per_side = len(prompts) * config.num_samples
    items = [
        # The row says whose prompt it is; the sample numbers all sides' answers to it alike.
        Answered(
            messages=prompts[i // config.num_samples].messages,
            text=rollout.text,
            stop_reason=rollout.stop_reason,
            row_id=rollout.row_id,
            sample=i % config.num_samples,
            ids=rollout.ids,
            prompt_ids=rollout.prompt_ids,
        )
        for rollouts in answered
        for i, rollout in enumerate(rollouts)
    ]
    order = permutation(len(items), config.sampling.seed, "winrate_order")
    shuffled = judge.score_parts([items[i] for i in order])
    back = np.argsort(order)

    def cut(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        return list(values[back].reshape(len(answered), per_side))

    parts = {name: cut(values) for name, values in shuffled.parts.items()}
    return [
        Scores(total, {name: values[side] for name, values in parts.items()})
        for side, total in enumerate(cut(shuffled.total))
    ]


def draws_from_the_model(sampling: Sampling) -> bool:
    """Whether answers are drawn from the model's own distribution, which an estimate of its KL stands on."""
    return sampling.temperature == 1 and sampling.top_p == 1 and sampling.top_k == 0


def log_ratios(base: Base, side: Side, reference: str | None, config: MatchConfig) -> list[NDArray[np.float64]]:
    """log p - log q (T,) of the tokens of each answer, p being the side's model and q the reference."""
    examples = [_example(rollout) for rollout in side.rollouts]
    out: list[NDArray[np.float64]] = [np.zeros(0)] * len(examples)
    for batch in micro_batches([example.num_tokens for example in examples], config.micro_batch_tokens):
        rows = [examples[i] for i in batch]
        own, other = (
            forward(base, pack(rows, adapter), "reference_logprobs")[0].double().cpu().numpy()
            for adapter in (side.adapter, reference)
        )
        ends = np.cumsum([example.num_loss_tokens for example in rows])[:-1]
        for i, ratio in zip(batch, np.split(own - other, ends), strict=True):
            out[i] = ratio
    return out


def _example(rollout: Rollout) -> Example:
    weight = np.concatenate([np.zeros(len(rollout.prompt_ids)), np.ones(len(rollout.ids))]).astype(np.float32)
    ids = np.concatenate([rollout.prompt_ids, rollout.ids])
    return Example(ids=ids, loss_weight=weight, row_id=rollout.row_id, where=Where("answer"))


def _side_facts(side: Side, num_samples: int) -> dict[str, Any]:
    per_prompt = side.scores.total.reshape(-1, num_samples).mean(1).tolist()
    lengths = np.asarray(side.lengths, float).reshape(-1, num_samples).mean(1).tolist()
    return {
        "adapter_digest": side.rollouts[0].adapter_digest,
        "score": _limits(bootstrap_mean(per_prompt, 0)),
        "parts": side.scores.means(),
        "tokens": _limits(bootstrap_mean(lengths, 0)),
        "share_cut_off": side.share_cut_off,
    }


def _limits(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _shown_prompt(prompt: PromptRow) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
