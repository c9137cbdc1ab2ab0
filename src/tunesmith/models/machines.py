"""Machines by name, as far as planning goes: how much memory, and whether they multiply bf16."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import torch

from tunesmith.errors import ConfigError
from tunesmith.models.budget import SAFE_SHARE, memory_available_bytes, memory_in_use_bytes
from tunesmith.models.load import pick_device, pick_dtype

MIB, GIB = 2**20, 2**30
# What a CUDA process takes before its first tensor (context, cuBLAS and cuDNN): 0.3 to 0.6 GB, by card and driver. An
# assumption: no GPU was at hand to measure it on.
CUDA_PROCESS_BYTES = 600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """memory_bytes: of the card, or of the computer where there is none. process_bytes: what the libraries take of it.

    dtype: what activations are computed in. free_bytes: what a job may plan to use, the process included.
    """

    name: str
    memory_bytes: int
    free_bytes: int
    process_bytes: int
    dtype: torch.dtype
    is_gpu: bool


# name -> (memory in MiB, whether it has bf16 units). MiB as the drivers report them, on cards that correct errors in
# memory less than what is printed on the box; bf16 needs compute capability 8.0 (NVIDIA's data sheets).
GPUS: dict[str, tuple[int, bool]] = {
    "t4": (15_360, False),
    "p100": (16_384, False),
    "v100-16gb": (16_384, False),
    "v100-32gb": (32_768, False),
    "rtx2080ti": (11_264, False),
    "rtx3060": (12_288, True),
    "rtx3090": (24_576, True),
    "rtx4060ti-16gb": (16_380, True),
    "rtx4090": (24_564, True),
    "rtx5090": (32_607, True),
    "a10": (23_028, True),
    "l4": (23_034, True),
    "a40": (46_068, True),
    "a6000": (49_140, True),
    "l40s": (46_068, True),
    "a100-40gb": (40_960, True),
    "a100-80gb": (81_920, True),
    "h100": (81_559, True),
    "h200": (143_771, True),
}
# A usual laptop: 16 GiB for everything, and no fast bf16.
LAPTOP_BYTES = 16 * GIB
ALIASES = {"a100": "a100-80gb", "3090": "rtx3090", "4090": "rtx4090", "rtxa6000": "a6000", "h100-80gb": "h100"}


def find_machine(name: str) -> Machine:
    """``this``, ``laptop``, a card by name, or a size such as ``24GB``, read as a card of so many GiB with bf16 units.

    Raises ConfigError with the nearest names for one that is not known.
    """
    key = re.sub(r"[\s_]|nvidia|geforce", "", name.lower()).strip("-")
    if key == "this":
        return _this_machine()
    if key == "laptop":
        here = memory_in_use_bytes(torch.device("cpu"))
        free = int(SAFE_SHARE * LAPTOP_BYTES)
        return Machine(
            name="laptop",
            memory_bytes=LAPTOP_BYTES,
            free_bytes=free,
            process_bytes=here,
            dtype=torch.float32,
            is_gpu=False,
        )
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)g(?:i?b)?", key):
        return _gpu(f"a GPU of {size[1]} GiB", int(float(size[1]) * GIB), True)
    plain = {known.replace("-", ""): known for known in (*GPUS, *ALIASES)}
    found = plain.get(key.replace("-", ""))
    if found is None:
        known = ["this", "laptop", *GPUS]
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.4) or known
        raise ConfigError("--gpu", f"no machine is called '{name}'.", f"Nearest: {', '.join(near)}; or a size: 24GB.")
    found = ALIASES.get(found, found)
    mebibytes, has_bf16 = GPUS[found]
    return _gpu(found, mebibytes * MIB, has_bf16)


def _gpu(name: str, memory_bytes: int, has_bf16: bool) -> Machine:
    return Machine(
        name=name,
        memory_bytes=memory_bytes,
        free_bytes=int(SAFE_SHARE * memory_bytes),
        process_bytes=CUDA_PROCESS_BYTES,
        dtype=torch.bfloat16 if has_bf16 else torch.float16,
        is_gpu=True,
    )


def _this_machine() -> Machine:
    """What is free here now; the libraries are in memory already."""
    device = pick_device("auto")
    here, available = memory_in_use_bytes(device), memory_available_bytes(device)
    return Machine(
        name=f"this machine ({device.type})",
        memory_bytes=here + available,
        free_bytes=here + int(SAFE_SHARE * available),
        process_bytes=here,
        dtype=pick_dtype("auto", device)[0],
        is_gpu=device.type == "cuda",
    )
