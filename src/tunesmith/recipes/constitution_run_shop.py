"""What the stages of a constitution's run share: the one base, the shape of a stage, and what is small and common."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.errors import RunError
from tunesmith.feedback.store import FeedbackStore
from tunesmith.models.adapters import drop_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import resolve_model
from tunesmith.models.roles import Base
from tunesmith.progress import Bar
from tunesmith.recipes.constitution_run_config import StageName
from tunesmith.recipes.constitution_run_prompts import RunPromptsConfig
from tunesmith.recipes.stages import Interrupted, Stage

Work = Callable[[bool], Mapping[str, Any]]


@dataclass(slots=True, kw_only=True)
class Workshop:
    """The one base all stages share, loaded when the first of them needs it; none leaves an adapter on it."""

    config: ModelConfig
    say: Callable[[str], None]
    loaded: Base | None = None

    @contextmanager
    def base(self) -> Iterator[Base]:
        """The base for a stage; adapters that it put there are gone afterwards."""
        if self.loaded is None:
            self.loaded = load_base(self.config)
            for note in self.loaded.notes:
                self.say(note)
        base = self.loaded
        before = set(base.methods)
        try:
            yield base
        finally:
            for name in set(base.methods) - before:
                drop_adapter(base, name)

    @property
    def digest(self) -> str:
        """Of the base's weights; it need not be loaded for that."""
        if self.loaded is not None:
            return self.loaded.resolved.base_digest
        config = self.config
        return resolve_model(config.model_name_or_path, trust_remote_code=config.trust_remote_code).base_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A stage, the recipe of its own verb, and what kind of stage it is, whatever it is called."""

    kind: StageName
    stage: Stage
    config: Any


class PromptsTold(Config):
    """All that the prompts stage depends on besides its files."""

    recipe: RunPromptsConfig
    """Its section."""
    measured: dict[str, Any]
    """The evaluation's, whose prompts are kept out."""
    labels: bool
    """Whether some are kept back for the AI-feedback phase."""
    seed: int
    """Keys the choice."""


def trains(shop: Workshop, train: Callable[..., Any], config: Any) -> Work:
    """The work of a stage that trains: on from its newest checkpoint, or anew in place of what was there."""

    def work(going_on: bool) -> Mapping[str, Any]:
        how = {"resume_from_checkpoint": "auto"} if going_on else {"overwrite_output_dir": True}
        with shop.base() as base:
            trained = train(config.model_copy(update=how), base=base)
        if trained.interrupted:
            raise Interrupted(config.output_dir)
        return dict(trained.as_dict())

    return work


@contextmanager
def bar_of(unit: str) -> Iterator[Callable[..., None]]:
    """A function of (done, total, words) that shows a bar, which begins where an earlier run was stopped."""
    with ExitStack() as stack:
        bars: list[Bar] = []

        def tell(done: int, total: int, words: str = "") -> None:
            if not bars or bars[-1].total != total:
                stack.close()
                bars.append(stack.enter_context(Bar(total, unit, first=done)))
            if done:
                bars[-1].update(done, words)

        yield tell


def drop_checkpoints(folder: Path) -> None:
    """Take away the checkpoints of a training, which one with other settings must not go on from."""
    for checkpoint in [*folder.glob("checkpoint-*"), *folder.glob(".checkpoint-*")]:
        shutil.rmtree(checkpoint)


def drop_labels(store: Path) -> None:
    """Begin a store anew, since labels of other settings would be counted with new ones.

    What was drawn and what the judge said lie in files of their own and stay. Raises RunError where people judged in
    it: their work is never deleted.
    """
    if not store.exists():
        return
    with FeedbackStore.open(store) as there:
        people = sorted({one.annotator for one in there.judgements() if one.source != "ai"})
    if people:
        cause = f"holds judgements of {', '.join(people[:3])}, which doing the stage again would delete."
        raise RunError(store, cause, "Export them (tunesmith feedback export), move the store away, import them again.")
    for path in store.parent.glob(f"{store.name}*"):
        if path.suffix != ".jsonl":
            path.unlink()


def rows_of(data: Any) -> dict[str, Path | None]:
    """The files of a data section; a hub data set has none."""
    return {"rows": file_of(data.train), "validation rows": file_of(data.validation)}


def file_of(source: str | None) -> Path | None:
    """A source as a path; None where there is none, and for a data set of a hub (owner/name without an ending)."""
    if source is None:
        return None
    path = Path(source)
    return path if path.exists() or path.suffix or len(path.parts) != 2 else None


def folder_of(adapter: str | None) -> Path | None:
    """An adapter's folder as a path; None where there is none."""
    return None if adapter is None else Path(adapter)
