"""On a GPU an adapter owes what it owes on a CPU: a part of the contract in tests/models, in three precisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_parts import DEVICE, error, note, on_a_gpu
from models.contract_parts import HALF, METHODS, Method, begin, build, packed, states

from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, drop_adapter, load_adapter, save_role
from tunesmith.models.forward import forward
from tunesmith.models.load import build_base
from tunesmith.models.merge import write_merged
from tunesmith.models.quantize import quantized_layers, save_quantized
from tunesmith.models.quantized_linear import QuantizationConfig
from tunesmith.models.resolve import resolve_model
from tunesmith.records import Example, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling
from tunesmith.tokens.pack import pack

pytestmark = on_a_gpu
# What two orders of the same sums may differ by.
CLOSE = {"fp32": 1e-4, "nf4": 1e-4, "bf16": 5e-2}
ON_LLAMA = [m for m in METHODS if "llama" not in m.refused]
FEW = [m for m in ON_LLAMA if m.label in ("lora", "houlsby", "ia3")]
COMBINATIONS = [
    *((method, "llama", precision) for method in ON_LLAMA for precision in ("fp32", "bf16", "nf4")),
    *((method, family, "fp32") for method in FEW for family in ("gpt2", "t5")),
    (FEW[0], "gpt2", "nf4"),
]
BASES: dict[tuple[str, str], tuple[Any, Any]] = {}


def name_of(value: Any) -> str:
    return value.label if isinstance(value, Method) else str(value)


def bases(family: str, precision: str, make_folder: Callable[[str], Path]) -> tuple[Any, Any]:
    if (family, precision) not in BASES:
        BASES[family, precision] = tuple(build(family, precision, make_folder, str(DEVICE)) for _ in range(2))  # type: ignore[assignment]
    return BASES[family, precision]


@pytest.mark.parametrize(("method", "family", "precision"), COMBINATIONS, ids=name_of)
def test_contract(
    method: Method, family: str, precision: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base, elsewhere = bases(family, precision, tmp_path_factory.mktemp)
    assert base.reference_reason is None or family != "llama", base.reference_reason
    taught = begin(method, base, elsewhere)
    close = CLOSE[precision]
    try:
        assert all(p.device.type == DEVICE.type and p.dtype == torch.float32 for p in taught.role.parameters.values())
        # GPT-2's own maps add their bias inside the product, those that hold a LoRA after it: another kernel.
        rounding = 1e-6 if (method.label, family, precision) == ("lora", "gpt2", "fp32") else 0.0
        if not method.text:
            assert error(taught.at_start, taught.before) <= (close if method.near else rounding)
        taught.train(taught.optimizer(), 0)
        assert taught.losses[-1] < method.learned * taught.losses[0]
        # Without it the base answers as ever.
        assert error(taught.now(None), taught.before) <= rounding
        # Its file holds all of it.
        save_role(base, taught.role, tmp_path)
        load_adapter(elsewhere, tmp_path, "again")
        again = states(elsewhere, taught.examples, "again")
        drop_adapter(elsewhere, "again")
        assert error(again, taught.now("taught")) <= close
        # One batch mixes it with the bare base.
        lengths = [len(example.ids) for example in taught.examples]
        mixed = torch.split(taught.now("taught", None, "taught"), lengths)
        for one, name in zip(range(3), ("taught", None, "taught"), strict=True):
            assert error(mixed[one], torch.split(taught.now(name), lengths)[one]) < close
        # It goes on from the middle.
        assert taught.half is not None
        weights, optimizer_state = taught.half
        resumed = begin(method, elsewhere)
        for parameter, value in zip(resumed.role.parameters.values(), weights, strict=True):
            parameter.data.copy_(value)
        optimizer = resumed.optimizer()
        optimizer.load_state_dict(optimizer_state)
        resumed.train(optimizer, HALF)
        same = adapter_digest(elsewhere, "taught") == adapter_digest(base, "taught")
        note(f"contract {method.label} {family} {precision}: resumed to the same bits", same)
        drop_adapter(elsewhere, "taught")
        # Sums whose order a GPU may choose anew (flash's gradient of the queries) are the only difference.
        torch.testing.assert_close(
            resumed.losses, taught.losses[HALF:], rtol=0.1 if precision == "bf16" else 1e-2, atol=1e-3
        )
        if method.merge is None and precision == "fp32":
            write_merged(base, "taught", tmp_path / "merged", torch.float32)
            merged = build_base(resolve_model(str(tmp_path / "merged")), DEVICE, torch.float32)
            assert error(states(merged, taught.examples, None), taught.now("taught")) < 1e-3
    finally:
        drop_adapter(base, "taught")
    assert not base.methods and not base.own


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoding_says_what_the_forward_pass_says(
    family: str, precision: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ragged prompts under two adapters and none, in one batch: the sampler's log-probabilities are the trainer's."""
    base, _ = bases(family, precision, tmp_path_factory.mktemp)
    for i, name in enumerate(("first", "second")):
        role = add_adapter(base, name, AdapterConfig(r=4), seed=i)
        for j, parameter in enumerate(role.parameters.values()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(j + 50 * i))
            parameter.data.add_(0.1 * noise.to(DEVICE))
    try:
        draws = np.random.default_rng(0)
        prompts = [Prompt(ids=draws.integers(3, 260, n), row_id=i) for i, n in enumerate((5, 19, 1, 30, 11, 5))]
        names = ["first", None, "second", "first", "second", None]
        sampling = Sampling(max_new_tokens=9, temperature=1.0, top_p=0.9, seed=1)
        rollouts = LocalGenerator(base).generate_mixed(prompts, sampling, names)
        worst = 0.0
        for rollout, name in zip(rollouts, names, strict=True):
            weight = np.r_[np.zeros(len(rollout.prompt_ids)), np.ones(len(rollout.ids))].astype(np.float32)
            ids = np.concatenate([rollout.prompt_ids, rollout.ids])
            row = Example(ids=ids, loss_weight=weight, row_id=0, where=Where("t"))
            logprobs_N, _ = forward(base, packed([row], name), "reference_logprobs")
            worst = max(worst, float(np.abs(logprobs_N.cpu().numpy() - rollout.logprobs).max()))
        note(f"decode {family} {precision}: largest difference in nats", worst)
        assert worst < (0.5 if precision == "bf16" else 1e-3)
        # Alone each draws the same tokens: no row depends on its neighbours.
        alone = [LocalGenerator(base).generate([p], sampling, n)[0] for p, n in zip(prompts, names, strict=True)]
        if precision != "bf16":
            assert [one.ids.tolist() for one in alone] == [one.ids.tolist() for one in rollouts]
    finally:
        drop_adapter(base, "first")
        drop_adapter(base, "second")


