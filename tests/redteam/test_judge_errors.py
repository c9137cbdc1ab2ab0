"""How judges err: counted on labelled answers, filed under their settings, handed to a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import SHARED, shared_data
from tunesmith.errors import RunError
from tunesmith.evals.judge_agreement import file_agreement
from tunesmith.evals.refusal_error import UNSAFE_HALF, detector_error
from tunesmith.redteam.goals import Goal
from tunesmith.redteam.judge_errors import (
    JudgeError,
    LabelledCase,
    LabelledCases,
    error_from,
    error_of,
    errors_by_kind,
    errors_of,
    judge_digest,
    known_error,
    measure_judge,
)
from tunesmith.redteam.judge_rows import answer_sets, some_cases
from tunesmith.redteam.judgement import Case, Judgement
from tunesmith.redteam.judges import JudgeByKind, detector_judge, secret_judge
from tunesmith.redteam.rates import EXACT, Read, rate_of


class ByWords:
    """Finds what says yes a success, and cannot tell what says hm."""

    def __init__(self, version: str = "1") -> None:
        self.version = version

    @property
    def identity(self) -> Mapping[str, str]:
        return {"judge": "words", "version": self.version}

    def judge(self, cases: Sequence[Case]) -> Iterator[tuple[int, Judgement]]:
        for i, case in enumerate(cases):
            yes = case.answer.startswith("yes")
            details = {"unread": True} if case.answer == "hm" else {}
            yield i, Judgement(kind="comply", success=yes, score=float(yes), details=details)


def labelled(*rows: tuple[str, bool, str]) -> LabelledCases:
    goal = Goal(id="g", request="r", category="c", source="s")
    cases = tuple(LabelledCase(goal=goal, answer=a, success=s, cluster=c) for a, s, c in rows)
    return LabelledCases(source=UNSAFE_HALF, part="test", question="followed", cases=cases)


def measured(num_yes: int = 8, num_of: int = 10) -> JudgeError:
    rows = [(f"{'yes' if i < num_yes else 'no'} {i}", True, f"{i}") for i in range(num_of)]
    rows += [(f"{'no' if i < 9 else 'yes'} so {i}", False, f"n{i}") for i in range(10)]
    return measure_judge(ByWords(), labelled(*rows))


def test_counts_by_hand() -> None:
    rows = (("yes", True, "1"), ("yes", True, "2"), ("hm", True, "3"), ("no", False, "4"), ("yes", False, "5"))
    error = measure_judge(ByWords(), labelled(*rows))
    assert (error.found, error.passed, error.unread, error.num) == ((2, 3), (1, 2), 1, 5)
    assert error.balanced_accuracy.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert error.auc is not None and error.auc.value == pytest.approx(7 / 12)
    assert error.usable and not error.reliable
    assert error_from(json.loads(json.dumps(error.as_dict()))) == error


def test_answers_drawn_together_count_as_fewer() -> None:
    rows = [(f"{'yes' if c < 6 else 'no'} {i}", True, f"{c}") for c in range(8) for i in range(5)]
    rows += [("no", False, "other"), ("no", False, "more")]
    error = measure_judge(ByWords(), labelled(*rows))
    # All of a cluster are judged alike: eight clusters, and forty answers tell no more than these.
    assert error.found == (30, 40) and error.num_found == pytest.approx(7.0)
    known = known_error(error)
    assert known is not None and known.sensitivity == pytest.approx((0.75 * 7, 7.0))


def test_labels_of_one_kind_correct_nothing() -> None:
    error = measure_judge(ByWords(), labelled(("yes", True, "1"), ("no", True, "2")))
    assert known_error(error) is None and not error.usable and error.auc is None
    assert "all alike" in error.main()
    with pytest.raises(ValueError, match="no labelled answers"):
        measure_judge(ByWords(), labelled())


def test_a_judge_that_is_no_better_than_chance_is_said_to_be() -> None:
    error = measured(num_yes=1)
    assert not error.usable
    known = known_error(error)
    assert known is not None and rate_of([Read(goal="g", hit=True, error=known)]).corrected is None


def test_errors_are_filed_under_the_settings(tmp_path: Path) -> None:
    judge, error = ByWords(), measured()
    assert errors_of(judge, tmp_path) == [] and error_of(judge, tmp_path) is None
    file_agreement(tmp_path, judge_digest(judge), judge.identity, error.rows, error.as_dict())
    assert errors_of(judge, tmp_path) == [error] and error_of(judge, tmp_path) == error
    assert errors_of(ByWords("2"), tmp_path) == [], "another version is another judge"
    few = measured(num_of=8)
    file_agreement(tmp_path, judge_digest(judge), judge.identity, few.rows, few.as_dict())
    assert error_of(judge, tmp_path) == error, "the most answers tell most"
    (tmp_path / f"{judge_digest(judge)}.json").write_text('{"measured": {"a": {"rows": "a"}}}', encoding="utf-8")
    with pytest.raises(RunError, match="redteam judges"):
        errors_of(judge, tmp_path)


def test_each_kind_of_goal_has_its_error(tmp_path: Path) -> None:
    parts = {"harmful": detector_judge(), "safe": detector_judge(), "secret": secret_judge(), "toxic": ByWords()}
    found = errors_by_kind(JudgeByKind(parts), tmp_path)  # type: ignore[arg-type]
    assert set(found) == {"harmful", "safe", "secret"}, "what was never measured is left out"
    assert found["secret"] is EXACT
    filed = detector_error(UNSAFE_HALF)
    # An attack looks for compliance, where the filed error is of telling refusals.
    assert found["harmful"].sensitivity == filed.specificity and found["harmful"].specificity == filed.sensitivity
    assert found["harmful"].source == UNSAFE_HALF and found["harmful"].reliable
    assert found["safe"].sensitivity == detector_error().sensitivity


def test_the_shipped_errors_are_those_of_this_detector() -> None:
    # A change of its rules changes its digest: then nothing would be found here.
    sources = [one.source for one in errors_of(detector_judge())]
    assert UNSAFE_HALF in sources and "PyRIT, hate speech" in sources
    shared_data("judge_calibration/refusal.jsonl")
    found = {one.source: one for one in answer_sets(str(SHARED))}
    odd = "PyRIT, odd rows"
    assert measure_judge(detector_judge(), found[odd]) == error_of(detector_judge(), source=odd)
    assert {one.rows for one in errors_of(detector_judge())} <= {one.digest for one in found.values()}


def test_a_draw_of_labelled_answers_is_seeded_and_says_so() -> None:
    whole = labelled(*[(f"{i}", bool(i % 2), f"{i}") for i in range(20)])
    drawn = some_cases(whole, 5, 0)
    assert drawn == some_cases(whole, 5, 0) != some_cases(whole, 5, 1)
    assert len(drawn.cases) == 5 and drawn.part == "test, 5 drawn by seed 0" and drawn.digest != whole.digest
    assert some_cases(whole, 20, 0) is whole is some_cases(whole, None, 0)
