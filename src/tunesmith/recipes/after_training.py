"""What tuning broke: base and tuned model are asked at the end of ``tunesmith sft``, or by ``tunesmith after``.

Read top to bottom: config, what to ask, ask both, compare, write. What is measured is in ``evals/after``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.config import Config, load_config
from tunesmith.data.canaries import make_canaries
from tunesmith.data.load import LoadedData, load_data
from tunesmith.errors import DataError, RunError, TunesmithError
from tunesmith.evals.after.compare import compare_sides, losses_on_the_way
from tunesmith.evals.after.retained import questions_that_fit
from tunesmith.evals.after.rows import RowFacts, read_rows
from tunesmith.evals.after.sets import evaluation_sets
from tunesmith.evals.after.sides import Asked, measure, token_limit
from tunesmith.evals.suites.catalogue import SUITES
from tunesmith.models.adapters import adapter_digest, load_adapter
from tunesmith.models.load import load_base
from tunesmith.models.roles import Base
from tunesmith.randomness import permutation
from tunesmith.recipes.prepare import ADAPTER_NAME, Prepared, SFTConfig
from tunesmith.records import Conversation, Document
from tunesmith.reports.after_training import write_after_report
from tunesmith.runs import METRICS_FILE, RECIPE_FILE, RECORD_FILE, atomic_write_text, hold_file, read_metrics
from tunesmith.tokens.render import render

# Raised when the same settings would give other figures.
FORMAT = 1
RESULT_FILE, REPORT_FILE, ANSWERS_FILE = (f"after_training.{suffix}" for suffix in ("json", "html", "jsonl"))
Say = Callable[[str], None]


class AfterConfig(Config):
    """How much is looked at; the defaults cost less than a minute for 135M parameters on two CPU cores."""

    rows: int = Field(32, ge=2)
    """Rows at most that were trained on, and as many held-out ones, whose losses are compared."""
    row_tokens: int = Field(2500, ge=64)
    """Tokens at most of either."""
    max_rows_read: int | None = Field(100_000, ge=1)
    """Training rows searched for overlaps and personal data, a seeded sample where there are more; empty: all."""
    max_secrets: int = Field(12, ge=0)
    """Pieces of personal data whose echo is tried."""
    evaluation_sets: list[str] = []
    """Files of rows besides the shipped suites, whose overlap with the training rows is looked for."""
    data_dir: str | None = None
    """Folder of the public evaluation sets; empty: where the suites look for it."""
    seed: int = Field(0, ge=0)
    """Keys every sample and every bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A finished run and its two models, each opened when it is its turn: (model, adapter)."""

    folder: Path
    config: SFTConfig
    data: LoadedData
    base: Callable[[], tuple[Base, str | None]]
    tuned: Callable[[], tuple[Base, str | None]]


def look_back(run: Tuned, config: AfterConfig, say: Say) -> dict[str, Any]:
    """Measure, write after_training.json and .html into the run's folder, and return what the first holds.

    What was measured before with these weights, rows and settings is returned as it is. Raises DataError for a file
    of evaluation rows that cannot be read, RunError while another process looks at the run.
    """
    began = time.perf_counter()
    tuned, adapter = run.tuned()
    if tuned.is_encoder_decoder:
        return {"skipped": "an encoder-decoder model, whose texts and choices are not asked for yet."}
    key = _key(run, config, tuned, adapter)
    with hold_file(run.folder / ANSWERS_FILE):
        if (known := _known(run.folder / RESULT_FILE, key)) is not None:
            return known
        say("looking at what tuning broke (after_training: off leaves it out) …")
        # 1. What to ask.
        sets = evaluation_sets(SUITES, config.evaluation_sets, run.data.validation, config.data_dir)
        rows = read_rows(
            run.data.train, sets.sets, seed=config.seed, max_rows=config.max_rows_read, max_secrets=config.max_secrets
        )
        reading_seconds = time.perf_counter() - began
        asked = _asked(run, config, rows, tuned, adapter)
        # 2. Both models.
        answers = run.folder / ANSWERS_FILE
        after = measure(tuned, adapter, "tuned", asked, answers, say)
        digests = {"tuned": tuned.resolved.base_digest, "adapter": adapter_digest(tuned, adapter)}
        del tuned
        base, _ = run.base()
        digests["base"] = base.resolved.base_digest
        before = measure(base, None, "base", asked, answers, say)
        # 3. Compare and write.
        facts = {
            "key": key,
            "digests": digests,
            "settings": config.model_dump(),
            "on_the_way": losses_on_the_way(read_metrics(run.folder / METRICS_FILE), _kept_step(run)),
            **compare_sides(asked, rows, before, after, config.seed),
            "sets_absent": sets.absent,
            "seconds": {
                "rows": round(reading_seconds, 1), "all": round(time.perf_counter() - began, 1),
            },
        }  # fmt: skip
        atomic_write_text(run.folder / RESULT_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        # As JSON has it, so that a page does not depend on when it is written.
        facts = json.loads((run.folder / RESULT_FILE).read_text(encoding="utf-8"))
        write_after_report(run.folder / REPORT_FILE, facts)
    return facts


def _asked(run: Tuned, config: AfterConfig, rows: RowFacts, base: Base, adapter: str | None) -> Asked:
    train, valid = run.data.train, run.data.validation
    places = {"seen": _seen_places(run), "unseen": list(range(len(valid)))}
    return Asked(
        questions=questions_that_fit(base),
        seen=_sample(train, places["seen"], run, config, "seen", base, adapter),
        unseen=_sample(valid, places["unseen"], run, config, "unseen", base, adapter),
        secrets=rows.secrets.sample,
        canaries=make_canaries(run.config.canaries, run.config.seed),
        chats=isinstance(train[0], Conversation),
        render=run.config,
    )


def _seen_places(run: Tuned) -> list[int]:
    """Places of the training rows that the kept weights have seen: all of them after a whole epoch.

    Before its end they are the first of the epoch's order; where a row makes several examples that is near, not exact.
    """
    num_rows = len(run.data.train)
    metrics, kept = read_metrics(run.folder / METRICS_FILE), _kept_step(run)
    epochs = [line["epoch"] for line in metrics if line["step"] <= kept and "epoch" in line]
    share = epochs[-1] if epochs else 1.0
    num_examples = num_rows + sum(canary.copies for canary in make_canaries(run.config.canaries, run.config.seed))
    order = list(range(num_examples))
    if run.config.shuffle:
        order = permutation(num_examples, run.config.seed, "row_order", 0)
    return sorted(i for i in order[: max(1, int(share * num_examples))] if i < num_rows)


def _kept_step(run: Tuned) -> int:
    """The step whose weights are the run's result; the last one where nothing was evaluated."""
    result = json.loads((run.folder / RECORD_FILE).read_text(encoding="utf-8"))["result"]
    last = max((line["step"] for line in read_metrics(run.folder / METRICS_FILE)), default=0)
    return int(result["best_step"] or last)


