"""Every condition of ``advise`` on the same test items: what needs no training, tuning, freshness, fewer rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunesmith.evals.advise.bench import Bench, Measured
from tunesmith.evals.advise.conditions import Condition, with_prompt
from tunesmith.evals.advise.decide import Option, difference
from tunesmith.evals.advise.facts import Fact
from tunesmith.evals.advise.prompts import Wording
from tunesmith.evals.run import TaskResult
from tunesmith.evals.task import Item
from tunesmith.recipes.advise_choose import PROMPTS, SHOTS, Chooser, Index
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.advise_facts import Freshness, run_freshness
from tunesmith.recipes.advise_plan import Budget, curve_part
from tunesmith.recipes.advise_rows import TaskRows
from tunesmith.recipes.advise_tune import Tuned
from tunesmith.stats import Interval

TUNED, BOTH = "tuned", "tuned + retrieval"
# A name, rows, rows to stop by, epochs -> an adapter under that name.
Tuner = Callable[[str, Sequence[Item], Sequence[Item], float], Tuned]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Quality on the test items with a share of the training rows, tuned on them and retrieved from them.

    gain: what all rows add to the tuned model, on the same test items; None where these are all of them.
    """

    num_rows: int
    tuned: Interval
    retrieved: Interval
    gain: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advised:
    """All that was measured, ready to be decided on and shown."""

    rows: TaskRows
    bench: Bench
    measured: tuple[Measured, ...]
    options: tuple[Option, ...]
    curve: tuple[CurvePoint, ...]
    freshness: Freshness | None
    tuned: Tuned
    """The adapter of all rows."""
    budget: Budget
    validation: dict[str, float]
    notes: tuple[str, ...]
    minutes: float


