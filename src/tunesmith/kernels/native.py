"""The kernels in ``c/``, compiled for this processor when it is first needed, and what goes in and out of it.

It needs a C compiler and an x86 processor with AVX2, FMA and F16C; ``library`` says what is missing. The compiled file
is kept in the cache folder under a name made of the source, the compiler and the processor. Shape letters: T tokens,
I in features, O out features.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tunesmith.kernels.packed import check_half, quantize_rows
from tunesmith.runtime import cache_folder

SOURCES = Path(__file__).with_name("c")
INSTRUCTIONS = ("avx2", "fma", "f16c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC")
PANEL = 16
HALF, INT8 = 0, 1
# Numbers in the widest vector that they are compiled for; rows of space are whole vectors.
MOST_LANES = 16
KINDS = (torch.float32, torch.bfloat16)
# Tokens of a block of attention; its pairs of bf16 rows are filled up from a row of so many zeros.
BLOCK, MOST_WIDTH = 64, 4096
COMPILE_SECONDS = 120
_pointer, _whole = c.c_void_p, c.c_int64


class Linear(c.Structure):
    """A packed weight: panels, int8's step of each output, bias, in, out, kind."""

    _fields_ = [(n, _pointer) for n in ("weight", "step", "bias")] + [
        (n, _whole) for n in ("num_in", "num_out", "kind")
    ]


class Layer(c.Structure):
    """The maps of a layer and its norms' weights."""

    _fields_ = [(n, Linear) for n in ("qkv", "o", "gate_up", "down")] + [
        (n, _pointer) for n in ("norm_in", "norm_mlp", "q_norm", "k_norm")
    ]


class Model(c.Structure):
    """Sizes, constants and layers of a decoder."""

    _fields_ = [
        *((n, _whole) for n in ("layers", "width", "heads", "kv_heads", "head_width", "inner", "window")),
        *((n, c.c_float) for n in ("epsilon", "scale")),
        *((n, _pointer) for n in ("layer", "norm")),
    ]


class Lora(c.Structure):
    """Matrices of one adapter on one map: a (rank, in), b (rank, out) with the scaling in it."""

    _fields_ = [*((n, _pointer) for n in ("a", "b")), *((n, _whole) for n in ("rank", "first_out", "num_out"))]


class RunOf(c.Structure):
    """Rows that end where it says, and the Lora of each layer's seven maps, or none."""

    _fields_ = [("end", _whole), ("lora", _pointer)]


class Step(c.Structure):
    """One token of some rows: where they stand, what they know, and space."""

    _fields_ = [
        *((n, _whole) for n in ("rows", "threads", "slots", "runs", "most_rank")),
        *((n, _pointer) for n in ("place", "slot", "cos", "sin", "keys", "values", "run", "x")),
        *((n, _pointer) for n in ("normed", "qkv", "mixed", "inner", "low", "scores", "row_step", "digits")),
    ]


class Attention(c.Structure):
    """One pass of attention over a forest; see ``kernels/native_attention.py``."""

    _fields_ = [
        *((n, _whole) for n in ("tokens", "heads", "kv_heads", "width", "trees", "parts", "threads", "window", "half")),
        ("most_blocks", _whole),
        *((n, _pointer) for n in ("first_member", "member", "start", "length", "parent", "block", "positions")),
        *((n, _pointer) for n in ("q", "k", "v", "out", "log_sum", "out_grad", "q_grad", "k_grad", "v_grad")),
        *((n, _pointer) for n in ("sums", "space")),
        ("scale", c.c_double),
    ]


_F = c.c_float
# What each function of whole tensors takes.
ARGUMENTS: dict[str, list[Any]] = {
    "linear": [c.POINTER(Linear), _pointer, _whole, _pointer, _whole, _pointer, _pointer],
    "token": [c.POINTER(Model), c.POINTER(Step)],
    "attention_forward": [c.POINTER(Attention)],
    "attention_backward": [c.POINTER(Attention)],
    "norm_forward": [_whole, _whole, _whole, _pointer, _pointer, _pointer, _pointer, _F, _whole],
    "norm_backward": [_whole, _whole, _whole, _pointer, _pointer, _pointer, _pointer, _pointer, _whole],
    "rotate": [_whole, _whole, _whole, _whole, _pointer, _pointer, _pointer, _pointer, _whole, _whole],
    "swiglu_forward": [_whole, _whole, _pointer, _pointer, _pointer, _whole],
    "swiglu_backward": [_whole, _whole, _pointer, _pointer, _pointer, _pointer, _pointer, _whole],
    "unpack_nf4": [_whole, _whole, _pointer, _pointer, _pointer, _pointer, _whole],
    "softmax_rows": [_whole, _whole, _whole, _pointer, _pointer, _pointer, _pointer, _F, _whole, _whole],
}


