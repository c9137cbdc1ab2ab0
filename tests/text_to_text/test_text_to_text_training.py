"""Text-to-text training in fp64: loss and gradients are transformers' own, whatever the batch; controls must fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_to_text_models import KINDS, load, rows, save_model

from tunesmith.models.adapters import AdapterConfig, add_adapter, full_role, load_adapter, save_role
from tunesmith.models.forward import forward, hidden_states
from tunesmith.models.roles import Role
from tunesmith.records import Example
from tunesmith.tokens.pack import pack
from tunesmith.training.distribute import one_process
from tunesmith.training.optim import OptimConfig, build_optimizer
from tunesmith.training.step import accumulate_gradients

SHAPES = [(9, 5), (14, 3), (5, 9), (12, 4), (3, 2)]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


def awake(base: Any, config: AdapterConfig | None = None, size: float = 0.2) -> Role:
    """An adapter that does something: LoRA's B starts at zero."""
    role = add_adapter(base, "default", config or AdapterConfig(r=4, lora_alpha=8), seed=1)
    for i, parameter in enumerate(role.parameters.values()):
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        # Numbers that fp32 holds exactly, as PEFT reads them.
        parameter.data = (drawn * size).to(base.dtype)
    return role


def loss_and_gradients(base: Any, role: Role, examples: list[Example], **how: Any) -> tuple[float, list[torch.Tensor]]:
    for parameter in role.parameters.values():
        parameter.grad = None
    result = accumulate_gradients(base, role, examples, one_process(), **{"micro_batch_tokens": 10_000, **how})
    return result.loss, [p.grad.clone() for p in role.parameters.values() if p.grad is not None]


def transformers_loss(model: Any, examples: list[Example]) -> torch.Tensor:
    """Sum over the rows' tokens of what model(input_ids, attention_mask, labels) calls the loss, as a padded batch."""
    pad = model.config.pad_token_id
    num_source = max(len(e.source_ids) for e in examples if e.source_ids is not None)
    num_target = max(len(e.ids) - 1 for e in examples)
    ids, mask = torch.full((len(examples), num_source), pad), torch.zeros(len(examples), num_source, dtype=torch.int64)
    labels = torch.full((len(examples), num_target), -100)
    for i, e in enumerate(examples):
        assert e.source_ids is not None
        ids[i, : len(e.source_ids)] = torch.from_numpy(e.source_ids)
        mask[i, : len(e.source_ids)] = 1
        labels[i, : len(e.ids) - 1] = torch.from_numpy(e.ids[1:])
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss * int((labels != -100).sum())


def full_in_fp64(base: Any) -> Role:
    role = full_role(base)
    base.model.double()
    return role


def test_loss_is_that_of_transformers(folder: Path) -> None:
    base = load(folder)
    examples = rows(base, *SHAPES)
    loss, count = forward(base, pack(examples), "ce_sum")
    assert float(loss) == pytest.approx(float(transformers_loss(base.model, examples).detach()), rel=1e-10)
    assert float(count) == sum(target for _, target in SHAPES)
    # Control: a decoder that is given its words without the start token, so that it predicts what it already reads.
    shifted = [replace(e, ids=np.concatenate([e.ids[1:2], e.ids[1:]])) for e in examples]
    wrong, _ = forward(base, pack(shifted), "ce_sum")
    assert float(wrong) != pytest.approx(float(loss), rel=1e-4)


def test_gradients_of_full_tuning_are_those_of_transformers(folder: Path) -> None:
    base, plain = load(folder), load(folder)
    role, theirs = full_in_fp64(base), full_in_fp64(plain)
    examples = rows(base, *SHAPES)
    loss, _ = loss_and_gradients(base, role, examples)
    total = transformers_loss(plain.model, examples) / sum(target for _, target in SHAPES)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), rel=1e-10)
    assert list(role.parameters) == list(theirs.parameters)
    for name, parameter in role.parameters.items():
        grad = theirs.parameters[name].grad
        if grad is None:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-8, atol=1e-12, msg=name)


def test_adapter_gradients_are_those_of_peft_in_transformers(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base, plain = load(folder), load(folder)
    role, examples = awake(base), rows(base, *SHAPES)
    loss, _ = loss_and_gradients(base, role, examples)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_2_SEQ_LM")
    theirs = get_peft_model(plain.model, lora).double().eval()
    weights = {name: p for name, p in plain.model.named_parameters() if "lora_" in name}
    assert set(weights) == set(role.parameters)
    for name, parameter in role.parameters.items():
        weights[name].data = parameter.data.clone()
    total = transformers_loss(theirs, examples) / sum(target for _, target in SHAPES)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), rel=1e-10)
    for name, parameter in role.parameters.items():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-8, atol=1e-12, msg=name)


def test_batches_padding_and_order_change_nothing(folder: Path) -> None:
    base, alone = load(folder), load(folder, kernels="reference")
    role, single = awake(base), awake(alone)
    examples = rows(base, *SHAPES, (10, 5), (8, 6))
    loss, gradients = loss_and_gradients(base, role, examples)
    for other, acting, given, budget in (
        (alone, single, examples, 10_000),
        (base, role, examples, 20),
        (base, role, examples[::-1], 10_000),
    ):
        theirs = loss_and_gradients(other, acting, given, micro_batch_tokens=budget)
        assert theirs[0] == pytest.approx(loss, rel=1e-10)
        torch.testing.assert_close(theirs[1], gradients, rtol=1e-8, atol=1e-12)
    # Control: the mean of the rows' means is another number.
    means = [loss_and_gradients(base, role, [example])[0] for example in examples]
    assert sum(means) / len(means) != pytest.approx(loss, rel=1e-4)


