"""MT-Bench: two-turn questions in eight categories, answered turn by turn and put before a judge (arXiv:2306.05685).

The questions are data the user brings. Their form, the temperatures and the categories that get a right answer to
compare with are those of the paper's code; the judge's wording is our own, so scores are not those of the paper.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.check import RowError
from tunesmith.data.read import open_rows
from tunesmith.errors import DataError
from tunesmith.evals.contests import Contest, Decision, Talk
from tunesmith.evals.judge import Progress, Ruling
from tunesmith.evals.judge_rows import each_row
from tunesmith.evals.judge_stats import Bounded, Told, bounded_grade, bounded_rate
from tunesmith.evals.rubrics import GRADE, Case
from tunesmith.evals.subject import Subject
from tunesmith.randomness import derive_seed
from tunesmith.records import Message, Where
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked

TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7
WITH_REFERENCE = ("math", "reasoning", "coding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a user asks one after the other; reference: a right answer a turn, empty where there is none."""

    id: str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()

    @property
    def temperature(self) -> float:
        """That of the category; OTHER_TEMPERATURE for categories of one's own."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedQuestions:
    """The questions that are asked, and what is to be said of them."""

    questions: tuple[Question, ...]
    digest: str
    notes: tuple[str, ...]


def load_questions(source: str, references: str | None = None, limit: int | None = None) -> LoadedQuestions:
    """Rows of question_id, category and turns; references: rows of question_id and choices[0].turns or turns.

    limit: so many questions, one of each category in turn, so that few are not all of one kind. Without a file of
    references the questions' own ``reference`` is used, where its category takes one. Raises DataError with all faults
    in one table, for two questions of one id, and for references that belong to none.
    """
    told, digest = _references(references) if references else ({}, "")
    found: dict[str, Question] = {}

    def one(row: Mapping[str, Any], where: Where) -> None:
        if row.get("question_id") is None:
            raise RowError(where.at("question_id"), "the column is missing or null.", "Give every question one.")
        name, category = str(row["question_id"]), row.get("category")
        if name in found:
            raise RowError(where.at("question_id"), "an earlier question has the same id.", "Number them.", detail=name)
        if not isinstance(category, str) or not category:
            raise RowError(where.at("category"), "the category is missing.", "Name one, such as writing.")
        turns = _texts(row.get("turns"), where.at("turns"))
        if not turns or not all(turn.strip() for turn in turns):
            raise RowError(where.at("turns"), "there is an empty turn or none.", "Write what the user asks.")
        reference = told.get(name, ()) if references else _texts(row.get("reference") or [], where.at("reference"))
        kept = reference if category in WITH_REFERENCE else ()
        found[name] = Question(id=name, category=category, turns=turns, reference=kept)

    rows = open_rows(source)
    each_row(rows, one)
    if strange := sorted(set(told) - set(found)):
        fix = "Take the references that belong to these questions."
        raise DataError(references or source, f"there is no question {', '.join(strange[:5])}.", fix)
    chosen = _spread(list(found.values()), limit)
    bare = [q.id for q in chosen if q.category in WITH_REFERENCE and not any(q.reference)]
    notes = []
    if bare:
        notes.append(f"{len(bare)} questions of {', '.join(WITH_REFERENCE)} have no right answer to compare with.")
    if len(chosen) < len(found):
        notes.append(f"{len(chosen)} of {len(found)} questions are asked, one of each category in turn.")
    both = hashlib.sha256(f"{rows.digest()} {digest}".encode()).hexdigest()
    return LoadedQuestions(questions=tuple(chosen), digest=both, notes=tuple(notes))


def _references(source: str) -> tuple[dict[str, tuple[str, ...]], str]:
    told: dict[str, tuple[str, ...]] = {}

    def one(row: Mapping[str, Any], where: Where) -> None:
        turns = row.get("turns")
        if turns is None and isinstance(row.get("choices"), list) and row["choices"]:
            turns = row["choices"][0].get("turns")
        if row.get("question_id") is None:
            raise RowError(where.at("question_id"), "the column is missing or null.", "Give every reference one.")
        name = str(row["question_id"])
        if name in told:
            raise RowError(where.at("question_id"), "an earlier reference has the same id.", "Keep one.", detail=name)
        told[name] = _texts(turns, where.at("turns"))

    rows = open_rows(source)
    each_row(rows, one)
    return told, rows.digest()


def _texts(value: Any, where: Where) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RowError(where, "is no list of texts.", "Write one text a turn.")
    return tuple(value)


def _spread(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """So many questions, the first of every category, then the second, in the file's order."""
    places: dict[str, int] = defaultdict(int)
    rank = {}
    for number, question in enumerate(questions):
        rank[question.id] = (places[question.category], number)
        places[question.category] += 1
    kept = sorted(questions, key=lambda question: rank[question.id])[:limit]
    return sorted(kept, key=lambda question: rank[question.id][1])


