"""A GGUF file as a folder that plain transformers loads: dequantised once, kept in the cache.

Two traps lie in such files. llama.cpp stores the rows of Llama's query and key projections in another order; weights
taken over as they lie still answer easy questions while the loss rises by half a nat. And the file names the way its
tokenizer splits text before merging instead of describing it; a way the loader does not know is replaced by GPT-2's,
which gives "\n\n1." other tokens than the model was trained on.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.errors import DiskFullError, ModelError
from tunesmith.models.cache import files_digest
from tunesmith.runtime import cache_folder

# Raised whenever the conversion below would give other weights or other tokens for the same file.
CONVERSION = "v2"
MANIFEST_FILE = "tunesmith_conversion.json"
# llama.cpp's names (`tokenizer.ggml.pre`) for: every digit alone, then GPT-2's split.
DIGITS_ALONE = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
# Names for GPT-2's split itself.
PLAIN_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "trillion", "mellum", "modern-bert"})
# A conversion takes seconds to minutes; what is older was left behind by a process that died.
ABANDONED_SECONDS = 24 * 3600


def materialise(gguf: Path) -> tuple[Path, str]:
    """The folder (safetensors in bf16, config, tokenizer) and digest of a GGUF file, converted on first use.

    The folder appears under its name only when it is complete, so that processes racing for it never see half of it.
    Raises ModelError for a file that cannot be converted, DiskFullError when it does not fit on the disk.
    """
    _check_magic(gguf)
    digest = files_digest([gguf])
    target = cache_folder() / f"{digest[:16]}-{CONVERSION}"
    if not _is_complete(target):
        # To standard error: the verbs' own output may be JSON.
        print(f"converting {gguf.name} into {cache_folder()}, once; some 20 seconds ...", file=sys.stderr, flush=True)
        try:
            _build(target, digest, lambda folder: convert(gguf, folder))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFullError(
                    cache_folder().as_posix(),
                    "no space is left for the converted model.",
                    "Free some, or set TUNESMITH_CACHE.",
                ) from None
            raise ModelError(
                cache_folder().as_posix(),
                f"the converted model cannot be kept here: {error.strerror or error}.",
                "Set TUNESMITH_CACHE to a folder you may write to.",
            ) from None
    return target, f"{digest}-{CONVERSION}"


def _check_magic(gguf: Path) -> None:
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(gguf.as_posix(), "is not a GGUF file.", "Check the path, or download it again.")


def _is_complete(folder: Path) -> bool:
    """Whether every file of a finished conversion is there in the size it was written with."""
    try:
        sizes = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["size_bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _build(target: Path, digest: str, fill: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        fill(work)
        sizes = {file.name: file.stat().st_size for file in sorted(work.iterdir())}
        manifest = {"gguf_sha256": digest, "conversion": CONVERSION, "size_bytes": sizes}
        (work / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for file in work.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        # mkdtemp's folder is its maker's alone; a cache may be shared.
        work.chmod(0o755)
        _publish(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, target: Path) -> None:
    try:
        work.rename(target)
    except OSError:
        # A folder is in the way: of a process that was faster, or one whose files were damaged later.
        if _is_complete(target):
            return
        target.rename(work.with_name(f"{work.name}.damaged"))
        work.rename(target)
        shutil.rmtree(work.with_name(f"{work.name}.damaged"), ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f"{target.name}.*"):
        if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer into a folder, weights in bf16.

    Dequantising and putting the rows of q and k back in order is transformers' work; that it does so is a test here.
    Raises ModelError for a file it cannot read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.resolve().parent), "gguf_file": gguf.name}
    try:
        split = _split_name(gguf)
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(**where)
            quantized = AutoModelForCausalLM.from_pretrained(
                **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            gguf.as_posix(), f"cannot be read: {line}.", "Download it again, or use another file."
        ) from None
    if split is not None:
        _set_split(gguf, tokenizer, split)
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    state = {name: tensor.to(torch.bfloat16) for name, tensor in quantized.state_dict().items()}
    # A fresh model of the same config carries no trace of the quantised file, so that it can be saved.
    with torch.device("meta"):
        model = type(quantized)(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.config.dtype = torch.bfloat16
    with no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Transformers' bars go to standard error and heed no switch of ours; this keeps them away."""
    from transformers.utils import logging

    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # The bar of the dequantisation heeds no switch; it writes to what is stderr when it begins.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if bar_was_on:
            logging.enable_progress_bar()


def _split_name(gguf: Path) -> str | None:
    """How a byte-level tokenizer splits text before merging; None for the other kinds, which do not split."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    if "tokenizer.ggml.model" not in fields or fields["tokenizer.ggml.model"].contents() != "gpt2":
        return None
    return str(fields["tokenizer.ggml.pre"].contents()) if "tokenizer.ggml.pre" in fields else ""


def _set_split(gguf: Path, tokenizer: Any, split: str) -> None:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    backend = tokenizer.backend_tokenizer
    # Where transformers knows the name, it has put its own sequence in place of GPT-2's split.
    if not isinstance(backend.pre_tokenizer, ByteLevel) or split in PLAIN_GPT2:
        return
    if split not in DIGITS_ALONE:
        name = f"as '{split}', which is not known here" if split else "in a way it does not name"
        raise ModelError(
            gguf.as_posix(), f"its tokenizer splits text {name}.", "Use the model's own folder of safetensors."
        )
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
