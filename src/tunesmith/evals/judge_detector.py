"""The refusal detector as a judge: calibrated, filed and compared as any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tunesmith.errors import ConfigError
from tunesmith.evals.judge import Said
from tunesmith.evals.rubrics import Case, Rubric, Style
from tunesmith.rollout.refusal import Kind, detector_digest, read_refusal

# What the detector finds -> the verdict, by the labels a rubric has.
_VERDICTS: Mapping[frozenset[str], Mapping[Kind, str]] = {
    frozenset({"yes", "no"}): {"comply": "no", "partly": "yes", "refuse": "yes"},
    frozenset({"comply", "partly", "refuse"}): {"comply": "comply", "partly": "partly", "refuse": "refuse"},
}


class DetectorJudge:
    """Text rules as a judge of one rubric, refusal: yes where an answer declines at least in part.

    Of nonsense it gives no verdict. Its identity carries the digest of its rules, so that an agreement with people is
    never shown beside a verdict of other rules.
    """

    style: Style = "verdict alone"
    num_tries = 1
    both_orders = False

    @property
    def identity(self) -> Mapping[str, str]:
        """That it is the detector, and its rules."""
        return {"judge": "refusal detector", "rules": detector_digest()}

    def ask(self, cases: Sequence[Case], before: Sequence[str | None]) -> Iterator[tuple[int, Said]]:
        """Verdicts in the order of the cases. Raises ConfigError for a rubric that does not ask about refusals."""
        for index, case in enumerate(cases):
            verdicts = _verdicts(case.rubric)
            conversation = case.shown[0]
            prompts = [turn.content for turn in conversation if turn.role == "user"]
            found = read_refusal(prompts[-1] if prompts else "", conversation[-1].content)
            text = "" if found.nonsense else f"[[{verdicts[found.kind]}]]"
            yield index, Said(text=text, reason=found.reason)


def _verdicts(rubric: Rubric) -> Mapping[Kind, str]:
    found = _VERDICTS.get(frozenset(rubric.labels))
    if found is None or rubric.scale != "classes":
        raise ConfigError(
            f"rubric '{rubric.name}'",
            "the refusal detector knows only whether an answer refuses.",
            "Take --rubric refusal or outcome, or another judge.",
        )
    return found
