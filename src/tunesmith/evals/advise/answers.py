"""What kind of answers a file of rows holds, and how they are then scored; the rule is told, and can be overruled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from tunesmith.errors import ConfigError
from tunesmith.evals.choice import choice_scorer
from tunesmith.evals.numeric import numbers, numeric_answer
from tunesmith.evals.overlap import overlap
from tunesmith.evals.scorers import exact_text, json_fields, parse_json_object
from tunesmith.evals.task import Scorer

Kind = Literal["json", "number", "label", "text", "long-text"]
# Labels are asked as choices up to this number: each one costs its tokens with every request.
MAX_CHOICES = 20
MAX_LABELS = 200
# A field or an answer with more words than this is prose, which exact matching has nothing to say about.
MAX_WORDS_OF_A_VALUE, MAX_WORDS_OF_A_FACT = 6, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How this task's answers are scored. ``metric`` decides; ``choices``: asked by log-likelihood instead of text.

    fields: of JSON answers, those that count. values: of answers or of each field, the ones the training rows use,
    where they are few. note: the rule, in words.
    """

    kind: Kind
    metric: str
    metrics: tuple[str, ...]
    scorer: Scorer
    note: str
    choices: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    values: dict[str, tuple[str, ...]]
    longest_words: int


def answers_of(
    targets: Sequence[str],
    kind: Kind | Literal["auto"] = "auto",
    *,
    by_choice: bool | None = None,
    held_out: Sequence[str] = (),
) -> Answers:
    """Look at the training rows' answers. by_choice None: where there are at most 20 labels and none begins another.

    held_out: answers of the other rows, which add nothing but labels that no training row has. Raises ConfigError where
    the kind that is asked for does not fit the rows.
    """
    kind = _kind(targets) if kind == "auto" else kind
    longest = max(len(target.split()) for target in targets)
    if kind == "json":
        return _json_answers(targets, longest)
    if kind == "number":
        if strange := [target for target in (*targets, *held_out) if not numbers(target)]:
            raise ConfigError("answers", f"'{strange[0][:40]}' holds no number.", "Take another kind of answers.")
        note = "answers are numbers: right if the last number of the answer equals the row's."
        return _plain(kind, "numeric", ("numeric",), numeric_answer(), note, longest)
    if kind == "label":
        return _label_answers(targets, held_out, by_choice, longest)
    if kind == "text":
        note = (
            "answers are short texts: right if the row's words stand in the answer in a row (case, punctuation aside)."
        )
        return _plain(kind, "contained", ("contained", "exact"), exact_text, note, longest)
    note = "answers are long texts: ROUGE-L against the row's answer, F1 of the longest common run of words with gaps."
    return _plain(kind, "rougeL", ("rougeL", "chrf"), overlap(), note, longest)


def _kind(targets: Sequence[str]) -> Kind:
    if all(parse_json_object(target) is not None for target in targets):
        return "json"
    if all(len(numbers(one)) == 1 and len(one.split()) <= 2 and not one.lstrip()[:1].isalpha() for one in targets):
        return "number"
    counts = Counter(targets)
    words = median(len(target.split()) for target in targets)
    if 2 <= len(counts) <= min(MAX_LABELS, len(targets) / 3) and words <= MAX_WORDS_OF_A_VALUE:
        return "label"
    return "text" if words <= MAX_WORDS_OF_A_FACT else "long-text"


def _plain(kind: Kind, metric: str, metrics: tuple[str, ...], scorer: Scorer, note: str, longest: int) -> Answers:
    return Answers(
        kind=kind, metric=metric, metrics=metrics, scorer=scorer, note=note, values={}, longest_words=longest
    )


def _json_answers(targets: Sequence[str], longest: int) -> Answers:
    parsed = [parse_json_object(target) for target in targets]
    objects = [value for value in parsed if value is not None]
    if len(objects) < len(targets):
        bad = targets[parsed.index(None)]
        raise ConfigError("answers", f"'{bad[:40]}' is no JSON object.", "Take another kind of answers.")
    keys = list(dict.fromkeys(key for one in objects for key in one))
    said = {key: [one[key] for one in objects if key in one] for key in keys}
    prose = [key for key in keys if median(len(str(v).split()) for v in said[key]) > MAX_WORDS_OF_A_VALUE]
    fields = tuple(key for key in keys if key not in prose)
    if not fields:
        raise ConfigError("answers", "every field of the JSON answers is prose.", "Score them with answers=long-text.")
    values = {}
    for key in fields:
        distinct = sorted({json.dumps(value, ensure_ascii=False) for value in said[key]})
        if len(distinct) <= min(MAX_CHOICES, len(said[key]) / 3):
            values[key] = tuple(distinct)
    left_out = f" Prose, which no exact match can judge, is left out: {', '.join(prose)}." if prose else ""
    note = f"answers are JSON objects: right if valid and {', '.join(fields)} are all equal to the row's.{left_out}"
    metrics = ("all_fields", "valid_json", *fields)
    return Answers(
        kind="json",
        metric="all_fields",
        metrics=metrics,
        scorer=json_fields(fields),
        note=note,
        fields=fields,
        values=values,
        longest_words=longest,
    )


def _label_answers(targets: Sequence[str], held_out: Sequence[str], by_choice: bool | None, longest: int) -> Answers:
    labels = tuple(sorted({*targets, *held_out}))
    begins = [one for one in labels if any(other != one and other.startswith(one) for other in labels)]
    if by_choice and begins:
        raise ConfigError(
            "answers",
            f"label '{begins[0]}' begins another one, so it would always be as likely.",
            "Set by_choice=false.",
        )
    choose = by_choice if by_choice is not None else len(labels) <= MAX_CHOICES and not begins
    how = (
        "the label of the highest log-likelihood is the answer, so none is invalid"
        if choose
        else "the label is written and must be the row's, case and punctuation aside"
    )
    return Answers(
        kind="label",
        metric="acc" if choose else "exact",
        metrics=("acc", "acc_bytes") if choose else ("exact", "contained"),
        scorer=choice_scorer() if choose else exact_text,
        note=f"answers are {len(labels)} labels: {how}.",
        choices=labels if choose else (),
        # Prompts name these: what only held-out rows say is not told.
        values={"": tuple(sorted(set(targets)))},
        longest_words=longest,
    )
