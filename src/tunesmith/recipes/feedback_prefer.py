"""A feedback store -> files that ``tunesmith reward`` and ``tunesmith dpo`` read, with every contradiction told."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.data.check import shown
from tunesmith.data.whole import temporary_sibling
from tunesmith.errors import DataError
from tunesmith.feedback.prefer import PreferConfig, Preferences, PromptPreferences, prefer
from tunesmith.feedback.rows import answer_to_row, prompt_to_row
from tunesmith.feedback.store import FeedbackStore
from tunesmith.feedback.strength_check import Doubt, SourceStrengths, doubts, source_strengths
from tunesmith.runs import atomic_write_text

PAIRS_FILE, SINGLES_FILE, CONFLICTS_FILE, REPORT_FILE = (
    "pairs.jsonl",
    "unpaired.jsonl",
    "conflicts.jsonl",
    "prefer.json",
)
# Contradictions printed in full; the file holds all of them.
_SHOWN = 5


class FeedbackPreferConfig(PreferConfig):
    """What ``tunesmith feedback prefer`` does."""

    store: str
    """The feedback store."""
    output_dir: str
    """Folder for pairs.jsonl, unpaired.jsonl, conflicts.jsonl and prefer.json."""
    doubtful_below: float = Field(0.35, ge=0, le=0.5)
    """A pair is listed as doubtful where the fit over its prompt's votes gives its order less than this chance."""
    prior_sd: float = Field(2.0, gt=0)
    """Standard deviation, in logits, of the prior that holds the strengths of sources where one never lost."""
    overwrite: bool = False
    """Replace the files of an earlier call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferReport:
    """What was found and written; files: path -> rows."""

    preferences: Preferences
    doubts: list[Doubt]
    sources: SourceStrengths | None
    store_digest: str
    files: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json and prefer.json."""
        return {
            **self.preferences.summary(), "doubtful": len(self.doubts), "sources": _sources_as_dict(self.sources),
            "store_digest": self.store_digest, "files": self.files,
        }  # fmt: skip


def make_preferences(config: FeedbackPreferConfig) -> PreferReport:
    """Apply the rules, check the outcome with a fit of strengths, write the files.

    Raises DataError for a store without a judgement and where a file is there already.
    """
    folder = Path(config.output_dir)
    with FeedbackStore.open(config.store) as store:
        found = prefer(store, config)
        digest = store.digest()
    if not found.prompts:
        fix = f"Label its candidates: tunesmith feedback label --store {shlex.quote(config.store)} --annotator NAME"
        raise DataError(config.store, "the store holds no judgement that stands.", fix)
    _make_room(folder, overwrite=config.overwrite)
    report = PreferReport(
        preferences=found,
        doubts=doubts(found, below=config.doubtful_below),
        sources=source_strengths(found, prior_sd=config.prior_sd),
        store_digest=digest,
    )
    for name, rows in (
        (PAIRS_FILE, pair_rows(found)),
        (SINGLES_FILE, single_rows(found)),
        (CONFLICTS_FILE, conflict_rows(report)),
    ):
        number = _write_rows(folder / name, rows)
        if number:
            report.files[str(folder / name)] = number
    settings = config.model_dump(exclude={"store", "output_dir", "overwrite"})
    text = json.dumps({"settings": settings, **report.as_dict()}, ensure_ascii=False, indent=1)
    atomic_write_text(folder / REPORT_FILE, text + "\n")
    return report


