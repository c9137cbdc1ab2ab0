"""Write the pairs both sides read: JSON lines of prompt, chosen and rejected in turns, none cut, none equal.

    python bench/preference_rows.py --model DIR --source harmless_base.jsonl --output pairs.jsonl --num-pairs 16

Pairs whose dialogues part before the last answer, say the same, or pass ``--max-length`` are left out and counted: TRL
would drop or train on some of them in silence. Prints one JSON line with the counts, made with the plain tokenizer.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

TURN = re.compile(r"\n\n(Human|Assistant): ?")
ROLES = {"Human": "user", "Assistant": "assistant"}


def turns(dialogue: str) -> list[dict[str, str]]:
    """A dialogue of one string as messages; white space around a turn is not part of it."""
    pieces = TURN.split(dialogue)[1:]
    return [
        {"role": ROLES[name], "content": text.strip()} for name, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def as_pair(row: dict[str, str]) -> dict[str, Any] | None:
    """Prompt and two answers of one turn each; None where the row holds no such pair."""
    chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
    alternate = all(m["role"] == ("user", "assistant")[i % 2] and m["content"] for i, m in enumerate(chosen))
    if not alternate or not chosen or chosen[-1]["role"] != "assistant" or chosen[:-1] != rejected[:-1]:
        return None
    if chosen[-1] == rejected[-1] or rejected[-1]["role"] != "assistant" or not rejected[-1]["content"]:
        return None
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num-pairs", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    args = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def length(messages: list[dict[str, str]]) -> int:
        return len(tokenizer.apply_chat_template(messages)["input_ids"])

    kept: list[dict[str, Any]] = []
    tokens, left_out = 0, 0
    for line in args.source.read_text(encoding="utf-8").splitlines():
        if len(kept) == args.num_pairs:
            break
        pair = as_pair(json.loads(line))
        lengths = [length(pair["prompt"] + pair[side]) for side in ("chosen", "rejected")] if pair else [0]
        if pair is None or max(lengths) > args.max_length:
            left_out += 1
            continue
        kept.append(pair)
        tokens += sum(lengths)
    if len(kept) < args.num_pairs:
        raise SystemExit(f"Only {len(kept)} usable pairs, {args.num_pairs} asked for.")
    args.output.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in kept), encoding="utf-8")
    print(json.dumps({"num_pairs": len(kept), "pairs_left_out": left_out, "tokens": tokens}))


if __name__ == "__main__":
    main()
