"""Rows to tokens and loss weights, beside the raw tokenizer on the same text. Prints one JSON line.

    .venv/bin/python bench/render_speed.py [--rows 2000] [--rounds 5]

Ours renders the template, checks every prefix, masks and encodes; theirs is `tokenizers`' encode_batch over the texts
ready-made, both with the threads a run has. Interleaved; rows of about 425 tokens made of the shipped tickets' words.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from transformers import AutoTokenizer

from tunesmith.data.examples import support_desk
from tunesmith.data.load import DataConfig, load_data
from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model
from tunesmith.records import Conversation, Message, Where
from tunesmith.runtime import tune_process
from tunesmith.tokens.draft import draft
from tunesmith.tokens.render import RenderConfig, render_many

MESSAGES_A_ROW = 8


def make_rows(num_rows: int) -> list[Conversation]:
    """Two long turns each: neighbouring tickets' messages, and their replies."""
    tickets = load_data(DataConfig(train=str(support_desk.file_of("train")), validation_share=0)).train
    texts = [[m.content for m in record.messages] for record in tickets if isinstance(record, Conversation)]
    rows = []
    for i in range(num_rows):
        near = [texts[(i * MESSAGES_A_ROW + k) % len(texts)] for k in range(MESSAGES_A_ROW)]
        asked, said = " ".join(t[-2] for t in near), " ".join(t[-1] for t in near[:2])
        turns = (Message(role="user", content=asked), Message(role="assistant", content=said))
        rows.append(Conversation(messages=turns, row_id=i, where=Where("bench", i)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    tune_process()
    config = RenderConfig()
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(EMBEDDED_MODEL).folder)
    rows = make_rows(args.rows)
    texts = [draft(row, tokenizer).full for row in rows]
    seconds: dict[str, list[float]] = {"raw": [], "ours": []}
    num_tokens = 0
    for _ in range(args.rounds):
        began = time.perf_counter()
        encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        seconds["raw"].append(time.perf_counter() - began)
        raw_tokens = sum(len(e.ids) for e in encoded)
        began = time.perf_counter()
        num_tokens = sum(e.num_tokens for es in render_many(rows, tokenizer, config, max_tokens=8192) for e in es)
        seconds["ours"].append(time.perf_counter() - began)
        assert raw_tokens == num_tokens
    ratios = [raw / ours for raw, ours in zip(seconds["raw"], seconds["ours"], strict=True)]
    result = {
        "rows": args.rows,
        "tokens_a_row": round(num_tokens / args.rows),
        "raw_rows_a_second": round(args.rows / statistics.median(seconds["raw"])),
        "ours_rows_a_second": round(args.rows / statistics.median(seconds["ours"])),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
