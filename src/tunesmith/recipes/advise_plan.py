"""How long ``advise`` will take, told before it begins, and which parts are left out where minutes are short."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tunesmith.errors import ConfigError
from tunesmith.evals.advise.bench import Bench
from tunesmith.evals.task import Item
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.advise_rows import TaskRows
from tunesmith.rollout.writer import Asked

# Forward and backward without weight gradients take about so many times the forward pass; a step adds the optimiser.
TRAIN_FACTOR = 3.5
PROBE_PROMPTS, PROBE_TOKENS = 8, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the job with its estimate; ``core`` parts are never left out."""

    name: str
    seconds: float
    tokens: int
    core: bool


@dataclass(slots=True, kw_only=True)
class Budget:
    """The estimate, the clock, and what was left out because of it."""

    parts: dict[str, Part]
    max_minutes: float | None = None
    clock: Callable[[], float] = time.perf_counter
    left_out: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def allows(self, name: str) -> bool:
        """Begin a part if it and the core that is still to come fit at the pace so far; else note it as left out."""
        part, spent = self.parts[name], self.clock() - self.began
        planned = sum(self.parts[done].seconds for done in self.begun)
        pace = max(1.0, spent / planned) if planned else 1.0
        to_come = [p for p in self.parts.values() if p.core and p.name not in (*self.begun, name)]
        needed = pace * (part.seconds + sum(p.seconds for p in to_come))
        if part.core or self.max_minutes is None or spent + needed <= 60 * self.max_minutes:
            self.begun.append(name)
            return True
        left = max(0.0, self.max_minutes - spent / 60)
        self.left_out.append(f"{name}: needs about {pace * part.seconds / 60:.1f} minutes, {left:.1f} were left")
        return False

    @property
    def minutes(self) -> float:
        """The estimate of everything."""
        return sum(part.seconds for part in self.parts.values()) / 60

    def lines(self) -> list[str]:
        """The estimate as a table."""
        optional = {True: "", False: ", may be left out"}
        rows = [
            f"  {part.name:<20} {part.seconds / 60:5.1f} min {part.tokens:>9,} tokens{optional[part.core]}"
            for part in self.parts.values()
        ]
        tokens = sum(part.tokens for part in self.parts.values())
        return [
            "estimate, from a probe of this machine:",
            *rows,
            f"  {'all':<20} {self.minutes:5.1f} min {tokens:>9,} tokens",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Tokens a second that are read, and that are written in a batch; what a request of this task is made of."""

    read: float
    written: float
    prompt_tokens: float
    shot_tokens: float
    answer_tokens: float
    """Of the rows' own answers; of all choices where those are asked for."""
    longest_tokens: int
    """What a base that rambles writes; 0 where choices are asked for."""

    def ask(self, num_items: int, shots: int = 0, *, tuned: bool = False) -> tuple[float, float]:
        """(seconds, tokens) of asking items with so many shots."""
        prompt = self.prompt_tokens + shots * self.shot_tokens
        if not self.longest_tokens:
            return num_items * (prompt + self.answer_tokens) / self.read, num_items * (prompt + self.answer_tokens)
        answer = self.answer_tokens if tuned else self.longest_tokens
        return num_items * (prompt / self.read + answer / self.written), num_items * (prompt + answer)

    def train(self, num_rows: int, num_validation: int, epochs: float, row_tokens: float) -> tuple[float, float]:
        """(seconds, tokens) of a training with five looks at the validation rows."""
        learnt, looked = num_rows * epochs * row_tokens, 5 * num_validation * row_tokens
        return (TRAIN_FACTOR * learnt + looked) / self.read, learnt + looked


def make_budget(
    config: AdviseConfig, rows: TaskRows, pace: Pace, *, num_prompts: int, num_searches: int, fact_rows: int
) -> Budget:
    """Estimate every part. Raises ConfigError where the core does not fit into max_minutes."""
    valid, test, train = len(rows.validation), len(rows.test), len(rows.train)
    most = max(config.retrieved)
    tuning = pace.train(train, valid, config.num_train_epochs, pace.shot_tokens)
    searching = [pace.ask(valid, k) for k in config.retrieved] + [pace.ask(test, most)]
    parts = [
        _part("prompts", True, pace.ask(valid * num_prompts), pace.ask(2 * test)),
        _part("shots", True, *(pace.ask(valid, k) for k in config.shots), pace.ask(test, max(config.shots))),
        _part("retrieval", True, *(searching * num_searches)),
        _part("tuning", True, tuning, pace.ask(test, tuned=True)),
        _part(
            "tuned + retrieval",
            False,
            *(pace.ask(valid, k, tuned=True) for k in config.retrieved),
            pace.ask(test, most, tuned=True),
        ),
    ]
    if fact_rows:
        # Short questions and answers, asked five times over.
        parts.append(_part("freshness", False, pace.train(fact_rows, 0, config.fact_epochs, 60), pace.ask(60, 1)))
    for share in sorted(config.curve, reverse=True):
        smaller = (share * tuning[0], share * tuning[1])
        parts.append(_part(curve_part(share), False, smaller, pace.ask(test, tuned=True), pace.ask(test, most)))
    budget = Budget(parts={part.name: part for part in parts}, max_minutes=config.max_minutes)
    core = sum(part.seconds for part in parts if part.core) / 60
    if config.max_minutes is not None and core > config.max_minutes:
        raise ConfigError(
            "max_minutes",
            f"what cannot be left out takes about {core:.1f} minutes here, {config.max_minutes:g} are allowed.",
            f"Lower --limit (now {train} rows) or --test-limit (now {test}), or allow more.",
        )
    return budget


def curve_part(share: float) -> str:
    """The name of a point of the learning curve."""
    return f"curve at {100 * share:g} %"


def _part(name: str, core: bool, *costs: tuple[float, float]) -> Part:
    seconds, tokens = sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)
    return Part(name=name, seconds=seconds, tokens=round(tokens), core=core)


def probe(bench: Bench, items: Sequence[Item]) -> Pace:
    """Have a few validation rows answered with one token, then with some: the pace of reading and of writing."""
    count, choices = bench.counter, bench.answers.choices
    chosen = items[:PROBE_PROMPTS]
    asked = [Asked(messages=item.messages, row_id=i) for i, item in enumerate(chosen)]
    writer = bench.subject_of(None).writer
    prompts = [count.prompt(item.messages) for item in items]
    seconds = []
    # The first call warms up and is not counted.
    for num_tokens in (1, 1, 1 + PROBE_TOKENS):
        began = time.perf_counter()
        list(writer.write(asked, bench.sampling.model_copy(update={"max_new_tokens": num_tokens})))
        seconds.append(time.perf_counter() - began)
    answers = [count.text(item.target) + 1 for item in items]
    return Pace(
        read=sum(prompts[: len(chosen)]) / max(seconds[1], 1e-6),
        written=len(chosen) * PROBE_TOKENS / max(seconds[2] - seconds[1], 1e-6),
        prompt_tokens=fmean(prompts),
        shot_tokens=fmean(prompts) + fmean(answers),
        answer_tokens=sum(map(count.text, choices)) if choices else fmean(answers),
        longest_tokens=0 if choices else bench.sampling.max_new_tokens,
    )
