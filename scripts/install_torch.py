"""Install the pinned torch without pulling CUDA packages onto a machine that has no NVIDIA GPU.

On Linux the registry's plain wheel brings several GB of CUDA. Without a GPU only a CPU build is accepted: one that
pip finds through its own settings (a wheel folder, an index), or one from the index in TORCH_INDEX_URL, which should
name PyTorch's CPU wheel index. Standard library only, because nothing else is installed yet.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys

REFUSAL = """error: no CPU build of torch {version} was found, and this machine has no NVIDIA GPU.
The registry's plain wheel would bring several GB of CUDA packages. Do one of these, then run make again:
  TORCH_INDEX_URL=<PyTorch's CPU wheel index> make ...     (see pytorch.org, 'Get started', Compute Platform: CPU)
  TUNESMITH_ALLOW_CUDA_TORCH=1 make ...                    take the CUDA build all the same
"""


def plan(system: str, has_gpu: bool, index_url: str | None, allow_cuda: bool, version: str) -> list[list[str]]:
    """pip's arguments to try in order; the first that succeeds ends the search."""
    plain = [f"torch=={version}"]
    if system != "Linux" or has_gpu or allow_cuda:
        return [plain]
    cpu = f"torch=={version}+cpu"
    attempts = [[cpu]]
    if index_url:
        attempts.append([cpu, "--index-url", index_url])
    return attempts


def has_nvidia_gpu() -> bool:
    """Whether nvidia-smi is there and lists a device."""
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0


def main() -> int:
    """Install, or say why not; --dry-run prints the attempts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    attempts = plan(
        platform.system(),
        has_nvidia_gpu(),
        os.environ.get("TORCH_INDEX_URL"),
        os.environ.get("TUNESMITH_ALLOW_CUDA_TORCH") == "1",
        arguments.version,
    )
    if arguments.dry_run:
        print("\n".join(" ".join(attempt) for attempt in attempts))
        return 0
    for attempt in attempts:
        if subprocess.run([sys.executable, "-m", "pip", "install", "-q", *attempt], check=False).returncode == 0:
            return 0
    print(REFUSAL.format(version=arguments.version), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
