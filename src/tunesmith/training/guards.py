"""Signs that reinforcement learning goes wrong, told with their cause and figures; numpy only, nothing is stopped here.

Every guard is a pure function of the run's history, one ``Iteration`` a rollout phase, the newest last, so a resumed
run warns at the same places. Reward hacking shows as a reward that rises while something it stands for falls
(Gao et al., arXiv:2210.10760): that is why length, repetition, entropy and a watched source are looked at beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What one rollout phase showed, as means over its answers.

    step: updates behind the policy that answered, so that checkpoint-<step> holds it and 0 is where it started.
    reward: the sources' weighted sum, without the KL penalty. kl: nats a sequence between policy and reference.
    length: tokens an answer. entropy: nats a token. repetition: see ``repeated_share``. reward_std: of the answers'
    rewards. watched: sources that are logged but not trained on, by name.
    """

    step: int
    reward: float
    kl: float
    length: float
    entropy: float
    repetition: float
    reward_std: float
    watched: Mapping[str, float] = field(default_factory=dict)


class GuardConfig(Config):
    """When a guard speaks; a run is compared with its own first iterations, so that the limits fit any base."""

    kl_alarm: float = Field(30.0, gt=0)
    """Nats a sequence between policy and reference beyond which answers are hardly the reference's any more."""
    length_drift: float = Field(1.5, gt=1)
    """Answers that became longer than the first iterations' by this factor, or shorter by it."""
    repetition_rise: float = Field(0.1, gt=0, le=1)
    """Rise of the share of repeated n-grams over the first iterations'."""
    entropy_floor: float = Field(0.33, gt=0, lt=1)
    """Entropy a token below this share of the first iterations'."""
    watched_drop: float = Field(2.0, gt=0)
    """A watched source fell by so many standard errors of its wandering while the trained reward rose by as many."""
    window: int = Field(3, ge=1)
    """Iterations averaged at the beginning and at the end before they are compared."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A guard that spoke: its name, what was seen, what mostly causes it and what helps, and the figures."""

    guard: str
    step: int
    seen: str
    cause: str
    figures: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.guard} after {self.step} updates: {self.seen} {self.cause}"


