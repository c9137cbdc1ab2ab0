"""Install the pinned torch without pulling CUDA packages onto a machine that has no NVIDIA GPU.

On Linux the registry's plain wheel brings several GB of CUDA. Without a GPU only a CPU build is accepted: one from the
index in TORCH_INDEX_URL, which should name PyTorch's CPU wheel index, or one that pip finds through its own settings (a
wheel folder, an index). torch comes alone: what it depends on is installed with the rest, from the constraints file.
Standard library only, because nothing else is installed yet.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

REFUSAL = """error: no CPU build of torch {version} was found, and this machine shows no NVIDIA GPU.
The registry's plain wheel would bring several GB of CUDA packages. Do one of these, then run make again:
  TORCH_INDEX_URL=<PyTorch's CPU wheel index> make ...     (see pytorch.org, 'Get started', Compute Platform: CPU)
  TUNESMITH_ALLOW_CUDA_TORCH=1 make ...                    take the CUDA build all the same
"""
FAILURE = "error: torch {version} could not be installed; pip's words are above.\n"


def plan(system: str, has_gpu: bool, index_url: str | None, allow_cuda: bool, version: str) -> list[list[str]]:
    """pip's arguments to try in order; the first that succeeds ends the search."""
    cpu_only = system == "Linux" and not has_gpu and not allow_cuda
    requirement = f"torch=={version}+cpu" if cpu_only else f"torch=={version}"
    attempts = [[requirement]]
    if index_url:
        attempts.insert(0, [requirement, "--index-url", index_url])
    return attempts


def is_installed(version: str) -> bool:
    """Whether this very torch is there already, in whichever build somebody chose."""
    try:
        return installed_version("torch").partition("+")[0] == version
    except PackageNotFoundError:
        return False


def has_nvidia_gpu() -> bool:
    """Whether nvidia-smi is there and lists a device."""
    if shutil.which("nvidia-smi") is None:
        return False
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


def main() -> int:
    """Install, or say why not; --dry-run prints the attempts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--dry-run", action="store_true", help="print what pip would be asked, and stop")
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
    if is_installed(arguments.version):
        return 0
    words = ""
    for attempt in attempts:
        print(f"installing {attempt[0]}", flush=True)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", *attempt]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            return 0
        words += done.stderr
    text = REFUSAL if "+cpu" in attempts[-1][0] else FAILURE
    print(words + text.format(version=arguments.version), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
