"""The work of ``constitution_label``: candidates for prompts that lack them, and the pairs the judge is asked of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunesmith.constitution.applies import Applicability, sample_principles
from tunesmith.constitution.label import Opinion, choose_pairs, opinion_of_rule
from tunesmith.constitution.principles import Constitution, Principle, user_text
from tunesmith.data.prompts import PromptRow, load_prompts
from tunesmith.errors import DataError
from tunesmith.evals.rubrics import Case
from tunesmith.feedback.judgements import StoredCandidate, prompt_id_of
from tunesmith.feedback.store import FeedbackStore
from tunesmith.models.roles import Base
from tunesmith.recipes.constitution_judges import cases_of_pair
from tunesmith.recipes.constitution_label_config import LabelConfig
from tunesmith.recipes.constitution_label_open import open_base
from tunesmith.recipes.feedback_open import that_fit, writers_on
from tunesmith.recipes.feedback_sample import Sampled, Sampler
from tunesmith.recipes.feedback_sample_show import estimate

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Work:
    """A job under way."""

    config: LabelConfig
    store: FeedbackStore
    prompts: Sequence[PromptRow]
    constitution: Constitution
    base: Base | None
    say: Say
    on_progress: Progress
    sampled: Sampled | None = None
    num_to_draw: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    near_copies: int = 0
    harmless: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two candidates of a prompt and what the judge is to be asked of them, two cases a principle.

    ruled: what a rule says of them; the judge is not asked then.
    """

    prompt_id: str
    candidates: tuple[str, str]
    principles: tuple[Principle, ...] = ()
    cases: tuple[Case, ...] = ()
    ruled: Opinion | None = None


def harmless_of(config: LabelConfig) -> frozenset[str]:
    """Ids of the prompts known as harmless. Raises DataError for a file that holds none."""
    if config.harmless is None:
        return frozenset()
    return frozenset(prompt_id_of(one.messages) for one in load_prompts(config.harmless, config.columns))


def lacks(work: Work, prompt: PromptRow, ours: str | None) -> bool:
    """Whether no two candidates from elsewhere can be compared; ours: the digest of this job's way of drawing.

    What this job drew itself does not count, or a job that was killed between two candidates would go on otherwise
    than one that was not. None: whatever was drawn by anybody.
    """
    there = [
        one
        for one in work.store.candidates(prompt_id_of(prompt.messages))
        if (one.sampling.get("settings") != ours if ours is not None else "settings" not in one.sampling)
    ]
    return not choose_pairs([one.text for one in there], "first", work.config.max_rouge_l)[0]


def draw_what_lacks(work: Work, *, plan: bool) -> None:
    """Candidates for the prompts that lack them; the base is loaded only where there are such."""
    config = work.config
    lacking = [prompt for prompt in work.prompts if lacks(work, prompt, None)]
    if not lacking or not config.draw:
        return
    if work.base is None:
        work.base = open_base(config)
        for note in work.base.notes:
            work.say(note)
    local = writers_on(work.base, config.adapters, config.prompts_at_once)
    ours = config.settings(local.writers)
    lacking = [prompt for prompt in lacking if lacks(work, prompt, ours)]
    if not lacking:
        return
    fitting, notes = that_fit(config, lacking, local)
    for note in notes:
        work.say(note)
    sampler = Sampler(config, fitting, local.writers, work.store)
    work.say(estimate(sampler, probe=True))
    work.num_to_draw = sampler.missing()
    if not plan:
        sampler.progress = lambda sampled: work.on_progress("drawing", sampled.settled, sampled.wanted)
        sampler.run()
    work.sampled = sampler.sampled


def pairs_of(work: Work) -> list[Pair]:
    """The pairs of every prompt with their principles, in the prompts' order. Raises DataError where there is none."""
    config, out = work.config, list[Pair]()
    applicability = Applicability(work.constitution)
    applying = applicability.applying([prompt.messages for prompt in work.prompts])
    for note in applicability.notes():
        work.say(note)
    for prompt, principles in zip(work.prompts, applying, strict=True):
        prompt_id = prompt_id_of(prompt.messages)
        there = list(work.store.candidates(prompt_id))
        chosen, near = choose_pairs([one.text for one in there], config.pairs, config.max_rouge_l)
        work.near_copies += len(near)
        principles = tuple(one for one in principles if one.weight > 0)
        if not principles:
            work.left_out["prompt to which no principle applies"] += 1
        elif len(there) < 2:
            work.left_out[f"prompt with {('no candidate', 'one candidate')[len(there)]}"] += 1
        elif not chosen:
            work.left_out["prompt whose candidates are near copies of each other"] += 1
        else:
            out += [_pair(work, prompt, prompt_id, principles, there[a], there[b]) for a, b in chosen]
    if not out:
        told = ", ".join(f"{number} x {cause}" for cause, number in work.left_out.items())
        fix = "Draw more (--num-candidates, higher --temperatures), or look at when the principles apply."
        raise DataError(config.store, f"there is nothing to compare: {told}.", fix)
    return out


def _pair(
    work: Work,
    prompt: PromptRow,
    prompt_id: str,
    applying: Sequence[Principle],
    a: StoredCandidate,
    b: StoredCandidate,
) -> Pair:
    config = work.config
    if prompt_id in work.harmless:
        ruled = opinion_of_rule(user_text(prompt.messages), (a.text, b.text))
        if ruled is not None:
            return Pair(prompt_id=prompt_id, candidates=(a.id, b.id), ruled=ruled)
    principles = sample_principles(applying, config.num_principles, config.seed, f"{prompt_id} {a.id} {b.id}")
    cases = [
        case
        for principle in principles
        for case in cases_of_pair(principle, prompt.messages, (a.answer, b.answer), config.demonstrations)
    ]
    return Pair(prompt_id=prompt_id, candidates=(a.id, b.id), principles=tuple(principles), cases=tuple(cases))
