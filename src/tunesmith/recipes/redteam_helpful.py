"""Rows of help beside those of refusal: a model that is trained on refusals alone refuses everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tunesmith.constitution.audit import turns_of
from tunesmith.constitution.principles import user_text
from tunesmith.data.bootstrap.rouge import Pool
from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.read import open_rows
from tunesmith.errors import DataError
from tunesmith.feedback.rows import prompt_to_row
from tunesmith.randomness import permutation
from tunesmith.records import Conversation
from tunesmith.redteam.decline import decline
from tunesmith.redteam.export import Target
from tunesmith.redteam.goals import Goal

OURS = "ours"
EXAMPLES = files("tunesmith.data.examples").joinpath("constitution")


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpful:
    """A request that should be answered, with an answer; borderline: it only sounds as if it should not."""

    row: Conversation
    borderline: bool
    place: str


def load_helpful(
    source: str, borderline_where: Mapping[str, str], measured: Sequence[str], most_like: float
) -> tuple[list[Helpful], int]:
    """The rows of a file of good answers, and how many are left out since they are like one that is measured.

    borderline_where: column -> value of the rows that sound bad. measured: requests of the next test; likeness is
    ROUGE-L. Raises DataError for rows without a request and an answer, and where nothing is left.
    """
    path = str(EXAMPLES / "helpful.jsonl") if source == OURS else source
    pool = Pool()
    for number, text in enumerate(measured):
        pool.add(str(number), text)
    columns, out, num_like = open_rows(path), list[Helpful](), 0
    for record in load_data(DataConfig(train=path, validation_share=0.0), seed=0).train:
        if not isinstance(record, Conversation) or record.messages[-1].role != "assistant" or len(record.messages) < 2:
            raise DataError(record.where, "is no request with an answer.", "Give rows with a prompt and an answer.")
        nearest = pool.nearest(user_text(record.messages[:-1]))
        if nearest is not None and nearest.score >= most_like:
            num_like += 1
            continue
        told = columns[record.row_id][0]
        borderline = bool(borderline_where) and all(told.get(key) == value for key, value in borderline_where.items())
        # Where the folder lies is nobody's business, and would make the same rows differ.
        place = f"{source if source == OURS else Path(record.where.file).name}:{record.where.line}"
        out.append(Helpful(row=record, borderline=borderline, place=place))
    if not out:
        raise DataError(path, "no row is left: each is like one that is measured.", "Train on other rows.")
    return out, num_like


def take(helpful: Sequence[Helpful], num: int, borderline_share: float, seed: int) -> list[Helpful]:
    """So many of them by the seed, the share of borderline ones kept as closely as there are rows of both kinds."""
    order = [helpful[i] for i in permutation(len(helpful), seed, "redteam_helpful")]
    near, plain = ([one for one in order if one.borderline == kind] for kind in (True, False))
    num = min(num, len(order))
    num_near = min(len(near), max(round(borderline_share * num), num - len(plain)))
    return near[:num_near] + plain[: num - num_near]


def helpful_row(one: Helpful, target: Target, seed: int) -> dict[str, Any]:
    """A row of help; as a pair, help is preferred to a refusal in the words that are chosen elsewhere.

    So what tells chosen from rejected is what was asked, not how a refusal sounds.
    """
    *prompt, answer = one.row.messages
    provenance = {"from": "borderline" if one.borderline else "helpful", "row": one.place}
    if target == "sft":
        return {"messages": turns_of(one.row.messages), "provenance": provenance}
    asked = user_text(prompt)
    refused = decline(Goal(id="", request=asked, category="", source="", kind="safe"), seed)
    return {
        "prompt": prompt_to_row(prompt), "chosen": answer.content, "rejected": refused, "provenance": provenance,
    }  # fmt: skip
