"""The supervised phase: answer, critique by sampled principles, revision, round after round.

Source: Bai et al. 2022, arXiv:2212.08073, section 3.1. All prompts take each step together, so that a model of ours
answers in batches. A prompt's steps are a chain: each reads what the one before it left, and says what came of it. What
is asked goes through an ``Asker``, so that a run that was killed comes to the same chains without asking twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tunesmith.constitution.asking import Asker, Voice
from tunesmith.constitution.critic import NO_VERDICT, TOO_LONG, Case, Critic, fitting, num_tries, who
from tunesmith.constitution.garbage import fault_of, first_sentences, fold, whole_sentences
from tunesmith.constitution.principles import Constitution, Demonstration, Principle
from tunesmith.constitution.wording import Style, Turns, Way, bare_answer, contradicts, revision_turns
from tunesmith.errors import EndpointError
from tunesmith.feedback.judgements import digest_of, prompt_id_of, turns_to_json
from tunesmith.randomness import derive_seed
from tunesmith.records import Critique, Message, Revision, Where
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked

# What comes of a step; every other outcome says what was wrong with the words that were written.
ANSWERED, REVISED, NOTHING, UNCHANGED = "answered", "revised", "nothing found", "unchanged"
GOOD = (ANSWERED, REVISED, NOTHING, UNCHANGED)
# Why a prompt has no further step.
ALL_ROUNDS, NO_ANSWER, NO_PRINCIPLE, KEPT = "all rounds", "no answer", "no principle applies", "kept"
STOPS = (NOTHING, UNCHANGED, ALL_ROUNDS, NO_ANSWER, NO_PRINCIPLE, KEPT)

# (a prompt's id, its round from 1) -> the principles its answer is held against, in turn.
Choose = Callable[[int, str, int], tuple[Principle, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt, its place, and whether it is one of those that ask for nothing bad.

    answer: its first answer where that was given before, such as to an attack; empty: it is asked for. answered_by:
    digest of whoever gave it.
    """

    messages: tuple[Message, ...]
    where: Where
    harmless: bool = False
    answer: str = ""
    answered_by: str = ""

    @property
    def id(self) -> str:
        """A digest of its turns."""
        return prompt_id_of(self.messages)


