"""How often the refusal detector errs, measured on people's labels and filed; rates corrected for it.

Binary, not three-way: of the 900 labelled XSTest answers 36 are partial refusals, and the detector tells few of these
from the two ends, so the three-way matrix can hardly be inverted. What is corrected is ``declined`` (refuse or partly)
against ``comply``. Nonsense is read by rules of its own and is neither.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

from tunesmith.calibration import rogan_gladen, rogan_gladen_difference
from tunesmith.errors import ConfigError
from tunesmith.evals.judge_agreement import mean_of_independent
from tunesmith.rollout.refusal import OUTCOMES, Kind, Outcome, detector_digest, read_refusal
from tunesmith.stats import Interval, newcombe_paired_difference, wilson_interval

ERROR_FILE = "refusal_error.json"
# Sources by name: the replies to XSTest's prompts that the rules were not written on, all and by the prompts' label.
TEST_HALF = "XSTest, test half"
UNSAFE_HALF, SAFE_HALF = f"{TEST_HALF}, unsafe prompts", f"{TEST_HALF}, safe prompts"
# Of what a rate is told: answers that comply, or that decline at least in part.
Event = Literal["complied", "declined"]
# A detector whose balanced accuracy may be below this is not to be believed on such answers without people's eyes.
_RELIABLE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledAnswer:
    """An answer and what people say it does."""

    prompt: str
    answer: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorError:
    """What the detector said of answers that people labelled.

    counts: people's outcome -> the detector's kind -> answers. source: who answered, to what. part: development where
    the rules were written on these answers, test where they were not. rows: a digest of the labelled answers.
    """

    source: str
    part: str
    counts: Mapping[Outcome, Mapping[Kind, int]]
    rows: str

    @property
    def num(self) -> int:
        """Answers."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def sensitivity(self) -> tuple[int, int]:
        """Answers that people call a refusal, at least a partial one, and of these the detector: (found, all)."""
        rows = [row for outcome, row in self.counts.items() if outcome != "comply"]
        return sum(row.get("refuse", 0) + row.get("partly", 0) for row in rows), sum(sum(row.values()) for row in rows)

    @property
    def specificity(self) -> tuple[int, int]:
        """Answers that people call compliance and the detector neither a refusal nor a partial one: (passed, all)."""
        row = self.counts.get("comply", {})
        return sum(row.values()) - row.get("refuse", 0) - row.get("partly", 0), sum(row.values())

    @property
    def balanced_accuracy(self) -> Interval:
        """Mean of sensitivity and specificity; MOVER limits. Raises ValueError where one of the classes is absent."""
        return mean_of_independent([wilson_interval(*self.sensitivity), wilson_interval(*self.specificity)])

    @property
    def mean_recall(self) -> Interval:
        """Mean over people's three outcomes of the share the detector names alike; absent outcomes are left out."""
        rows = [(self.counts[outcome], outcome) for outcome in OUTCOMES if sum(self.counts.get(outcome, {}).values())]
        return mean_of_independent([wilson_interval(row.get(name, 0), sum(row.values())) for row, name in rows])

    @property
    def reliable(self) -> bool:
        """Whether the balanced accuracy's lower limit clears what a correction can stand on."""
        return self.balanced_accuracy.low >= _RELIABLE

    def as_dict(self) -> dict[str, Any]:
        """For JSON; figures beside the counts are for the reader, and are computed anew from these."""
        return {
            "source": self.source,
            "part": self.part,
            "rows": self.rows,
            "num": self.num,
            "counts": {outcome: dict(row) for outcome, row in self.counts.items()},
            "balanced_accuracy": str(self.balanced_accuracy),
            "mean_recall": str(self.mean_recall),
        }


def measure_detector(source: str, part: str, labelled: Sequence[LabelledAnswer]) -> DetectorError:
    """Read every answer and count. Raises ValueError without answers."""
    if not labelled:
        raise ValueError(f"no labelled answers of {source}")
    counts: dict[Outcome, dict[Kind, int]] = {outcome: dict.fromkeys(get_args(Kind), 0) for outcome in OUTCOMES}
    for one in labelled:
        counts[one.outcome][read_refusal(one.prompt, one.answer).kind] += 1
    text = json.dumps([[one.prompt, one.answer, one.outcome] for one in labelled])
    kept = {outcome: row for outcome, row in counts.items() if sum(row.values())}
    return DetectorError(source=source, part=part, counts=kept, rows=hashlib.sha256(text.encode()).hexdigest())


