"""Several adapters on an encoder-decoder model, half precision, and what is refused there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from text_to_text_models import KINDS, load, rows, save_model
from torch import Tensor

from tunesmith.errors import ModelError
from tunesmith.models.adapters import AdapterConfig, add_adapter, load_adapter
from tunesmith.models.extended import add_token_rows
from tunesmith.models.forward import forward
from tunesmith.models.roles import Role
from tunesmith.recipes.extend import ExtendConfig, extend
from tunesmith.records import Example
from tunesmith.tokens.pack import pack

LENGTHS = ((9, 4), (7, 6), (9, 4), (3, 8), (8, 5))


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


def awake(base: Any, name: str, config: AdapterConfig, spread: float = 0.2) -> Role:
    role = add_adapter(base, name, config, seed=1)
    for number, parameter in enumerate(role.parameters.values()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        dtype = torch.promote_types(base.dtype, torch.float32)
        parameter.data = (parameter.data.double() + spread * noise.double()).to(dtype)
    return role


def gradients(
    base: Any, roles: Sequence[Role], examples: Sequence[Example], names: Sequence[str | None], **how: Any
) -> tuple[float, list[Tensor]]:
    parameters = [p for role in roles for p in role.parameters.values()]
    for parameter in parameters:
        parameter.grad = None
    loss, _ = forward(base, replace(pack(examples), adapter_S=tuple(names)), "ce_sum", **how)
    if loss.requires_grad:
        loss.backward()
    return float(loss.detach()), [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_that_share_a_batch_learn_as_each_alone(folder: Path, checkpointing: bool) -> None:
    base = load(folder)
    some = ["q", "wo"] if base.model.config.model_type == "t5" else ["q_proj", "fc1"]
    roles = [
        awake(base, "first", AdapterConfig(r=3, lora_dropout=0.3)),
        awake(base, "second", AdapterConfig(r=2, lora_dropout=0.3, target_modules=some)),
    ]
    examples, names = rows(base, *LENGTHS), ["first", None, "second", "first", "second"]

    def seed(row_id: int) -> int:
        return 7 + row_id

    loss, together = gradients(base, roles, examples, names, dropout_seed=seed, checkpointing=checkpointing)
    alone = [gradients(base, roles, [e], [n], dropout_seed=seed) for e, n in zip(examples, names, strict=True)]
    assert loss == pytest.approx(sum(one for one, _ in alone), rel=1e-12)
    sums = [sum(gradient[i] for _, gradient in alone) for i in range(len(together))]
    # T5's norms work in fp32 even here.
    torch.testing.assert_close(together, sums, rtol=1e-6, atol=1e-9)
    # Control: which adapter a row has matters.
    assert gradients(base, roles, examples, names[::-1], dropout_seed=seed)[0] != pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases_give_fp32_gradients_that_point_the_same_way(folder: Path, dtype: torch.dtype) -> None:
    found = {}
    for kind in (torch.float32, dtype):
        base = load(folder, kind)
        role = awake(base, "default", AdapterConfig(r=4), spread=0.05)
        found[kind] = gradients(base, [role], rows(base, *LENGTHS), ["default"] * len(LENGTHS))
        assert all(gradient.dtype == torch.float32 for gradient in found[kind][1])
    assert found[dtype][0] == pytest.approx(found[torch.float32][0], rel=0.02)
    exact, rounded = (torch.cat([g.flatten() for g in found[kind][1]]) for kind in (torch.float32, dtype))
    assert float(torch.cosine_similarity(exact, rounded, dim=0)) > 0.98


def test_rows_of_single_tokens_are_refused_not_ignored(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSeq2SeqLM

    base = load(folder)
    maps = ["q", "v"] if base.model.config.model_type == "t5" else ["q_proj", "v_proj"]
    config = LoraConfig(r=2, target_modules=maps, task_type="SEQ_2_SEQ_LM", trainable_token_indices=[5, 6])
    get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folder), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_adapter(base, tmp_path, "default")
    with pytest.raises(ModelError, match="encoder-decoder"):
        add_token_rows(base, "default", base.tokenizer, {272: [5, 6]})


@pytest.mark.parametrize("num_tokens", [0, 5])
def test_an_encoder_decoder_model_is_not_extended(folder: Path, tmp_path: Path, num_tokens: int) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "say it again, {i}"}}\n' for i in range(40)))
    config = ExtendConfig(
        files=[str(tmp_path / "texts.jsonl")], output_dir=str(tmp_path / "run"), num_tokens=num_tokens
    )
    with pytest.raises(ModelError, match="raw text cannot train it"):
        extend(config, base=load(folder), say=lambda _: None)
    assert not (tmp_path / "run").exists()
