"""What tuning broke: base and tuned model are asked at the end of ``tunesmith sft``, or by ``tunesmith after``.

Read top to bottom: what to ask (``after_ask``), ask both, compare, write. The measures are in ``evals/after``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.config import load_config
from tunesmith.data.load import load_data
from tunesmith.errors import DataError, RunError, TunesmithError
from tunesmith.evals.after.compare import compare_sides, losses_on_the_way
from tunesmith.evals.after.rows import read_rows
from tunesmith.evals.after.sets import evaluation_sets
from tunesmith.evals.after.sides import measure
from tunesmith.evals.suite import SuiteConfig, data_folder
from tunesmith.evals.suites.catalogue import SUITES
from tunesmith.models.adapters import adapter_digest, load_adapter
from tunesmith.models.load import load_base
from tunesmith.models.roles import Base
from tunesmith.recipes.after_ask import AfterConfig, Tuned, kept_step, what_to_ask
from tunesmith.recipes.prepare import ADAPTER_NAME, Prepared, SFTConfig
from tunesmith.reports.after_training import write_after_report
from tunesmith.runs import (
    METRICS_FILE,
    RECIPE_FILE,
    RECORD_FILE,
    atomic_write_text,
    file_digest,
    hold_file,
    read_metrics,
)

# A new number where the same settings would give other figures.
FORMAT = 1
RESULT_FILE, REPORT_FILE, ANSWERS_FILE = (f"after_training.{suffix}" for suffix in ("json", "html", "jsonl"))
Say = Callable[[str], None]


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
        asked = what_to_ask(run, config, rows, tuned, adapter)
        if not asked.questions:
            return {"skipped": f"the model reads {tuned.context_tokens} tokens, too few for any of the questions."}
        # 2. Both models.
        answers = run.folder / ANSWERS_FILE
        after = measure(tuned, adapter, "tuned", asked, answers, say)
        digests = {"tuned": tuned.digest, "adapter": adapter_digest(tuned, adapter)}
        del tuned
        base = run.base()
        digests["base"] = base.digest
        before = measure(base, None, "base", asked, answers, say)
        # 3. Compare and write.
        facts = {
            "key": key,
            "digests": digests,
            "settings": config.model_dump(),
            "on_the_way": losses_on_the_way(read_metrics(run.folder / METRICS_FILE), kept_step(run)),
            **compare_sides(asked, rows, before, after, config.seed),
            "sets_absent": sets.absent,
            "seconds": {
                "rows": round(reading_seconds, 1), "all": round(time.perf_counter() - began, 1),
            },
        }  # fmt: skip
        atomic_write_text(run.folder / RESULT_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        # As JSON has it, so that a page does not depend on when it is written.
        written: dict[str, Any] = json.loads((run.folder / RESULT_FILE).read_text(encoding="utf-8"))
        write_after_report(run.folder / REPORT_FILE, written)
    return written


def _key(run: Tuned, config: AfterConfig, base: Base, adapter: str | None) -> str:
    """What the result depends on: weights, rows, settings, and where or what the evaluation sets are."""
    files = [file_digest(Path(file)) if Path(file).is_file() else file for file in config.evaluation_sets]
    folder = data_folder(SuiteConfig(data_dir=config.data_dir))
    parts = [
        FORMAT, base.digest, adapter_digest(base, adapter), run.data.digest, config.model_dump(), files,
        "" if folder is None else str(folder.resolve()), run.config.canaries, run.config.seed,
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

    recipe = recipe.model_copy(update={"dtype": record["plan"]["dtype"]})
    run = partial(Tuned, folder=folder, config=recipe, data=data)
    if recipe.adapter.method == "full":
        tuned = recipe.model_copy(update={"model_name_or_path": str(folder)})
        return look_back(run(base=lambda: load_base(recipe), tuned=lambda: (load_base(tuned), None)), config, say)
    base = load_base(recipe)
    adapter = load_adapter(base, folder, ADAPTER_NAME).adapter
    return look_back(run(base=lambda: base, tuned=lambda: (base, adapter)), config, say)


def look_back_at(prepared: Prepared, folder: Path) -> dict[str, Any]:
    """``look_back`` at a run that has just ended, on the base in memory; a failure leaves the run as good as it is.

    What could not be measured, or was stopped by the user, is said under "skipped" with the command that goes on.
    """

    base, adapter = prepared.base, prepared.role.adapter
    recipe = prepared.config.model_copy(update={"dtype": str(base.dtype).removeprefix("torch.")})
    run = partial(Tuned, folder=folder, config=recipe, data=prepared.data)
    if adapter is None:
        # Full tuning changed the base in memory, whose digest is still that of the base it came from.
        tuned = recipe.model_copy(update={"model_name_or_path": str(folder)})
        models = run(base=lambda: load_base(recipe), tuned=lambda: (load_base(tuned), None))
    else:
        models = run(base=lambda: base, tuned=lambda: (base, adapter))
    try:
        return look_back(models, AfterConfig(seed=recipe.seed), lambda line: print(line, file=sys.stderr))
    except TunesmithError as error:
        return {"skipped": f"{error} Then: tunesmith after {shlex.quote(str(folder))}"}
    except KeyboardInterrupt:
        return {"skipped": f"stopped. Go on: tunesmith after {shlex.quote(str(folder))}"}