def answer_all(
    questions: Sequence[Question],
    subject: Subject,
    results: ResultsFile,
    *,
    max_new_tokens: int,
    seed: int,
    on_progress: Progress = lambda done, total: None,
) -> tuple[list[Talk], int]:
    """Each question's conversation with the subject, and how many of its answers were cut off at the most tokens.

    Answers that lie in the file are used again.
    Every draw depends on the seed, the question and the turn: two subjects draw with the same random numbers. Raises
    DataError naming a question that does not fit the context, EndpointError.
    """
    talks: list[list[Message]] = [[] for _ in questions]
    num_cut = 0
    total, done = sum(len(question.turns) for question in questions), 0
    for turn in range(max(len(question.turns) for question in questions)):
        asking = [i for i, question in enumerate(questions) if turn < len(question.turns)]
        for i in asking:
            talks[i].append(Message(role="user", content=questions[i].turns[turn]))
        for temperature in sorted({questions[i].temperature for i in asking}):
            sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
            own = [i for i in asking if questions[i].temperature == temperature]
            keys = {i: _answer_key(subject, sampling, talks[i], questions[i], turn) for i in own}
            missing = [i for i in own if keys[i] not in results]
            done += len(own) - len(missing)
            for i, row in _write(subject, sampling, [(i, questions[i], talks[i]) for i in missing], turn, seed):
                results.append([{"key": keys[i], "label": subject.label, "question": questions[i].id, **row}])
                done += 1
                on_progress(done, total)
            for i in own:
                talks[i].append(Message(role="assistant", content=str(results[keys[i]]["answer"])))
                num_cut += results[keys[i]]["stop_reason"] == "length"
    return [tuple(talk) for talk in talks], num_cut


def _write(
    subject: Subject,
    sampling: Sampling,
    asking: Sequence[tuple[int, Question, Sequence[Message]]],
    turn: int,
    seed: int,
) -> Any:
    row_ids = [derive_seed(seed, "mt_bench", question.id, turn) for _, question, _ in asking]
    asked = [Asked(messages=tuple(talk), row_id=row_id) for (_, _, talk), row_id in zip(asking, row_ids, strict=True)]
    try:
        for index, written in subject.writer.write(asked, sampling):
            row = {"turn": turn + 1, "temperature": sampling.temperature, "answer": written.text}
            yield asking[index][0], {**row, "stop_reason": written.stop_reason}
    except DataError as error:
        names = {f"prompt {row_id}": q.id for (_, q, _), row_id in zip(asking, row_ids, strict=True)}
        place = f"question {names.get(error.place, error.place)}, turn {turn + 1}"
        raise DataError(place, error.cause, error.fix) from None


def _answer_key(subject: Subject, sampling: Sampling, talk: Sequence[Message], question: Question, turn: int) -> str:
    said = [(message.role, message.content) for message in talk]
    asked = [dict(subject.identity), sampling.model_dump(), question.id, turn, said]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def graded_turns(questions: Sequence[Question], talks: Sequence[Talk]) -> list[tuple[Question, int, Case]]:
    """(question, turn from 1, what the judge is shown) of every answer: the conversation up to it."""
    return [
        (question, turn, Case(rubric=GRADE, shown=(talk[: 2 * turn],), reference=question.reference[:turn]))
        for question, talk in zip(questions, talks, strict=True)
        for turn in range(1, len(question.turns) + 1)
    ]


def contests_of(
    questions: Sequence[Question], labels: tuple[str, str], first: Sequence[Talk], second: Sequence[Talk]
) -> list[Contest]:
    """Both models' conversations up to every turn."""
    return [
        Contest(
            question=question.id,
            turn=turn,
            labels=labels,
            talks=(one[: 2 * turn], other[: 2 * turn]),
            reference=question.reference[:turn],
        )
        for question, one, other in zip(questions, first, second, strict=True)
        for turn in range(1, len(question.turns) + 1)
    ]


Placed = tuple[Question, int, Told]


def graded(turns: Sequence[tuple[Question, int, Case]], rulings: Sequence[Ruling]) -> list[Placed]:
    """The grades with the question and the turn they are of."""
    least, most = GRADE.least, GRADE.most
    return [
        (question, turn, Told(question.id, one.value, *((least, most) if one.value is None else (one.value,) * 2)))
        for (question, turn, _), one in zip(turns, rulings, strict=True)
    ]


def grade_differences(first: Sequence[Placed], second: Sequence[Placed]) -> list[Placed]:
    """The second minus the first on the same turns of the same questions."""
    out = []
    for (question, turn, one), (_, _, other) in zip(first, second, strict=True):
        value = None if one.value is None or other.value is None else other.value - one.value
        out.append((question, turn, Told(question.id, value, other.least - one.most, other.most - one.least)))
    return out


def decided(questions: Sequence[Question], decisions: Sequence[Decision]) -> list[Placed]:
    """Decisions, from the first model's view, with their question and turn."""
    by_id = {question.id: question for question in questions}
    return [(by_id[one.contest.question], one.contest.turn, one.told) for one in decisions]


def grade_mean(told: Sequence[Told]) -> Bounded:
    """Mean grade, from 1 to 10."""
    return bounded_grade(told, GRADE.least, GRADE.most)


def difference_mean(told: Sequence[Told]) -> Bounded:
    """Mean difference of grades, from -9 to 9."""
    return bounded_grade(told, GRADE.least - GRADE.most, GRADE.most - GRADE.least)


def table(placed: Sequence[Placed], mean: Callable[[Sequence[Told]], Bounded] = bounded_rate) -> dict[str, Any]:
    """For JSON: the mean of all, of each turn, and of each category with its turns."""

    def over(rows: Sequence[Placed]) -> dict[str, Any]:
        turns = sorted({turn for _, turn, _ in rows})
        return {
            "all": mean([told for _, _, told in rows]).as_dict(),
            "turns": {str(t): mean([told for _, turn, told in rows if turn == t]).as_dict() for t in turns},
        }

    categories = dict.fromkeys(question.category for question, _, _ in placed)
    return {
        **over(placed),
        "categories": {c: over([row for row in placed if row[0].category == c]) for c in categories},
    }
