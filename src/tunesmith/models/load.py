"""Load a base: where it lies, on which device, in which dtype, on which path."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tunesmith.config import Config
from tunesmith.errors import ConfigError, ModelError
from tunesmith.kernels.head_loss import Head
from tunesmith.kernels.native import library
from tunesmith.models.blocks import Decoder, read_blocks
from tunesmith.models.encoder_decoder import check_family, read_decoder_prefix, read_head
from tunesmith.models.forward import hidden_states
from tunesmith.models.quantize import load_quantized, quantize_model
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.resolve import EMBEDDED_MODEL, ResolvedModel, resolve_model
from tunesmith.models.roles import Base
from tunesmith.runtime import OthersWatch, thread_notes, usable_cores
from tunesmith.tokens.pack import pack_prompts
from tunesmith.tokens.text_to_text import use_text_to_text

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


class ModelConfig(Config):
    """Which base model, where it runs and how its numbers are stored."""

    model_name_or_path: str = EMBEDDED_MODEL
    """The embedded model's name, a hub id, a folder in transformers' layout, or a .gguf file."""
    device: Literal["auto", "cpu", "cuda", "mps"] | str = "auto"
    """auto takes cuda, then mps, then cpu."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 where the device multiplies it fast, else float16 on a GPU and float32 on a CPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model; off unless you have read it."""
    kernels: Literal["auto", "reference"] = "auto"
    """reference runs transformers' own modules row by row: slow, any model, bit-equal whatever the batch."""
    quantization: QuantizationConfig | None = None
    """Hold the base's linear maps in 4 bits; what is trained beside them keeps its precision (QLoRA)."""


def pick_device(wanted: str) -> torch.device:
    """The device asked for, or the best there is. Raises ConfigError when it is not on this machine."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    kind = wanted.partition(":")[0]
    if kind not in available:
        raise ConfigError("device", f"'{wanted}' is not a device tunesmith knows.", "Use auto, cpu, cuda or mps.")
    if not available[kind]:
        raise ConfigError("device", f"'{wanted}' is not available on this machine.", "Use device: auto.")
    return torch.device(wanted)


def gemm_gflops(dtype: torch.dtype, device: torch.device, seconds: float = 0.15) -> float:
    """Measured rate of a (1024, 576) x (576, 1536) product in GFLOP/s: the yardstick for this machine now."""
    a, b = (torch.randn(n, 576, device=device).to(dtype) for n in (1024, 1536))
    torch.nn.functional.linear(a, b)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        torch.nn.functional.linear(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        count += 1
    return count * 2 * 1024 * 576 * 1536 / (time.perf_counter() - begin) / 1e9


def pick_dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype and the reason for it; on a CPU bf16 is chosen only where it multiplies faster than fp32."""
    if wanted != "auto":
        return DTYPES[wanted], "as set"
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
        return (torch.bfloat16, "the GPU has bf16") if fast else (torch.float16, "the GPU has no bf16")
    if device.type == "mps":
        return torch.float32, "bf16 is not reliable on every mps release"
    bf16, fp32 = gemm_gflops(torch.bfloat16, device), gemm_gflops(torch.float32, device)
    reason = f"probe: bf16 {bf16:.0f}, fp32 {fp32:.0f} GFLOP/s"
    return (torch.bfloat16, reason) if bf16 > 1.2 * fp32 else (torch.float32, reason)


def stored_dtype(resolved: ResolvedModel) -> torch.dtype:
    """The dtype a folder's config gives for its weights; fp32 where it gives none."""
    facts = json.loads((resolved.folder / "config.json").read_text(encoding="utf-8"))
    return DTYPES.get(str(facts.get("dtype") or facts.get("torch_dtype")), torch.float32)


def load_base(config: ModelConfig) -> Base:
    """Resolve, load and freeze a base model. Raises ModelError when it cannot be found or loaded."""
    others = OthersWatch()
    resolved = resolve_model(config.model_name_or_path, trust_remote_code=config.trust_remote_code)
    device = pick_device(config.device)
    dtype, reason = pick_dtype(config.dtype, device)
    base = build_base(
        resolved,
        device,
        dtype,
        trust_remote_code=config.trust_remote_code,
        kernels=config.kernels,
        quantization=config.quantization,
    )
    base.notes.append(f"base in {str(dtype).removeprefix('torch.')} on {device} ({reason}).")
    if base.reference_reason is not None and config.kernels == "auto":
        how = "in padded batches" if base.pads else "row by row"
        base.notes.append(f"plain reference path, {how}: {base.reference_reason}.")
    compiled = library() if device.type == "cpu" and base.decoder is not None else None
    if isinstance(compiled, str):
        base.notes.append(f"attention, norms and gates by torch's operators, which take longer: {compiled}.")
    if device.type == "cpu":
        base.notes += thread_notes(torch.get_num_threads(), usable_cores(), others.share())
    return base


