"""What a revision run will take, told before it starts: requests and tokens, and minutes from a short probe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.constitution.asking import Asker, Voice
from tunesmith.constitution.critic import AlwaysRefuse, Case, ModelCritic
from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.constitution.revise import Question, ReviseSettings, Speakers, first_answer, shown_for
from tunesmith.constitution.threshold import num_judged
from tunesmith.constitution.wording import critique_turns, revision_turns, verdict_turns
from tunesmith.progress import clock
from tunesmith.recipes.constitution_config import ReviseConfig
from tunesmith.recipes.constitution_open import House
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked

# Prompts whose requests are counted; they stand for the others.
_COUNTED = 16
# Enough steps to tell a step from the reading of the prompt.
_PROBE_TOKENS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The most a run can take that need not ask twice: fewer rounds, shorter answers and what lies in the file of
    requests make it less, and what is of no use and asked for again makes it more.

    seconds: None where nothing is left to answer here, or a server answers, whose pace is not known.
    """

    prompts: int
    answers_there: int
    requests: int
    read_tokens: int
    generated_tokens: int
    seconds: float | None

    def sentence(self) -> str:
        """In words."""
        told = "" if self.seconds is None else f", about {clock(self.seconds)} on this machine"
        return (
            f"{self.prompts} prompts ({self.answers_there} answered before): at most {self.requests} requests, "
            f"{self.read_tokens} tokens to read and {self.generated_tokens} to write{told}; less where a critic finds "
            "nothing or answers are short, more where what is of no use is asked for again."
        )


def estimate(
    config: ReviseConfig,
    questions: Sequence[Question],
    constitution: Constitution,
    weighed: Sequence[Principle],
    speakers: Speakers,
    settings: ReviseSettings,
    house: House,
    asker: Asker,
) -> Estimate:
    """Count a sample of requests, and probe the model that answers if it is ours; the probe's words are thrown away.

    weighed: principles whose demonstrations are judged for a threshold.
    """
    critic = speakers.critic
    sampling = settings.answer
    known = sum(asker.is_known(speakers.answers.writer, first_answer(one), sampling) for one in questions)
    voice = speakers.answers
    sample = [one for one in questions if voice.fits(one.messages, config.answer_tokens)][:_COUNTED]
    answers = len(questions) - known
    criticised = sum(settings.criticise_harmless or not one.harmless for one in questions)
    steps = criticised * settings.num_rounds * settings.principles_per_round
    read = answers * _mean([house.count(speakers.answers, one.messages) for one in sample])
    requests, generated = answers, answers * config.answer_tokens
    if isinstance(critic, ModelCritic):
        per_step = 1 if critic.settings.verdict == "marked" else 2
        requests += steps * per_step
        judged = num_judged(weighed)
        requests += judged
        reads = _mean([_critic_reads(config, house, critic, case) for case in _cases(sample, constitution.principles)])
        # Without the written critique, a verdict is one request of two.
        read += (steps + judged / 2) * reads
        generated += steps * config.critique_tokens
    if not isinstance(critic, AlwaysRefuse):
        requests += steps
        read += steps * _mean(
            [
                _reviser_reads(config, settings, house, speakers.revises, constitution, case)
                for case in _cases(sample, constitution.principles)
            ]
        )
        generated += steps * config.answer_tokens
    seconds = None
    if voice.likelihood is not None and requests and sample:
        per_read, per_written = _pace(voice, house, sample)
        seconds = read * per_read + generated * per_written
    return Estimate(
        prompts=len(questions),
        answers_there=known,
        requests=requests,
        read_tokens=round(read),
        generated_tokens=generated,
        seconds=seconds,
    )


def _cases(sample: Sequence[Question], principles: Sequence[Principle]) -> list[Case]:
    """Each prompt of the sample with one of the principles in turn; the answer's tokens are added by who counts."""
    return [
        Case(prompt=one.messages, answer="-", principle=principles[i % len(principles)], key="")
        for i, one in enumerate(sample)
    ]


def _critic_reads(config: ReviseConfig, house: House, critic: ModelCritic, case: Case) -> int:
    shown = case.principle.examples[: config.max_demonstrations]
    style, verdict = config.style, critic.settings.verdict
    asked = [critique_turns(style, verdict, case.prompt, case.answer, case.principle, shown)]
    if verdict != "marked":
        asked.append(verdict_turns(style, verdict, case.prompt, case.answer, case.principle, shown, "-"))
    return sum(house.count(critic.voice, turns) + config.answer_tokens for turns in asked)


def _reviser_reads(
    config: ReviseConfig, settings: ReviseSettings, house: House, voice: Voice, constitution: Constitution, case: Case
) -> int:
    shown = shown_for(case.principle, constitution, settings)
    turns = revision_turns(settings.style, settings.way, case.prompt, case.answer, case.principle, "-", shown)
    # Where a revision is shown, neither the answer nor its critique is read.
    words = config.answer_tokens + config.critique_tokens if settings.way == "asked" else 0
    return house.count(voice, turns) + words


def _pace(voice: Voice, house: House, sample: Sequence[Question]) -> tuple[float, float]:
    """(seconds a token read, seconds a token written), the latter in a batch of this size."""
    rows = [Asked(messages=one.messages, row_id=0) for one in sample]
    one, nine = (_probe(voice, rows, tokens) for tokens in (1, _PROBE_TOKENS))
    read = sum(house.count(voice, row.messages) for row in rows)
    return one / read, max(0.0, nine - one) / (_PROBE_TOKENS - 1) / len(rows)


def _probe(voice: Voice, rows: Sequence[Asked], max_new_tokens: int) -> float:
    began = time.perf_counter()
    for _ in voice.writer.write(rows, Sampling(max_new_tokens=max_new_tokens)):
        pass
    return time.perf_counter() - began


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
