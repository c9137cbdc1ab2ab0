"""What a person sees of ``tunesmith feedback sample``: the estimate, a bar with the time left, the last lines."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunesmith.progress import Bar, clock
from tunesmith.recipes.feedback_sample import Sampled, Sampler, draws_file
from tunesmith.recipes.feedback_slots import SampleConfig
from tunesmith.rollout.endpoint import Endpoint


def estimate(sampler: Sampler, *, probe: bool) -> str:
    """How much is to be done, in a sentence: answers, tokens, and for a model of ours the time."""
    config, missing = sampler.config, sampler.missing()
    wanted = len(sampler.prompts) * config.num_candidates
    text = (
        f"{len(sampler.prompts)} prompts x {config.num_candidates} candidates = {wanted} answers, "
        f"{wanted - missing} drawn before; {missing} to draw, of at most {config.max_new_tokens} tokens each"
    )
    seconds = sampler.seconds_at_most() if probe else None
    told = "" if seconds is None else f", about {clock(seconds)} if all of them are that long"
    return f"{text}{told}; near copies are drawn again, up to {config.max_redraws} times a slot."


@contextmanager
def candidate_bar(wanted: int) -> Iterator[Callable[[Sampled], None]]:
    """A bar of the candidates settled of those wanted, as a function told how far it is."""
    with Bar(wanted, "candidates") as bar:

        def show(sampled: Sampled) -> None:
            if not sampled.drawn:
                # All of it was drawn by an earlier run.
                bar.skip(sampled.settled)
            bar.update(sampled.settled, f"{sum(sampled.turned_down.values())} drawn again")

        yield show


def last_lines(config: SampleConfig, sampler: Sampler, seconds: float) -> list[str]:
    """What was written, what was turned down and why, and the next command."""
    out = sampler.sampled
    pace = f", {out.new_tokens / seconds:.0f} tokens/s" if out.new_tokens and seconds > 0 else ""
    lines = [
        f"{out.kept} of {out.wanted} candidates of {out.prompts} prompts are in {config.store} "
        f"({out.drawn} drawn now, {out.found} before{pace})."
    ]
    if out.turned_down:
        causes = ", ".join(f"{number} x {cause}" for cause, number in sorted(out.turned_down.items()))
        lines.append(f"drawn again: {causes}.")
    if out.empty_slots:
        lines.append(
            f"{out.empty_slots} slots stay empty after {config.max_redraws} redraws: the model says the same again; "
            "higher --temperatures, another --adapter or a higher --max-rouge-l give more."
        )
    if out.cut:
        lines.append(f"{out.cut} candidates were cut at {config.max_new_tokens} tokens (--max-new-tokens).")
    if out.interrupted:
        lines.append("Stopped; the same command goes on, and draws nothing twice.")
        return lines
    lines.append(f"every answer, used or not: {draws_file(sampler.store.path)}")
    store = shlex.quote(config.store)
    lines.append(f"next:  tunesmith feedback label --store {store} --annotator NAME --kind comparison")
    return lines


def is_ours(sampler: Sampler) -> bool:
    """Whether the answers are made in this process, so that their pace can be probed for nothing."""
    return not any(isinstance(writer, Endpoint) for writer in sampler.writers)
