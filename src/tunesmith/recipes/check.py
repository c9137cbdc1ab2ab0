"""Tell the truth about a file of rows before anything is trained on it.

Read top to bottom: one pass over the rows, copies, tokens, then what is written. ``recipes/check_text.py`` words it.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.config import Config
from tunesmith.data.check import Fault, FaultLog, RowError
from tunesmith.data.duplicates import Checked, Duplicates, find_copies, find_near_copies
from tunesmith.data.load import DataConfig
from tunesmith.data.names import load_name_finder
from tunesmith.data.read import find_split
from tunesmith.data.repair import rejected_path, write_passing, write_redacted
from tunesmith.data.shape import Shape
from tunesmith.data.survey import NameFinder, Survey, make_plan, records_of, survey
from tunesmith.data.verbatim import check_target, place_of
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Document, Example
from tunesmith.tokens.render import RenderConfig, render
from tunesmith.tokens.store import RenderReport

if TYPE_CHECKING:
    from tunesmith.models.tokenizer import BaseTokenizer

# What is being done, and how many rows of how many it has been done to.
Progress = Callable[[str, int, int], None]
_ANY_LENGTH = 1 << 40


class CheckConfig(Config):
    """What ``tunesmith data check`` looks at and writes."""

    file: str
    """A file, a folder with a file a split, or a hub data set."""
    validation: str | None = None
    """Rows whose copies among the training rows are sought; empty: the folder's own file, if FILE is a folder."""
    shape: Literal["auto"] | Shape = "auto"
    """What the columns mean; auto tells it from their names."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column name -> theirs."""
    model: str | None = None
    """The base whose tokens are counted."""
    max_length: int | None = Field(None, ge=8)
    """Most tokens of a row; empty: what the model reads."""
    near: bool = True
    """Look for near copies too."""
    near_threshold: float = Field(0.8, gt=0, le=1)
    """Share of runs of three words that make two rows near copies."""
    names: bool = False
    """Look for names of people, through spaCy."""
    num_workers: int = Field(1, ge=1)
    """Processes that share the pass over a large file."""
    seed: int = Field(0, ge=0)
    """Keys the hashes of the rows."""
    fix: str | None = None
    """Where the rows that pass are written."""
    drop_duplicates: bool = False
    """Exact copies of an earlier row do not pass."""
    redact: str | None = None
    """Where the rows are written with placeholders for personal data."""
    picture: str | None = None
    """Where the lengths are drawn, as a .png."""
    output_dir: str | None = None
    """A folder for lengths.png and check.json."""
    overwrite: bool = False
    """Replace the files that fix, redact and picture name, if they are there; those in output_dir always are."""

    @property
    def targets(self) -> list[tuple[str, Path]]:
        """(setting, file) of all that is to be written."""
        named = [("fix", self.fix), ("redact", self.redact), ("picture", self.picture)]
        out = [(name, Path(path)) for name, path in named if path is not None]
        out += [("fix", rejected_path(path)) for name, path in out if name == "fix"]
        if self.output_dir is not None:
            out.append(("output_dir", Path(self.output_dir) / "check.json"))
            out += [("output_dir", Path(self.output_dir) / "lengths.png")] if self.picture is None else []
        return out


