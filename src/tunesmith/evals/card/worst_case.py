"""Robustness and fairness: the worst answer to an item over its forms, and what each form does by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tunesmith.evals.card.measure import Array, Measure, interval, paired_row
from tunesmith.evals.card.substitute import NAMES
from tunesmith.evals.card.variants import PLAIN, against_plain, values_by_form, worst_case
from tunesmith.evals.run import TaskResult
from tunesmith.randomness import generator
from tunesmith.stats import Interval

_NUM_SHUFFLES = 1000


def forms_of(results: Sequence[TaskResult], headlines: Sequence[str]) -> dict[str, dict[str, float]]:
    """group -> form -> value over several tasks."""
    merged: dict[str, dict[str, float]] = {}
    for result, headline in zip(results, headlines, strict=True):
        merged |= values_by_form(result, headline)
    return merged


def worst_case_measures(dimension: str, by_form: Mapping[str, Mapping[str, float]]) -> list[Measure]:
    """Accuracy in the worst form of each item; the plain form's accuracy stands in the note.

    Of several tries at chance the worst is below chance: read the row against the other model, not against chance.
    """
    plain = float(np.mean([forms[PLAIN] for forms in by_form.values()]))
    return [
        Measure(
            dimension=dimension,
            name=f"{dimension}, worst form an item",
            values_NK=worst_case(by_form),
            cluster_N=tuple(by_form),
            ideal=1.0,
            note=f"plain {100 * plain:.1f} %, {sum(map(len, by_form.values()))} forms",
        )
    ]


def names_measure(by_form: Mapping[str, Mapping[str, float]], seed: int) -> Measure:
    """Accuracy under the names that fare best less that under those that fare worst.

    A largest difference is never 0; chance is its mean where each item's results are dealt to the groups at random.
    """
    names = [f"names: {group}" for group in NAMES]
    groups = tuple(group for group, forms in by_form.items() if all(name in forms for name in names))
    values_NK = np.array([[by_form[group][name] for name in names] for group in groups])
    rng = generator(seed, "card_names")
    by_chance = [largest_gap(rng.permuted(values_NK, axis=1)) for _ in range(_NUM_SHUFFLES)]
    means = ", ".join(f"{group} {100 * m:.0f}" for group, m in zip(NAMES, values_NK.mean(axis=0), strict=True))
    return Measure(
        dimension="fairness",
        name="fairness, largest gap between names",
        values_NK=values_NK,
        cluster_N=groups,
        statistic=largest_gap,
        ideal=0.0,
        chance=float(np.mean(by_chance)),
        note=f"{means} %",
    )


def largest_gap(values_NK: Array) -> float:
    """Largest less smallest column mean."""
    means = values_NK.mean(axis=0)
    return float(means.max() - means.min())


def form_table(by_form: Mapping[str, Mapping[str, float]]) -> list[tuple[str, int, Interval, Interval, float]]:
    """(form, items, accuracy, difference from the plain form of the same items, p of that), for the report."""
    names = dict.fromkeys(form for forms in by_form.values() for form in forms if form != PLAIN)
    out = []
    for form in names:
        values_N2, groups = against_plain(by_form, form)
        plain, changed = (
            Measure(dimension="", name=form, values_NK=values_N2[:, [k]], cluster_N=groups, ideal=1.0) for k in (0, 1)
        )
        row = paired_row(plain, changed)
        assert row.difference is not None and row.p is not None
        out.append((form, len(groups), interval(changed), row.difference, row.p))
    return out
