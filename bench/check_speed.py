"""Measure ``data check`` without a model and without the near-duplicate pass on generated rows.

    python bench/check_speed.py --rows 1000000 --words 40 --workers 2

Rows are prompt and completion, 40 words together; every fifth row holds a number, every hundredth an e-mail address
and every thousandth is a copy of an earlier row. Prints one JSON line: seconds for reading and checking, without the
generation of the file; processor seconds, of the workers too; the peak of the resident memory of this process and of
its workers. The machine's other load counts, so measure on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from tunesmith.recipes.check import CheckConfig, check_data

WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
TEXT = (
    "the parcel was sent to our office last week and nobody signed for it while my colleague waited at the front desk "
    "with a printed receipt that shows another address please tell me how long a refund takes when half of an order "
    "arrives broken because every box had been opened before someone left them outside under heavy rain"
)
WORDS = TEXT.split()


def write_rows(path: Path, num_rows: int, num_words: int, seed: int = 0) -> None:
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as stream:
        for i in range(num_rows):
            words = draw.choices(WORDS, k=num_words)
            if i % 5 == 0:
                words[3] = str(draw.randrange(1000))
            if i % 100 == 0:
                words[5] = f"user{i}@example.org"
            line = json.dumps(
                {"prompt": " ".join(words[: num_words // 2]), "completion": " ".join(words[num_words // 2 :])}
            )
            if i % 1000 == 0:
                copy = line
            stream.write((copy if i % 1000 == 999 else line) + "\n")


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in WHO]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, arguments.rows, arguments.words)
        size_bytes = path.stat().st_size
        before_seconds, begin = cpu_seconds(), time.perf_counter()
        report = check_data(CheckConfig(file=str(path), near=False, num_workers=arguments.workers))
        seconds = time.perf_counter() - begin
        used_seconds = cpu_seconds() - before_seconds
    print(
        json.dumps(
            {
                "rows": report.num_rows,
                "bytes": size_bytes,
                "workers": arguments.workers,
                "seconds": round(seconds, 1),
                "cpu_seconds": round(used_seconds, 1),
                "peak_mb": [round(resource.getrusage(who).ru_maxrss / 1024) for who in WHO],
                "duplicates": report.duplicates.num_copies,
                "emails": report.survey.pii["email"].count,
            }
        )
    )


if __name__ == "__main__":
    main()
