"""``c/token.c``, compiled for this processor when it is first needed, and what goes in and out of it.

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
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.kernels.packed import check_half, quantize_rows
from tunesmith.runtime import cache_folder

SOURCES = Path(__file__).with_name("c")
INSTRUCTIONS = ("avx2", "fma", "f16c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC")
PANEL = 16
HALF, INT8 = 0, 1
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


@lru_cache(maxsize=1)
def library() -> c.CDLL | str:
    """The compiled functions, or the reason why there are none here."""
    found = _flags_of_processor()
    if platform.machine() not in ("x86_64", "AMD64") or not found.issuperset(INSTRUCTIONS):
        return f"this processor has not all of {', '.join(INSTRUCTIONS)}"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler (cc)"
    openmp = _loaded_openmp()
    if openmp is None:
        return "torch's threads are not OpenMP's here"
    try:
        return _checked(c.CDLL(str(_compiled(compiler, openmp, " ".join(sorted(found))))))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        return f"{compiler} does not compile it ({said[0] if said else 'it said nothing'})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{compiler} made nothing that can be loaded ({error})"


def _checked(loaded: c.CDLL) -> c.CDLL:
    loaded.sizes.restype, loaded.sizes.argtypes = _whole, [_whole]
    for number, structure in enumerate((Linear, Layer, Model, Lora, RunOf, Step)):
        assert loaded.sizes(number) == c.sizeof(structure), structure.__name__
    loaded.linear.restype = loaded.token.restype = None
    loaded.linear.argtypes = [c.POINTER(Linear), _pointer, _whole, _pointer, _whole, _pointer, _pointer]
    loaded.token.argtypes = [c.POINTER(Model), c.POINTER(Step)]
    return loaded


def _flags_of_processor() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def _loaded_openmp() -> Path | None:
    """The OpenMP library that torch has loaded: a second one would have threads of its own, which fight with these."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            path = Path(line.split(maxsplit=5)[-1])
            if path.name.startswith(("libgomp", "libiomp5")):
                return path
    return None


def _compiled(compiler: str, openmp: Path, processor: str) -> Path:
    """The library's file, made where it is not there yet."""
    version = _run([compiler, "--version"])
    sources = [file.read_bytes() for file in sorted(SOURCES.glob("*.[ch]"))]
    parts = [*sources, version.encode(), processor.encode(), os.fsencode(openmp), " ".join(FLAGS).encode()]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
    for folder in _folders(cache_folder() / "native"):
        file = folder / f"token-{name}.so"
        if file.exists():
            return file
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            part = Path(scratch) / "token.o"
            _run([compiler, *FLAGS, "-c", str(SOURCES / "token.c"), "-o", str(part)])
            _run([compiler, "-shared", str(part), str(openmp), "-lm", "-o", f"{part}.so"])
            # Other processes see the whole file or none.
            Path(f"{part}.so").replace(file)
        return file
    raise OSError("no folder can be written")


def _folders(cache: Path) -> Iterator[Path]:
    """The cache folder, or one of this process where that cannot be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            yield cache
    except OSError:
        pass
    yield Path(tempfile.mkdtemp(prefix="tunesmith-native-"))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    return done.stdout


def _panels(weight_OI: Tensor) -> Tensor:
    missing = -len(weight_OI) % PANEL
    return torch.nn.functional.pad(weight_OI, (0, 0, 0, missing)).reshape(-1, PANEL, weight_OI.shape[1]).transpose(1, 2)


class NativeWeight:
    """A weight (out, in) in panels. Raises RuntimeError where ``library`` gives a reason."""

    kind: int

    def __init__(self, weight_OI: Tensor) -> None:
        found = library()
        if isinstance(found, str):
            raise RuntimeError(found)
        self.library = found
        num_out, num_in = weight_OI.shape
        self._panels, self._steps = self.panels(weight_OI.detach())
        self.linear = Linear(address(self._panels), address(self._steps), None, num_in, num_out, self.kind)

    def panels(self, weight_OI: Tensor) -> tuple[Tensor, Tensor | None]:
        """The numbers as ``token.c`` reads them, and int8's step of each output."""
        raise NotImplementedError

    def matmul(self, x_TI: Tensor) -> Tensor:
        """x (T, in) -> (T, out), in x's dtype."""
        wide_TI = x_TI.float().contiguous()
        y_TO = torch.empty(len(x_TI), self.linear.num_out)
        digits = torch.empty(len(x_TI), self.linear.num_in + 1, dtype=torch.int16)
        steps = torch.empty(len(x_TI))
        spaces = (y_TO.data_ptr(), torch.get_num_threads(), digits.data_ptr(), steps.data_ptr())
        self.library.linear(c.byref(self.linear), wide_TI.data_ptr(), len(x_TI), *spaces)
        return y_TO.to(x_TI.dtype)


class NativeHalf(NativeWeight):
    """In fp16, multiplied and summed in fp32. Raises OverflowError for a weight beyond fp16's range."""

    kind = HALF

    def panels(self, weight_OI: Tensor) -> tuple[Tensor, Tensor | None]:
        """(panels, in, 16) fp16."""
        check_half(weight_OI)
        return _panels(weight_OI.to(torch.float16)).contiguous(), None


class NativeInt8(NativeWeight):
    """In 8 bits with one step an output; a row of x keeps 15 bits of its largest magnitude, and sums are whole."""

    kind = INT8

    def panels(self, weight_OI: Tensor) -> tuple[Tensor, Tensor | None]:
        """(panels, in / 2, 16, 2) int8, an odd end filled with 0; steps of as many outputs as the panels have."""
        codes_OI, step_O = quantize_rows(weight_OI)
        codes_OI = torch.nn.functional.pad(codes_OI, (0, codes_OI.shape[1] % 2))
        panels_PIN = _panels(codes_OI)
        pairs = panels_PIN.reshape(panels_PIN.shape[0], -1, 2, PANEL).transpose(2, 3).contiguous()
        return pairs, torch.nn.functional.pad(step_O, (0, -len(step_O) % PANEL)).contiguous()


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers lie; it must be contiguous and live as long as they are read."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