def repeated_share(ids: Sequence[int], n: int = 3) -> float:
    """Share of an answer's n-grams that stood there before: 0 where all differ, near 1 in a loop; 0 below n tokens."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def guard(history: Sequence[Iteration], config: GuardConfig | None = None) -> list[Warned]:
    """All warnings for the newest iteration; none for an empty history."""
    if not history:
        return []
    config = config or GuardConfig()
    checks = (kl_alarm, length_drift, repetition, entropy_collapse, no_signal, watched_source)
    return [warned for check in checks for warned in check(history, config)]


def kl_alarm(history: Sequence[Iteration], config: GuardConfig) -> list[Warned]:
    """The policy is further from its reference than answers of one language can be."""
    now = history[-1]
    if now.kl <= config.kl_alarm:
        return []
    seen = f"KL is {now.kl:.1f} nats a sequence, more than {config.kl_alarm:g}."
    cause = "The penalty is too weak or the steps too large: raise kl_coef, lower learning_rate, or set target_kl."
    return [Warned("kl_alarm", now.step, seen, cause, {"kl": now.kl, "limit": config.kl_alarm})]


def length_drift(history: Sequence[Iteration], config: GuardConfig) -> list[Warned]:
    """Answers much longer or shorter than at the start."""
    if (ends := _first_and_last(history, config, "length")) is None or ends[0] <= 0:
        return []
    first, last = ends
    ratio = last / first
    if 1 / config.length_drift <= ratio <= config.length_drift:
        return []
    seen = f"answers went from {first:.1f} to {last:.1f} tokens ({ratio:.2f} times)."
    cause = (
        "The reward may pay for length: look at its accuracy by length gap, and add a source that charges for it."
        if ratio > 1
        else "The reward may pay for saying little: look at the samples, and ask for a minimum in a source of its own."
    )
    return [Warned("length_drift", history[-1].step, seen, cause, {"first": first, "last": last, "ratio": ratio})]


def repetition(history: Sequence[Iteration], config: GuardConfig) -> list[Warned]:
    """Answers repeat themselves more than at the start."""
    if (ends := _first_and_last(history, config, "repetition")) is None:
        return []
    first, last = ends
    if last - first <= config.repetition_rise:
        return []
    seen = f"the share of repeated 3-grams went from {first:.2f} to {last:.2f}."
    cause = "The reward pays for a phrase said again and again: look at the samples, and add a source against it."
    return [Warned("repetition", history[-1].step, seen, cause, {"first": first, "last": last})]


def entropy_collapse(history: Sequence[Iteration], config: GuardConfig) -> list[Warned]:
    """The policy hardly chooses any more, so that nothing new can be found."""
    if (ends := _first_and_last(history, config, "entropy")) is None or ends[0] <= 0:
        return []
    first, last = ends
    if last >= config.entropy_floor * first:
        return []
    seen = f"entropy went from {first:.2f} to {last:.2f} nats a token."
    cause = "One answer wins everywhere: lower learning_rate, raise kl_coef, or give an entropy bonus."
    return [Warned("entropy_collapse", history[-1].step, seen, cause, {"first": first, "last": last})]


def no_signal(history: Sequence[Iteration], config: GuardConfig) -> list[Warned]:
    """All answers of the newest iteration got the same reward: there is nothing to prefer among them."""
    now = history[-1]
    if now.reward_std > 1e-12 * max(1.0, abs(now.reward)):
        return []
    seen = f"every answer got the reward {now.reward:.4g}."
    cause = "Such a reward teaches nothing but the KL penalty: check the source on good and bad answers."
    return [Warned("no_signal", now.step, seen, cause, {"reward": now.reward, "reward_std": now.reward_std})]


def watched_source(history: Sequence[Iteration], config: GuardConfig) -> list[Warned]:
    """The reward trained on rises while one the policy never sees falls: what rises is the reward's mistakes."""
    out: list[Warned] = []
    for name in history[-1].watched:
        seen_in = [one for one in history if name in one.watched]
        trained = _rise(np.array([one.reward for one in seen_in]), config.window)
        watched = _rise(np.array([one.watched[name] for one in seen_in]), config.window)
        if trained is None or watched is None or trained[1] < config.watched_drop or watched[1] > -config.watched_drop:
            continue
        seen = f"the reward rose by {trained[0]:.3g}, and '{name}', which is not trained on, fell by {-watched[0]:.3g}."
        cause = "The policy found what the reward gets wrong: keep an earlier checkpoint, or raise kl_coef."
        figures = {"reward": trained[0], f"watched_{name}": watched[0]}
        out.append(Warned("reward_hacking", history[-1].step, seen, cause, figures))
    return out


def _first_and_last(history: Sequence[Iteration], config: GuardConfig, what: str) -> tuple[float, float] | None:
    """Mean of the first and of the last ``window`` iterations; None as long as they overlap."""
    if len(history) < 2 * config.window:
        return None
    values = [float(getattr(one, what)) for one in history]
    return float(np.mean(values[: config.window])), float(np.mean(values[-config.window :]))


def _rise(values: NDArray[np.float64], window: int) -> tuple[float, float] | None:
    """How far a series rose from its first to its last window, and that in standard errors of its wandering.

    The wandering is told by how neighbours' differences scatter, which a steady trend does not touch (after von Neumann
    1941, Annals of Mathematical Statistics 12:367); a series without any scatter tells nothing.
    """
    if len(values) < 2 * window or len(values) < 4:
        return None
    rise = float(values[-window:].mean() - values[:window].mean())
    wander = float(np.diff(values).std() / np.sqrt(2))
    error = wander * float(np.sqrt(2 / window))
    if error == 0:
        return rise, 0.0
    return rise, rise / error


def best_at_kl_budget(history: Sequence[Iteration], kl_budget: float) -> Iteration | None:
    """The highest reward among the policies within ``kl_budget`` nats a sequence of the reference, the nearer at a tie.

    By reward alone the last would mostly win, and the reward model is trusted least where the policy is furthest from
    what it was trained on (arXiv:2210.10760). None where none is within the budget.
    """
    within = [one for one in history if one.kl <= kl_budget]
    return max(within, key=lambda one: (one.reward, -one.kl, -one.step), default=None)


def frontier(history: Sequence[Iteration]) -> list[Iteration]:
    """The policies no other beats in reward at the same or a smaller KL, by rising KL."""
    out: list[Iteration] = []
    for one in sorted(history, key=lambda one: (one.kl, -one.reward, one.step)):
        if not out or one.reward > out[-1].reward:
            out.append(one)
    return out
