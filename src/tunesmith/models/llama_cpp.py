"""llama.cpp in this process: the engine that will serve an exported file, asked for its tokens and its logits.

The wheel ``xllamacpp`` carries the whole library; its Python face is a server, so the library's own C functions are
called. Two structs of settings are taken and given back as blocks larger than they are: of one only fields are set
that stand first and hold the defaults known here, of the other none, so that a newer layout is noticed, not misread.
Shape letters: T tokens, V vocabulary.
"""

from __future__ import annotations

import ctypes as c
import functools
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import MissingExtraError, ModelError

BINDING = "xllamacpp"
INSTALL = "pip install 'tunesmith[gguf]'"
# The first three fields of llama_context_params: n_ctx, n_batch, n_ubatch.
CONTEXT_DEFAULTS = (512, 2048, 512)
WARN_LEVEL = 3


class _Settings(c.Structure):
    """Room for any of llama.cpp's structs of settings, which are passed by value."""

    _fields_ = [("words", c.c_uint32 * 128)]


class _Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.c_void_p),
        ("n_seq_id", c.c_void_p),
        ("seq_id", c.c_void_p),
        ("logits", c.POINTER(c.c_int8)),
    ]


_LogCallback = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
_POINTER, _INT = c.c_void_p, c.c_int32
# Name -> (what it returns, what it takes).
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_quantize_chunk": (c.c_size_t, [c.c_int, _POINTER, _POINTER, c.c_int64, c.c_int64, c.c_int64, _POINTER]),
    "llama_adapter_lora_init": (_POINTER, [_POINTER, c.c_char_p]),
    "llama_context_default_params": (_Settings, []),
    "llama_decode": (_INT, [_POINTER, _Batch]),
    "llama_free": (None, [_POINTER]),
    "llama_get_logits": (c.POINTER(c.c_float), [_POINTER]),
    "llama_get_memory": (_POINTER, [_POINTER]),
    "llama_init_from_model": (_POINTER, [_POINTER, _Settings]),
    "llama_log_set": (None, [_LogCallback, _POINTER]),
    "llama_memory_clear": (None, [_POINTER, c.c_bool]),
    "llama_model_default_params": (_Settings, []),
    "llama_model_free": (None, [_POINTER]),
    "llama_model_get_vocab": (_POINTER, [_POINTER]),
    "llama_model_load_from_file": (_POINTER, [c.c_char_p, _Settings]),
    "llama_set_adapters_lora": (_INT, [_POINTER, c.POINTER(_POINTER), c.c_size_t, c.POINTER(c.c_float)]),
    "llama_set_n_threads": (None, [_POINTER, _INT, _INT]),
    "llama_tokenize": (_INT, [_POINTER, c.c_char_p, _INT, c.POINTER(_INT), _INT, c.c_bool, c.c_bool]),
    "llama_vocab_is_eog": (c.c_bool, [_POINTER, _INT]),
    "llama_vocab_n_tokens": (_INT, [_POINTER]),
}
_said: list[str] = []


def _keep_warnings(level: int, text: bytes, _: Any) -> None:
    if level >= WARN_LEVEL:
        _said.append(text.decode("utf-8", "replace").strip())


# Kept, since the library calls it as long as the process lives.
_log_callback = _LogCallback(_keep_warnings)


def is_installed() -> bool:
    """Whether the binding is there; nothing is imported."""
    return find_spec(BINDING) is not None


@functools.cache
def library() -> Any:
    """llama.cpp's functions, typed. Raises MissingExtraError where the binding is absent or not one we can call."""
    if not is_installed():
        raise MissingExtraError("llama.cpp", f"the package {BINDING} is not installed.", f"Run: {INSTALL}")
    found = c.CDLL(import_module(f"{BINDING}.{BINDING}").__file__)
    missing = [name for name in _FUNCTIONS if not hasattr(found, name)]
    if not missing:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
        found.llama_log_set(_log_callback, None)
    if missing or tuple(found.llama_context_default_params().words[:3]) != CONTEXT_DEFAULTS:
        why = f"has no {missing[0]}" if missing else "keeps its settings in another order"
        raise MissingExtraError("llama.cpp", f"this version of {BINDING} {why}.", f"Run: {INSTALL} --upgrade")
    return found


