"""What a run of a constitution came to, as tables: (heading, words, columns, rows), for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, a paragraph, and a table; without columns there is none."""

    heading: str
    words: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def sections(facts: Mapping[str, Any]) -> Iterator[Section]:
    """All tables in their order; one of which nothing was measured is left out."""
    evaluation = facts["evaluation"]
    for part in (_goal, _kinds, _curve, _kept, _judged, _scenarios, _tests):
        if (section := part(evaluation if part is not _curve else facts)) is not None:
            yield section
    for part in (_principles, _rows, _controls, _stages):
        if (section := part(facts)) is not None:
            yield section


def percent(one: Mapping[str, float] | None, *, sign: bool = False) -> str:
    """A share as value [low, high] %; with a sign for differences, which are points."""
    if one is None:
        return "-"
    form = "+.1f" if sign else ".1f"
    value, low, high = (format(100 * one[name], form) for name in ("value", "low", "high"))
    return f"{value} {'points' if sign else '%'} [{low}, {high}]"


def number(one: Mapping[str, float] | None, digits: int = 3) -> str:
    """A value [low, high]."""
    if one is None:
        return "-"
    return "{} [{}, {}]".format(*(f"{one[name]:.{digits}f}" for name in ("value", "low", "high")))


def _goal(evaluation: Mapping[str, Any]) -> Section | None:
    if not evaluation.get("goal"):
        return None
    rows, sources = list[list[object]](), dict[str, None]()
    for label, one in evaluation["goal"].items():
        for side, name in (("harm", "harmful compliance"), ("safe", "over-refusal")):
            raw = one[side]
            rows.append(
                [
                    label, f"{name}, {raw['num']} prompts", percent(raw["before"]), percent(raw["after"]),
                    percent(raw["difference"], sign=True),
                    percent(raw["relative_fall"]) if side == "harm" else "-", f"{raw['p_holm']:.2g}",
                ]
            )  # fmt: skip
            fixed = raw["corrected"]
            sources[fixed["source"]] = None
            doubt = "" if fixed["reliable"] else " (not reliable)"
            rows.append(
                [
                    label, f"{name}, corrected{doubt}", percent(fixed["before"]), percent(fixed["after"]),
                    percent(fixed["difference"], sign=True),
                    percent(fixed.get("relative_fall")) if side == "harm" else "-", "-",
                ]
            )  # fmt: skip
    words = (
        "Raw: as the detector reads answers, with Wilson's intervals, Newcombe's paired interval of the difference and "
        "one built alike of the relative fall, and the exact McNemar test, Holm-adjusted over all tests of this "
        "table. Corrected: for the detector's errors as measured on people's labels "
        f"({'; '.join(sources)}), which the intervals carry; not reliable: those labels are too few, or the errors too "
        "large, to lean on it."
    )
    columns = ["model", "what", "base", "tuned", "difference", "relative fall", "p (Holm)"]
    return Section(heading="Harmful compliance and over-refusal", words=words, columns=columns, rows=rows)


def _kinds(evaluation: Mapping[str, Any]) -> Section | None:
    rows = [
        [name, label, *(counts[kind] for kind in ("comply", "partly", "refuse", "nonsense"))]
        for name, own in evaluation.get("kinds", {}).items()
        for label, counts in own.items()
    ]
    words = "How many answers the detector reads as what. Nonsense is empty, an echo, or repeats itself."
    columns = ["prompts", "model", "comply", "partly", "refuse", "nonsense"]
    return Section(heading="What the answers are", words=words, columns=columns, rows=rows) if rows else None


def _curve(facts: Mapping[str, Any]) -> Section | None:
    rows = [
        [f"{one['share']:g}", one["rows"], percent(one["harm"]), percent(one["safe"])] for one in facts.get("curve", [])
    ]
    words = (
        "The sft stage trained at several shares of helpful rows on the same revisions: what harmful compliance is "
        "bought with in over-refusal."
    )
    columns = ["share of helpful rows", "rows", "harmful compliance", "over-refusal"]
    return Section(heading="Over mixing shares", words=words, columns=columns, rows=rows) if rows else None


_KEPT = ("helpful", "reference", "creative")


def _kept(evaluation: Mapping[str, Any]) -> Section | None:
    tasks = [task for task in evaluation.get("tasks", []) if task["name"] in _KEPT]
    labels, differences = evaluation.get("labels", []), _differences(evaluation)
    rows = []
    for task in tasks:
        for metric in task["metrics"]["base"]:
            own = [number(task["metrics"][label][metric]) for label in labels]
            changed = differences.get((task["name"], labels[-1]), {}).get(metric)
            rows.append([f"{task['name']}: {metric}", *own, number(changed)])
    if evaluation.get("perplexity"):
        rows.append(["reference: perplexity", *(number(evaluation["perplexity"][label], 2) for label in labels), "-"])
    words = (
        "Harmless requests. reference: how likely good answers are, which no judge and no draw has a say in. words and "
        "distinct_2 (different pairs of words over all, in the first 60 words) of an answer; creative: over several "
        "draws, alike being the mean ROUGE-L between two of them: less is more varied. Differences are paired, final "
        "minus base; on 0/1 values Newcombe's interval, else a bootstrap over requests."
    )
    columns = ["what", *labels, "difference"]
    return Section(heading="Helpfulness and creativity kept", words=words, columns=columns, rows=rows) if rows else None


