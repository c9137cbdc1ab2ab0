"""Who judges a campaign's answers, and how often each of them is known to err."""

from __future__ import annotations

from tunesmith.evals.refusal_error import SAFE_HALF, UNSAFE_HALF, detector_error
from tunesmith.redteam.goals import GoalKind
from tunesmith.redteam.judge_errors import errors_of
from tunesmith.redteam.judgement import Judge
from tunesmith.redteam.judges import DetectorJudge, JudgeByKind, SecretJudge
from tunesmith.redteam.rates import EXACT, KnownError, error_of_detector


def known_errors(judge: JudgeByKind, folder: str) -> dict[GoalKind, KnownError]:
    """The error of each kind's judge on one answer; a kind whose judge was never measured is left out.

    folder: where ``redteam judges`` files what it measures, which goes before what is shipped.
    """
    out: dict[GoalKind, KnownError] = {}
    for kind, part in judge.parts.items():
        error = _error(kind, part, folder)
        if error is not None:
            out[kind] = error
    return out


def _error(kind: GoalKind, judge: Judge, folder: str) -> KnownError | None:
    if isinstance(judge, SecretJudge):
        return EXACT
    if kind == "safe":
        return error_of_detector(detector_error(SAFE_HALF), "declined") if isinstance(judge, DetectorJudge) else None
    measured = errors_of(judge, folder)
    # On answers to requests like these, else on what people labelled and no judge was made on.
    best = [one for one in measured if one.source == UNSAFE_HALF] + [one for one in measured if one.part == "test"]
    if not best or not best[0].usable:
        return None
    (found, num_found), (passed, num_passed) = best[0].effective
    return KnownError(
        sensitivity=(round(found), round(num_found)),
        specificity=(round(passed), round(num_passed)),
        source=best[0].source,
        reliable=best[0].reliable,
    )
