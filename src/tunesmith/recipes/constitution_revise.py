"""The supervised phase of Constitutional AI: prompts -> answers -> critiques and revisions -> rows, and their log.

Read top to bottom: load, estimate, revise (``constitution/revise.py``), mix, write. Keys are in
``constitution_config.py``. Every answer goes into ``requests.jsonl`` before anything is done with it; the log and the
rows are made of these alone, so that a run that was killed goes on to the same bytes and pays for nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.constitution.asking import Asker
from tunesmith.constitution.audit import counts_of, critic_rows, sft_rows, step_row
from tunesmith.constitution.critic import AlwaysRefuse, Critic, ModelCritic, RandomCritic, who
from tunesmith.constitution.principles import Constitution, Principle
from tunesmith.constitution.revise import Chain, Choose, Question, Speakers, revise
from tunesmith.constitution.threshold import with_thresholds
from tunesmith.errors import EndpointError
from tunesmith.recipes.constitution_config import ALWAYS_REFUSE, RANDOM, SELF
from tunesmith.recipes.constitution_config import ReviseConfig as ReviseConfig
from tunesmith.recipes.constitution_estimate import Estimate, estimate
from tunesmith.recipes.constitution_load import Loaded, load, refuse_too_long
from tunesmith.recipes.constitution_mix import mixed
from tunesmith.recipes.constitution_open import House
from tunesmith.rollout.results import ResultsFile
from tunesmith.runs import atomic_write_text, hold_file, machine_summary

if TYPE_CHECKING:
    from tunesmith.models.roles import Base

AUDIT_FILE, SFT_FILE, CRITIC_FILE, SUMMARY_FILE = "audit.jsonl", "sft.jsonl", "critic.jsonl", "summary.json"
REQUESTS_FILE = "requests.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revised:
    """What a run came to. chains: one a prompt; none where it was interrupted or only estimated."""

    folder: Path
    estimate: Estimate
    summary: Mapping[str, Any] = field(default_factory=dict)
    chains: Sequence[Chain] = ()
    interrupted: bool = False

    @property
    def sft(self) -> Path:
        """The rows to train on."""
        return self.folder / SFT_FILE

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        told = {name: getattr(self.estimate, name) for name in self.estimate.__slots__}
        return {"output_dir": str(self.folder), "estimate": told, "interrupted": self.interrupted, **self.summary}


def run_revise(
    config: ReviseConfig,
    say: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    base: Base | None = None,
    given: Mapping[str, tuple[str, str]] | None = None,
) -> Revised:
    """Revise answers to prompts and write rows; Ctrl-C ends it early and is noted.

    say: notes and the estimate. on_progress: (done, total) of answers, critiques and revisions. base: one that is
    loaded already, on which adapters are put for the time of the run. given: a question's id -> its first answer and
    the digest of whoever gave it, which is not asked for then. Raises ConfigError, DataError, ModelError,
    AdapterMismatchError, EndpointError, DiskFullError, RunError; what was answered before is kept.
    """
    began = time.perf_counter()
    # 1. Load: what will be refused is refused here, the rows before any model.
    loaded = load(config, say)
    folder, constitution = Path(config.output_dir), loaded.constitution
    questions = [_with_answer(one, given or {}) for one in loaded.questions]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        hold_file(folder / REQUESTS_FILE),
        House(config, config.model, base, portion=config.prompts_at_once) as house,
    ):
        speakers = open_speakers(config, house)
        for note in house.notes:
            say(note)
        refuse_too_long(config, questions, speakers.answers)
        settings = config.revise_settings(small=house.is_small(speakers.revises))
        if settings.way == "shown" and not isinstance(speakers.critic, AlwaysRefuse):
            say("revisions are made by showing good answers; revision: asked has them made from the critique.")
        choose = chooser(constitution, questions, config, say)
        asker = Asker(ResultsFile(folder / REQUESTS_FILE))
        weighed = to_weigh(config, speakers.critic, constitution, questions, choose)

        # 2. What it will take.
        expected = estimate(config, questions, constitution, weighed, speakers, settings, house, asker)
        say(expected.sentence())
        if config.estimate_only:
            return Revised(folder=folder, estimate=expected)

        # 3. Revise.
        try:
            speakers = with_thresholds(speakers, weighed, asker)
            chains = revise(questions, constitution, choose, speakers, settings, asker, on_progress)
        except KeyboardInterrupt:
            return Revised(folder=folder, estimate=expected, interrupted=True)
        except EndpointError as error:
            fix = f"{error.fix} What was answered is kept: the same command goes on from there."
            raise EndpointError(error.place, error.cause, fix) from None

        # 4. Mix, and write.
        summary = _write(config, loaded, speakers, chains, asker, say)
        summary["this_run"]["seconds"] = round(time.perf_counter() - began, 1)
        atomic_write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return Revised(folder=folder, estimate=expected, summary=summary, chains=chains)


def _with_answer(question: Question, given: Mapping[str, tuple[str, str]]) -> Question:
    answer, answered_by = given.get(question.id, ("", ""))
    return replace(question, answer=answer, answered_by=answered_by)


def _write(
    config: ReviseConfig,
    loaded: Loaded,
    speakers: Speakers,
    chains: Sequence[Chain],
    asker: Asker,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write log and rows; returns the summary."""
    folder, constitution = Path(config.output_dir), loaded.constitution
    keep, declined = config.unrevised == "keep", config.rows_of_prompts == "declined"
    own = sft_rows(chains, keep_unrevised=keep, only_declined=declined)
    num_complying = len(sft_rows(chains, keep_unrevised=keep)) - len(own)
    if num_complying:
        say(f"{num_complying} answers that still do what they should decline are no rows; the log has them.")
    rows, mixture = mixed(config, own, loaded.helpful, say)
    mixture["complying_left_out"] = num_complying
    # A control has nothing to teach.
    asks = speakers.critic.settings if isinstance(speakers.critic, ModelCritic) else None
    lessons = [] if asks is None else critic_rows(chains, constitution, asks.style, asks.verdict)
    _write_rows(folder / AUDIT_FILE, [step_row(one) for chain in chains for one in chain.steps])
    _write_rows(folder / SFT_FILE, rows)
    _write_rows(folder / CRITIC_FILE, lessons)
    return {
        **counts_of(chains, constitution),
        "rows": mixture,
        "critic_rows": len(lessons),
        "cut": {stage: number for stage, number in sorted(asker.num_cut.items()) if number},
        "tokens": dict(sorted(asker.num_tokens.items())),
        "constitution": {"name": constitution.name, "version": constitution.version, "digest": constitution.digest},
        "speakers": _identities(speakers),
        "digests": loaded.digests,
        "settings": config.model_dump(mode="json"),
        "this_run": {
            "asked": dict(sorted(asker.num_asked.items())),
            "found": dict(sorted(asker.num_found.items())),
            "machine": machine_summary(),
        },
    }


