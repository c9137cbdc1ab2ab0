"""Files into a store and a store into files: rows of our shapes, Argilla's exports, and a store's own, lossless."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.check import FaultLog, RowError, shown
from tunesmith.data.convertible import FEEDBACK_SHAPES, FeedbackShape, convertible_shapes
from tunesmith.data.feedback import FeedbackRow, read_feedback
from tunesmith.data.pairs import LeftOut
from tunesmith.data.parse import json_type
from tunesmith.data.read import Rows, open_rows
from tunesmith.data.sources import our_names
from tunesmith.data.whole import temporary_sibling
from tunesmith.errors import DataError
from tunesmith.feedback.argilla import ArgillaOptions, is_argilla, read_record
from tunesmith.feedback.judgements import KIND_OF, canonical_json, digest_of, value_to_json
from tunesmith.feedback.rows import Said, answer_to_row, prompt_to_row, read_said, shape_of, to_row
from tunesmith.feedback.store import FeedbackStore
from tunesmith.records import Rating, Where

# The export's files: a shape each, so that every other verb reads them too; withdrawn judgements stand apart.
FILES: dict[FeedbackShape, str] = {
    "preference": "comparisons.jsonl", "ranking": "rankings.jsonl", "rating": "ratings.jsonl",
    "unpaired": "thumbs.jsonl", "flag": "flags.jsonl", "edit": "edits.jsonl",
}  # fmt: skip
CANDIDATES_FILE, WITHDRAWN_FILE = "candidates.jsonl", "withdrawn.jsonl"
_CANDIDATE_KEYS: dict[str, type] = {
    "answer": object, "model": str, "adapter_digest": str, "sampling": dict, "seed": int, "created": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How files are read."""

    annotator: str | None = None
    """Who said what a file names nobody for; empty: the file's name without its ending."""
    shape: FeedbackShape | None = None
    """What the rows are, where their columns leave a doubt."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column name -> theirs."""
    drop_bad_rows: bool = False
    merge_same_role: bool = False
    argilla: ArgillaOptions = field(default_factory=ArgillaOptions)


@dataclass(slots=True, kw_only=True)
class Imported:
    """What an import did; ``left_out`` and ``rows_dropped``: cause -> number, ``kinds``: new judgements by kind."""

    files: list[str]
    rows_read: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    already_there: int = 0
    new_prompts: int = 0
    new_candidates: int = 0
    withdrawn: int = 0
    left_out: LeftOut = field(default_factory=dict)
    rows_dropped: dict[str, int] = field(default_factory=dict)
    ignored_columns: list[str] = field(default_factory=list)
    fault_table: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "fault_table"}


@dataclass(slots=True)
class _Import:
    """One import under way; ``seen`` counts what one file says alike, so that a row read again keeps its id."""

    store: FeedbackStore
    options: ImportOptions
    report: Imported
    faults: FaultLog = field(default_factory=FaultLog)
    ignored: set[str] = field(default_factory=set)
    seen: dict[str, int] = field(default_factory=dict)
    # Rows of a store's export wait until all files are read: they come in again in the order they were made.
    dated: list[tuple[Said, str]] = field(default_factory=list)


def import_files(store: FeedbackStore, sources: Sequence[str | Path], options: ImportOptions) -> Imported:
    """Read files, and folders that ``export_store`` wrote, into a store, in one transaction: all of them or nothing.

    What is there already is put in once: the same row of the same annotator keeps its id. Raises DataError with all
    faulty rows in one table unless they are dropped; the store is then as it was.
    """
    named = [file for source in sources for file in _files_of(Path(source).expanduser())]
    # A file that is named twice is read once.
    files = list({file.resolve(): file for file in named}.values())
    report = Imported(files=[str(file) for file in files])
    work = _Import(store, options, report)
    with store.transaction():
        # Inside, or what another process puts in meanwhile would be counted as ours.
        before = store.counts()
        for file in files:
            _read_file(work, open_rows(str(file)))
        for said, annotator in _as_they_were_made(work.dated):
            _try_add(work, said, annotator)
        if len(work.faults) and not options.drop_bad_rows:
            _refuse(work)
        after = store.counts()
    report.new_prompts = after.prompts - before.prompts
    report.new_candidates = after.candidates - before.candidates
    report.rows_dropped, report.fault_table = work.faults.by_cause(), work.faults.table()
    report.ignored_columns = sorted(work.ignored)
    return report


