"""What a terminal shows of a campaign: the bar, the headline, what was written, what was exceeded."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunesmith.progress import Bar, clock
from tunesmith.recipes.redteam import Campaign
from tunesmith.redteam.attempt_rows import ATTEMPTS_FILE
from tunesmith.redteam.driver import Counts
from tunesmith.reports.redteam import HTML_FILE, JSON_FILE, MARKDOWN_FILE
from tunesmith.reports.redteam_tables import headline

# Words that open a text, which tell a transcript apart and give nothing away.
_SHOWN_WORDS = 3
# Of each of them: scripts without spaces put a whole answer into one word.
_SHOWN_LETTERS = 16


def masked(text: str) -> str:
    """The first words of a text, long ones cut, and how many follow: what a terminal has unless one asks to see it."""
    words = text.split()
    left = len(words) - _SHOWN_WORDS
    shown = [word if len(word) <= _SHOWN_LETTERS else f"{word[:_SHOWN_LETTERS]}..." for word in words[:_SHOWN_WORDS]]
    return " ".join(shown) + (f" [{left} more words]" if left > 0 else "")


@contextmanager
def campaign_bars() -> Iterator[Callable[[str, Counts], None]]:
    """A bar a model of the answers at most to come, as a function told how far it is."""
    bars: dict[str, Bar] = {}
    shown: dict[str, int] = {}

    def show(label: str, counts: Counts) -> None:
        if label not in bars:
            for bar in bars.values():
                bar.__exit__(None, None, None)
            bars[label] = Bar(counts.answers, f"{label}: answers")
            bars[label].__enter__()
        spent = counts.spent
        if not spent.asked:
            # What an earlier run heard took no time.
            bars[label].skip(counts.answers_done)
        if shown.get(label) == counts.answers_done:
            return
        shown[label] = counts.answers_done
        told = f"{counts.attempts_done}/{counts.attempts} attempts, {spent.new_tokens:,} tokens"
        bars[label].update(counts.answers_done, told)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.__exit__(None, None, None)


def describe_campaign(campaign: Campaign, *, show: bool) -> list[str]:
    """The verdict in lines, the worst cases, masked unless ``show``, and what was written."""
    folder = campaign.folder
    if campaign.interrupted:
        return ["stopped; the same command goes on, and asks nothing twice."]
    lines = [*headline(campaign.facts), *(_case_line(case, show) for case in campaign.facts["worst"][:3])]
    spent = campaign.spent.values()
    asked, found = sum(one["asked"] for one in spent), sum(one["found"] for one in spent)
    read, written = sum(one["prompt_tokens"] for one in spent), sum(one["new_tokens"] for one in spent)
    lines.append(
        f"{asked:,} answers asked for, {found:,} known; {read:,} tokens read and {written:,} written in "
        f"{clock(campaign.seconds)} ({campaign.processor_seconds:.0f} processor seconds)."
    )
    quoted = shlex.quote(str(folder))
    lines.append(f"wrote {folder / HTML_FILE}, {MARKDOWN_FILE}, {JSON_FILE} and {ATTEMPTS_FILE}")
    lines.append(f"next:  tunesmith redteam export {quoted} --to preferences")
    return lines


def _case_line(case: Mapping[str, Any], show: bool) -> str:
    label, side = list(case["sides"].items())[-1]
    told = "+".join([case["attack"], *case["converters"]])
    goal, answer = (text if show else masked(text) for text in (case["goal"], side["answer"]))
    return f"  {told} on {label}: {goal!r} -> {answer!r}"
