"""The model's own answers to harmless requests, as rows that keep it from refusing everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.constitution.asking import Asker
from tunesmith.constitution.audit import turns_of
from tunesmith.constitution.garbage import fault_of, whole_sentences
from tunesmith.constitution.principles import user_text
from tunesmith.data.load import DataConfig, load_data
from tunesmith.data.read import open_rows
from tunesmith.data.shape import FIELD_NAMES
from tunesmith.feedback.judgements import prompt_id_of
from tunesmith.randomness import derive_seed, permutation
from tunesmith.recipes.constitution_run_prompts import prompts_where
from tunesmith.recipes.redteam_helpful import EXAMPLES, OURS
from tunesmith.recipes.redteam_loop_config import HelpConfig
from tunesmith.records import Conversation, Message
from tunesmith.rollout.refusal import read_refusal
from tunesmith.rollout.results import ResultsFile
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Writer
from tunesmith.runs import atomic_write_text

HELP_FILE, REQUESTS_FILE = "helpful.jsonl", "requests.jsonl"


def help_path(config: HelpConfig) -> str:
    """The file of prompts."""
    return str(EXAMPLES / "harmless.jsonl") if config.prompts == OURS else config.prompts


def write_help(
    config: HelpConfig, helpful: str, writer: Writer, folder: Path, seed: int, told: Callable[[int, int], None]
) -> dict[str, Any]:
    """Rows of good answers with the model's own beside them, and the facts; each answer is kept as it comes.

    helpful: a file of rows, or ours. An answer that declines or says nothing is no help, and is left out. told:
    (done, total). Raises DataError, RunError, DiskFullError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = help_path(config)
    loaded = prompts_where(path, {}, config.where)
    prompts = [loaded[i] for i in permutation(len(loaded), seed, "redteam_help")[: config.limit]]
    sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=seed)
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        told(done, len(prompts))

    asker = Asker(ResultsFile(folder / REQUESTS_FILE), one_more)
    ids = [prompt_id_of(one.messages) for one in prompts]
    asked = [
        Asked(messages=one.messages, row_id=derive_seed(0, "redteam_help", name))
        for one, name in zip(prompts, ids, strict=True)
    ]
    replies = asker.write("help", writer, asked, sampling, [{"prompt": name} for name in ids])
    columns, rows, left_out = open_rows(path), list[dict[str, Any]](), Counter[str]()
    for one, reply in zip(prompts, replies, strict=True):
        request = user_text(one.messages)
        text = whole_sentences(reply.text) if reply.stop_reason == "length" else reply.text.strip()
        fault = fault_of(text, reply.stop_reason, "", {"the prompt": request})
        kind = read_refusal(request, text).kind
        if fault or kind != "comply":
            left_out[fault or f"reads as {kind}"] += 1
            continue
        answer = Message(role="assistant", content=text)
        rows.append({"messages": turns_of([*one.messages, answer]), **_told(columns[one.row_id][0])})
    written = _rows_of(str(EXAMPLES / "helpful.jsonl") if helpful == OURS else helpful)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in [*written, *rows]]
    atomic_write_text(folder / HELP_FILE, "".join(lines))
    return {"written_by_people": len(written), "own_answers": len(rows), "left_out": dict(left_out)}


def _rows_of(path: str) -> list[dict[str, Any]]:
    """The rows as turns, with what else is told of each in a word."""
    rows = open_rows(path)
    records = load_data(DataConfig(train=path, validation_share=0.0, cache=False), seed=0).train
    return [
        {"messages": turns_of(one.messages), **_told(rows[one.row_id][0])}
        for one in records
        if isinstance(one, Conversation)
    ]


def _told(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in row.items() if isinstance(value, str) and key not in FIELD_NAMES}