@lru_cache(maxsize=1)
def library() -> c.CDLL | str:
    """The compiled functions, or the reason why there are none here."""
    found = _flags_of_processor()
    if platform.machine() not in ("x86_64", "AMD64") or not found.issuperset(INSTRUCTIONS):
        return f"this processor has not all of {', '.join(INSTRUCTIONS)}"
    asked = os.environ.get("CC")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not (asked or compiler):
        return "there is no C compiler (cc)"
    openmp = _openmp_of_torch()
    if openmp is None:
        return "torch's threads are not OpenMP's here"
    try:
        command = shlex.split(asked) if asked else [str(compiler)]
        return _loaded(command, openmp, " ".join(sorted(found)))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        return f"{asked or compiler} does not compile it ({said[0] if said else 'it said nothing'})"
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        return f"{asked or compiler} made nothing that can be used ({error})"


def available() -> bool:
    """Whether there are compiled kernels here."""
    return not isinstance(library(), str)


def team(dtype: torch.dtype, device: torch.device) -> int:
    """Threads of compiled kernels on tensors of this kind; 0 where operators run instead."""
    runs = dtype in KINDS and device.type == "cpu" and available()
    return torch.get_num_threads() if runs else 0


def serves(*tensors: Tensor) -> bool:
    """Whether kernels of whole tensors can take these: all fp32 or all bf16, with numbers, on a processor.

    Not what only stands for numbers (torch's fake tensors), nor what carries a forward-mode derivative.
    """
    kind = tensors[0].dtype
    if kind not in KINDS or forward_ad._current_level >= 0 or not available():
        return False
    plain = all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)
    return plain and all(x.dtype == kind and x.device.type == "cpu" and x.numel() > 0 for x in tensors)


def floats(*shape: int) -> Tensor:
    """fp32 space that C writes, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def kernels() -> c.CDLL:
    """The compiled functions. Raises RuntimeError with the reason where there are none."""
    found = library()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _checked(loaded: c.CDLL) -> c.CDLL:
    loaded.sizes.restype, loaded.sizes.argtypes = _whole, [_whole]
    for number, structure in enumerate((Linear, Layer, Model, Lora, RunOf, Step)):
        if loaded.sizes(number) != c.sizeof(structure):
            raise ValueError(f"{structure.__name__} has another size in C")
    loaded.attention_facts.restype, loaded.attention_facts.argtypes = _whole, [_whole]
    facts = (c.sizeof(Attention), BLOCK, MOST_WIDTH, MOST_LANES)
    if tuple(loaded.attention_facts(number) for number in range(len(facts))) != facts:
        raise ValueError("attention has other sizes in C")
    loaded.attention_space.restype, loaded.attention_space.argtypes = _whole, [c.POINTER(Attention)]
    for name, arguments in ARGUMENTS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = None, arguments
    return loaded


def _flags_of_processor() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


class _Found(c.Structure):
    """What dladdr says of an address: the file first."""

    _fields_ = [("file", c.c_char_p), ("base", _pointer), ("name", c.c_char_p), ("address", _pointer)]


def _openmp_of_torch() -> Path | None:
    """The OpenMP library that torch calls: a second one would have threads of its own, which fight with torch's.

    Other packages may have loaded one each.
    """
    found = _Found()
    with contextlib.suppress(OSError, AttributeError):
        torchs = c.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        if c.CDLL(None).dladdr(c.cast(torchs.GOMP_parallel, _pointer), c.byref(found)) and found.file:
            return Path(os.fsdecode(found.file))
    return None


def _loaded(compiler: Sequence[str], openmp: Path, processor: str) -> c.CDLL:
    """The library out of the cache; where that cannot be written, compiled for this process alone."""
    version = _run([*compiler, "--version"])
    files = sorted(SOURCES.glob("*.c"))
    sources = [file.read_bytes() for file in sorted(SOURCES.glob("*.[ch]"))]
    told = [*sources, os.fsencode(openmp), *(text.encode() for text in (version, processor, *FLAGS, *compiler))]
    file = cache_folder() / "native" / f"kernels-{hashlib.sha256(bytes(1).join(told)).hexdigest()[:32]}.so"
    # A damaged file is written anew.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return _checked(c.CDLL(str(file)))
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as scratch:
        parts, whole = [Path(scratch) / f"{file.stem}.o" for file in files], Path(scratch) / "whole.so"
        with ThreadPoolExecutor() as pool:
            pairs = zip(files, parts, strict=True)
            list(pool.map(_run, ([*compiler, *FLAGS, "-c", str(source), "-o", str(part)] for source, part in pairs)))
        _run([*compiler, "-shared", *map(str, parts), str(openmp), "-lm", "-o", str(whole)])
        try:
            _put(whole, file)
            return _checked(c.CDLL(str(file)))
        except OSError:
            # Once loaded it does not need its file any more.
            return _checked(c.CDLL(str(whole)))


def _put(source: Path, target: Path) -> None:
    """Copy to a place where other processes see the whole file or none; the two may lie on different disks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(source.read_bytes())
        Path(beside).replace(target)
    finally:
        Path(beside).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS
    )
    return done.stdout