@dataclass(slots=True, kw_only=True)
class Chain:
    """A question and what was done with its answer so far, the first answer being step 0."""

    question: Question
    steps: list[Revision] = field(default_factory=list)

    @property
    def last(self) -> Revision:
        return self.steps[-1]

    @property
    def was_revised(self) -> bool:
        return any(one.outcome == REVISED for one in self.steps)

    def stop(self, why: str) -> None:
        """The last step so far is the last one."""
        self.steps[-1] = replace(self.last, stopped=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviseSettings:
    """How the loop asks.

    way: how a revision is asked for; max_sentences: it is its first ones; 0: all. max_retries: how often more an answer
    or revision of no use is asked for. give_up_after: so many critiques without a verdict, and none with one, end the
    job; 0: never. criticise_harmless: else the answers to harmless prompts are kept as they are.
    """

    answer: Sampling
    revision: Sampling
    num_rounds: int = 2
    principles_per_round: int = 1
    style: Style = "turns"
    way: Way = "asked"
    max_sentences: int = 0
    max_retries: int = 1
    max_demonstrations: int = 2
    criticise_harmless: bool = True
    give_up_after: int = 20

    def num_tries(self, sampling: Sampling) -> int:
        """How often something is asked for; what is greedy says the same again."""
        return num_tries(sampling, self.max_retries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speakers:
    """Who answers, who criticises and who revises."""

    answers: Voice
    critic: Critic
    revises: Voice


class Meter:
    """Answers, critiques and revisions done, of the most there can be; what a stop makes needless counts as done."""

    def __init__(self, num_questions: int, settings: ReviseSettings, told: Callable[[int, int], None]) -> None:
        self.a_step, self.steps = 2, settings.num_rounds * settings.principles_per_round
        self.total, self.done, self.fresh = num_questions * (1 + self.a_step * self.steps), 0, 0
        self.told = told

    def answered(self) -> None:
        """One more answer came in; the stage it belongs to is not settled yet."""
        self.fresh += 1
        self.told(min(self.done + self.fresh, self.total), self.total)

    def settle(self, number: int) -> None:
        """So many are done for good."""
        self.done, self.fresh = self.done + number, 0
        self.told(self.done, self.total)


def revise(
    questions: Sequence[Question],
    constitution: Constitution,
    choose: Choose,
    speakers: Speakers,
    settings: ReviseSettings,
    asker: Asker,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Chain]:
    """A chain a question, in order, each ending with a step that says why.

    choose: (place among the questions, id of the prompt, round) -> principles. told: (done, total) of answers,
    critiques and revisions. Raises EndpointError, DiskFullError, RunError; what was answered before is kept.
    """
    loop = _Loop(constitution, speakers, settings, asker, Meter(len(questions), settings, told))
    asker.told = loop.meter.answered
    chains = loop.answers(questions)
    for number in range(1, settings.num_rounds + 1):
        chosen = {
            i: choose(i, chain.question.id, number)[: settings.principles_per_round]
            for i, chain in enumerate(chains)
            if not chain.last.stopped
        }
        for slot in range(settings.principles_per_round):
            going = [(chains[i], principles[slot]) for i, principles in chosen.items() if slot < len(principles)]
            loop.step(going, number)
        for i in chosen:
            _end_of_round(chains[i], number, settings.num_rounds)
        left = sum(not chain.last.stopped for chain in chains)
        loop.meter.settle(
            loop.meter.total
            - left * (settings.num_rounds - number) * settings.principles_per_round * loop.meter.a_step
            - loop.meter.done
        )
    return chains


def _end_of_round(chain: Chain, number: int, num_rounds: int) -> None:
    """Stop where the round found nothing, changed nothing, or was the last."""
    outcomes = {one.outcome for one in chain.steps if one.round == number}
    if not outcomes:
        chain.stop(NO_PRINCIPLE)
    elif outcomes == {NOTHING}:
        chain.stop(NOTHING)
    elif outcomes <= {NOTHING, UNCHANGED}:
        chain.stop(UNCHANGED)
    elif number == num_rounds:
        chain.stop(ALL_ROUNDS)


@dataclass(slots=True)
class _Loop:
    constitution: Constitution
    speakers: Speakers
    settings: ReviseSettings
    asker: Asker
    meter: Meter
    heard: bool = False
    """Whether the critic has given a verdict yet."""
    in_vain: dict[str, Critique] = field(default_factory=dict)
    """Its critiques until then, by case."""

    def answers(self, questions: Sequence[Question]) -> list[Chain]:
        """The first step of every chain."""
        voice, sampling = self.speakers.answers, self.settings.answer
        said = [(one.answer, ANSWERED) if one.answer else ("", TOO_LONG) for one in questions]
        fits = [voice.fits(one.messages, sampling.max_new_tokens) for one in questions]
        todo = [i for i, one in enumerate(questions) if fits[i] and not one.answer]
        for attempt in range(self.settings.num_tries(sampling)):
            asked = [first_answer(questions[i], attempt) for i in todo]
            tags = [{"prompt": questions[i].id} for i in todo]
            for i, reply in zip(todo, self.asker.write("answer", voice.writer, asked, sampling, tags), strict=True):
                text = _whole(reply.text, reply.stop_reason)
                fault = fault_of(text, reply.stop_reason, "", {"the prompt": questions[i].messages[-1].content})
                said[i] = ("", fault) if fault else (text, ANSWERED)
            todo = [i for i in todo if said[i][1] != ANSWERED]
        self.meter.settle(len(questions))
        return [self._chain(one, *words) for one, words in zip(questions, said, strict=True)]

    def step(self, going: Sequence[tuple[Chain, Principle]], number: int) -> None:
        """One critique and, where it finds something, one revision for each of these chains."""
        if not going:
            return
        cases = [_case(chain, principle) for chain, principle in going]
        critiques = self._criticised(cases)
        self.meter.settle(len(going))
        after = self._revised(cases, critiques)
        for (chain, _), critique, (text, outcome) in zip(going, critiques, after, strict=True):
            before = chain.last.after
            # Only a revision has a writer other than that of the answer it read.
            writer = chain.last.who if outcome != REVISED else self._reviser(critique)
            chain.steps.append(
                with_id(
                    Revision(
                        id="",
                        parent=chain.last.id,
                        prompt_id=chain.last.prompt_id,
                        where=chain.last.where,
                        round=number,
                        step=len(chain.steps),
                        prompt=chain.last.prompt,
                        before=before,
                        critique=critique,
                        after=text if outcome == REVISED else before,
                        outcome=outcome,
                        who=writer,
                        constitution=self.constitution.digest,
                    )
                )
            )
        self.meter.settle(len(going))

    def _criticised(self, cases: Sequence[Case]) -> list[Critique]:
        """The critiques; a critic that has given no verdict so far has to give one in the first few."""
        critic, few = self.speakers.critic, self.settings.give_up_after
        first = [] if self.heard or not few else critic.criticise(cases[: few - len(self.in_vain)], self.asker)
        self.heard = self.heard or any(one.found is not None for one in first)
        if not self.heard:
            self.in_vain |= dict(zip((case.key for case in cases), first, strict=False))
        if few and not self.heard and len(self.in_vain) == few:
            place = f"critic {critic.identity.get('model', critic.identity['critic'])}"
            causes = ", ".join(sorted({one.outcome for one in self.in_vain.values()}))
            fix = "Look at what it said in the file of requests; take a stronger critic."
            raise EndpointError(place, f"its first {few} critiques hold no verdict ({causes}).", fix)
        return [*first, *critic.criticise(cases[len(first) :], self.asker)]

    def _revised(self, cases: Sequence[Case], critiques: Sequence[Critique]) -> list[tuple[str, str]]:
        """(new answer, outcome) a case; where the outcome is not "revised" the text is of no meaning."""
        out, todo = list[tuple[str, str]](), list[int]()
        for i, one in enumerate(critiques):
            out.append(("", _without_revision(one)))
            if one.revision is not None and one.found:
                out[i] = (one.revision, UNCHANGED if one.revision == cases[i].answer else REVISED)
            elif not out[i][1]:
                todo.append(i)
        voice, sampling = self.speakers.revises, self.settings.revision
        for attempt in range(self.settings.num_tries(sampling)):
            asked, places = list[Asked](), list[int]()
            for i in todo:
                messages = self._request(cases[i], critiques[i])
                if not voice.fits(messages, sampling.max_new_tokens):
                    out[i] = ("", f"revision {TOO_LONG}")
                    continue
                places.append(i)
                row_id = derive_seed(0, "constitution_revision", cases[i].key, critiques[i].text, attempt)
                asked.append(Asked(messages=messages, row_id=row_id))
            tags = [{"case": cases[i].key, "principle": cases[i].principle.id} for i in places]
            replies = self.asker.write("revision", voice.writer, asked, sampling, tags)
            for i, request, reply in zip(places, asked, replies, strict=True):
                text = bare_answer(_whole(reply.text, reply.stop_reason))
                text = first_sentences(text, self.settings.max_sentences) if self.settings.max_sentences else text
                others = {
                    "the critique": critiques[i].text,
                    "the prompt": cases[i].prompt[-1].content,
                    "the request": request.messages[-1].content,
                }
                fault = fault_of(text, reply.stop_reason, cases[i].principle.revision_request, others)
                same = UNCHANGED if fold(text) == fold(cases[i].answer) else REVISED
                out[i] = ("", f"revision {fault}") if fault else (text, same)
            todo = [i for i in places if out[i][1] not in (REVISED, UNCHANGED)]
        return out

    def _request(self, case: Case, critique: Critique) -> Turns:
        settings = self.settings
        # Words that deny the fault that was found would lead astray.
        is_help = critique.text and not contradicts(critique.text, found=True)
        words = critique.text if is_help else case.principle.text

        def turns(shown: Sequence[Demonstration]) -> Turns:
            return revision_turns(settings.style, settings.way, case.prompt, case.answer, case.principle, words, shown)

        shown = shown_for(case.principle, self.constitution, settings)
        return fitting(self.speakers.revises, shown, turns, settings.revision.max_new_tokens)[0]

    def _reviser(self, critique: Critique) -> str:
        return critique.who if critique.revision is not None else who(self.speakers.revises.writer.identity)

    def _chain(self, question: Question, text: str, outcome: str) -> Chain:
        kept = question.harmless and not self.settings.criticise_harmless
        first = Revision(
            id="",
            parent="",
            prompt_id=question.id,
            where=question.where,
            round=0,
            step=0,
            prompt=question.messages,
            before="",
            critique=None,
            after=text,
            outcome=outcome if outcome == ANSWERED else f"answer {outcome}",
            who=question.answered_by or who(self.speakers.answers.writer.identity),
            constitution=self.constitution.digest,
            stopped=NO_ANSWER if outcome != ANSWERED else KEPT if kept else "",
        )
        return Chain(question=question, steps=[with_id(first)])


def first_answer(question: Question, attempt: int = 0) -> Asked:
    """What is asked for a question's first answer; its draw depends on the prompt's words, not on its line."""
    return Asked(messages=question.messages, row_id=derive_seed(0, "constitution_answer", question.id, attempt))


def shown_for(principle: Principle, constitution: Constitution, settings: ReviseSettings) -> list[Demonstration]:
    """Faults put right, for a reviser: the principle's own, then, where revision is shown, its category's."""
    others = [one for one in constitution.principles if one.category == principle.category and one.id != principle.id]
    rules = (principle, *others) if settings.way == "shown" else (principle,)
    return [one for rule in rules for one in rule.examples if one.fault][: settings.max_demonstrations]


def with_id(one: Revision) -> Revision:
    """The step with its id: a digest of all it says, its parent's id among it, but for its place and why it stopped."""
    told: dict[str, Any] = {
        name: getattr(one, name) for name in ("parent", "prompt_id", "round", "step", "before", "after", "outcome")
    }
    told |= {"prompt": turns_to_json(one.prompt), "who": one.who, "constitution": one.constitution}
    told["critique"] = None if one.critique is None else asdict(one.critique)
    return replace(one, id=digest_of(told))


def _without_revision(one: Critique) -> str:
    """Why no revision is asked for; empty where one is."""
    if one.outcome:
        return one.outcome if one.outcome == NO_VERDICT else f"critique {one.outcome}"
    return "" if one.found else NOTHING


def _case(chain: Chain, principle: Principle) -> Case:
    answer, question = chain.last.after, chain.question
    key = digest_of([question.id, answer, principle.model_dump(mode="json")])
    return Case(prompt=question.messages, answer=answer, principle=principle, key=key)


def _whole(text: str, stop_reason: str) -> str:
    return whole_sentences(text) if stop_reason == "length" else text.strip()
