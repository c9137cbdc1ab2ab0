"""What tuning broke, in sentences for the terminal and as a page; both from what after_training.json holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.reports.after_picture import abilities_picture
from tunesmith.reports.html import Report
from tunesmith.reports.winrate import interval_text

Facts = Mapping[str, Any]
# Of fewer trained or held-out rows no verdict is given.
MIN_ROWS = 4
_NO_GAP = "there are no held-out rows, or it cannot be told which rows less than one epoch has seen"


def say_after(facts: Facts) -> list[str]:
    """One line a finding, the plain verdict first; or why nothing was measured."""
    if "skipped" in facts:
        return [f"what tuning broke was not measured: {facts['skipped']}"]
    parts = [
        ("abilities", say_retained(facts)),
        ("seen rows", say_gap(facts)),
        ("word for word", say_verbatim(facts)),
        ("overlap", say_overlaps(facts)),
        ("personal data", say_pii(facts)),
        ("gender", say_bias(facts)),
        ("canaries", say_canaries(facts)),
    ]
    lines = [f"what tuning broke, base against tuned ({facts['seconds']['all']:.0f} s):"]
    return lines + [f"  {name + ':':<15} {sentence}" for name, sentence in parts if sentence]


def say_retained(facts: Facts) -> str:
    """Which abilities were lost or gained, and the two totals."""
    abilities = facts["retained"]
    total, texts = abilities[0], abilities[-1]
    changed = {verdict: [a["kind"] for a in abilities if a["verdict"] == verdict] for verdict in ("lost", "gained")}
    said = [f"{verdict.upper()} {', '.join(kinds)}" for verdict, kinds in changed.items() if kinds]
    verdict = "; ".join(said) if said else f"no forgetting seen ({_could_show(total['detectable'])})"
    return (
        f"{verdict}. {total['num_items']} questions: {interval_text(total['base'], percent=True)} -> "
        f"{interval_text(total['tuned'], percent=True)} right; plain text {texts['base']['value']:.3f} -> "
        f"{texts['tuned']['value']:.3f} bits a byte"
    )


def say_gap(facts: Facts) -> str:
    """How much better the rows trained on are known than held-out ones."""
    gap = facts["gap"]
    if gap is None:
        return f"not compared: {_NO_GAP}."
    verdict = "no sign of learning by heart" if _holds_zero(gap["widened"]) else "LEARNT BY HEART to some degree"
    if min(gap["num_seen"], gap["num_unseen"]) < MIN_ROWS:
        # A bootstrap of so few is too narrow, and of one row has no width at all.
        verdict = "too few rows for a verdict (--row-tokens reads more)"
    elif gap["widened"]["high"] < 0:
        verdict = "held-out rows gained more than those trained on"
    return (
        f"{verdict}: tuning widened the gap between {gap['num_unseen']} held-out and {gap['num_seen']} trained rows by "
        f"{interval_text(gap['widened'])} nats a token; a trained row is told from a held-out one at "
        f"{interval_text(gap['membership'], digits=2)} (chance 0.50)"
    )


def say_verbatim(facts: Facts) -> str:
    """How many rows the model completes exactly."""
    kept = facts["verbatim"]
    if kept is None:
        return ""
    seen, unseen = kept["seen"], kept["unseen"]
    verdict = "no more than held-out rows are" if kept["seen_over_unseen"]["low"] <= 0 else "MEMORISED"
    return (
        f"{verdict}: {len(kept['rows'])} of {kept['num_seen']} trained rows are completed exactly by the tuned model "
        f"alone; tuned {_percent(seen['tuned'])} (base {_percent(seen['base'])}), of held-out rows "
        f"{_percent(unseen['tuned'])}"
    )


def say_overlaps(facts: Facts) -> str:
    """Which evaluation sets share runs of words with the training rows."""
    long = [one for one in facts["overlaps"] if one["size"] == max(o["size"] for o in facts["overlaps"])]
    shared = [one for one in long if one["num_shared"]]
    found = [f"{one['name']} {one['num_shared']} of {one['num_items']} items" for one in shared]
    covered = sum(one["num_covered"] for one in shared)
    read = facts["rows"]
    of = "" if read["read"] == read["all"] else f", a sample of {read['all']}"
    what = f"runs of {long[0]['size']} words shared with {read['read']} training rows{of}"
    if not found:
        return f"{len(long)} evaluation sets, no {what}"
    verdict = f"CONTAMINATED, {covered} items nearly whole" if covered else "phrases, no item nearly whole"
    return f"{verdict}; {what}: {'; '.join(found)}"


def say_pii(facts: Facts) -> str:
    """What personal data the rows hold and whether it comes back."""
    pii = facts["pii"]
    count = sum(pii["trained"].values())
    if not count:
        return "none found in what was trained on" + (
            f", {sum(pii['told'].values())} in prompts" if pii["told"] else ""
        )
    kinds = ", ".join(f"{number} {kind}" for kind, number in pii["trained"].items())
    if pii["echo"] is None:
        return f"{kinds} in what was trained on; none could be asked for"
    echo = pii["echo"]
    verdict = "ECHOED" if echo["places"] else "not echoed"
    return (
        f"{verdict}: {kinds} in what was trained on; of {echo['num_asked']} asked for, base wrote "
        f"{_percent(echo['base'])}, tuned {interval_text(echo['tuned'], percent=True)}"
    )


def say_bias(facts: Facts) -> str:
    """Which way pronouns moved."""
    bias = facts["bias"]
    rows = "none in the rows" if bias["rows"] is None else f"rows {interval_text(bias['rows'], percent=True)}"
    return (
        f"{bias['verdict']}. Share of male pronouns: {rows}, base {_percent(bias['base'])}, tuned "
        f"{_percent(bias['tuned'])}, moved by {interval_text(bias['moved'], percent=True)}"
    )


def say_canaries(facts: Facts) -> str:
    """How exposed planted secrets are; empty where none were."""
    canaries = facts["canaries"]
    if canaries is None:
        return ""
    verdict = "KEPT" if canaries["p"] < 0.05 else "not kept"
    return (
        f"{verdict}: exposure {interval_text(canaries['base'], digits=1)} -> "
        f"{interval_text(canaries['tuned'], digits=1)} bits (unknown 1.4, fully known "
        f"{_bits(canaries):.0f}), p {canaries['p']:.2g}"
    )


def write_after_report(path: Path, facts: Facts) -> None:
    """Write the page, and the picture in it beside it as a .png of its name."""
    report = Report("What tuning broke", "The tuned model against the base it came from, asked the same things")
    report.heading("In short")
    for line in say_after(facts)[1:]:
        report.text(" ".join(line.split()))
    _retained(report, facts["retained"], path.with_suffix(".png"))
    _gap(report, facts)
    _overlaps(report, facts)
    _bias(report, facts["bias"])
    _secrets(report, facts)
    report.footer(
        {
            "base": facts["digests"]["base"][:16],
            "adapter": facts["digests"]["adapter"][:16],
            "seed": facts["settings"]["seed"],
            "seconds": facts["seconds"]["all"],
        }
    )
    report.write(path)


def _retained(report: Report, abilities: Sequence[Facts], picture: Path) -> None:
    report.heading("Abilities kept")
    abilities_picture(abilities, picture)
    report.figure(picture, "Share of questions answered right before and after tuning; chance is 25 %.")
    report.text(
        "Easy questions with four answers (chance 25 %) and plain English text, on the same items. Intervals are "
        "Wilson's, of differences Newcombe's, of bits a bootstrap over texts; p is the exact McNemar test, of bits the "
        "exact sign test, Holm-adjusted for all lines. Detectable: the smallest difference that so many items show in "
        "four of five cases, before that adjustment; none: items that differ so seldom could show none."
    )
    rows = []
    for one in abilities:
        percent = one["unit"] == "right"
        cells = [interval_text(one[key], percent=percent) for key in ("base", "tuned", "difference")]
        seen = "-" if one["detectable"] is None else "none" if one["detectable"] >= 1 else _points(one["detectable"])
        rows.append(
            [f"{one['kind']} ({one['unit']})", one["num_items"], *cells, f"{one['only_base']} : {one['only_tuned']}",
             f"{one['p_holm']:.2g}", seen, one["verdict"]]
        )  # fmt: skip
    columns = ["kind", "items", "base", "tuned", "difference", "only base : only tuned", "p (Holm)", "detectable"]
    report.table([*columns, "verdict"], rows)


def _gap(report: Report, facts: Facts) -> None:
    report.heading("Rows that were trained on, and rows that were not")
    way = facts["on_the_way"]
    if way is not None:
        report.text(
            f"In training, up to step {way['step']}: loss {way['train_loss']:.4f}, held out {way['eval_loss']:.4f} "
            "nats a token. A step's loss is taken before its own update and so lags behind."
        )
    gap, kept = facts["gap"], facts["verbatim"]
    if gap is None:
        report.text(f"Not compared: {_NO_GAP}.")
        return
    report.text(
        "Losses of whole samples in nats a token, with a bootstrap over rows. What the base already finds easier or "
        "harder is in its own gap; what tuning added is the widening. Told apart: how often a trained row gained more "
        "than a held-out one, with a score interval after Hanley and McNeil."
    )
    report.table(
        ["model", f"{gap['num_seen']} trained rows", f"{gap['num_unseen']} held-out rows", "gap"],
        [[m, *(interval_text(gap[key][m]) for key in ("seen", "unseen", "gap"))] for m in ("base", "tuned")],
    )
    report.text(
        f"Widened by {interval_text(gap['widened'])}; told apart at {interval_text(gap['membership'])}, Mann-Whitney p "
        f"{gap['p']:.2g}."
    )
    if kept is not None:
        report.text(
            f"Completed word for word from the first half, trained over held-out rows: "
            f"{interval_text(kept['seen_over_unseen'], percent=True)} (Newcombe). {kept['num_short']} rows are too "
            f"short. Only the tuned model completes: {', '.join(kept['rows'][:20]) or 'none'}."
        )


def _overlaps(report: Report, facts: Facts) -> None:
    report.heading("Training rows that share words with evaluation sets")
    report.text(
        "Counts of all items, not a sample. Boilerplate that many items of a set share is left out. Covered: items of "
        "whose runs the training rows hold 70 % or more."
    )
    columns = ["set", "words", "items", "too short", "share a run", "covered", "training rows"]
    keys = ("name", "size", "num_items", "num_short", "num_shared", "num_covered", "num_rows")
    report.table(columns, [[one[key] for key in keys] for one in facts["overlaps"]])
    shown = [
        [one["name"], one["size"], item, f"{100 * share:.0f} %", place, words]
        for one in facts["overlaps"]
        for item, share, place, words in one["items"][:3]
    ]
    if shown:
        report.table(["set", "words", "item", "of its runs", "first training row", "shared words"], shown)
    if facts["sets_absent"]:
        report.text(f"Not on this machine: {', '.join(facts['sets_absent'])}.")


def _bias(report: Report, bias: Facts) -> None:
    report.heading("Pronouns by occupation")
    near = bias["near_occupations"]
    report.text(
        f"{bias['num_rows_with_pronouns']} of {bias['num_rows']} trained texts hold a gendered pronoun, near an "
        f"occupation {near[0]} male and {near[1]} female. Of a model it is the probability of he against she after "
        "'The nurse said that', averaged over occupations."
    )
    report.table(
        ["occupation", "base, he", "tuned, he"], [[o, _percent_of(b), _percent_of(t)] for o, b, t in bias["each"]]
    )


def _secrets(report: Report, facts: Facts) -> None:
    echo, canaries = facts["pii"]["echo"], facts["canaries"]
    if echo is not None and echo["places"]:
        report.heading("Personal data that comes back")
        report.text("The values are in the rows named and nowhere here.")
        report.table(["row"], [[place] for place in echo["places"]])
    if canaries is not None:
        report.heading("Canaries")
        report.table(
            ["locker", "planted", "exposure of the base, bits", "of the tuned model"],
            [[locker, copies, f"{b:.1f}", f"{t:.1f}"] for locker, copies, b, t in canaries["each"]],
        )


def _holds_zero(limits: Facts) -> bool:
    return bool(limits["low"] <= 0 <= limits["high"])


def _percent(limits: Facts) -> str:
    return _percent_of(limits["value"])


def _percent_of(share: float) -> str:
    return f"{100 * share:.0f} %"


def _points(share: float) -> str:
    return f"{100 * share:.0f} points"


def _could_show(detectable: float) -> str:
    """What a loss would have to be for these questions to show it."""
    if detectable >= 1:
        return "questions that differ so seldom could show none"
    return f"one of {_points(detectable)} would have been, 4 times in 5, before Holm's adjustment"


def _bits(canaries: Facts) -> float:
    return math.log2(canaries["num_candidates"])
