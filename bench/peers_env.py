"""The peers' own environment: made once under bench/.env-peers from pinned versions, never mixed with ours."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

BENCH_FOLDER = Path(__file__).resolve().parent
ENV_FOLDER = BENCH_FOLDER / ".env-peers"
REQUIREMENTS = BENCH_FOLDER / "peers.txt"
# Written last, so that an interrupted installation is done again.
STAMP = ENV_FOLDER / "installed.txt"


def requirements() -> str:
    """The pinned versions, torch in the very build our own environment has: the peers get the same, and no CUDA."""
    pinned = REQUIREMENTS.read_text(encoding="utf-8")
    ours = metadata.version("torch")
    wanted = next(line for line in pinned.splitlines() if line.startswith("torch=="))
    if ours.partition("+")[0] != wanted.removeprefix("torch=="):
        raise SystemExit(f"Our environment has torch {ours}, bench/peers.txt has {wanted}: make them one version.")
    return pinned.replace(wanted, f"torch=={ours}")


def ensure() -> Path:
    """The peers' interpreter; installs the pinned versions first where the environment is absent or other."""
    python = ENV_FOLDER / "bin" / "python"
    wanted = requirements()
    if python.exists() and STAMP.exists() and STAMP.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Installing the peers into {ENV_FOLDER} (once; a few minutes).", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(ENV_FOLDER)], check=True)
    listing = ENV_FOLDER / "requirements.txt"
    listing.write_text(wanted, encoding="utf-8")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(listing)], check=True)
    STAMP.write_text(wanted, encoding="utf-8")
    return python
