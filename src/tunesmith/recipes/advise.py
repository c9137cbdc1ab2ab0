"""Prompt, retrieve or tune? Measured on the user's own rows.

Read top to bottom: open, estimate, measure (``advise_measure.py``), decide (``evals/advise/decide.py``), write.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.evals.advise.answers import answers_of
from tunesmith.evals.advise.bench import Bench, Counter
from tunesmith.evals.advise.conditions import Dropped
from tunesmith.evals.advise.ledger import Ledger
from tunesmith.evals.advise.prompts import wordings_of
from tunesmith.evals.subject import local_subject
from tunesmith.evals.task import Item
from tunesmith.models.load import load_base
from tunesmith.models.roles import Base
from tunesmith.models.sentence_encoder import SentenceEncoder, encoder_folder
from tunesmith.recipes.advise_choose import Chooser, build_indexes
from tunesmith.recipes.advise_config import AdviseConfig
from tunesmith.recipes.advise_facts import facts_of
from tunesmith.recipes.advise_measure import TUNED, Advised, Job, Tuner
from tunesmith.recipes.advise_plan import make_budget, probe
from tunesmith.recipes.advise_result import facts_of_advice
from tunesmith.recipes.advise_rows import TaskRows, load_rows, read_passages
from tunesmith.recipes.advise_tune import Interrupted, Tuned, tune
from tunesmith.reports.advise import markdown, write_pictures, write_report
from tunesmith.retrieval.dense import Encode
from tunesmith.rollout.generate import LocalGenerator, Sampling
from tunesmith.runs import atomic_write_text
from tunesmith.tokens.render import render_prompt

RESULT_FILE, REPORT_FILE, MARKDOWN_FILE = "advise.json", "report.html", "report.md"


def run_advise(config: AdviseConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the whole job; returns what ``--json`` prints, or only where to go on after a stopped training."""
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows, bench, base = open_bench(config, say)

    def tuner(name: str, items: Sequence[Item], validation: Sequence[Item], epochs: float) -> Tuned:
        return tune(base, name, items, validation, config, epochs=epochs)

    try:
        advised = measure_all(config, rows, bench, tuner, open_encoder(config), say)
    except Interrupted:
        return {"interrupted": True, "output_dir": config.output_dir}
    named = {"name": base.resolved.name, "digest": base.digest, "dtype": str(base.dtype)[6:]}
    facts = facts_of_advice(config, advised, named)
    write_all(folder, facts)
    return facts


def open_encoder(config: AdviseConfig) -> Encode | None:
    """The sentence encoder where it is asked for, or installed and not refused. Raises MissingExtraError."""
    wanted = config.dense if config.dense is not None else encoder_folder() is not None
    return SentenceEncoder().encode if wanted else None


def open_bench(config: AdviseConfig, say: Callable[[str], None]) -> tuple[TaskRows, Bench, Base]:
    """The rows, and the base on the bench they are measured on."""
    rows = load_rows(config)
    held_out = [item.target for item in (*rows.validation, *rows.test)]
    answers = answers_of(
        [item.target for item in rows.train], config.answers, by_choice=config.by_choice, held_out=held_out
    )
    rows = rows.with_choices(answers.choices)
    for line in (*rows.notes(), answers.note):
        say(line)
    base = load_base(config)
    say(base.notes[0])
    generator, tokenizer = LocalGenerator(base), base.tokenizer
    counter = Counter(
        prompt=lambda messages: len(render_prompt(messages, tokenizer)),
        text=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
        context=base.context_tokens,
    )
    longest = max(counter.text(item.target) for item in rows.train)
    folder = Path(config.output_dir)
    bench = Bench(
        subject_of=lambda adapter: local_subject(base, generator, adapter, adapter or "base", portion=16),
        answers=answers,
        sampling=Sampling(max_new_tokens=config.max_new_tokens or longest + longest // 4 + 2),
        results=folder / "answers.jsonl",
        ledger=Ledger(folder / "times.json"),
        counter=counter,
        seed=config.seed,
        num_timed=config.timed_requests,
    )
    return rows, bench, base


def measure_all(
    config: AdviseConfig, rows: TaskRows, bench: Bench, tuner: Tuner, encode: Encode | None, say: Callable[[str], None]
) -> Advised:
    """Every condition on the same test items. Raises Interrupted, ConfigError where max_minutes cannot be kept."""
    began = time.perf_counter()
    wordings = wordings_of(bench.answers, config.prompts)
    facts = facts_of(config) if config.freshness else []
    indexes = build_indexes(rows.train, read_passages(config.documents, config.passage_words), encode, bench)
    budget = make_budget(
        config,
        rows,
        probe(bench, rows.validation),
        num_prompts=len(wordings),
        num_searches=len(indexes),
        fact_rows=sum(len(fact.taught) for fact in facts),
    )
    for line in budget.lines():
        say(line)
    dropped = Dropped()
    chooser = Chooser(config=config, bench=bench, rows=rows, say=say, dropped=dropped, scores={})
    job = Job(config=config, rows=rows, bench=bench, tuner=tuner, chooser=chooser, budget=budget, say=say)
    job.untuned(wordings, indexes)
    job.tuned()
    freshness = job.changing(facts)
    curve = job.fewer_rows()
    notes = [*rows.notes(), bench.answers.note, *(f"left out: {line}" for line in budget.left_out)]
    if dropped.count:
        notes.append(f"{dropped.count} shots or passages were left out: the prompt would have been too long.")
    return Advised(
        rows=rows,
        bench=bench,
        measured=tuple(job.measured),
        options=job.options(),
        curve=tuple(curve),
        freshness=freshness,
        tuned=job.trained[TUNED],
        budget=budget,
        validation=chooser.scores,
        notes=tuple(notes),
        minutes=(time.perf_counter() - began) / 60,
    )


def write_all(folder: Path, facts: Mapping[str, Any]) -> None:
    """advise.json, the pictures, the page and its Markdown. Raises DiskFullError."""
    atomic_write_text(folder / RESULT_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    pictures = write_pictures(folder, facts)
    write_report(folder / REPORT_FILE, facts, pictures)
    atomic_write_text(folder / MARKDOWN_FILE, markdown(facts, pictures))


def describe(config: AdviseConfig, facts: Mapping[str, Any]) -> list[str]:
    """What a terminal shows at the end."""
    if facts.get("interrupted"):
        return ["stopped; nothing is lost. The same command goes on where it was."]
    decision, folder = facts["decision"], Path(config.output_dir)
    lines = ["", f"ADVICE  {decision['verdict']}", *(f"  - {reason}" for reason in decision["reasons"])]
    if decision["would_change"]:
        lines.append("It would change:")
        lines += [f"  - if {change['what']}: {change['then']}" for change in decision["would_change"]]
    lines += [f"note: {note}" for note in facts["notes"] if note.startswith("left out")]
    taken = facts["minutes"]
    lines.append(f"took {taken['taken']:.1f} minutes, {taken['estimated']:.1f} were estimated")
    lines.append(f"wrote {folder / REPORT_FILE}, {folder / MARKDOWN_FILE}, {folder / RESULT_FILE}")
    return [*lines, f"next:  tunesmith chat --adapter {shlex.quote(facts['adapter'])}"]
