"""New vocabulary rows: PEFT computes the same from our files, exactly those rows learn, and the base never moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.errors import AdapterMismatchError, ModelError
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter, save_role
from tunesmith.models.extended import add_token_rows
from tunesmith.models.forward import forward, hidden_states
from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model
from tunesmith.models.roles import Role
from tunesmith.models.token_rows import mean_rows
from tunesmith.records import Example, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.tokens.extend import choose_tokens, count_words, extend_tokenizer
from tunesmith.tokens.pack import pack
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer
from tunesmith.training.step import accumulate_gradients

TEXT = "the catheter and the other catheter; a tachycardia, the tachycardia ended. Überdruck, Überdruck!"
KINDS = ["llama", "qwen3", "gpt2"]


def extended(base: Any, *, seed: int = 1) -> Role:
    """A role whose LoRA matrices and new rows all differ from the base's."""
    tokens = choose_tokens(count_words([TEXT], base.tokenizer), 14, base.tokenizer.get_vocab())
    tokenizer, made_of = extend_tokenizer(base.tokenizer, tokens)
    add_token_rows(base, "default", tokenizer, made_of)
    role = add_adapter(base, "default", AdapterConfig(r=4, lora_alpha=8), seed=seed)
    for number, parameter in enumerate(role.parameters.values()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.data += noise.to(parameter.dtype) * 0.2
    return role


def example(base: Any, adapter: str | None = "default", text: str = TEXT) -> Example:
    ids = np.array(base.tokenizer_of(adapter)(text)["input_ids"], np.int64)
    weight = np.ones(len(ids), np.float32)
    weight[0] = 0.0
    return Example(ids=ids, loss_weight=weight, row_id=0, where=Where("t"))


def with_peft(base: Any, folder: Path, model_folder: Path) -> Any:
    """The same adapter by stock PEFT, on a plain base resized to the saved tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64)
    plain.resize_token_embeddings(max(plain.config.vocab_size, len(AutoTokenizer.from_pretrained(folder))))
    return PeftModel.from_pretrained(plain, folder.as_posix(), is_trainable=True).eval()


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_peft_computes_our_logits_and_gradients(
    load: Callable[..., Any], model_folder: Callable[[str], Path], tmp_path: Path, kind: str, kernels: str
) -> None:
    base = load(kind, kernels=kernels)
    role = extended(base)
    row = example(base)
    assert max(row.ids) >= 272, "the text must use a token beyond the base's table"
    save_role(base, role, tmp_path)
    model = with_peft(base, tmp_path, model_folder(kind))
    ids = torch.from_numpy(row.ids)
    theirs = -torch.log_softmax(model(ids[None]).logits[0, :-1], -1).gather(1, ids[1:, None]).sum()
    ours, count = forward(base, pack([row], "default"), "ce_sum")
    # transformers' RMSNorm and rotary table work in fp32 even here.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    ours.backward()
    theirs.backward()
    rows = {name: p.grad for name, p in model.named_parameters() if "trainable_tokens_delta" in name}
    assert len(rows) == (1 if base.token_rows["default"].tied else 2)
    for gradient, own in zip(rows.values(), base.token_rows["default"].parameters.values(), strict=True):
        assert float(own.grad.norm()) > 1e-3
        torch.testing.assert_close(own.grad, gradient, rtol=1e-4, atol=1e-5)
    assert int(count) == len(row.ids) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_new_rows_and_the_adapter_move(load: Callable[..., Any], kind: str) -> None:
    base = load(kind, dtype="float32")
    role = extended(base)
    before = {name: p.detach().clone() for name, p in base.model.named_parameters() if "lora_" not in name}
    table = base.token_rows["default"].head(base.head).weight_VD.detach().clone()
    started = {name: p.detach().clone() for name, p in role.parameters.items()}
    optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.05))
    for _ in range(3):
        accumulate_gradients(base, role, [example(base)], one_process(), micro_batch_tokens=500)
        optimizer.step()
        optimizer.zero_grad()
    after = {name: p for name, p in base.model.named_parameters() if "lora_" not in name}
    assert all(torch.equal(before[name], after[name]) for name in before)
    now = base.token_rows["default"].head(base.head).weight_VD.detach()
    new = base.token_rows["default"].ids_R
    old = torch.ones(len(now), dtype=torch.bool)
    old[new] = False
    assert torch.equal(table[old], now[old])
    assert not torch.equal(table[new], now[new])
    assert all(not torch.equal(started[name], p) for name, p in role.parameters.items())
    assert base.model.get_input_embeddings().weight.shape[0] == 272, "the shared base was resized"


def test_rows_start_as_the_mean_of_their_old_tokens(load: Callable[..., Any]) -> None:
    base = load("qwen3")
    tokens = choose_tokens(count_words([TEXT], base.tokenizer), 4, base.tokenizer.get_vocab())
    tokenizer, made_of = extend_tokenizer(base.tokenizer, tokens)
    rows = add_token_rows(base, "default", tokenizer, made_of)
    for slot, (new, old) in enumerate(sorted(made_of.items())):
        assert "".join(base.tokenizer.convert_ids_to_tokens(old)) == tokenizer.convert_ids_to_tokens(new)
        mean = sum(base.model.get_input_embeddings().weight[i] for i in old) / len(old)
        torch.testing.assert_close(rows.embedding_RD[slot], mean)
        mean = sum(base.model.get_output_embeddings().weight[i] for i in old) / len(old)
        torch.testing.assert_close(rows.head_RD[slot], mean)
    assert not torch.equal(rows.head_RD, rows.embedding_RD)


def test_fast_and_reference_path_agree_and_the_bare_base_is_as_before(load: Callable[..., Any]) -> None:
    fast, slow = load("llama"), load("llama", kernels="reference")
    untouched = load("llama")
    for base in (fast, slow):
        extended(base)
    row = example(fast)
    one, two = (hidden_states(base, pack([row], "default")) for base in (fast, slow))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    old = example(fast, None)
    assert torch.equal(hidden_states(fast, pack([old])), hidden_states(untouched, pack([old])))
    checkpointed = forward(fast, pack([row], "default"), "ce_sum", checkpointing=True)[0]
    torch.testing.assert_close(checkpointed, forward(fast, pack([row], "default"), "ce_sum")[0])
    with pytest.raises(ValueError, match="vocabularies"):
        packed = pack([row, old], "default")
        mixed = type(packed)(**{n: getattr(packed, n) for n in packed.__slots__} | {"adapter_S": ("default", None)})
        forward(fast, mixed, "ce_sum")


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_decoding_sees_and_says_new_tokens(load: Callable[..., Any], kernels: str) -> None:
    base = load("llama", kernels=kernels)
    extended(base)
    rows, row = base.token_rows["default"], example(base)
    rows.embedding_RD.data *= 3  # New tokens get likely enough to be said.
    prompt = Prompt(ids=row.ids, row_id=0)
    rollout = LocalGenerator(base).generate([prompt], Sampling(max_new_tokens=8), "default")[0]
    assert set(rollout.ids) & set(rows.ids_R.tolist())
    whole = np.concatenate([row.ids, rollout.ids])
    weight = np.zeros(len(whole), np.float32)
    weight[len(row.ids) :] = 1
    scored = Example(ids=whole, loss_weight=weight, row_id=0, where=Where("t"))
    logprobs, _ = forward(base, pack([scored], "default"), "reference_logprobs")
    np.testing.assert_allclose(rollout.logprobs, logprobs.numpy(), rtol=1e-3, atol=1e-4)
    assert rollout.text == rows.tokenizer.decode(rollout.ids, skip_special_tokens=True)


def test_saved_and_read_again_it_answers_the_same(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("qwen3")
    role = extended(base)
    save_role(base, role, tmp_path)
    again = load("qwen3")
    load_adapter(again, tmp_path, "default")
    row = example(base)
    assert example(again).ids.tolist() == row.ids.tolist()
    for want in ("ce_sum", "reference_logprobs"):
        one, two = (forward(b, pack([row], "default"), want)[0] for b in (base, again))
        torch.testing.assert_close(one, two)
    assert adapter_digest(base, "default") == adapter_digest(again, "default")
    written = json.loads((tmp_path / "tunesmith_provenance.json").read_text())
    assert written["base_tokenizer_digest"] == base.resolved.tokenizer_digest != written["tokenizer_digest"]


def test_another_tokenizer_beside_the_adapter_is_refused(
    load: Callable[..., Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load("llama")
    save_role(base, extended(base), tmp_path)
    shutil.copy(model_folder("llama") / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(AdapterMismatchError, match="the one beside it"):
        load_adapter(load("llama"), tmp_path, "default")


def test_a_changed_template_beside_the_adapter_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama")
    save_role(base, extended(base), tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(AdapterMismatchError, match="chat template"):
        load_adapter(load("llama"), tmp_path, "default")


def test_a_base_with_another_tokenizer_is_refused(
    load: Callable[..., Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base, folder = load("llama"), tmp_path / "base"
    save_role(base, extended(base), tmp_path / "adapter")
    shutil.copytree(model_folder("llama"), folder)
    # The extended tokenizer itself is not the base's: its ids reach beyond the base's table.
    shutil.copy(tmp_path / "adapter" / "tokenizer.json", folder / "tokenizer.json")
    other = build_base(resolve_model(str(folder)), torch.device("cpu"), torch.float64)
    with pytest.raises(AdapterMismatchError, match=base.resolved.tokenizer_digest):
        load_adapter(other, tmp_path / "adapter", "default")


def test_a_head_with_a_bias_is_refused(load: Callable[..., Any]) -> None:
    base = load("llama")
    base.model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(272))
    with pytest.raises(ModelError, match="bias"):
        extended(base)


def test_mean_rows_keeps_half_precision_weights_from_rounding() -> None:
    weight = torch.tensor([[1.0], [1.0 + 2**-7]], dtype=torch.bfloat16)
    assert mean_rows(weight, [[0, 1]]).item() == 1.0 + 2**-8
