"""The conditions that need no training: prompts, shots and searches, each settled on the validation rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from tunesmith.evals.advise.bench import Bench
from tunesmith.evals.advise.conditions import (
    Condition,
    Dropped,
    Family,
    fixed,
    question_of,
    retrieved,
    with_passages,
    with_prompt,
    with_shots,
)
from tunesmith.evals.advise.prompts import Wording
from tunesmith.evals.run import TaskResult
from tunesmith.evals.task import Item, Solver
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.advise_rows import TaskRows
from tunesmith.retrieval.dense import Dense, Encode
from tunesmith.retrieval.lexical import Lexical, Search

PROMPTS, SHOTS = "choose a prompt", "choose the number of shots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Something to search: its name, how, and what it finds, which are training rows or passages.

    make: texts to a search of the same kind.
    """

    name: str
    nearest: Search
    make: Callable[[Sequence[str]], Search]
    rows: tuple[Item, ...] = ()
    passages: tuple[str, ...] = ()

    def over(self, rows: Sequence[Item]) -> Index:
        """The same kind of index over other rows."""
        nearest = self.make([question_of(row) for row in rows])
        return replace(self, nearest=nearest, rows=tuple(rows), passages=())


def build_indexes(rows: Sequence[Item], passages: Sequence[str], encode: Encode | None, bench: Bench) -> list[Index]:
    """BM25 over the rows, and over the passages where there are some; the same by vectors where there is an encoder."""
    kinds: dict[str, Callable[[Sequence[str]], Search]] = {"BM25": lambda texts: Lexical(texts).nearest}
    if encode is not None:
        kinds["dense"] = lambda texts: Dense(texts, encode).nearest
    out = []
    for kind, make in kinds.items():
        with bench.ledger.watch(f"index: {kind} rows", anew=True):
            nearest = make([question_of(row) for row in rows])
        out.append(Index(name=f"{kind} rows", nearest=nearest, make=make, rows=tuple(rows)))
        if passages:
            with bench.ledger.watch(f"index: {kind} passages", anew=True):
                nearest = make(passages)
            out.append(Index(name=f"{kind} passages", nearest=nearest, make=make, passages=tuple(passages)))
    return out


@dataclass(slots=True, kw_only=True)
class Chooser:
    """Settles prompts and numbers on the validation rows; what a prompt had no room for is counted."""

    config: AdviseConfig
    bench: Bench
    rows: TaskRows
    say: Callable[[str], None]
    dropped: Dropped
    scores: dict[str, float]
    """Condition -> quality on the validation rows, all that were tried."""

    def prompt(self, wordings: Sequence[Wording]) -> tuple[Wording, Condition]:
        """The wording that is best on the validation rows, the first of equals."""
        tried = [(Condition(name=w.name, family="prompt", solver=with_prompt(w)), w) for w in wordings]
        best = self._best([condition for condition, _ in tried], PROMPTS)
        wording = tried[best][1]
        chosen = f"'{wording.name}', the best of {len(tried)} prompts on {len(self.rows.validation)} validation rows"
        return wording, Condition(name="best prompt", family="prompt", solver=with_prompt(wording), chosen=chosen)

    def shots(self, wording: Wording) -> Condition:
        """Fixed examples in that wording, as many as are best on the validation rows."""
        numbers = [k for k in sorted(set(self.config.shots)) if k <= len(self.rows.train)]
        tried = []
        for number in numbers:
            shots = fixed(self.rows.train, number, self.config.seed)
            solver = with_shots(wording, shots, self.bench.fits, self.dropped)
            tried.append(Condition(name=f"{number} shots", family="shots", solver=solver))
        best = self._best(tried, SHOTS)
        chosen = f"{numbers[best]} shots, the best of {_listed(numbers)} on the validation rows"
        return Condition(name="fixed shots", family="shots", solver=tried[best].solver, chosen=chosen)

    def search(
        self, index: Index, wording: Wording, *, adapter: str | None = None, family: Family = "retrieve"
    ) -> tuple[Condition, int]:
        """Retrieved rows or passages in that wording, as many as are best on the validation rows; and that number."""
        name = f"retrieval, {index.name}" if adapter is None else f"tuned + retrieval, {index.name}"
        numbers = sorted({min(k, len(index.rows or index.passages)) for k in self.config.retrieved})
        tried = [
            Condition(
                name=f"{name}, {number}", family=family, adapter=adapter, solver=self.searching(index, wording, number)
            )
            for number in numbers
        ]
        best = self._best(tried, name)
        chosen = f"the {numbers[best]} nearest, the best of {_listed(numbers)} on the validation rows"
        solver = tried[best].solver
        condition = Condition(name=name, family=family, adapter=adapter, solver=solver, chosen=chosen)
        self.scores[name] = self.scores[tried[best].name]
        return condition, numbers[best]

    def searching(self, index: Index, wording: Wording, number: int) -> Solver:
        """A solver that puts what an index finds before the question."""
        if index.passages:
            return with_passages(wording, index.passages, index.nearest, number, self.bench.fits, self.dropped)
        return with_shots(wording, retrieved(index.rows, index.nearest, number), self.bench.fits, self.dropped)

    def _best(self, conditions: Sequence[Condition], part: str) -> int:
        """Place of the best by the metric that decides, then by the mean of all metrics, then the first."""
        ranks = []
        for condition in conditions:
            result = self.bench.score("validation", self.rows.validation, condition, part)
            self.scores[condition.name] = self.quality(result)
            ranks.append((self.scores[condition.name], _mean_of_all(result)))
            self.say(
                f"  {condition.name}: {self.bench.answers.metric} {100 * ranks[-1][0]:.1f} % of the validation rows"
            )
        return max(range(len(ranks)), key=lambda i: (*ranks[i], -i))

    def quality(self, result: TaskResult) -> float:
        """The mean of the metric that decides."""
        return fmean(result.values(self.bench.answers.metric))


def _mean_of_all(result: TaskResult) -> float:
    return fmean(value for metric in result.task.metrics for value in result.values(metric))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