def pooled(errors: Iterable[DetectorError], source: str) -> DetectorError:
    """The counts of several sources together. Raises ValueError for none."""
    kept = list(errors)
    if not kept:
        raise ValueError("nothing to pool")
    counts: dict[Outcome, dict[Kind, int]] = {}
    for one in kept:
        for outcome, row in one.counts.items():
            own = counts.setdefault(outcome, dict.fromkeys(get_args(Kind), 0))
            for kind, count in row.items():
                own[kind] += count
    rows = hashlib.sha256("".join(one.rows for one in kept).encode()).hexdigest()
    return DetectorError(source=source, part=" and ".join(sorted({one.part for one in kept})), counts=counts, rows=rows)


@functools.cache
def shipped_errors() -> tuple[DetectorError, ...]:
    """The errors measured with these rules, in the file's order. Raises ConfigError where the rules have changed."""
    kept = json.loads((files("tunesmith.evals") / ERROR_FILE).read_text(encoding="utf-8"))
    if kept["detector"] != detector_digest():
        cause = "was measured with other rules than those of this refusal detector."
        raise ConfigError(ERROR_FILE, cause, "Run scripts/write_refusal_docs.py where the labelled answers are.")
    names = ("source", "part", "counts", "rows")
    return tuple(DetectorError(**{name: row[name] for name in names}) for row in kept["measured"])


def detector_error(source: str = TEST_HALF) -> DetectorError:
    """The error filed under a name. Raises ConfigError for a name that is not there."""
    found = {one.source: one for one in shipped_errors()}
    if source not in found:
        raise ConfigError("detector error", f"nothing is measured on '{source}'.", f"Take {'; '.join(found)}.")
    return found[source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """A figure as the detector says it, with its sampling error alone, and corrected for what the detector gets wrong.

    num_nonsense: answers that say nothing, which count as neither event. source: on what the errors were measured.
    reliable: whether they are known well enough, and small enough, for the correction to be believed.
    """

    raw: Interval
    corrected: Interval
    num: int
    num_nonsense: int
    source: str
    reliable: bool

    def __str__(self) -> str:
        doubt = "" if self.reliable else "; the detector is not reliable on such answers"
        return f"{self.raw.percent()}, corrected {self.corrected.percent()} (errors of: {self.source}{doubt})"


def corrected_rate(
    outcomes: Sequence[Kind], event: Event = "complied", error: DetectorError | None = None, seed: int = 0
) -> Corrected:
    """The share of all answers that comply, or decline, raw and by Rogan and Gladen with both errors in its interval.

    error: the detector's, on answers like these; without one that of XSTest's test half. Raises ValueError without
    answers and for a detector no better than chance.
    """
    error = detector_error() if error is None else error
    hits = [_event(kind, event) for kind in outcomes]
    read = [hit for hit in hits if hit is not None]
    raw = wilson_interval(sum(read), len(hits))
    sens, spec = _rates(error, event)
    nonsense = len(hits) - len(read)
    # Where nothing could be read, there is nothing to correct.
    corrected = rogan_gladen((sum(read), len(read)), sens, spec, seed, unread=nonsense) if read else raw
    return Corrected(
        raw=raw,
        corrected=corrected,
        num=len(hits),
        num_nonsense=nonsense,
        source=error.source,
        reliable=error.reliable,
    )


def corrected_difference(
    before: Sequence[Kind],
    after: Sequence[Kind],
    event: Event = "complied",
    error: DetectorError | None = None,
    seed: int = 0,
) -> Corrected:
    """The share after minus the share before over the same prompts in the same order, raw and corrected.

    The raw interval is Newcombe's for paired shares. Raises ValueError for lists of different lengths, and as
    ``corrected_rate`` does.
    """
    error = detector_error() if error is None else error
    one, two = ([_event(kind, event) for kind in kinds] for kinds in (before, after))
    sens, spec = _rates(error, event)
    return Corrected(
        raw=newcombe_paired_difference([hit is True for hit in one], [hit is True for hit in two]),
        corrected=rogan_gladen_difference(one, two, sens, spec, seed),
        num=len(one),
        num_nonsense=sum(a is None or b is None for a, b in zip(one, two, strict=True)),
        source=error.source,
        reliable=error.reliable,
    )


def _event(kind: Kind, event: Event) -> bool | None:
    return None if kind == "nonsense" else (kind == "comply") == (event == "complied")


def _rates(error: DetectorError, event: Event) -> tuple[tuple[int, int], tuple[int, int]]:
    """(sensitivity, specificity) for an event: what finds refusals passes compliance, and the other way round."""
    pair = (error.sensitivity, error.specificity)
    return pair if event == "declined" else (pair[1], pair[0])
