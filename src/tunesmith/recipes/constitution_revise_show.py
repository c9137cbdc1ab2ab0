"""What a person sees of ``tunesmith constitution revise``: a bar, and what a run came to."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunesmith.progress import Bar
from tunesmith.recipes.constitution_revise import Revised


@contextmanager
def answer_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of answers, critiques and revisions, as a function told (done, total); it appears with the first."""
    bars, shown = list[Bar](), 0

    def show(done: int, total: int) -> None:
        nonlocal shown
        if not bars:
            bars.append(Bar(total, "answers, critiques, revisions").__enter__())
        if done > shown:
            bars[0].update(done)
            shown = done

    try:
        yield show
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)


def last_lines(revised: Revised) -> list[str]:
    """What was found, changed and written, what was of no use, and the next command."""
    if revised.interrupted:
        return ["Stopped; the same command goes on, and asks nothing twice."]
    if not revised.summary:
        return []
    told, rows = revised.summary, revised.summary["rows"]
    lines = [
        f"{told['revised']} of {told['prompts']} answers were revised"
        + (f", and {told['harmless_revised']} of {told['harmless_prompts']} to harmless prompts" if told[
            "harmless_prompts"] else "") + "."
    ]  # fmt: skip
    lines.append("stopped: " + ", ".join(f"{number} x {why}" for why, number in told["stops"].items()) + ".")
    for name, one in sorted(told["principles"].items(), key=lambda item: (-item[1]["fired"], item[0])):
        lines.append(
            f"  {name}: {one['sampled']} times asked, found a fault in {one['fired']}, changed {one['changed']}"
        )
    for what, one in told["garbage"].items():
        lines.append(f"of no use: {one['number']} x {what} (first: {one['places'][0]}).")
    lines.append(
        f"{rows['own'] + rows['helpful']} rows ({rows['helpful']} of them helpful ones) are in {revised.sft}; "
        f"{told['critic_rows']} rows that train a critic and the log lie beside it."
    )
    if rows["own"]:
        lines.append(f"next:  tunesmith sft recipes/chat.yaml data.train={shlex.quote(str(revised.sft))}")
    return lines