def _panels(weight_OI: Tensor) -> Tensor:
    missing = -len(weight_OI) % PANEL
    return torch.nn.functional.pad(weight_OI, (0, 0, 0, missing)).reshape(-1, PANEL, weight_OI.shape[1]).transpose(1, 2)


class NativeWeight:
    """A weight (out, in) in panels and int8's steps (out,). Raises RuntimeError where ``library`` has a reason."""

    def __init__(self, panels: Tensor, steps_O: Tensor | None, num_in: int, num_out: int) -> None:
        self.library, self._held = kernels(), (panels, steps_O)
        kind = HALF if steps_O is None else INT8
        self.linear = Linear(address(panels), address(steps_O), None, num_in, num_out, kind)

    def matmul(self, x_TI: Tensor) -> Tensor:
        """x (T, in) -> (T, out), in x's dtype."""
        wide_TI = x_TI.float().contiguous()
        y_TO = torch.empty(len(x_TI), self.linear.num_out, dtype=torch.float32)
        digits = torch.empty(len(x_TI), self.linear.num_in + 1, dtype=torch.int16)
        steps = torch.empty(len(x_TI), dtype=torch.float32)
        spaces = (y_TO.data_ptr(), torch.get_num_threads(), digits.data_ptr(), steps.data_ptr())
        self.library.linear(c.byref(self.linear), wide_TI.data_ptr(), len(x_TI), *spaces)
        return y_TO.to(x_TI.dtype)


class NativeHalf(NativeWeight):
    """In fp16, multiplied and summed in fp32. Raises OverflowError for a weight beyond fp16's range."""

    def __init__(self, weight_OI: Tensor) -> None:
        num_out, num_in = weight_OI.shape
        check_half(weight_OI)
        # (panels, in, 16)
        super().__init__(_panels(weight_OI.detach().to(torch.float16)).contiguous(), None, num_in, num_out)


class NativeInt8(NativeWeight):
    """In 8 bits with one step an output; a row of x keeps 15 bits of its largest magnitude, and sums are whole."""

    def __init__(self, weight_OI: Tensor) -> None:
        num_out, num_in = weight_OI.shape
        codes_OI, step_O = quantize_rows(weight_OI)
        # (panels, in / 2, 16, 2), an odd end filled with 0; steps of as many outputs as the panels have.
        panels_PIN = _panels(torch.nn.functional.pad(codes_OI, (0, num_in % 2)))
        pairs = panels_PIN.reshape(panels_PIN.shape[0], -1, 2, PANEL).transpose(2, 3).contiguous()
        steps_O = torch.nn.functional.pad(step_O, (0, -num_out % PANEL)).contiguous()
        super().__init__(pairs, steps_O, num_in, num_out)


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers lie; it must be contiguous and live as long as they are read."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