def _differences(evaluation: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(one["task"], one["second"]): one["differences"] for one in evaluation.get("comparisons", [])}


def _judged(evaluation: Mapping[str, Any]) -> Section | None:
    judged = evaluation.get("judged", {})
    rows = [
        [
            label, one["num"], one["same_answer"], percent(_named(one["win_rate"])), percent(one["prefers_first"]),
            percent(one["consistent"]), percent(one["prefers_longer"]),
        ]
        for label, one in judged.items()
        if isinstance(one, Mapping)
    ]  # fmt: skip
    if not rows:
        return None
    words = (
        f"Tuned against base on harmless requests before {judged['judge']}, each pair in both orders; a tie counts one "
        f"half, so 50 % is neither better nor worse. Agreement of this judge with people: {judged['agreement']}. "
        "prefers first: of its decided verdicts, 50 % without position bias; consistent: pairs whose verdict does not "
        "turn with the order."
    )
    columns = ["model", "pairs", "same answer", "win rate", "prefers first", "consistent", "prefers longer"]
    return Section(heading="Win rate on harmless requests", words=words, columns=columns, rows=rows)


def _named(one: Mapping[str, Any]) -> Mapping[str, float] | None:
    return None if one["value"] is None else {name: one[name] for name in ("value", "low", "high")}


def _scenarios(evaluation: Mapping[str, Any]) -> Section | None:
    rows = [
        [one["id"], one["rule"], *(f"{side['passed']} of {one['num']}" for side in one["sides"].values())]
        for one in evaluation.get("scenarios", [])
    ]
    words = "Each in several wordings; the rule is read by patterns and by the refusal detector, not by a model."
    columns = ["scenario", "rule", *evaluation.get("labels", [])]
    return Section(heading="Three scenarios", words=words, columns=columns, rows=rows) if rows else None


def _tests(evaluation: Mapping[str, Any]) -> Section | None:
    rows = [
        [
            one["task"], one["second"], one["headline"], number(one["differences"][one["headline"]]),
            f"{one['only_first']} : {one['only_second']}", f"{one['p_holm']:.2g}", one["finding"],
            "-" if one["smallest"] is None else f"{one['smallest']:.3f}",
        ]
        for one in evaluation.get("comparisons", [])
    ]  # fmt: skip
    words = (
        "One test a task and tuned model, against the base: exact McNemar (sign test on graded values), Holm over all "
        "of this table. smallest: the difference that so many items would have shown with a power of 0.8."
    )
    columns = ["task", "model", "metric", "difference", "only base : only tuned", "p (Holm)", "finding", "smallest"]
    return Section(heading="Every task, tested", words=words, columns=columns, rows=rows) if rows else None


def _principles(facts: Mapping[str, Any]) -> Section | None:
    own = facts.get("revise", {}).get("principles", {})
    rows = [
        [name, one["sampled"], one["fired"], one["changed"], one["garbage"], *_on_harmless(one)]
        for name, one in own.items()
    ]
    words = (
        "Of the supervised phase: answers held against a principle, of which it found something, of which the answer "
        "was changed; garbage: words of critic or reviser that were of no use. What is found on harmless prompts is "
        "mostly a false alarm."
    )
    columns = ["principle", "sampled", "fired", "changed", "garbage", "on harmless: sampled", "fired"]
    return Section(heading="Which principle did what", words=words, columns=columns, rows=rows) if rows else None


def _rows(facts: Mapping[str, Any]) -> Section | None:
    rows = [
        [source, *(counts[kind] for kind in ("comply", "partly", "refuse", "nonsense"))]
        for source, counts in facts.get("rows", {}).items()
    ]
    words = (
        "The rows of the sft stage by where their answers come from, as the detector reads them. Refusals among the "
        "revisions are all that this stage can learn to refuse from."
    )
    columns = ["answers", "comply", "partly", "refuse", "nonsense"]
    return Section(heading="What the tuning learns from", words=words, columns=columns, rows=rows) if rows else None


def _on_harmless(one: Mapping[str, Any]) -> list[object]:
    harmless = one.get("harmless", {})
    return [harmless.get("sampled", "-"), harmless.get("fired", "-")]


def _controls(facts: Mapping[str, Any]) -> Section | None:
    rows = [
        [one["control"], one["revised"], percent(one["harm"]), percent(one["safe"])]
        for one in facts.get("controls", [])
    ]
    words = "The same run with a critic that draws its verdicts, and with one that refuses everything."
    columns = ["critic", "revised", "harmful compliance", "over-refusal"]
    return Section(heading="Controls", words=words, columns=columns, rows=rows) if rows else None


def _stages(facts: Mapping[str, Any]) -> Section | None:
    rows = [
        [
            one["name"], "-" if one["planned_seconds"] is None else f"{one['planned_seconds']:.0f}",
            f"{one['seconds']:.0f}", "yes" if one["resumed"] else "", one["finished"], one["digest"][:12],
        ]
        for one in facts["stages"]
    ]  # fmt: skip
    words = "Planned: at most, told before the start. Of a stage that was resumed, the seconds of its last part."
    columns = ["stage", "planned s", "actual s", "resumed", "finished", "made of"]
    return Section(heading="What it took", words=words, columns=columns, rows=rows) if rows else None
