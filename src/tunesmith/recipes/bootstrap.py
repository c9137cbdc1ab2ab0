"""Self-Instruct (arXiv:2212.10560): seeds -> new instructions -> kind -> instances -> filters -> rows with lineage.

The loop is a replay: every request is a function of the seeds, the settings and the answers before it, and answers are
looked up in ``requests.jsonl`` before anybody is asked. A stopped or killed run goes on by being run again, and the
same cache gives the same rows. Keys are in ``bootstrap_config.py``, what happens in a round in ``bootstrap_stages.py``,
asking in ``bootstrap_ask.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tunesmith.data.bootstrap.rouge import Pool
from tunesmith.data.bootstrap.seeds import Task, read_seeds
from tunesmith.errors import EndpointError, RunError
from tunesmith.recipes.bootstrap_ask import Asker
from tunesmith.recipes.bootstrap_config import BootstrapConfig
from tunesmith.recipes.bootstrap_stages import (
    Made,
    Stop,
    keep_rows,
    make_instances,
    new_instructions,
    tell_kinds,
)
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.writer import Writer
from tunesmith.runs import RECIPE_FILE, RECORD_FILE, Run, atomic_write_text

ROWS_FILE, REJECTED_FILE, REQUESTS_FILE = "data.jsonl", "rejected.jsonl", "requests.jsonl"
# What may differ from the run that a folder holds: how far to go, not how.
HOW_FAR = ("num", "max_idle_requests")


@contextmanager
def make_rows(
    config: BootstrapConfig, writer: Writer, progress: Callable[[Made, Asker], None] = lambda made, asker: None
) -> Iterator[tuple[Made, Asker, list[Task]]]:
    """Make rows in ``config.output_dir`` and give (what was made, who was asked, the seeds); the folder is held.

    Ctrl-C and an error of the writer save what there is; the first is noted in ``stopped``, the second goes on its way.
    Raises RunError for a folder that holds another run, DataError, EndpointError, DiskFullError.
    """
    seeds, digest = read_seeds(config.seeds)
    folder = Path(config.output_dir)
    recipe = {**config.model_dump(mode="json"), "seeds_digest": digest}
    _refuse_other(folder, recipe)
    with Run.create(folder, recipe, resume=True) as run:
        asker = Asker(writer, ResultsFile(folder / REQUESTS_FILE), config)
        made = Made()
        try:
            _loop(config, seeds, asker, made, progress)
        except KeyboardInterrupt:
            made.stopped = "interrupted"
        except EndpointError as error:
            fix = f"{error.fix} What was answered is kept; the same command goes on."
            raise EndpointError(error.place, error.cause, fix) from None
        finally:
            save_rows(folder, made)
        yield made, asker, seeds
        run.finish({"rows": len(made.rows), "rejected": len(made.rejected), "stopped": made.stopped})


def _refuse_other(folder: Path, recipe: dict[str, Any]) -> None:
    """Raise RunError where the folder holds a run of another kind, other seeds, another writer or other settings."""
    if not (folder / RECORD_FILE).exists() or not (folder / RECIPE_FILE).exists():
        return
    earlier = _read_recipe(folder / RECIPE_FILE)
    differing = sorted(
        key for key in {*earlier, *recipe} - {*HOW_FAR, "output_dir", "seeds"} if earlier.get(key) != recipe.get(key)
    )
    if differing:
        raise RunError(
            folder,
            f"holds a run with other settings ({', '.join(differing)}).",
            "Choose another --output; to go on, give the same settings.",
        )


def _read_recipe(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return dict(tree) if isinstance(tree, dict) else {}


def save_rows(folder: Path, made: Made) -> None:
    """Write the rows and the turned-down answers, each file whole. Raises DiskFullError."""
    for name, rows in ((ROWS_FILE, made.rows), (REJECTED_FILE, made.rejected)):
        # ASCII escapes keep a line a line, and lone surrogates writable, whatever a model said.
        atomic_write_text(folder / name, "".join(json.dumps(row) + "\n" for row in rows))


def _loop(
    config: BootstrapConfig,
    seeds: Sequence[Task],
    asker: Asker,
    made: Made,
    progress: Callable[[Made, Asker], None],
) -> None:
    """Rounds until there are enough rows, or none has come for too long."""
    pool = Pool()
    for task in seeds:
        pool.add(task.id, task.instruction)
    step = 0
    while not made.stopped:
        steps = range(step, step + config.requests_at_once)
        step = steps.stop
        before = len(made.rows)
        candidates = new_instructions(config, seeds, asker, made, pool, steps)
        candidates = tell_kinds(config, seeds, asker, made, candidates)
        for candidate, instances, request in make_instances(config, seeds, asker, made, candidates):
            keep_rows(config, made, asker, candidate, instances, request)
        made.num_instruction_requests = step
        made.num_idle_requests = 0 if len(made.rows) > before else made.num_idle_requests + len(steps)
        made.stopped = _end_of(config, made)
        progress(made, asker)


def _end_of(config: BootstrapConfig, made: Made) -> Stop:
    """Why the run is at its end; empty where it is not."""
    if len(made.rows) >= config.num:
        return "num"
    return "idle" if made.num_idle_requests >= config.max_idle_requests else ""