def _files_of(source: Path) -> list[Path]:
    """The file itself, or the files of an export in a folder. Raises DataError for a folder that is none."""
    if not source.is_dir():
        return [source]
    names = (CANDIDATES_FILE, *FILES.values(), WITHDRAWN_FILE)
    found = [source / name for name in names if (source / name).is_file() and (source / name).stat().st_size]
    if not found:
        fix = f"Name files, or a folder that `tunesmith feedback export` wrote ({', '.join(names)})."
        raise DataError(source, "the folder holds no export of a feedback store.", fix)
    return found


def _as_they_were_made(dated: Sequence[tuple[Said, str]]) -> list[tuple[Said, str]]:
    """By the time they were made, a repetition behind what it repeats even where a clock was set back between them."""
    created = {said.facts.get("id"): said.facts["created"] for said, _ in dated}

    def key(entry: tuple[Said, str]) -> tuple[str, bool]:
        facts = entry[0].facts
        first = facts.get("asked_again_of")
        return max(facts["created"], created.get(first, "")), first is not None

    return sorted(dated, key=key)


def _refuse(work: _Import) -> None:
    if len(work.faults) == 1:
        work.faults.raise_if_any("", 1)
    raise DataError(
        " and ".join(work.report.files),
        f"{len(work.faults)} faults in {work.report.rows_read} rows; nothing was imported.\n{work.faults.table()}\n",
        "Correct the rows, or pass --on-bad-row drop to leave them out and have them counted.",
    )


def _read_file(work: _Import, rows: Rows) -> None:
    annotator = work.options.annotator or Path(rows.path).stem
    for row_id in range(len(rows)):
        work.report.rows_read += 1
        try:
            row, where = rows[row_id]
            for said in _said_in(work, row, where, row_id):
                if said.facts.get("created"):
                    work.dated.append((said, annotator))
                else:
                    _add(work, said, annotator)
        except RowError as error:
            work.faults.add(error.fault)


def _said_in(work: _Import, row: Mapping[str, Any], where: Where, row_id: int) -> Iterator[Said]:
    """What people said in one row. Raises RowError."""
    options = work.options
    if is_argilla(row) and options.shape is None:
        yield from read_record(row, where, options.argilla, work.report.left_out, work.ignored)
        return
    if isinstance(row.get("answers"), list) and "prompt" in row and options.shape is None:
        _add_candidates(work, row, where, row_id)
        return
    fitting = [options.shape] if options.shape else _fitting(row, options.columns)
    if len(fitting) != 1:
        listed = ", ".join(map(shown, sorted(row))) or "none"
        if fitting:
            fix = f"Say which is meant: --shape {' or --shape '.join(fitting)}."
            raise RowError(where, "the columns fit more than one kind of feedback.", fix, detail=listed)
        fix = "Give pairs (prompt, chosen, rejected), rankings, ratings, thumbs (label), flags or edits, or an export."
        raise RowError(where, "the columns hold no feedback.", fix, detail=listed)
    reader = FeedbackRow(row, where, row_id, options.columns, options.merge_same_role, set())
    said = read_said(reader, fitting[0])
    work.ignored |= {name for name in row if name not in reader.used and row[name] not in (None, "")}
    yield said


