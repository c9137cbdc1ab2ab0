"""The freshness test: an adapter learns facts, some of them change, and everybody is asked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tunesmith.evals.advise.bench import Bench
from tunesmith.evals.advise.conditions import (
    Condition,
    Dropped,
    Family,
    question_of,
    retrieved,
    with_prompt,
    with_shots,
)
from tunesmith.evals.advise.facts import (
    METRICS,
    Fact,
    asked_items,
    invented_facts,
    learnt_items,
    read_facts,
    taught_items,
    which_fact,
)
from tunesmith.evals.advise.prompts import Wording
from tunesmith.evals.task import Item, Solver, Task
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.retrieval.lexical import Lexical
from tunesmith.rollout.sampling import Sampling
from tunesmith.stats import Interval, exact_mcnemar, wilson_interval

NUM_FACTS, NUM_CHANGED = 12, 8
# A small base copies an answer that it is shown thrice; from passages, or one row, it does not.
NUM_SHOWN = 3
FACT_TOKENS = 24
# Rows that teach, and rows that hold back, to the adapter that is to know the facts.
TuneFacts = Callable[[Sequence[Item], Sequence[Item]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsRow:
    """One way to ask, after the change. new, old: shares of the changed facts; kept: right share of the others."""

    name: str
    family: Family | None
    new: Interval
    old: Interval
    kept: Interval | None
    p: float
    """Sign test of new against old answers over the changed facts."""

    @property
    def follows(self) -> bool:
        """New answers outnumber old ones, and not by chance (p at most 0.05)."""
        return self.new.value > self.old.value and self.p <= 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """The test's rows, the facts' numbers, and three answers side by side."""

    rows: tuple[FactsRow, ...]
    num_changed: int
    num_kept: int
    invented: bool
    examples: tuple[dict[str, str], ...]

    @property
    def follows(self) -> dict[Family, bool]:
        return {row.family: row.follows for row in self.rows if row.family is not None}

    @property
    def learnt(self) -> bool:
        """Whether tuning taught the old facts at all: without that, the test says nothing of weights."""
        tuned = next(row for row in self.rows if row.family == "tune")
        return tuned.old.value >= 0.5


def facts_of(config: AdviseConfig) -> list[Fact]:
    """The user's facts, or the invented ones."""
    if config.facts is not None:
        return read_facts(config.facts)
    return invented_facts(NUM_FACTS, NUM_CHANGED, config.seed)


def run_freshness(
    facts: Sequence[Fact],
    bench: Bench,
    tune_facts: TuneFacts,
    *,
    invented: bool,
    say: Callable[[str], None],
    dropped: Dropped,
) -> Freshness:
    """Teach the old facts, change the index, ask; the base alone and the index before the change are the controls.

    dropped: counts the shown rows that a prompt had no room for.
    """
    adapter = tune_facts(taught_items(facts, new=False), learnt_items(facts))
    # Half as much again as the longest answer: one that is cut off could not be found in what is said.
    longest = max(bench.counter.text(answer) for fact in facts for answer in (fact.old, fact.new))
    bench = replace(bench, sampling=Sampling(max_new_tokens=max(FACT_TOKENS, longest + longest // 2)))
    plain = Wording(name="as it is")

    def searching(*, new: bool) -> Solver:
        rows = taught_items(facts, new=new)
        nearest = Lexical([question_of(row) for row in rows]).nearest
        return with_shots(plain, retrieved(rows, nearest, NUM_SHOWN), bench.fits, dropped, open_book=True)

    conditions: list[tuple[Condition, Family | None]] = [
        (Condition(name="base alone", family="prompt", solver=with_prompt(plain)), None),
        (Condition(name="retrieval, index of before", family="retrieve", solver=searching(new=False)), None),
        (Condition(name="retrieval, index of now", family="retrieve", solver=searching(new=True)), "retrieve"),
        (Condition(name="tuned before", family="tune", adapter=adapter, solver=with_prompt(plain)), "tune"),
        (
            Condition(
                name="tuned before + retrieval of now",
                family="tune+retrieve",
                adapter=adapter,
                solver=searching(new=True),
            ),
            "tune+retrieve",
        ),
    ]
    items, rows = asked_items(facts), []
    said: dict[str, list[str]] = {}
    for condition, family in conditions:
        task = Task(
            name="advise-facts", version=1, items=items, solver=condition.solver, scorer=which_fact, metrics=METRICS
        )
        result = bench.run(task, condition, "freshness: asking")
        row = _row(condition.name, family, facts, result.values("says_new"), result.values("says_old"))
        say(f"  {row.name}: says the new {row.new.percent()}, the old {row.old.percent()} of {_changed(facts)} changed")
        rows.append(row)
        said[condition.name] = [answer.text for answer in result.answers]
    return Freshness(
        rows=tuple(rows),
        num_changed=_changed(facts),
        num_kept=len(facts) - _changed(facts),
        invented=invented,
        examples=_examples(facts, said),
    )


def _examples(facts: Sequence[Fact], said: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], ...]:
    """The first three facts that changed, and what every condition said of them."""
    shown = [i for i, fact in enumerate(facts) if fact.changed][:3]
    return tuple(
        {"question": facts[i].question, "before": facts[i].old, "now": facts[i].new}
        | {name: texts[i] for name, texts in said.items()}
        for i in shown
    )


def _changed(facts: Sequence[Fact]) -> int:
    return sum(fact.changed for fact in facts)


def _row(
    name: str, family: Family | None, facts: Sequence[Fact], says_new: Sequence[float], says_old: Sequence[float]
) -> FactsRow:
    changed = [i for i, fact in enumerate(facts) if fact.changed]
    kept = [i for i, fact in enumerate(facts) if not fact.changed]
    new, old = [says_new[i] for i in changed], [says_old[i] for i in changed]
    return FactsRow(
        name=name,
        family=family,
        new=wilson_interval(int(sum(new)), len(new)),
        old=wilson_interval(int(sum(old)), len(old)),
        kept=wilson_interval(int(sum(says_new[i] for i in kept)), len(kept)) if kept else None,
        p=exact_mcnemar(old, new).p,
    )