def test_padding_is_masked_and_would_show_if_it_were_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.models import encoder_decoder

    base = load(folder)
    packed = pack(rows(base, (10, 4), (8, 5)))
    assert encoder_decoder._batches(packed, packed.source, padded=True) == [[0, 1]]  # type: ignore[arg-type]
    right = hidden_states(base, packed)
    whole = encoder_decoder._padded
    monkeypatch.setattr(encoder_decoder, "_padded", lambda p, r: (whole(p, r)[0], None))
    assert not torch.allclose(hidden_states(base, packed), right, atol=1e-3)


def test_dropout_belongs_to_the_row_not_to_the_batch(folder: Path) -> None:
    config = AdapterConfig(r=4, lora_dropout=0.3)
    base, alone = load(folder), load(folder, kernels="reference")
    examples = rows(base, *SHAPES)
    how: dict[str, Any] = {"dropout_seed": lambda row_id: 77 + row_id}
    alone_role = awake(alone, config)
    together = loss_and_gradients(base, awake(base, config), examples, **how)
    one_by_one = loss_and_gradients(alone, alone_role, examples, **how)
    assert together[0] == pytest.approx(one_by_one[0], rel=1e-10)
    torch.testing.assert_close(together[1], one_by_one[1], rtol=1e-8, atol=1e-12)
    # Control: dropout does something.
    assert together[0] != pytest.approx(loss_and_gradients(alone, alone_role, examples)[0], rel=1e-6)


def test_checkpointing_changes_nothing(folder: Path) -> None:
    base = load(folder)
    role, examples = awake(base), rows(base, *SHAPES)
    plain = loss_and_gradients(base, role, examples)
    again = loss_and_gradients(base, role, examples, checkpointing=True)
    assert plain[0] == pytest.approx(again[0], rel=1e-12)
    torch.testing.assert_close(plain[1], again[1], rtol=1e-9, atol=1e-12)


def test_states_do_not_depend_on_the_batch_in_reference_mode(folder: Path) -> None:
    base = load(folder, torch.float32, kernels="reference")
    examples = rows(base, *SHAPES)
    together = hidden_states(base, pack(examples))
    assert torch.equal(together, torch.cat([hidden_states(base, pack([example])) for example in examples]))


def test_adapter_at_start_is_the_base_and_trained_is_not(folder: Path) -> None:
    base = load(folder)
    examples = rows(base, *SHAPES)
    before = hidden_states(base, pack(examples))
    role = add_adapter(base, "default", AdapterConfig(r=4), seed=1)
    assert torch.equal(hidden_states(base, pack(examples)), before)
    assert torch.equal(hidden_states(base, pack(examples, "default")), before)
    optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.01))
    loss_and_gradients(base, role, examples)
    optimizer.step()
    assert torch.equal(hidden_states(base, pack(examples)), before)
    assert not torch.allclose(hidden_states(base, pack(examples, "default")), before, atol=1e-6)


def test_adapters_stand_on_both_sides_and_never_on_the_head(folder: Path) -> None:
    base = load(folder)
    names = set(add_adapter(base, "all", AdapterConfig(r=2), seed=1).parameters)
    placed = {name.partition(".lora_")[0] for name in names}
    linear = {
        name.removesuffix(".base_layer")
        for name, module in base.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and name != "lm_head"
    }
    assert placed == linear
    assert any("encoder." in name for name in placed)
    assert any("decoder." in name for name in placed)
    few = {n.partition(".lora_")[0] for n in add_adapter(load(folder), "default", attention(), seed=1).parameters}
    # Three encoder layers with one attention, two decoder layers with two, four maps each.
    assert len(few) == 4 * (3 + 2 * 2)
    assert few < placed


def attention() -> AdapterConfig:
    return AdapterConfig(r=2, target_modules="attention")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_our_file_in_plain_peft_gives_our_logits(
    folder: Path, tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    from tunesmith.kernels.head_loss import logits_of

    base = load(folder, dtype)
    role = awake(base, AdapterConfig(r=4, lora_alpha=6, use_rslora=True), size=0.05)
    (example,) = rows(base, (12, 6))
    save_role(base, role, tmp_path)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype)
    source, ids = (torch.from_numpy(x)[None] for x in (example.source_ids, example.ids))
    with torch.no_grad():
        untouched = plain(input_ids=source, decoder_input_ids=ids).logits[0]
        tuned = PeftModel.from_pretrained(plain, tmp_path.as_posix()).to(dtype)
        theirs = tuned(input_ids=source, decoder_input_ids=ids).logits[0]
        ours = logits_of(hidden_states(base, pack([example], "default")), base.head)
    # Of the largest logit: in fp32 the small ones are differences of large numbers.
    largest = float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * largest)
    assert not torch.allclose(ours, untouched, atol=1e-3 * largest)
    assert '"SEQ_2_SEQ_LM"' in (tmp_path / "adapter_config.json").read_text()
    again = load(folder, dtype)
    load_adapter(again, tmp_path, "default")
    with torch.no_grad():
        reloaded = logits_of(hidden_states(again, pack([example], "default")), again.head)
    torch.testing.assert_close(reloaded, ours, rtol=0, atol=tolerance * largest)


def test_full_tuning_is_saved_and_read_back(folder: Path, tmp_path: Path) -> None:
    base = load(folder, torch.float32)
    role, examples = full_role(base), rows(base, *SHAPES)
    optimizer = build_optimizer(role.parameters, OptimConfig(learning_rate=0.01))
    first, _ = loss_and_gradients(base, role, examples)
    optimizer.step()
    save_role(base, role, tmp_path)
    again = load(tmp_path, torch.float32)
    with torch.no_grad():
        ours, theirs = (forward(b, pack(examples), "ce_sum")[0] for b in (base, again))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    assert float(ours) / sum(target for _, target in SHAPES) < first - 0.01