def open_speakers(config: ReviseConfig, house: House) -> Speakers:
    """Who answers, criticises and revises, by the settings. Raises ConfigError, ModelError, AdapterMismatchError."""
    model = config.model if config.endpoint_model is not None else config.adapter
    answers = house.voice(model, config.endpoint_model)
    critic: Critic
    voice = answers
    if config.critic == RANDOM:
        critic = RandomCritic(p=config.random_share, seed=config.seed)
    elif config.critic == ALWAYS_REFUSE:
        critic = AlwaysRefuse()
    else:
        if config.critic != SELF:
            voice = house.voice(config.critic, config.critic_model)
        critic = ModelCritic(voice, config.critic_settings())
    return Speakers(answers=answers, critic=critic, revises=voice if config.reviser == "critic" else answers)


def to_weigh(
    config: ReviseConfig, critic: Critic, constitution: Constitution, questions: Sequence[Question], choose: Choose
) -> list[Principle]:
    """The principles whose thresholds are to be taken from their demonstrations: of those that will be drawn."""
    reads_tokens = isinstance(critic, ModelCritic) and critic.settings.verdict in ("opening", "question")
    if config.threshold is not None or not reads_tokens:
        return []
    rounds = range(1, config.num_rounds + 1)
    held = [(i, q.id) for i, q in enumerate(questions) if config.criticise_harmless or not q.harmless]
    drawn = {one.id for i, prompt_id in held for number in rounds for one in choose(i, prompt_id, number)}
    return [one for one in constitution.principles if one.id in drawn and one.id not in config.thresholds]


def chooser(
    constitution: Constitution, questions: Sequence[Question], config: ReviseConfig, say: Callable[[str], None]
) -> Choose:
    """Which principles an answer is held against: those that apply to its prompt, drawn by weight for each round."""
    # Here, since a sentence encoder brings torch.
    from tunesmith.constitution.applies import Applicability, sample_principles

    applicability = Applicability(constitution)
    applying = applicability.applying([one.messages for one in questions])
    for note in applicability.notes():
        say(note)
    return lambda place, prompt_id, number: sample_principles(
        applying[place], config.principles_per_round, config.seed, f"{prompt_id} {number}"
    )


def _identities(speakers: Speakers) -> dict[str, dict[str, str]]:
    """Who spoke, under the digests by which the log names them."""
    told = (speakers.answers.writer.identity, speakers.critic.identity, speakers.revises.writer.identity)
    return {who(one): dict(one) for one in told}


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
