"""Rendered rows on disk: flat memory-mapped arrays, so ten million tokens are no Python objects."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import DataError
from tunesmith.records import Conversation, Document, Example, Where
from tunesmith.tokens.render import RenderConfig, render_many

NO_SOURCE: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(slots=True)
class RenderReport:
    """What rendering did to the rows; every row is used, dropped with a reason, or an error."""

    num_rows: int = 0
    num_examples: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    num_rows_without_end: int = 0
    num_rows_cut: int = 0
    tokens_cut: int = 0
    longest_tokens: int = 0
    num_rows_split: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, examples: Sequence[Example], max_tokens: int) -> None:
        """Note what became of one row."""
        self.num_rows += 1
        if not examples:
            self.dropped[f"longer than {max_tokens} tokens"] += 1
        self.num_rows_split += len(examples) > 1
        for example in examples:
            self.num_examples += 1
            self.num_tokens += example.num_tokens
            self.num_loss_tokens += example.num_loss_tokens
            self.num_rows_without_end += not example.end_in_loss
            self.num_rows_cut += example.tokens_cut > 0
            self.tokens_cut += example.tokens_cut
            self.longest_tokens = max(self.longest_tokens, example.num_tokens)

    @property
    def loss_share(self) -> float:
        """Share of the tokens that are in the loss."""
        return self.num_loss_tokens / max(1, self.num_tokens)

    @property
    def end_share(self) -> float:
        """Share of the examples whose end-of-turn token is trained."""
        return 1 - self.num_rows_without_end / max(1, self.num_examples)


class TokenStore(Sequence[Example]):
    """Examples read back from flat arrays: ids (int32), loss weights (float32), offsets, row ids, lines and files.

    An encoder-decoder model's sources lie in two arrays beside them.
    """

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._files = files
        self._ids: NDArray[np.int32] = np.load(folder / "ids.npy", mmap_mode="r")
        self._weights: NDArray[np.float32] = np.load(folder / "weights.npy", mmap_mode="r")
        self._offsets: NDArray[np.int64] = np.load(folder / "offsets.npy")
        self._rows: NDArray[np.int64] = np.load(folder / "rows.npy")
        self._sources: NDArray[np.int32] | None = None
        self._source_offsets: NDArray[np.int64] = np.zeros(len(self._offsets), np.int64)
        if (folder / "sources.npy").is_file():
            self._sources = np.load(folder / "sources.npy", mmap_mode="r")
            self._source_offsets = np.load(folder / "source_offsets.npy")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def files(self) -> list[str]:
        """The files the rows stand in, as their places name them."""
        return list(self._files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        begin, end = int(self._offsets[index]), int(self._offsets[index + 1])
        row_id, line, file = (int(x) for x in self._rows[index])
        return Example(
            ids=np.asarray(self._ids[begin:end], np.int64),
            loss_weight=np.array(self._weights[begin:end]),
            row_id=row_id,
            where=Where(self._files[file], line if line >= 0 else None),
            source_ids=self._source(index),
        )

    def _source(self, index: int) -> NDArray[np.int64] | None:
        if self._sources is None:
            return None
        begin, end = int(self._source_offsets[index]), int(self._source_offsets[index + 1])
        return np.asarray(self._sources[begin:end], np.int64)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example, the encoder's included."""
        return [int(n) for n in np.diff(self._offsets) + np.diff(self._source_offsets)]

    @property
    def row_ids(self) -> list[int]:
        """The row of each example."""
        return [int(row_id) for row_id in self._rows[:, 0]]

    @property
    def num_tokens(self) -> int:
        return int(self._offsets[-1] + self._source_offsets[-1])


def build_store(
    records: Iterable[Conversation | Document],
    tokenizer: Any,
    config: RenderConfig,
    folder: Path,
    *,
    max_tokens: int,
) -> tuple[TokenStore, RenderReport]:
    """Render every record once and lay the examples into ``folder``. Raises DataError when nothing is left."""
    folder.mkdir(parents=True, exist_ok=True)
    report = RenderReport()
    # Flat arrays: as Python objects the places of ten million rows would take a gigabyte.
    offsets, source_offsets, rows, files = array("q", [0]), array("q", [0]), array("q"), dict[str, int]()
    with (
        (folder / "ids.raw").open("wb") as ids,
        (folder / "weights.raw").open("wb") as weights,
        (folder / "sources.raw").open("wb") as sources,
    ):
        for examples in render_many(records, tokenizer, config, max_tokens=max_tokens):
            report.add(examples, max_tokens)
            for example in examples:
                ids.write(example.ids.astype(np.int32).tobytes())
                weights.write(example.loss_weight.astype(np.float32).tobytes())
                offsets.append(offsets[-1] + len(example.ids))
                source = NO_SOURCE if example.source_ids is None else example.source_ids
                sources.write(source.astype(np.int32).tobytes())
                source_offsets.append(source_offsets[-1] + len(source))
                line = -1 if example.where.line is None else example.where.line
                rows.extend((example.row_id, line, files.setdefault(example.where.file, len(files))))
    if not rows:
        raise DataError("data", "no row is left to train on.", "Look at the reasons the rows were dropped for.")
    for name, dtype in (("ids", np.int32), ("weights", np.float32), ("sources", np.int32)):
        # A causal model has no sources, and an empty file cannot be mapped.
        if (folder / f"{name}.raw").stat().st_size:
            np.save(folder / f"{name}.npy", np.memmap(folder / f"{name}.raw", dtype=dtype, mode="r"))
        (folder / f"{name}.raw").unlink()
    if source_offsets[-1]:
        np.save(folder / "source_offsets.npy", np.frombuffer(source_offsets, np.int64))
    np.save(folder / "offsets.npy", np.frombuffer(offsets, np.int64))
    np.save(folder / "rows.npy", np.frombuffer(rows, np.int64).reshape(-1, 3))
    return TokenStore(folder, list(files)), report
