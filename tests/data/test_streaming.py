"""A file larger than memory: read, checked and split in half the memory that it has bytes, or less."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILE_BYTES = 1 << 29
PASS = """
import json, re, sys
from pathlib import Path
import tunesmith.data.files as files
from tunesmith.data.load import DataConfig, load_data
from tunesmith.recipes.check import CheckConfig, check_data
import scipy.sparse.csgraph

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

path, what = sys.argv[1:]
base, out = peak(), {}
if what == "kept":
    files._RESIDENT_BYTES = 1 << 62
    out["rows"] = len(files.JsonLines(Path(path)))
else:
    data = load_data(DataConfig(train=path, validation_share=0.01))
    out["rows"] = data.rows_used
    out["held"] = len(data.validation)
    report = check_data(CheckConfig(file=path, near=False))
    out["checked"] = report.num_rows
    out["copies"] = report.duplicates.num_copies
    out["emails"] = report.survey.pii["email"].count
print(json.dumps({**out, "above_base": peak() - base}))
"""


def write_large(path: Path, num_bytes: int) -> int:
    """Rows of 16 KB whose beginnings differ; returns their number."""
    words = "the patient was seen and sent home with a leaflet about sleep and some advice on walking every day "
    body = (words * 170)[:16_000]
    block = 256
    with path.open("w", encoding="ascii") as stream:
        count = 0
        while stream.tell() < num_bytes:
            rows = [
                f'{{"prompt": "row {count + i} of u{count + i}@b.org", "completion": "{body}"}}\n' for i in range(block)
            ]
            stream.write("".join(rows))
            count += block
    return count


def run(path: Path, what: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", PASS, str(path), what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_half_of_the_file_is_never_in_memory(tmp_path: Path) -> None:
    """The passes of load_data and of the check without near copies; tokens are not counted here."""
    path = tmp_path / "large.jsonl"
    try:
        num_rows = write_large(path, FILE_BYTES)
        found = run(path, "all")
        assert (found["rows"], found["checked"], found["emails"]) == (num_rows, num_rows, num_rows)
        assert found["held"] == round(num_rows * 0.01) and found["copies"] == 0
        assert found["above_base"] < 0.5 * FILE_BYTES
        # The control: where the map's pages are kept, reading alone takes as much as the file is long.
        assert run(path, "kept")["above_base"] > 0.75 * FILE_BYTES
    finally:
        path.unlink(missing_ok=True)