def _fitting(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[FeedbackShape]:
    found = convertible_shapes(our_names({name for name in row if row[name] is not None}, columns))
    return [shape for shape in FEEDBACK_SHAPES if shape in found]


def _try_add(work: _Import, said: Said, annotator: str) -> None:
    try:
        _add(work, said, annotator)
    except RowError as error:
        work.faults.add(error.fault)


def _add(work: _Import, said: Said, default_annotator: str) -> None:
    """Put what was said into the store, unless it is there. Raises RowError for what the store refuses."""
    store, facts = work.store, said.facts
    annotator = said.annotator or default_annotator
    try:
        with store.transaction():
            prompt = store.add_prompt(said.prompt)
            candidates = [store.add_candidate(prompt, answer) for answer in said.answers]
            key = facts.get("id") or _row_id(work, prompt, candidates, said, annotator)
            is_there = store.has_judgement(key)
            store.add_judgement(
                prompt, candidates, said.value, annotator=annotator, source=facts.get("source", "import"),
                weight=said.weight, asked_again_of=facts.get("asked_again_of"), created=facts.get("created"),
                judgement_id=key, provenance=facts.get("provenance"),
            )  # fmt: skip
    except ValueError as error:
        cause, fix = (error.cause, error.fix) if isinstance(error, DataError) else (f"{error}.", "Correct the row.")
        raise RowError(said.where, cause, fix) from None
    if is_there:
        work.report.already_there += 1
    else:
        kind = KIND_OF[type(said.value)]
        work.report.kinds[kind] = work.report.kinds.get(kind, 0) + 1
    if facts.get("withdrawn"):
        work.report.withdrawn += store.withdraw(key, created=facts["withdrawn"])


def _row_id(work: _Import, prompt: str, candidates: list[str], said: Said, annotator: str) -> str:
    """An id that the same row has again: what was said by whom, and the how many-th time in its file."""
    content = canonical_json([prompt, candidates, value_to_json(said.value), annotator, said.weight])
    place = f"{said.where.file}\n{content}"
    number = work.seen[place] = work.seen.get(place, 0) + 1
    return digest_of([content, number])


def _add_candidates(work: _Import, row: Mapping[str, Any], where: Where, row_id: int) -> None:
    """A row of the export's candidates: a prompt, its answers and what wrote them. Raises RowError."""
    created = row.get("created")
    if created is not None and not isinstance(created, str):
        fix = "Write it as a string, or remove it."
        raise RowError(where.at("created"), "a time as text is expected.", fix, detail=json_type(created))
    # Read as a rating is, so that prompt and answer mean here what they mean everywhere; without an answer, the prompt.
    for i, entry in enumerate(row["answers"] or [{"answer": "?"}]):
        here = where.at(f"answers[{i}]")
        if not isinstance(entry, dict) or not all(
            name in _CANDIDATE_KEYS and (name == "answer" or isinstance(value, _CANDIDATE_KEYS[name] | None))
            for name, value in entry.items()
        ):
            fix = f"Write objects with {', '.join(_CANDIDATE_KEYS)}; only the answer is needed."
            raise RowError(here, "a candidate is expected.", fix)
        plain = {"prompt": row["prompt"], "completion": entry.get("answer"), "rating": 1}
        record = read_feedback(FeedbackRow(plain, here, row_id, {}, work.options.merge_same_role, set()), "rating")
        assert isinstance(record, Rating)
        facts = {name: entry[name] for name in entry if name != "answer" and entry[name] is not None}
        try:
            with work.store.transaction():
                prompt = work.store.add_prompt(record.prompt, created=created)
                if row["answers"]:
                    work.store.add_candidate(prompt, record.completion, **facts)
        except (ValueError, OverflowError) as error:
            raise RowError(here, f"{error}.", "Correct the row.") from None


@dataclass(frozen=True, slots=True)
class Exported:
    """File -> rows written into it."""

    files: dict[str, int]


def export_store(store: FeedbackStore, folder: Path, *, overwrite: bool = False) -> Exported:
    """Write all a store holds as .jsonl: importing the folder gives a store of the same digest.

    A file a kind of feedback in the shape that the other verbs read; candidates with what wrote them; withdrawn
    judgements in a file of their own, since other readers do not know that they no longer stand. Raises DataError
    where a file is there already.
    """
    names = [CANDIDATES_FILE, *FILES.values(), WITHDRAWN_FILE]
    _check_folder(folder, names, overwrite=overwrite)
    prompts = {prompt.id: prompt for prompt in store.prompts()}
    answers = {candidate.id: candidate.answer for candidate in store.candidates()}
    counts = dict.fromkeys(names, 0)
    with ExitStack() as stack:
        paths = {name: stack.enter_context(temporary_sibling(folder / name)) for name in names}
        streams = {name: stack.enter_context(path.open("x", encoding="utf-8")) for name, path in paths.items()}

        def write(name: str, row: Mapping[str, Any]) -> None:
            streams[name].write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[name] += 1

        for row in _candidate_rows(store):
            write(CANDIDATES_FILE, row)
        for judgement in store.judgements(live=False):
            name = FILES[shape_of(judgement)] if judgement.withdrawn is None else WITHDRAWN_FILE
            texts = [answers[candidate] for candidate in judgement.candidates]
            write(name, to_row(judgement, prompts[judgement.prompt_id].messages, texts))
    return Exported({str(folder / name): count for name, count in counts.items()})


def _candidate_rows(store: FeedbackStore) -> Iterator[dict[str, Any]]:
    for prompt in store.prompts():
        answers = []
        for candidate in store.candidates(prompt.id):
            facts = {name: getattr(candidate, name) for name in _CANDIDATE_KEYS if name != "answer"}
            kept = {name: fact for name, fact in facts.items() if fact not in (None, {})}
            answers.append({"answer": answer_to_row(candidate.answer), **kept})
        yield {"prompt": prompt_to_row(prompt.messages), "created": prompt.created, "answers": answers}


def _check_folder(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise DataError(folder, f"the folder cannot be made: {reason}.", "Name another one.") from None
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise DataError(folder / there[0], "the file exists.", "Name another folder, or pass --overwrite.")
