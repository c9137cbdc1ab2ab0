"""What a campaign costs: answers and tokens at most, and the time they take at the pace of a short probe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.progress import clock
from tunesmith.recipes.redteam_config import RedteamConfig
from tunesmith.recipes.redteam_open import LocalModels
from tunesmith.records import Message
from tunesmith.redteam.attempt_rows import read_attempt
from tunesmith.redteam.catalogue import ATTACKS
from tunesmith.redteam.driver import Driver
from tunesmith.redteam.plan import Planned, plan_replay
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked

# A probe that tells the reading of prompts from the writing of answers: at most a share of the work itself.
_PROBE_ROWS, _PROBE_TOKENS, _PROBE_SHARE = 32, 9, 0.1
# What an attacker is told grows with what was tried: taken as so many times what it is told first.
_ATTACKER_GROWTH = 2
# Of a prompt that an attacker is still to write.
_UNKNOWN_TOKENS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignCost:
    """What is left to do, at most; seconds: None where the pace is not ours to know."""

    attempts: int
    attempts_there: int
    answers: int
    read: int = 0
    written: int = 0
    seconds: float | None = None

    def __str__(self) -> str:
        there = f", {self.attempts_there:,} are there" if self.attempts_there else ""
        if self.attempts == self.attempts_there:
            return f"{self.attempts:,} attempts{there}: nothing is left to ask."
        tokens = f" with {self.read:,} tokens to read, {self.written:,} to write" if self.read else ""
        long = f", about {clock(self.seconds)} by a short probe just now" if self.seconds is not None else ""
        return f"{self.attempts:,} attempts{there}; at most {self.answers:,} answers{tokens}{long}."

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def cost_of(
    config: RedteamConfig, plans: Sequence[Planned], drivers: Mapping[str, Driver], local: LocalModels | None
) -> CampaignCost:
    """Count what is left over all targets; models on this machine are asked a little to tell their pace.

    Prompts of later turns are taken to grow by an answer each. A search that succeeds early takes less.
    """
    count = _Count(config, local)
    there = attempts = 0
    first = next(iter(drivers.values()))
    for driver in drivers.values():
        own = plans if driver is first or not config.replay else _replayed(first, plans)
        attempts += len(own)
        for plan in own:
            if driver.key_of(plan) in driver.attempts:
                there += 1
            else:
                count.add(driver, plan)
    seconds = count.seconds(first) if config.target is None else None
    return CampaignCost(
        attempts=attempts, attempts_there=there, answers=count.answers, read=count.read,
        written=count.written, seconds=seconds,
    )  # fmt: skip


def _replayed(first: Driver, plans: Sequence[Planned]) -> Sequence[Planned]:
    """What a further model is asked, where all of the first's attempts are there; else at most the same attempts."""
    rows = [first.attempts.get(first.key_of(plan)) for plan in plans]
    done = [read_attempt(row) for row in rows if row is not None]
    return plan_replay(done, ATTACKS) if len(done) == len(rows) else plans


class _Count:
    """Answers and tokens of attempts, by what they ask first."""

    def __init__(self, config: RedteamConfig, local: LocalModels | None) -> None:
        self.config, self.local = config, local
        self.answers = self.read = self.written = 0
        self._asked: dict[tuple[Message, ...], None] = {}
        self._lengths: dict[tuple[Message, ...], int] = {}

    def add(self, driver: Driver, plan: Planned) -> None:
        """Count one attempt, less the first answers that are there."""
        attack, most = plan.attack, self.config.max_new_tokens
        first = driver.first_calls(plan)
        target = [call for role, call in first if role == "target"]
        attacker = [call for role, call in first if role == "attacker"]
        left = attack.num_target_calls - sum(call.key in driver.calls for call in target)
        if not left and not attack.num_attacker_calls:
            return
        self.answers += left + attack.num_attacker_calls
        self.written += left * most
        length = max((self._length(call.messages) for call in target), default=_UNKNOWN_TOKENS)
        self.read += left * length
        if attack.family == "multi-turn":
            self.read += most * attack.num_target_calls * (attack.num_target_calls - 1) // 2
        self._asked.update(dict.fromkeys(call.messages for call in target if call.key not in driver.calls))
        if attacker:
            self.written += attack.num_attacker_calls * attacker[0].sampling.max_new_tokens
            self.read += attack.num_attacker_calls * self._length(attacker[0].messages) * _ATTACKER_GROWTH

    def seconds(self, driver: Driver) -> float | None:
        """Time for all of it, from a few of the prompts; nothing of the probe is kept."""
        asked, speaker = list(self._asked), driver.target
        number = max(1, min(_PROBE_ROWS, int(len(asked) * _PROBE_SHARE)))
        chosen = [asked[i * len(asked) // number] for i in range(min(number, len(asked)))]
        chosen = [one for one in chosen if not speaker.why_not(one, speaker.sampling.max_new_tokens)]
        if not chosen:
            return None
        rows = [Asked(messages=one, row_id=0) for one in chosen]

        def timed(max_new_tokens: int) -> float:
            began = time.perf_counter()
            for _ in speaker.writer.write(rows, Sampling(max_new_tokens=max_new_tokens)):
                pass
            return time.perf_counter() - began

        one, nine = timed(1), timed(_PROBE_TOKENS)
        reading = one / max(sum(self._lengths[messages] for messages in chosen), 1)
        writing = max(0.0, nine - one) / (_PROBE_TOKENS - 1) / len(rows)
        return reading * self.read + writing * self.written

    def _length(self, messages: tuple[Message, ...]) -> int:
        if messages not in self._lengths:
            self._lengths[messages] = 0 if self.local is None else self.local.count_tokens(messages)
        return self._lengths[messages]
