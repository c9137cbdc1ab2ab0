"""Files that judges are measured with: recorded verdicts on pairs, and answers that people have judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.preferences import PreferenceDataConfig, load_preferences
from tunesmith.data.read import Rows, open_rows
from tunesmith.errors import DataError
from tunesmith.evals.contests import Contest, Talk
from tunesmith.evals.judge_agreement import Labelled
from tunesmith.evals.judge_stats import PairVerdict
from tunesmith.evals.rubrics import Rubric
from tunesmith.evals.verdicts import PAIR_FORMATS, Shown
from tunesmith.records import Message, Where

_QUESTIONS = ("objective", "prompt", "question", "instruction")
_ANSWERS = ("assistant_response", "answer", "response", "completion", "output")
_PERSON = re.compile(r"human_score(?:_\d+)?|rating|label")
# How outcomes are recorded by number; any other number is a verdict that could not be read.
_OF_SCORE: Mapping[int, Shown] = {1: "first", 2: "second", 3: "tie"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Verdicts of a file; differing: (place, what we read in the text, what the file says) where both are there."""

    verdicts: tuple[PairVerdict, ...]
    num_texts: int
    differing: tuple[tuple[str, Shown, Shown], ...]
    digest: str


def load_verdicts(source: str, text_format: str = "letters") -> Recorded:
    """Rows of question_id (or question), first, second and score (1, 2, 3 for a tie, else unparsed), outcome, or text.

    Rows that ``eval mt-bench`` wrote, with their verdicts inside, are read too. text_format: one of PAIR_FORMATS.
    Raises DataError with all faults in one table.
    """
    read = PAIR_FORMATS[text_format]
    verdicts: list[PairVerdict] = []
    differing: list[tuple[str, Shown, Shown]] = []
    num_texts = 0
    judges: set[str] = set()

    def one(row: Mapping[str, Any], where: Where) -> None:
        nonlocal num_texts
        question, turn = str(_field(row, ("question_id", "question"), where)), row.get("turn", 1)
        judges.add(str(row.get("judge", "")))
        if len(judges) > 1:
            names = " and ".join(sorted(judges)) if "" not in judges else "a judge with a name and one without"
            raise RowError(where.at("judge"), f"verdicts of {names} in one file.", "Give each judge a file of its own.")
        if not isinstance(turn, int):
            raise RowError(where.at("turn"), "the turn is no whole number.", "Write 1 or 2.")
        for inner in row["verdicts"] if isinstance(row.get("verdicts"), list) else [row]:
            first, second = (str(_field(inner, (name,), where)) for name in ("first", "second"))
            if first == second:
                raise RowError(where, "a model is compared with itself.", "Name two different ones.")
            recorded = _recorded(inner, where)
            outcome = recorded
            if isinstance(text := inner.get("text"), str):
                num_texts += 1
                outcome = read(text)
                if recorded is not None and recorded != outcome:
                    differing.append((str(where), outcome, recorded))
            if outcome is None:
                raise RowError(where, "no outcome, score or text.", "Say what the judge said.")
            verdicts.append(PairVerdict(question=question, first=first, second=second, outcome=outcome, turn=turn))

    rows = open_rows(source)
    each_row(rows, one)
    return Recorded(verdicts=tuple(verdicts), num_texts=num_texts, differing=tuple(differing), digest=rows.digest())


def _recorded(row: Mapping[str, Any], where: Where) -> Shown | None:
    if (outcome := row.get("outcome")) is not None:
        if outcome not in get_args(Shown):
            names = ", ".join(get_args(Shown))
            raise RowError(where.at("outcome"), "no outcome we know.", f"Write {names}.", detail=shown(str(outcome)))
        return outcome  # type: ignore[no-any-return]
    score = row.get("score")
    if score is None:
        return None
    try:
        number = float(score)
    except (TypeError, ValueError):
        raise RowError(
            where.at("score"), "the score is no number.", "Write 1, 2 or 3.", detail=shown(str(score))
        ) from None
    return _OF_SCORE.get(int(number), "unparsed") if number.is_integer() else "unparsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleJudged:
    """Conversations that people judged; contests: of which they preferred the first side, where pairs were judged."""

    labelled: tuple[Labelled, ...] = ()
    talks: tuple[Talk, ...] = ()
    contests: tuple[Contest, ...] = ()
    digest: str


def load_judged(source: str, rubric: Rubric, limit: int | None = None) -> PeopleJudged:
    """Answers with people's values in the rubric's unit, or preference pairs for a rubric of pairs.

    A row has a question (objective, prompt, question or instruction), an answer (assistant_response, answer, response,
    completion or output) and one column a person: human_score, human_score_1 and so on, rating or label; a person who
    said nothing is null or empty. Raises DataError.
    """
    if rubric.scale == "pair":
        return _pairs(source, limit)
    labelled: list[Labelled] = []
    talks: list[Talk] = []

    def one(row: Mapping[str, Any], where: Where) -> None:
        question, answer = _field(row, _QUESTIONS, where), _field(row, _ANSWERS, where)
        if not isinstance(question, str) or not isinstance(answer, str):
            raise RowError(where, "question and answer are to be texts.", "Correct the row.")
        said = [row[name] for name in row if _PERSON.fullmatch(name) and row[name] not in (None, "")]
        if not said:
            raise RowError(where, "no person's value.", "Name it human_score, or human_score_1, human_score_2, ...")
        labelled.append(Labelled(question=question, people=tuple(_value(v, rubric, where) for v in said)))
        talks.append((Message(role="user", content=question), Message(role="assistant", content=answer)))

    rows = open_rows(source, limit=limit)
    each_row(rows, one)
    return PeopleJudged(labelled=tuple(labelled), talks=tuple(talks), digest=rows.digest())


def _pairs(source: str, limit: int | None) -> PeopleJudged:
    loaded = load_preferences(PreferenceDataConfig(train=source, validation_share=0, limit=limit))
    contests = [
        Contest(
            question=f"{group.where}",
            turn=number,
            labels=("preferred", "other"),
            talks=((*group.prompt, *group.answers[pair.better]), (*group.prompt, *group.answers[pair.worse])),
        )
        for group in loaded.train
        for number, pair in enumerate(group.pairs, 1)
    ]
    return PeopleJudged(contests=tuple(contests), digest=loaded.digest)


def _value(said: Any, rubric: Rubric, where: Where) -> float:
    """A person's value: a number of the rubric's unit, or one of its labels."""
    if isinstance(said, str) and said in rubric.labels and rubric.scale == "classes":
        return rubric.labels[said]
    try:
        value = float(said)
    except (TypeError, ValueError):
        value = float("nan")
    fits = value in rubric.labels.values() if rubric.scale == "classes" else rubric.least <= value <= rubric.most
    if not fits:
        fix = f"Rubric '{rubric.name}' knows {', '.join(f'{v:g}' for v in rubric.labels.values())}."
        raise RowError(where, "a person's value is none of the rubric's.", fix, detail=shown(str(said)))
    return value


def _field(row: Mapping[str, Any], names: Sequence[str], where: Where) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise RowError(where.at(names[0]), "the column is missing or null.", f"Name it {' or '.join(names)}.")


def each_row(rows: Rows, read: Callable[[Mapping[str, Any], Where], None]) -> None:
    """Read every row; raises DataError with all faults in one table, and for a file without rows."""
    faults = FaultLog()
    for i in range(len(rows)):
        try:
            read(*rows[i])
        except RowError as error:
            faults.add(error.fault)
    faults.raise_if_any(rows.path, len(rows))
    if not len(rows):
        raise DataError(rows.path, "there are no rows.", "Name a file with some.")