@dataclass(slots=True, kw_only=True)
class Job:
    """What is being measured; results gather in ``measured``, and what each cost to set up in ``setup``."""

    config: AdviseConfig
    rows: TaskRows
    bench: Bench
    tuner: Tuner
    chooser: Chooser
    budget: Budget
    say: Callable[[str], None]
    measured: list[Measured] = field(default_factory=list)
    setup: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Condition -> parts of the ledger that it needs before its first request."""
    trained: dict[str, Tuned] = field(default_factory=dict)
    searches: dict[str, tuple[Index, int]] = field(default_factory=dict)
    """Condition -> what it searches, and how many it shows."""
    wording: Wording = field(init=False)
    as_they_are: Wording = field(init=False)

    def untuned(self, wordings: Sequence[Wording], indexes: Sequence[Index]) -> None:
        """Prompts, fixed shots and searches, each settled on the validation rows and then measured once."""
        self.as_they_are = wordings[0]
        self.budget.allows("prompts")
        plain = Condition(
            name="zero-shot", family="prompt", solver=with_prompt(self.as_they_are), chosen="nothing to choose"
        )
        self._measure(plain)
        self.wording, best = self.chooser.prompt(wordings)
        if self.wording != self.as_they_are:
            self._measure(best, PROMPTS)
        self.budget.allows("shots")
        self._measure(self.chooser.shots(self.wording), PROMPTS, SHOTS)
        self.budget.allows("retrieval")
        for index in indexes:
            condition, number = self.chooser.search(index, self.wording)
            self.searches[condition.name] = index, number
            self._measure(condition, PROMPTS, condition.name, f"index: {index.name}")

    def tuned(self) -> None:
        """Tuned on all rows, alone and with the search that was best on the validation rows."""
        self.budget.allows("tuning")
        self.say(f"tuning on {len(self.rows.train)} rows …")
        one = self._tune(TUNED, self.rows.train)
        chosen = f"the weights of step {one.best_step}, the lowest validation loss"
        solver = with_prompt(self.as_they_are)
        self._measure(
            Condition(name=TUNED, family="tune", adapter=one.adapter, solver=solver, chosen=chosen), "tune: tuned"
        )
        if not self.budget.allows(BOTH):
            return
        index, _ = self.searches[self.best_search(self.searches)]
        both, _ = self.chooser.search(index, self.as_they_are, adapter=one.adapter, family="tune+retrieve")
        self._measure(both, "tune: tuned", both.name, f"index: {index.name}")

    def fewer_rows(self) -> list[CurvePoint]:
        """Tuning and retrieval with shares of the training rows, and with all of them; by rising number."""
        over_rows = {name: search for name, search in self.searches.items() if search[0].rows}
        name = self.best_search(over_rows)
        index, number = over_rows[name]
        metric, points = self.bench.answers.metric, []
        whole = {measured.condition.name: measured.result for measured in self.measured}
        for share in sorted(set(self.config.curve), reverse=True):
            part = curve_part(share)
            rows = self.rows.train[: max(1, round(share * len(self.rows.train)))]
            if share >= 1 or not self.budget.allows(part):
                continue
            self.say(f"{part}: {len(rows)} rows …")
            adapter = self._tune(f"tuned_{len(rows)}", rows).adapter
            alone = Condition(
                name=f"tuned on {len(rows)} rows", family="tune", adapter=adapter, solver=with_prompt(self.as_they_are)
            )
            searching = Condition(
                name=f"{name} of {len(rows)}",
                family="retrieve",
                solver=self.chooser.searching(index.over(rows), self.wording, min(number, len(rows))),
            )
            tuned, retrieved = (self._on_test(condition) for condition in (alone, searching))
            points.append(
                CurvePoint(
                    num_rows=len(rows),
                    tuned=tuned.interval(metric),
                    retrieved=retrieved.interval(metric),
                    gain=difference(tuned.values(metric), whole[TUNED].values(metric)),
                )
            )
        ends = [whole[which].interval(metric) for which in (TUNED, name)]
        points.append(CurvePoint(num_rows=len(self.rows.train), tuned=ends[0], retrieved=ends[1]))
        return sorted(points, key=lambda point: point.num_rows)

    def changing(self, facts: Sequence[Fact]) -> Freshness | None:
        """The freshness test, with an adapter of its own."""
        if not facts or not self.budget.allows("freshness"):
            return None
        self.say("facts that change after tuning …")
        return run_freshness(
            facts,
            self.bench,
            lambda taught, learnt: self.tuner("facts", taught, learnt, self.config.fact_epochs).adapter,
            invented=self.config.facts is None,
            say=self.say,
            dropped=self.chooser.dropped,
        )

    def options(self) -> tuple[Option, ...]:
        """The conditions as what is decided on."""
        metric, ledger, tokens = self.bench.answers.metric, self.bench.ledger, self.bench.tokens
        out = []
        for measured in self.measured:
            parts = self.setup[measured.condition.name]
            training = [self.trained[part.removeprefix("tune: ")] for part in parts if part.startswith("tune: ")]
            out.append(
                Option(
                    name=measured.condition.name,
                    family=measured.condition.family,
                    quality=self._interval(measured),
                    values=tuple(measured.result.values(metric)),
                    ms=measured.median_ms,
                    tokens=measured.prompt_tokens + measured.answer_tokens,
                    setup_minutes=ledger.minutes(*parts) + sum(one.seconds for one in training) / 60,
                    setup_tokens=sum(tokens.get(part, 0) for part in parts) + sum(one.num_tokens for one in training),
                )
            )
        return tuple(out)

    def best_search(self, searches: dict[str, tuple[Index, int]]) -> str:
        """The one that was best on the validation rows, the first of equals."""
        return max(searches, key=lambda name: self.chooser.scores[name])

    def _tune(self, name: str, rows: Sequence[Item]) -> Tuned:
        one = self.tuner(name, rows, self.rows.validation, self.config.num_train_epochs)
        self.trained[name] = one
        loss = f"loss {one.loss_before:.3f} -> {one.loss_after:.3f}"
        self.say(f"  {one.num_tokens:,} tokens, {one.seconds / 60:.1f} minutes, {loss}")
        return one

    def _measure(self, condition: Condition, *parts: str) -> None:
        measured = self.bench.measure(self.rows.test, condition)
        self.measured.append(measured)
        self.setup[condition.name] = parts
        quality = self._interval(measured).percent()
        self.say(f"{condition.name}: {self.bench.answers.metric} {quality}, {measured.median_ms:.0f} ms a request")

    def _on_test(self, condition: Condition) -> TaskResult:
        return self.bench.score("test", self.rows.test, condition, f"curve: {condition.name}")

    def _interval(self, measured: Measured) -> Interval:
        return measured.result.interval(self.bench.answers.metric)
