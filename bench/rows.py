"""Write the rows both sides read: JSON lines with messages, in a fixed order, none without a token in the loss.

    python bench/rows.py --model DIR --source pairs_en.jsonl --output rows.jsonl --num-rows 48 --max-length 512

Rows whose prompt alone fills ``max_length`` are left out here and counted: TRL would drop them in silence and
tunesmith would refuse them, so neither side may meet one. Prints one JSON line with the counts, made with the plain
tokenizer: both sides must report the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def read_messages(source: Path) -> list[list[dict[str, str]]]:
    """Rows with (instruction or prompt) and output, as one user turn and one assistant turn."""
    text = source.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    chats = []
    for row in rows:
        question = (
            row["prompt"] if "prompt" in row else "\n\n".join(filter(None, (row["instruction"], row.get("input"))))
        )
        chats.append([{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}])
    return chats


def lengths_tokens(messages: list[dict[str, str]], tokenizer: Any) -> tuple[int, int]:
    """Tokens of the prompt (with the generation prompt) and of the whole row."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
    return len(prompt), len(tokenizer.apply_chat_template(messages)["input_ids"])


def choose(
    chats: list[list[dict[str, str]]], tokenizer: Any, *, num_rows: int, max_length: int, repeat: bool
) -> tuple[list[list[dict[str, str]]], dict[str, int]]:
    """The first ``num_rows`` usable rows, started over from the first where ``repeat`` allows, and their counts."""
    usable, refused = [], 0
    for messages in chats:
        prompt_tokens, total_tokens = lengths_tokens(messages, tokenizer)
        if prompt_tokens >= max_length or not messages[-1]["content"]:
            refused += 1
            continue
        usable.append((messages, total_tokens))
        if len(usable) == num_rows:
            break
    if len(usable) < num_rows and repeat and usable:
        usable = [usable[i % len(usable)] for i in range(num_rows)]
    if len(usable) < num_rows:
        raise SystemExit(f"Only {len(usable)} usable rows, {num_rows} asked for.")
    return [messages for messages, _ in usable], {
        "num_rows": len(usable),
        "rows_left_out": refused,
        "rows_cut": sum(total > max_length for _, total in usable),
        "tokens": sum(min(total, max_length) for _, total in usable),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num-rows", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--from-row", type=int, default=0, help="start at this row of the source")
    parser.add_argument("--to-row", type=int, help="end before this row of the source")
    parser.add_argument("--repeat", action="store_true", help="start over when the rows run out")
    args = parser.parse_args()
    from transformers import AutoTokenizer

    chats, counts = choose(
        read_messages(args.source)[args.from_row : args.to_row],
        AutoTokenizer.from_pretrained(args.model),
        num_rows=args.num_rows,
        max_length=args.max_length,
        repeat=args.repeat,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(
        "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in chats), encoding="utf-8"
    )
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
