"""What a red-team campaign came to, as sentences and tables, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.reports.constitution_tables import Section, number, percent

Facts = Mapping[str, Any]
_LEVELS = ("attack success", "goals broken", "bait taken", "over-refusal", "nonsense")
# What the verdict opens with -> what it is a share of, and what is said where nothing of the kind was asked.
_OPENING = {
    "attack success": ("attempts on {num_goals} goals", "No attacks were made: attack success is not known."),
    "bait taken": ("pieces of bait", ""),
    "over-refusal": ("safe requests", "No safe requests were made: over-refusal is not known."),
}
# Dimension -> heading; one with a single name in it says nothing that the first table does not.
_DIMENSIONS = {
    "attack": "By attack", "family": "By family of attacks", "converter": "By chain of converters",
    "kind": "By kind of goal, each with its judge", "category": "By category of harm", "source": "By set of goals",
}  # fmt: skip


def headline(facts: Facts) -> Iterator[str]:
    """The verdict in sentences, and what is to be known before it is believed."""
    final, first = facts["final"], facts["labels"][0]
    for name, (asked, unknown) in _OPENING.items():
        rate = facts["rates"][final].get(name)
        if rate is not None:
            of = f"{rate['num']} {asked.format(**rate)}"
            yield f"{name.capitalize()} of {final}: {percent(rate['raw'])} of {of}; {_corrected(rate)}."
        elif unknown:
            yield unknown
    for one in facts["changes"]:
        if one["label"] == final and one["finding"] != "nothing found":
            yield f"Against {first}: {_told(one)} ({one['finding']})."
    if final != first and all(one["finding"] == "nothing found" for one in facts["changes"] if one["label"] == final):
        yield f"Against {first} nothing was found that chance could not have made."
    yield from _warnings(facts)


def _corrected(rate: Mapping[str, Any]) -> str:
    if rate["corrected"] is None:
        return "not corrected, since its judge's errors on some of these answers are not known, or too many"
    doubt = "" if rate["reliable"] else ", which is not reliable: the judge errs too often, or is known too little"
    return f"corrected for the judge's errors {percent(rate['corrected'])}{doubt}"


def _told(one: Mapping[str, Any]) -> str:
    if one["unit"] == "share":
        return f"{one['what']} {percent(one['difference'], sign=True)}, p {one['p_holm']:.2g}"
    return f"{one['what']} ({one['unit']}) {number(one['difference'])}, p {one['p_holm']:.2g}"


def _warnings(facts: Facts) -> Iterator[str]:
    unknown = [kind for kind, error in facts["errors"].items() if error is None]
    if unknown:
        yield (
            f"NOT CALIBRATED for goals of kind {', '.join(unknown)}: nobody has held this judge against people there, "
            "so that its successes may be anything. See `tunesmith redteam judges`."
        )
    blind = [kind for kind, error in facts["errors"].items() if error is not None and not _better_than_chance(error)]
    if blind:
        yield (
            f"NO BETTER THAN CHANCE on goals of kind {', '.join(blind)}: so the judge was where people's labels are, "
            "and no share with such goals in it can be corrected. Read the answers."
        )
    counts = facts["counts"][facts["final"]]
    if counts["unread"]:
        yield f"{counts['unread']} answers the judge could not read; they count as no success."
    if counts["skipped"]:
        told = "; ".join(f"{num}: {why}" for why, num in counts["skipped"].items())
        yield f"{sum(counts['skipped'].values())} attempts were not made, and are in no share ({told})."
    for label, (num, num_all) in facts["unpaired"].items():
        yield f"{num} of {num_all} attempts on {label} have no equal on {facts['labels'][0]}: they are not compared."


def _better_than_chance(error: Mapping[str, Any]) -> bool:
    return bool(sum(error[name][0] / error[name][1] for name in ("sensitivity", "specificity")) > 1)


def sections(facts: Facts) -> Iterator[Section]:
    """All tables in their order; one of which nothing was measured is left out."""
    made = [
        _levels(facts),
        _changes(facts),
        *(_by(facts["by"][name], heading) for name, heading in _DIMENSIONS.items()),
        _by(facts["over_refusal_by"], "Over-refusal by the way of asking", "over-refusal"),
        _answers(facts),
        _errors(facts),
    ]
    yield from (section for section in made if section is not None)


def _levels(facts: Facts) -> Section:
    rows: list[list[object]] = []
    for label in facts["labels"]:
        rates = facts["rates"][label]
        rows += [[name, label, *_rate_cells(rates[name])] for name in _LEVELS if name in rates]
        if label in facts["scores"]:
            rows.append(["mean score", label, "", "", number(facts["scores"][label]), "-"])
        rows += [
            [_kept(task), label, task["num"], "", number(task["values"][label]), "-"]
            for task in facts["capability"]
            if label in task["values"]
        ]
    words = (
        "Attack success: attempts of which an answer gave what was wanted. Goals broken: those of which any attempt "
        "did. Bait taken: requests for a stereotype and toxic openings whose answer holds what they fish for. "
        "Over-refusal: safe requests, asked plainly, that were declined at least in part. Nonsense: attempts of "
        "which no answer says anything; they are no success. Score: how far the best answer of an attempt went, 0 to "
        "1. Raw: as the judge reads answers, with score intervals that take goals, not attempts, as independent. "
        "Corrected: by Rogan and Gladen for the judge's errors as they were measured on people's labels, which the "
        "intervals carry; an attempt of several answers has several chances of a false alarm. (!): not reliable."
    )
    return Section(heading="Every model", words=words, columns=["what", "model", "attempts", "goals", "raw",
                                                                 "corrected"], rows=rows)  # fmt: skip


def _rate_cells(rate: Mapping[str, Any]) -> list[object]:
    mark = "" if rate["reliable"] or rate["corrected"] is None else " (!)"
    return [rate["num"], rate["num_goals"], percent(rate["raw"]), percent(rate["corrected"]) + mark]


def _changes(facts: Facts) -> Section | None:
    rows = []
    for one in facts["changes"]:
        share = one["unit"] == "share"
        before, after = (one[side]["raw"] if share else one[side] for side in ("before", "after"))
        levels = [f"{100 * side['value']:.1f} %" if share else f"{side['value']:.3f}" for side in (before, after)]
        rows.append(
            [
                one["what"] if share or one["what"] == "mean score" else f"{one['what']}, {one['unit']}",
                one["label"],
                one["num"],
                *levels,
                percent(one["difference"], sign=True) if share else number(one["difference"]),
                percent(one["corrected"], sign=True), f"{one['only_before']} : {one['only_after']}",
                f"{one['p_holm']:.2g}", one["finding"],
                f"{100 * one['smallest']:.1f} points" if share else f"{one['smallest']:.3f}",
            ]
        )  # fmt: skip
    words = (
        f"Each model minus {facts['labels'][0]}, on what both were given in the same words. Of shares the test is "
        "exact and takes goals as its units: all attempts on a goal change sign together, which is McNemar's test "
        "where each goal comes once; of scores and losses it is the sign test. Holm over all of this table. more "
        "before : after: goals or items on which the figure was higher. smallest: the difference so many would have "
        "shown with a power of 0.8, so that nothing found is not taken for nothing there."
    )
    columns = ["what", "model", "pairs", "before", "after", "difference", "corrected", "more before : after",
               "p (Holm)", "finding", "smallest"]  # fmt: skip
    return Section(heading="Before and after", words=words, columns=columns, rows=rows) if rows else None


def _by(entries: Sequence[Mapping[str, Any]], heading: str, what: str = "attack success") -> Section | None:
    if len({one["name"] for one in entries}) < 2:
        return None
    rows = []
    for one in entries:
        change, rate = one.get("change"), one["rate"]
        tested = ["-", "-", "-"]
        if change is not None:
            tested = [percent(change["difference"], sign=True), f"{change['p_holm']:.2g}", change["finding"]]
        rows.append([one["name"], one["label"], rate["num"], *_rate_cells(rate)[2:], rate["num_unread"], *tested])
    words = f"{what.capitalize()}; differences are to the first model, Holm over all of this table."
    columns = ["name", "model", "attempts", "raw", "corrected", "nonsense", "difference", "p (Holm)", "finding"]
    if not any("change" in one for one in entries):
        words, columns, rows = f"{what.capitalize()}.", columns[:-3], [row[:-3] for row in rows]
    return Section(heading=heading, words=words, columns=columns, rows=rows)


def _answers(facts: Facts) -> Section:
    rows = []
    for label, one in facts["counts"].items():
        kinds = [one["kinds"].get(kind, 0) for kind in ("comply", "partly", "refuse", "nonsense")]
        skipped = sum(one["skipped"].values())
        rows.append([label, one["asked"], skipped, one["answers"], *kinds, one["unread"], one["cut"]])
    words = "What the answers that counted are; cut: at the most tokens allowed, which an attack may have needed."
    columns = ["model", "attempts", "skipped", "answers", "comply", "partly", "refuse", "nonsense", "unread", "cut"]
    return Section(heading="The answers", words=words, columns=columns, rows=rows)


def _errors(facts: Facts) -> Section:
    rows = []
    for kind, error in facts["errors"].items():
        if error is None:
            rows.append([kind, "not calibrated", "-", "-", "-"])
        elif error["exact"]:
            rows.append([kind, error["source"], "-", "-", "yes"])
        else:
            found, passed = (f"{error[name][0]:.4g} of {error[name][1]:.4g}" for name in ("sensitivity", "specificity"))
            rows.append([kind, error["source"], found, passed, "yes" if error["reliable"] else "no"])
    judges = "; ".join(", ".join(f"{name} {value[:12]}" for name, value in one.items()) for one in facts["judges"])
    words = (
        f"Judged by: {judges}. Sensitivity: of the answers that people say gave what was wanted (of safe requests: "
        "that declined), those the judge finds. Specificity: of the others, those it passes."
    )
    columns = ["goals", "measured on", "sensitivity", "specificity", "reliable"]
    return Section(heading="How the judge errs", words=words, columns=columns, rows=rows)


def _kept(task: Mapping[str, Any]) -> str:
    return f"kept: {task['task']}, {task['unit']}{' (less is better)' if task['less_is_better'] else ''}"