class LlamaCpp:
    """One model file opened by llama.cpp, with its default settings but for threads and room; use it in a ``with``.

    lora: an adapter's GGUF laid over it. context_tokens: the longest sequence it will be given. Raises ModelError,
    with llama.cpp's own words, for a file it does not load.
    """

    def __init__(self, path: Path, *, context_tokens: int, threads: int, lora: Path | None = None) -> None:
        self._library, self._context, self._model = library(), None, None
        self._context_tokens = context_tokens
        self._model = self._checked(
            path,
            self._library.llama_model_load_from_file(str(path).encode(), self._library.llama_model_default_params()),
        )
        settings = self._library.llama_context_default_params()
        settings.words[0:3] = [context_tokens] * 3
        self._context = self._checked(path, self._library.llama_init_from_model(self._model, settings))
        self._library.llama_set_n_threads(self._context, threads, threads)
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self.num_tokens = int(self._library.llama_vocab_n_tokens(self._vocabulary))
        if lora is not None:
            adapter = self._checked(lora, self._library.llama_adapter_lora_init(self._model, str(lora).encode()))
            adapters, scales = (c.c_void_p * 1)(adapter), (c.c_float * 1)(1.0)
            if self._library.llama_set_adapters_lora(self._context, adapters, 1, scales) != 0:
                raise ModelError(lora, "llama.cpp does not take it as an adapter of its base.", "Export both again.")

    def _checked(self, path: Path, handle: int | None) -> int:
        if handle:
            return handle
        self.close()
        words = " ".join(_said[-3:]) or "no reason given"
        raise ModelError(path, f"llama.cpp does not load it: {words}.", "Export it again.")

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back; calling it twice does no harm."""
        if self._context:
            self._library.llama_free(self._context)
        if self._model:
            self._library.llama_model_free(self._model)
        self._context = self._model = None

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, special tokens read as such; nothing is put before or after it."""
        raw = text.encode()
        room = (c.c_int32 * (len(raw) + 8))()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), False, True)
        return list(room[:count])

    def ends_generation(self, token: int) -> bool:
        """Whether llama.cpp stops at a token."""
        return bool(self._library.llama_vocab_is_eog(self._vocabulary, token))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """ids (T,) -> (T, V): at each token what is said of the next, nothing having been read before."""
        self.clear()
        return self.decode(ids, [True] * len(ids))

    def clear(self) -> None:
        """Forget what has been read."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def greedy(self, ids: Sequence[int], num_tokens: int) -> list[int]:
        """The likeliest token again and again, token by token with llama.cpp's cache; stops where llama.cpp does."""
        self.clear()
        out: list[int] = []
        row_1V = self.decode(ids, [False] * (len(ids) - 1) + [True])
        while True:
            out.append(int(row_1V[0].argmax()))
            if len(out) == num_tokens or self.ends_generation(out[-1]):
                return out
            row_1V = self.decode(out[-1:], [True])

    def decode(self, ids: Sequence[int], wanted: Sequence[bool]) -> NDArray[np.float32]:
        """Read further ids (T,) -> logits (wanted tokens, V)."""
        if len(ids) > self._context_tokens:
            raise ValueError(f"{len(ids)} tokens, opened for {self._context_tokens}")
        tokens, marks = (c.c_int32 * len(ids))(*ids), (c.c_int8 * len(ids))(*wanted)
        batch = _Batch(n_tokens=len(ids), token=tokens, logits=marks)
        code = self._library.llama_decode(self._context, batch)
        if code != 0:
            raise ModelError("llama.cpp", f"fails with code {code} on {len(ids)} tokens.", "Export the file again.")
        pointer = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (sum(wanted), self.num_tokens)).copy()


def quantize_rows(rows_RC: NDArray[np.float32], ggml_type: int, row_bytes: int) -> NDArray[np.uint8]:
    """(R, C) float32 -> (R, row_bytes) in one of ggml's block types, by ggml's own quantiser."""
    rows_RC = np.ascontiguousarray(rows_RC, np.float32)
    out = np.empty((rows_RC.shape[0], row_bytes), np.uint8)
    written = library().ggml_quantize_chunk(ggml_type, rows_RC.ctypes.data, out.ctypes.data, 0, *rows_RC.shape, None)
    if written != out.nbytes:
        raise ValueError(f"ggml wrote {written} bytes of {out.nbytes}")
    return out