def _make_room(folder: Path, *, overwrite: bool) -> None:
    there = [folder / n for n in (PAIRS_FILE, SINGLES_FILE, CONFLICTS_FILE, REPORT_FILE) if (folder / n).exists()]
    if there and not overwrite:
        raise DataError(there[0], "the file exists.", "Name another folder, or pass --overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in there:
            path.unlink()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise DataError(folder, f"the folder cannot be written: {reason}.", "Name another one.") from None


def _write_rows(path: Path, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write the rows, and no file where there is none; gives their number."""
    first = next(rows, None)
    if first is None:
        return 0
    number = 0
    with temporary_sibling(path) as temporary, temporary.open("x", encoding="utf-8") as stream:
        for row in (first, *rows):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
    return number


def pair_rows(found: Preferences) -> Iterator[dict[str, Any]]:
    """A row a pair, those of a prompt together; a loader makes one group of them."""
    for prompt in found.prompts:
        for better, worse, pair, weight, margin in prompt.directed():
            sums = (pair.weight_for, pair.weight_against)[:: 1 if better == pair.better else -1]
            yield {
                "prompt": prompt_to_row(prompt.prompt), "chosen": answer_to_row(prompt.answers[better]),
                "rejected": answer_to_row(prompt.answers[worse]), "weight": weight, "margin": margin,
                "provenance": {
                    "prompt_id": prompt.prompt_id, "chosen_id": better, "rejected_id": worse,
                    "kinds": list(pair.kinds), "sources": list(pair.sources), "annotators": list(pair.annotators),
                    "judgements": list(pair.judgements), "weight_for": sums[0], "weight_against": sums[1],
                },
            }  # fmt: skip


def single_rows(found: Preferences) -> Iterator[dict[str, Any]]:
    """A row for each thumb or flag that no other answer stands against, as KTO takes them."""
    for prompt, single in found.singles:
        yield {
            "prompt": prompt_to_row(prompt.prompt), "completion": answer_to_row(prompt.answers[single.answer]),
            "label": single.good, "weight": single.weight,
            "provenance": {
                "prompt_id": prompt.prompt_id, "completion_id": single.answer, "kinds": [single.kind],
                "annotators": list(single.annotators), "judgements": list(single.judgements),
            },
        }  # fmt: skip


def conflict_rows(report: PreferReport) -> Iterator[dict[str, Any]]:
    """A row for each conflict, ring and doubtful pair, with the texts."""
    by_id = {prompt.prompt_id: prompt for prompt in report.preferences.prompts}
    for conflict in report.preferences.conflicts:
        prompt = by_id[conflict.prompt_id]
        texts = _texts(prompt, conflict.better, conflict.worse)
        yield {"trouble": "conflict", "prompt": prompt_to_row(prompt.prompt), "answers": texts, **asdict(conflict)}
    for cycle in report.preferences.cycles:
        prompt = by_id[cycle.prompt_id]
        texts = _texts(prompt, *cycle.answers)
        yield {"trouble": "ring", "prompt": prompt_to_row(prompt.prompt), "answer_texts": texts, **asdict(cycle)}
    for doubt in report.doubts:
        prompt = by_id[doubt.prompt_id]
        texts = _texts(prompt, doubt.better, doubt.worse)
        yield {"trouble": "doubtful", "prompt": prompt_to_row(prompt.prompt), "answers": texts, **asdict(doubt)}


def _texts(prompt: PromptPreferences, *answers: str) -> list[Any]:
    return [answer_to_row(prompt.answers[answer]) for answer in answers]


def _sources_as_dict(sources: SourceStrengths | None) -> dict[str, Any] | None:
    if sources is None:
        return None
    fit = sources.fit
    rows = {
        name: {"strength": s.value, "low": s.low, "high": s.high}
        for name, s in zip(sources.names, fit.strengths, strict=True)
    }
    return {
        "strengths": rows, "tie": None if fit.tie is None else fit.tie.value, "votes": sources.num_votes,
        "prior_sd": fit.prior_sd, "compared_sets": len(fit.connectivity.compared),
    }  # fmt: skip


def describe(report: PreferReport, config: FeedbackPreferConfig) -> list[str]:
    """What was read, found and written, and what to do next."""
    found = report.preferences
    kinds = ", ".join(_many(number, kind) for kind, number in sorted(found.judgements.items()))
    lines = [f"read {_many(sum(found.judgements.values()), 'judgement')} of {found.store}: {kinds}"]
    with_pairs = sum(bool(prompt.pairs) for prompt in found.prompts)
    lines.append(
        f"{_many(found.num_pairs, 'pair')} for {_many(with_pairs, 'prompt')} from "
        f"{_many(sum(found.votes.values()), 'vote')}"
    )
    if set(found.sources) > {"ai"}:
        lines.append("by source: " + ", ".join(f"{number} {name}" for name, number in sorted(found.sources.items())))
    if found.withdrawn:
        lines.append(f"withdrawn, and not counted: {found.withdrawn}")
    if found.left_out:
        lines += ["left out:", *(f"  {number} x {cause}" for cause, number in found.left_out.items())]
    lines += _describe_trouble(report, config)
    if report.sources is not None:
        lines += _describe_sources(report.sources)
    lines += [f"wrote {_many(rows, 'row')} to {path}" for path, rows in report.files.items()]
    lines.append(f"wrote {Path(config.output_dir) / REPORT_FILE}")
    pairs = Path(config.output_dir) / PAIRS_FILE
    if found.num_pairs:
        lines.append(f"next: tunesmith reward recipes/reward.yaml data.train={shlex.quote(str(pairs))}")
        return lines
    return [*lines, *_describe_no_pairs(report, config)]


def _describe_no_pairs(report: PreferReport, config: FeedbackPreferConfig) -> list[str]:
    """Why nothing can be trained on pairs, and what can be done with what there is."""
    found = report.preferences
    lines = ["no pair: no two answers of one prompt stand in an order, which reward models and DPO need."]
    if found.left_out or found.conflicts:
        lines.append("what spoke of two answers is listed above, with the reason why it gave no order.")
    if found.singles:
        singles = shlex.quote(str(Path(config.output_dir) / SINGLES_FILE))
        lines.append(f"next: tunesmith dpo recipes/kto.yaml data.train={singles}, which takes single verdicts;")
    label = f"tunesmith feedback label --store {shlex.quote(found.store)} --annotator NAME --kind comparison"
    return [*lines, f"{'or' if found.singles else 'next'}: {label}"]


def _describe_trouble(report: PreferReport, config: FeedbackPreferConfig) -> list[str]:
    found = report.preferences
    by_id = {prompt.prompt_id: prompt for prompt in found.prompts}
    lines = []
    if found.conflicts:
        between = sum(conflict.people_against_ai for conflict in found.conflicts)
        who = f" ({between} of people against models)" if between else ""
        rule = (
            "where each side's votes are its weight"
            if config.both_ways
            else "where the majority's surplus is the pair's weight"
        )
        lines.append(f"{_many(len(found.conflicts), 'conflict')}{who}, {rule}:")
        for conflict in found.conflicts[:_SHOWN]:
            for_, against = (", ".join(names) for names in (conflict.annotators_for, conflict.annotators_against))
            end = "; even, so no pair" if conflict.dropped else ""
            lines.append(
                f"  {_title(by_id[conflict.prompt_id])}: {conflict.weight_for:g} ({shown(for_)}) against "
                f"{conflict.weight_against:g} ({shown(against)}){end}"
            )
        lines += _more(len(found.conflicts))
    if found.cycles:
        lines.append(f"{_many(len(found.cycles), 'ring')}, where answers are better than each other in a circle:")
        for cycle in found.cycles[:_SHOWN]:
            end = f"; {_many(cycle.pairs_dropped, 'pair')} dropped" if cycle.pairs_dropped else ""
            names = shown(", ".join(cycle.annotators))
            lines.append(f"  {_title(by_id[cycle.prompt_id])}: {len(cycle.answers)} answers ({names}){end}")
        lines += _more(len(found.cycles))
    if report.doubts:
        lines.append(f"{_many(len(report.doubts), 'pair')} that all votes on the prompt together speak against:")
        for doubt in report.doubts[:_SHOWN]:
            lines.append(f"  {_title(by_id[doubt.prompt_id])}: chance {doubt.probability:.2f}, weight {doubt.weight:g}")
        lines += _more(len(report.doubts))
    return lines


def _more(number: int) -> list[str]:
    return [f"  and {number - _SHOWN} more, all in {CONFLICTS_FILE}"] if number > _SHOWN else []


def _describe_sources(sources: SourceStrengths) -> list[str]:
    fit = sources.fit
    held = f", held by a prior of {fit.prior_sd:g} logits since some never lost" if fit.prior_sd is not None else ""
    lines = [f"strength in logits (Bradley-Terry-Davidson, 95 %, {_many(sources.num_votes, 'vote')}{held}):"]
    order = sorted(range(len(sources.names)), key=lambda i: -fit.strengths[i].value)
    return lines + [f"  {shown(sources.names[i])}: {fit.strengths[i]}" for i in order]


def _title(prompt: PromptPreferences) -> str:
    return f'{prompt.prompt_id[:8]} "{shown(prompt.prompt[-1].content, most=40)}"'


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
