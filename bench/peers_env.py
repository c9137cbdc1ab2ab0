"""The peers' own environments: made once under bench/.env-NAME from pinned versions, never mixed with ours."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

BENCH_FOLDER = Path(__file__).resolve().parent
INSTALL_TORCH = BENCH_FOLDER.parent / "scripts" / "install_torch.py"


def torch_version(pinned: str) -> str:
    """The pinned torch, which must be the one our own environment has."""
    ours = metadata.version("torch").partition("+")[0]
    if f"torch=={ours}" not in pinned.splitlines():
        raise SystemExit(f"Our environment has torch {ours}, bench/peers.txt another one: make them one version.")
    return ours


def ensure(name: str = "peers") -> Path:
    """The interpreter of bench/.env-NAME; installs the versions of NAME.txt first where it is absent or other."""
    folder, requirements = BENCH_FOLDER / f".env-{name}", BENCH_FOLDER / f"{name}.txt"
    # Written last, so that an interrupted installation is done again.
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    pinned = requirements.read_text(encoding="utf-8")
    version = torch_version(pinned)
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == pinned:
        return python
    print(f"Installing the peers into {folder} (once; a few minutes).", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # The same installer as ours, so that both sides get one build of torch and no CUDA without a GPU.
    subprocess.run([str(python), str(INSTALL_TORCH), version], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)], check=True)
    stamp.write_text(pinned, encoding="utf-8")
    return python
