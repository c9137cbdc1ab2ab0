"""The parity matrix: tiny models of every family, by us and by transformers with PEFT; see docs/design/parity.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import build_tokenizer
from contract_parts import awake, packed, task
from text_to_text import text_to_text_models
from torch import Tensor

from tunesmith.kernels.native import library
from tunesmith.models.adapters import load_adapter, save_role
from tunesmith.models.forward import forward
from tunesmith.models.load import build_base
from tunesmith.models.native_token import cannot_run
from tunesmith.models.resolve import resolve_model
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling

SIZE: dict[str, Any] = {
    "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
# Family -> what its configuration has besides. Windows of 6 tokens are shorter than the rows.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 6},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "gemma3_text": {**GROUPED, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "phi": {},
    "phi3": GROUPED,
    "gpt2": {"n_inner": 48},
    "gpt_neox": {},
    "t5": {},
    "bart": {},
}
NUM_NEW = 8


@dataclass(frozen=True, kw_only=True)
class Parity:
    """One family: our path with its reason, and how far we are from transformers + PEFT.

    Relative differences of the loss and of all LoRA gradients together (2-norms) in fp32; of both sides' loss in bf16
    from theirs in fp32; of the loss with another adapter, as a control. same_answers: greedy ones, token for token.
    """

    family: str
    path: str
    loss: float
    gradients: float
    bf16_ours: float
    bf16_theirs: float
    control: float
    same_answers: bool
    one_call: bool


def write_model(family: str, folder: Path) -> Path:
    """A tiny model with random weights, and a tokenizer, in transformers' layout."""
    import transformers as t

    torch.manual_seed(0)
    if family in ("t5", "bart"):
        model, tokenizer = text_to_text_models.build_model(family), text_to_text_models.build_tokenizer(family)
    else:
        config = t.AutoConfig.for_model(family, **{**SIZE, **FAMILIES[family]})
        model, tokenizer = t.AutoModelForCausalLM.from_config(config), build_tokenizer()
        # Opinions: at the usual start all tokens are about as likely.
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
                parameter.data *= 4.0
            elif name.endswith("bias"):
                parameter.data += 0.1 * torch.randn_like(parameter)
    # Numbers of fp16, so that answers go the way that most checkpoints' go.
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(family: str, folder: Path) -> Parity:
    """Both sides on the same rows, adapter and prompts."""
    resolved = resolve_model(str(write_model(family, folder / "model")))
    base = build_base(resolved, torch.device("cpu"), torch.float32)
    role, examples = awake(base, "default", {"r": 4}), task(base)
    save_role(base, role, folder / "adapter")
    for parameter in role.parameters.values():
        parameter.grad = None
    loss, _ = forward(base, packed(examples, "default"), "ce_sum")
    loss.backward()
    ours = {name: p.grad for name, p in role.parameters.items()}
    plain = _with_peft(base, folder / "adapter", torch.float32)
    wanted = _loss(plain, base, examples)
    wanted.backward()
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    told = [theirs[f"base_model.model.{name}"] for name in ours]
    other = awake(base, "other", {"r": 3})
    off, _ = forward(base, packed(examples, "other"), "ce_sum")
    assert other.adapter == "other"
    narrow = build_base(resolved, torch.device("cpu"), torch.bfloat16)
    their_narrow = _loss(_with_peft(narrow, folder / "adapter", torch.bfloat16), base, examples)
    load_adapter(narrow, folder / "adapter", "default")
    our_narrow, _ = forward(narrow, packed(examples, "default"), "ce_sum")
    decoder = base.decoder
    return Parity(
        family=family,
        path="fast" if decoder is not None else f"reference: {base.reference_reason}",
        loss=_apart(loss, wanted),
        gradients=_norm([a - b for a, b in zip(ours.values(), told, strict=True)]) / _norm(told),
        bf16_ours=_apart(our_narrow, wanted),
        bf16_theirs=_apart(their_narrow, wanted),
        control=_apart(off, wanted),
        same_answers=_same_answers(base, plain, examples),
        one_call=decoder is not None and cannot_run(decoder) is None,
    )


def _with_peft(base: Any, adapter: Path, dtype: torch.dtype) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if base.is_encoder_decoder else AutoModelForCausalLM
    plain = kind.from_pretrained(base.resolved.folder, dtype=dtype)
    return PeftModel.from_pretrained(plain, adapter.as_posix(), is_trainable=True, autocast_adapter_dtype=False).eval()


def _loss(model: Any, base: Any, examples: Any) -> Tensor:
    """Sum over the rows' answers in nats, row by row."""
    total = torch.zeros((), dtype=torch.float64)
    for example in examples:
        ids = torch.from_numpy(example.ids)
        if base.is_encoder_decoder:
            logits = model(input_ids=torch.from_numpy(example.source_ids)[None], decoder_input_ids=ids[None]).logits
        else:
            logits = model(input_ids=ids[None]).logits
        logprobs = torch.log_softmax(logits[0, :-1].float(), -1).gather(1, ids[1:, None])[:, 0]
        total = total - (logprobs * torch.from_numpy(example.loss_weight[1:])).sum()
    return total


def _same_answers(base: Any, plain: Any, examples: Any) -> bool:
    prompts = [example.source_ids if base.is_encoder_decoder else example.ids for example in examples]
    asked = [Prompt(ids=ids, row_id=row) for row, ids in enumerate(prompts)]
    local = LocalGenerator(base)
    # What is said of a token in one call is said of these answers.
    assert (local.packed is not None) == (base.decoder is not None and not isinstance(library(), str))
    answers = local.generate(asked, Sampling(max_new_tokens=NUM_NEW), "default")
    for prompt, answer in zip(prompts, answers, strict=True):
        ids_1L = torch.from_numpy(prompt)[None]
        how = {"do_sample": False, "max_new_tokens": NUM_NEW, "eos_token_id": None, "pad_token_id": 2}
        made = plain.generate(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L), **how)[0]
        made = made[1:] if base.is_encoder_decoder else made[len(prompt) :]
        if not np.array_equal(made[: len(answer.ids)].numpy(), answer.ids):
            return False
    return True


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return abs(float(ours.detach()) / float(theirs.detach()) - 1)


def _norm(tensors: list[Any]) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt())