@dataclass(slots=True, kw_only=True)
class TokenReport:
    """The rows as a model sees them; tokens: (N,) of each row that can be rendered, too long ones included."""

    base: BaseTokenizer
    limit: int
    rendered: RenderReport = field(default_factory=RenderReport)
    tokens: array[int] = field(default_factory=lambda: array("i"))
    bad_row_ids: array[int] = field(default_factory=lambda: array("q"))

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(N,) int32 tokens of each row."""
        return np.frombuffer(self.tokens, np.int32) if self.tokens else np.zeros(0, np.int32)


@dataclass(slots=True, kw_only=True)
class CheckReport:
    """All that a check found; ``written`` maps what was written to its path, ``counts`` tells how many rows."""

    config: CheckConfig
    train: Checked
    valid: Checked | None
    shape_problem: str | None
    faults: FaultLog
    duplicates: Duplicates
    near_seconds: float = 0.0
    tokens: TokenReport | None = None
    written: dict[str, Path] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return self.train.survey.num_rows

    @property
    def survey(self) -> Survey:
        """The pass over the training rows."""
        return self.train.survey


def check_data(config: CheckConfig, progress: Progress = lambda *_: None) -> CheckReport:
    """Read, count and compare the rows of a file; with ``fix`` and ``redact`` also write them anew.

    Raises DataError only where the file as a whole cannot be read or written; faulty rows are in the report.
    """
    find_names = load_name_finder() if config.names else None
    _check_targets(config)
    train, reason = _read(config, config.file, "train", find_names, progress)
    other = config.validation or (config.file if find_split(config.file, "validation") else None)
    valid = None if other is None else _read(config, other, "validation", find_names, progress)[0]
    faults = FaultLog()
    for source in (train, valid):
        if source is not None:
            faults.join(source.survey.faults)
    duplicates = find_copies(train, valid)
    report = CheckReport(
        config=config, train=train, valid=valid, shape_problem=reason, faults=faults, duplicates=duplicates
    )
    if config.near:
        begin = time.perf_counter()
        total = len(train.survey.row_ids) + (len(valid.survey.row_ids) if valid else 0)
        tell = _every(lambda done: progress("near copies", done, total))
        find_near_copies(duplicates, train, valid, threshold=config.near_threshold, progress=tell)
        report.near_seconds = time.perf_counter() - begin
    if config.model is not None:
        report.tokens = _count_tokens(config, train, faults, progress)
    _write(report, find_names)
    return report


def _check_targets(config: CheckConfig) -> None:
    """Raise before the work what would make its result useless."""
    if config.drop_duplicates and config.fix is None:
        raise ConfigError("drop_duplicates", "nothing is written.", "Add --fix OUT.")
    targets = config.targets
    for place, (name, path) in enumerate(targets):
        if name == "picture" and path.suffix.lower() != ".png":
            raise ConfigError("picture", f"{path} is no name for a picture.", "Name a file that ends in .png.")
        for other, before in targets[:place]:
            if path.resolve() == before.resolve():
                raise ConfigError(name, f"writes to {path}, as {other} does.", "Name another file.")
        for source in (config.file, config.validation):
            if source is not None:
                # Which ending the source's rows need is known only once they are read.
                check_target(path, source, path.suffix.lower(), makes_folder=name == "output_dir")
        if path.is_dir():
            raise ConfigError(name, f"{path} is a folder.", "Name a file.")
        if path.exists() and not config.overwrite and name != "output_dir":
            raise ConfigError(name, f"{path} is there already.", "Name another file, or pass --overwrite.")
    if config.output_dir is not None:
        try:
            Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            cause = f"cannot be made: {(error.strerror or str(error)).lower()}."
            raise DataError(config.output_dir, cause, "Name another folder.") from None


def _read(
    config: CheckConfig,
    source: str,
    split: Literal["train", "validation"],
    find_names: NameFinder | None,
    progress: Progress,
) -> tuple[Checked, str | None]:
    data = DataConfig(train=source, shape=config.shape, columns=config.columns)
    plan, rows, reason = make_plan(data, source, split, config.seed)
    found = survey(
        plan,
        rows,
        num_workers=config.num_workers,
        find_names=find_names,
        progress=lambda done: progress(f"rows of {split}", done, len(rows)),
    )
    return Checked(plan, rows, found), reason


def _every(tell: Callable[[int], None], rows: int = 500) -> Callable[[int], None]:
    return lambda done: tell(done) if done % rows == 0 else None


def _count_tokens(config: CheckConfig, train: Checked, faults: FaultLog, progress: Progress) -> TokenReport:
    """Render every row without fault; one that the model cannot take is a fault of that row."""
    # Without a model neither torch nor transformers is loaded.
    from tunesmith.models.tokenizer import load_tokenizer

    base = load_tokenizer(config.model or "")
    limit = min(config.max_length or base.context_tokens, base.context_tokens)
    report = TokenReport(base=base, limit=limit)
    if train.plan.shape is None:
        return report
    for done, row_id in enumerate(train.survey.row_ids):
        examples, num_tokens, fault = _render_row(train, row_id, base, limit)
        if num_tokens:
            report.tokens.append(num_tokens)
        if fault is None:
            report.rendered.add(examples, limit)
        else:
            faults.add(fault)
            report.bad_row_ids.append(row_id)
        if done % 200 == 0:
            progress("tokens", done, len(train.survey.row_ids))
    return report


def _render_row(
    train: Checked, row_id: int, base: BaseTokenizer, limit: int
) -> tuple[list[Example], int, Fault | None]:
    """The examples of a row, its tokens, and why the model cannot take it, if so; 0 tokens if it renders to none."""
    row, where = train.rows[row_id]
    records = records_of(train.plan, train.rows)
    assert records is not None, "a row whose shape is unknown cannot be rendered"
    record, _ = records.read(row, where, row_id, alone=False)
    # A chat's length is asked for before it is held against the limit; raw text is cut, and loses nothing.
    is_text = isinstance(record, Document)
    try:
        examples = render(record, base.tokenizer, RenderConfig(), max_tokens=limit if is_text else _ANY_LENGTH)
    except RowError as error:
        return [], 0, error.fault
    except DataError as error:
        return [], 0, Fault(where, error.cause, error.fix)
    longest = max(example.num_tokens for example in examples)
    if longest > limit:
        fix = "Shorten it, or set over_length: drop or truncate for the training."
        return examples, longest, Fault(where, f"the row is longer than {limit} tokens.", fix, f"{longest} tokens")
    return examples, sum(example.num_tokens for example in examples) if is_text else longest, None


def _write(report: CheckReport, find_names: NameFinder | None) -> None:
    config, train = report.config, report.train
    for _, target in config.targets:
        for source in (train, report.valid):
            # The files of a folder have names of their own.
            if source is not None:
                check_target(target, source.rows.path, target.suffix.lower())
    if config.fix is not None:
        path = Path(config.fix)
        passed, rejected = write_passing(train, path, _objections(report))
        report.written |= {"rows that pass": path, "rows that do not": rejected_path(path)}
        report.counts |= {"passed": passed, "rejected": rejected}
    if config.redact is not None:
        path = Path(config.redact)
        report.counts["redacted"] = write_redacted(train.rows, path, find_names)
        report.written["rows without personal data"] = path


def _objections(report: CheckReport) -> Callable[[int], Fault | None]:
    """Why a row that its shape accepts does not pass after all."""
    train, tokens = report.train, report.tokens
    too_much = set(tokens.bad_row_ids) if tokens else set[int]()
    copies = report.duplicates.copy_of() if report.config.drop_duplicates else {}

    def object_to(row_id: int) -> Fault | None:
        where = place_of(train.rows, row_id)
        if tokens is not None and row_id in too_much:
            return _render_row(train, row_id, tokens.base, tokens.limit)[2]
        if row_id in copies:
            first = place_of(train.rows, copies[row_id])
            return Fault(where, "the row is a copy of an earlier one.", "Keep one of them.", detail=str(first))
        return None

    return object_to
