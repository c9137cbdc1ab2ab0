"""The advice in plain words, every sentence with the numbers it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.evals.advise.conditions import Family
from tunesmith.evals.advise.decide import Against, Decision, Option, Rules, takes_less
from tunesmith.stats import Interval, smallest_detectable_difference

VERDICTS: dict[Family, str] = {
    "prompt": "Prompt: write it well, tune nothing",
    "shots": "Prompt, with fixed examples in it",
    "retrieve": "Retrieve, tune nothing",
    "tune": "Tune",
    "tune+retrieve": "Tune, and retrieve too",
}
_UNTUNED: tuple[Family, ...] = ("prompt", "shots", "retrieve")


def verdict(decision: Decision) -> str:
    """One line: what to do."""
    if decision.choice is None:
        return "Nothing is advised: facts change, and nothing that was measured followed the change."
    line = f"{VERDICTS[decision.choice.family]} ({decision.choice.name})."
    return line if decision.usable else f"None of these is good enough yet; the nearest: {line}"


def reasons(
    decision: Decision,
    options: Sequence[Option],
    rules: Rules,
    curve: Sequence[tuple[int, Interval]],
    gain: Interval | None = None,
) -> list[str]:
    """Why, and how sure: the choice, the best, the rivals, what it costs, whether more rows would help.

    curve: number of training rows and quality of the tuned model, by rising number. gain: what the last step of it
    added, on the same test rows.
    """
    choice, best = decision.choice, decision.best
    if choice is None or best is None:
        return ["Bring facts a search can find (--documents), or tune again whenever they change (--no-facts-change)."]
    tested = {one.name: one for one in decision.against}
    num_items = len(choice.values)
    out = [f"{choice.name}: {choice.quality.percent()} on {num_items} test rows, which nothing was chosen on."]
    if not decision.usable:
        out.append(
            f"That is below the {100 * rules.usable:.0f} % you call usable. Read the wrong answers first: better rows, "
            "another scorer or a larger base (--model) may be what is missing."
        )
    if choice is best:
        out += _ahead(choice, [option for option in options if option.name in tested], tested)
    else:
        given_up = 100 * (best.quality.value - choice.quality.value)
        out.append(
            f"{best.name} is at {best.quality.percent()}, {given_up:.1f} points more: within the margin of "
            f"{100 * rules.margin:.0f} points, and not significant (p {tested[choice.name].holm_p:.2g} after Holm). "
            f"{choice.name} takes {_minutes(choice.minutes(rules.num_requests))} for {rules.num_requests:,} requests, "
            f"{best.name} {_minutes(best.minutes(rules.num_requests))}."
        )
    if decision.unsure:
        differ = max(sum(a != b for a, b in zip(best.values, o.values, strict=True)) for o in options) / num_items
        least = 100 * smallest_detectable_difference(num_items, differ)
        out.append(
            f"Not certain: {', '.join(decision.unsure)} would be cheaper and is behind by more than the margin, yet "
            f"not significantly. {num_items} rows find differences from about {least:.0f} points on: bring more."
        )
    out += _cost(choice, options)
    if len(curve) > 1 and gain is not None:
        out.append(_more_rows(curve, gain, rules.margin))
    if len(options) > 2:
        out.append(
            f"The best of {len(options)} conditions on the same rows looks a little better than it is, which intervals "
            "do not know."
        )
    return out


def _ahead(choice: Option, others: Sequence[Option], tested: Mapping[str, Against]) -> list[str]:
    """The best against the next one, and against the best that needs no tuning (or the tuned one)."""
    ranked = sorted(others, key=lambda option: -option.quality.value)
    kinds = _UNTUNED if choice.family not in _UNTUNED else ("tune", "tune+retrieve")
    rivals = [*ranked[:1], *[option for option in ranked[1:] if option.family in kinds][:1]]
    if ranked and ranked[0].family in kinds:
        rivals = rivals[:1]
    return [
        f"{option.name} is at {option.quality.percent()}: {_points(tested[option.name].difference)} against "
        f"{choice.name}, p {tested[option.name].holm_p:.2g} after Holm."
        for option in rivals
    ]


def _points(difference: Interval) -> str:
    return f"{100 * difference.value:+.1f} points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _cost(choice: Option, options: Sequence[Option]) -> list[str]:
    out = [
        f"A request takes {choice.ms:.0f} ms and {choice.tokens:.0f} tokens; setting it up took "
        f"{_minutes(choice.setup_minutes)} and {choice.setup_tokens:,} tokens."
    ]
    untuned = [option for option in options if option.family in _UNTUNED]
    tuned = [option for option in options if option.family == "tune"]
    if not untuned or not tuned:
        return out
    rival = max(untuned, key=lambda option: (option.quality.value, -option.ms))
    when, number = takes_less(tuned[0], rival)
    number = number or 0.0
    said = {
        "always": f"In time alone, tuning is ahead of {rival.name} from the first request.",
        "never": f"Tuning never pays for itself in time against {rival.name}: a request of it is no faster.",
        "from": f"In time alone, tuning has paid for itself against {rival.name} after {number:,.0f} requests.",
        "up to": f"In time alone, tuning is ahead of {rival.name} up to {number:,.0f} requests, and behind from there.",
    }
    out.append(said[when])
    return out


def _more_rows(curve: Sequence[tuple[int, Interval]], gain: Interval, margin: float) -> str:
    """No more than the interval of the paired difference allows."""
    (fewer, before), (more, after) = curve[-2:]
    share = f"From {fewer} to {more} training rows the tuned model went from {before.percent()} to {after.percent()}"
    share += f", {_points(gain)}"
    if gain.low > 0:
        return f"{share}: still rising, so more rows should help."
    if gain.high < margin:
        return f"{share}: no longer rising by what you care about, so more rows of this kind should help little."
    return f"{share}: too few test rows to say whether more training rows would help."