def _sample(
    records: Sequence[Conversation | Document],
    places: Sequence[int],
    run: Tuned,
    config: AfterConfig,
    purpose: str,
    base: Base,
    adapter: str | None,
) -> list[Conversation | Document]:
    """A seeded sample within the budgets of rows and tokens; rows too long for training are passed over."""
    out: list[Conversation | Document] = []
    tokens = 0
    for i in permutation(len(places), config.seed, "after_rows", purpose):
        if len(out) == config.rows:
            break
        record = records[places[i]]
        examples = render(record, base.tokenizer_of(adapter), run.config, max_tokens=token_limit(base, run.config))
        if not examples:
            continue
        tokens += examples[0].num_tokens
        if out and tokens > config.row_tokens:
            break
        out.append(record)
    return out


def _key(run: Tuned, config: AfterConfig, base: Base, adapter: str | None) -> str:
    """What the result depends on; the places of files are not among it."""
    parts = [
        FORMAT, base.resolved.base_digest, adapter_digest(base, adapter), run.data.digest,
        config.model_dump(), run.config.canaries, run.config.seed,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _known(path: Path, key: str) -> dict[str, Any] | None:
    """An earlier result under the same key; a file that is damaged or of another key is measured anew."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return dict(facts) if isinstance(facts, dict) and facts.get("key") == key else None


def look_at_run(folder: Path, config: AfterConfig, say: Say) -> dict[str, Any]:
    """``look_back`` at the finished sft run in a folder, with models of its own.

    Raises RunError where there is no such run, DataError where its rows have changed since.
    """
    if not (folder / RECIPE_FILE).is_file() or not (folder / RECORD_FILE).is_file():
        raise RunError(folder, "is not the folder of a run.", "Name the output_dir of a finished `tunesmith sft`.")
    recipe, _ = load_config(SFTConfig, folder / RECIPE_FILE)
    record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    if "finished" not in record:
        raise RunError(
            folder, "the run has not come to its end.", "Finish it: tunesmith sft … resume_from_checkpoint=auto."
        )
    data = load_data(recipe.data, seed=recipe.seed)
    if data.digest != record["data"]["digest"]:
        raise DataError(
            recipe.data.train, "the rows have changed since the run.", "Bring back those it was trained on."
        )

    def of_base() -> tuple[Base, str | None]:
        return load_base(recipe), None

    def of_tuned() -> tuple[Base, str | None]:
        if recipe.adapter.method == "full":
            return load_base(recipe.model_copy(update={"model_name_or_path": str(folder)})), None
        base = load_base(recipe)
        return base, load_adapter(base, folder, ADAPTER_NAME).adapter

    return look_back(Tuned(folder=folder, config=recipe, data=data, base=of_base, tuned=of_tuned), config, say)


def look_back_at(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """``look_back`` at a run that has just ended, on the base in memory; a failure leaves the run as good as it is.

    What could not be measured, or was stopped by the user, is said under "skipped" with the command that goes on.
    """

    def of_base() -> tuple[Base, str | None]:
        return (prepared.base, None) if prepared.role.adapter is not None else (load_base(prepared.config), None)

    def of_tuned() -> tuple[Base, str | None]:
        if prepared.role.adapter is not None:
            return prepared.base, prepared.role.adapter
        # Full tuning changed the base in memory, whose digest is still that of the base it came from.
        return load_base(prepared.config.model_copy(update={"model_name_or_path": str(folder)})), None

    run = Tuned(folder=folder, config=prepared.config, data=prepared.data, base=of_base, tuned=of_tuned)
    try:
        return look_back(run, AfterConfig(seed=prepared.config.seed), lambda line: print(line, file=sys.stderr))
    except TunesmithError as error:
        return {"skipped": f"{error} Then: tunesmith after {shlex.quote(str(folder))}"}
    except KeyboardInterrupt:
        return {"skipped": f"stopped. Go on: tunesmith after {shlex.quote(str(folder))}"}
