"""The peers' own environment: made once under bench/.env-peers from pinned versions, never mixed with ours."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

BENCH_FOLDER = Path(__file__).resolve().parent
ENV_FOLDER = BENCH_FOLDER / ".env-peers"
REQUIREMENTS = BENCH_FOLDER / "peers.txt"
INSTALL_TORCH = BENCH_FOLDER.parent / "scripts" / "install_torch.py"
# Written last, so that an interrupted installation is done again.
STAMP = ENV_FOLDER / "installed.txt"


def torch_version(pinned: str) -> str:
    """The pinned torch, which must be the one our own environment has."""
    ours = metadata.version("torch").partition("+")[0]
    if f"torch=={ours}" not in pinned.splitlines():
        raise SystemExit(f"Our environment has torch {ours}, bench/peers.txt another one: make them one version.")
    return ours


def ensure() -> Path:
    """The peers' interpreter; installs the pinned versions first where the environment is absent or other."""
    python = ENV_FOLDER / "bin" / "python"
    pinned = REQUIREMENTS.read_text(encoding="utf-8")
    version = torch_version(pinned)
    if python.exists() and STAMP.exists() and STAMP.read_text(encoding="utf-8") == pinned:
        return python
    print(f"Installing the peers into {ENV_FOLDER} (once; a few minutes).", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(ENV_FOLDER)], check=True)
    # The same installer as ours, so that both sides get one build of torch and no CUDA without a GPU.
    subprocess.run([str(python), str(INSTALL_TORCH), version], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)], check=True)
    STAMP.write_text(pinned, encoding="utf-8")
    return python
