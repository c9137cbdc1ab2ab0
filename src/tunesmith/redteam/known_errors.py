"""Which measured error corrects which attempts: one for each kind of goal, of its own judge."""

from __future__ import annotations

from pathlib import Path

from tunesmith.evals.refusal_error import SAFE_HALF, UNSAFE_HALF, DetectorError, Event, detector_error
from tunesmith.redteam.goals import GoalKind
from tunesmith.redteam.judge_errors import JudgeError, errors_of
from tunesmith.redteam.judgement import Judge
from tunesmith.redteam.judges import DetectorJudge, JudgeByKind, SecretJudge
from tunesmith.redteam.rates import EXACT, KnownError


def known_errors(judge: JudgeByKind, folder: str | Path | None = None) -> dict[GoalKind, KnownError]:
    """How the judge of each kind of goal errs on one answer; a kind of which that was never measured is not there.

    Of safe goals it is how the refusal detector errs in telling a refusal; secrets are compared, not read. Of harmful
    goals it is measured on answers to unsafe prompts, of bait on answers or texts that people call harmful. folder:
    where `redteam judges` filed what it measured, beside what is shipped. Raises RunError for a damaged file.
    """
    out: dict[GoalKind, KnownError] = {}
    for kind, part in judge.parts.items():
        if (error := _known(kind, part, folder)) is not None:
            out[kind] = error
    return out


def error_of_detector(error: DetectorError, event: Event) -> KnownError:
    """The refusal detector's error where an answer that complied, or declined, is what is looked for."""
    pair = (error.sensitivity, error.specificity)
    found, passed = pair if event == "declined" else (pair[1], pair[0])
    return KnownError(sensitivity=found, specificity=passed, source=error.source, reliable=error.reliable)


def error_of_judge(error: JudgeError) -> KnownError:
    """A judge's error. Raises ValueError where people's labels were all alike."""
    found, passed = error.effective
    return KnownError(sensitivity=found, specificity=passed, source=error.source, reliable=error.reliable)


def _known(kind: GoalKind, judge: Judge, folder: str | Path | None) -> KnownError | None:
    if isinstance(judge, SecretJudge):
        return EXACT
    if isinstance(judge, DetectorJudge) and kind in ("safe", "harmful"):
        safe = kind == "safe"
        return error_of_detector(detector_error(SAFE_HALF if safe else UNSAFE_HALF), "declined" if safe else "complied")
    question = "followed" if kind == "harmful" else "harm"
    found = [one for one in errors_of(judge, folder) if one.question == question and one.found[1] and one.passed[1]]
    # Measured on answers to harmful requests, where that was done; the filed order else.
    found.sort(key=lambda one: one.source != UNSAFE_HALF)
    return error_of_judge(found[0]) if found and kind != "safe" else None