def test_packed_bases_files_load_on_the_card(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = build("llama", "nf4", tmp_path_factory.mktemp, str(DEVICE))
    save_quantized(base, tmp_path / "packed")
    again = build_base(resolve_model(str(tmp_path / "packed")), DEVICE, torch.float32)
    layers = quantized_layers(again.model)
    assert layers and all(x.codes_P.device.type == DEVICE.type for x in layers.values())
    row = Example(ids=np.arange(3, 30), loss_weight=np.zeros(27, np.float32), row_id=0, where=Where("t"))
    assert torch.equal(states(again, [row], None), states(base, [row], None))
    # Packed on a CPU and on the card: the same weights, but for a mean's last bit.
    here = build_base(
        resolve_model(base.resolved.folder.as_posix()),
        torch.device("cpu"),
        torch.float32,
        quantization=QuantizationConfig(),
    )
    assert error(states(base, [row], None), states(here, [row], None)) < 1e-2


def test_the_card_answers_as_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> None:
    base, _ = bases("llama", "fp32", tmp_path_factory.mktemp)
    here = build("llama", "fp32", tmp_path_factory.mktemp)
    rows = [
        Example(
            ids=np.arange(3, 3 + n),
            loss_weight=np.r_[0.0, np.ones(n - 1)].astype(np.float32),
            row_id=n,
            where=Where("t"),
        )
        for n in (40, 7, 90)
    ]
    loss, weight = forward(base, pack(rows), "ce_sum")
    wanted, _ = forward(here, pack(rows), "ce_sum")
    assert abs(float(loss) - float(wanted)) < 1e-4 * float(wanted)
    assert float(weight) == sum(len(row.ids) - 1 for row in rows)