def build_base(
    resolved: ResolvedModel,
    device: torch.device,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    kernels: str = "auto",
    quantization: QuantizationConfig | None = None,
) -> Base:
    """Load the weights of a resolved model in one dtype onto one device and choose its path."""
    model, tokenizer, note = _read_model(resolved, device, dtype, trust_remote_code, quantization)
    common: dict[str, Any] = {
        "resolved": resolved,
        "model": model,
        "tokenizer": tokenizer,
        "device": device,
        "dtype": dtype,
        "quantization": resolved.quantization or (quantization and quantization.model_dump()),
        "notes": [f"{note}."] if note else [],
    }
    if model.config.is_encoder_decoder:
        return _encoder_decoder_base(common, pads=kernels == "auto")
    base = Base(
        **common,
        head=_read_head(model),
        decoder=None,
        reference_reason="kernels: reference is set",
    )
    if kernels == "auto":
        decoder = read_blocks(model)
        base.reference_reason = decoder if isinstance(decoder, str) else _differs(base, decoder)
        base.decoder = decoder if isinstance(decoder, Decoder) and base.reference_reason is None else None
    return base


def _read_model(
    resolved: ResolvedModel,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool,
    quantization: QuantizationConfig | None,
) -> tuple[Any, Any, str | None]:
    """(frozen model, tokenizer, note about how it was packed)."""
    written, wanted = resolved.quantization, None if quantization is None else quantization.model_dump()
    if written is not None and wanted not in (None, written):
        raise ConfigError("quantization", f"'{resolved.name}' is packed as {dict(written)}.", "Leave the key out.")
    note = None
    bar_was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        facts = AutoConfig.from_pretrained(resolved.folder, trust_remote_code=trust_remote_code)
        if facts.is_encoder_decoder:
            check_family(facts.model_type, resolved.name)
        kind = AutoModelForSeq2SeqLM if facts.is_encoder_decoder else AutoModelForCausalLM
        if written is not None:
            model = load_quantized(resolved.folder, kind, facts, device, dtype, trust_remote_code=trust_remote_code)
        else:
            model = kind.from_pretrained(
                resolved.folder,
                # Packed from the numbers of the file, whatever they are multiplied in.
                dtype=dtype if quantization is None else "auto",
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
            )
            note = None if quantization is None else quantize_model(model, quantization, device, dtype)
        tokenizer = AutoTokenizer.from_pretrained(resolved.folder, trust_remote_code=trust_remote_code)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            resolved.name, f"{str(error).splitlines()[0].rstrip('.')}.", "Check the model folder."
        ) from None
    finally:
        if bar_was_on:
            transformers_logging.enable_progress_bar()
    model.to(device).eval().requires_grad_(False)
    return model, tokenizer, note


def _encoder_decoder_base(common: dict[str, Any], *, pads: bool) -> Base:
    model, name = common["model"], common["resolved"].name
    prefix = read_decoder_prefix(model.config, model.generation_config, name)
    use_text_to_text(common["tokenizer"], prefix)
    return Base(
        **common,
        head=read_head(model, prefix, name),
        decoder=None,
        reference_reason="an encoder-decoder model" if pads else "kernels: reference is set",
        decoder_prefix=prefix,
        pads=pads,
    )


def _read_head(model: Any) -> Head:
    config, layer = model.config, model.get_output_embeddings()
    # Granite divides its logits, Cohere multiplies them, Gemma caps them.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(layer.weight, getattr(layer, "bias", None), softcap, scale)


@torch.no_grad()
def _differs(base: Base, decoder: Decoder) -> str | None:
    """Why our blocks must not be used: they disagree with transformers' forward on one short sequence."""
    ids = torch.arange(3, 27) % base.model.config.vocab_size
    inner = base.model.get_decoder()
    theirs = inner(input_ids=ids[None].to(base.device), use_cache=False).last_hidden_state[0].float()
    base.decoder = decoder
    ours = hidden_states(base, pack_prompts([ids.numpy()], [0], None)).float()
    # Single nonsense tokens may sit where 16-bit rounding is amplified; a wrong path is wrong on most of them.
    error = float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).median())
    limit = 0.2 if base.dtype in (torch.bfloat16, torch.float16) else 1e-3
    return None if error < limit else f"our blocks differ from transformers' by {error:.3g} on a test sequence"
