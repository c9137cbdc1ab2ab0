"""One contract for every method: what an adapter owes whoever trains it, saves it, mixes it and takes it off.

A method, or an option of one, is a line of METHODS in ``contract_parts.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_parts import (
    HALF,
    Combination,
    Trained,
    after_reading,
    awake,
    begin,
    build,
    combinations,
    gradients,
    packed,
    states,
)

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import (
    AdapterConfig,
    adapter_digest,
    add_adapter,
    drop_adapter,
    load_adapter,
    save_role,
)
from tunesmith.models.forward import forward
from tunesmith.models.load import build_base
from tunesmith.models.merge import check_mergeable, write_merged
from tunesmith.models.resolve import resolve_model
from tunesmith.records import Example, Where
from tunesmith.rollout.generate import LocalGenerator, Prompt
from tunesmith.rollout.sampling import Sampling

OTHER = {"r": 2}
BASES: dict[tuple[str, str], tuple[Any, Any]] = {}


@pytest.fixture(scope="module", params=combinations())
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A trained adapter; the base is the same for all methods, and each leaves it as it was."""
    combination: Combination = request.param
    method, *where = combination
    key = tuple(where)
    if key not in BASES:
        BASES[key] = tuple(build(*where, tmp_path_factory.mktemp) for _ in range(2))  # type: ignore
    out = begin(method, *BASES[key])  # type: ignore[index]
    out.train(out.optimizer(), 0)
    yield out
    drop_adapter(out.base, "taught")
    assert torch.equal(out.now(None), out.before)
    assert not out.base.methods and not out.base.own


def test_it_begins_as_the_base(trained: Trained) -> None:
    if not trained.method.text:
        bound = 1e-4 if trained.method.near else 0.0
        torch.testing.assert_close(trained.at_start, trained.before, rtol=0, atol=bound)
        return
    # Virtual tokens cannot be nothing: they are the base that has read the words they begin as.
    read = after_reading(trained.base, trained.examples, trained.method.text)
    torch.testing.assert_close(trained.at_start, read, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(trained.at_start, trained.before, atol=1e-2)


def test_it_learns(trained: Trained) -> None:
    assert trained.losses[-1] < trained.method.learned * trained.losses[0]
    assert not torch.allclose(trained.now("taught"), trained.before, atol=1e-3)


def test_without_it_the_base_answers_as_ever(trained: Trained) -> None:
    assert torch.equal(trained.now(None), trained.before)
    assert all(parameter.grad is None for key, parameter in trained.base.model.named_parameters() if "lora_" not in key)


def test_its_file_holds_all_of_it(trained: Trained, tmp_path: Path) -> None:
    save_role(trained.base, trained.role, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    load_adapter(trained.elsewhere, tmp_path, "again")
    try:
        assert adapter_digest(trained.elsewhere, "again") == adapter_digest(trained.base, "taught")
        again, taught = states(trained.elsewhere, trained.examples, "again"), trained.now("taught")
        # What starts near the base is written as the difference from it, in other matrices.
        bound = 1e-4 if trained.method.near else 0.0
        torch.testing.assert_close(again, taught, rtol=0, atol=bound)
    finally:
        drop_adapter(trained.elsewhere, "again")


def test_it_goes_on_from_the_middle_to_the_same_bits(trained: Trained) -> None:
    """As another process does: a base of its own, the adapter made by the same recipe, then the checkpoint's state."""
    assert trained.half is not None
    weights, optimizer_state = trained.half
    resumed = begin(trained.method, trained.elsewhere)
    try:
        for parameter, value in zip(resumed.role.parameters.values(), weights, strict=True):
            parameter.data.copy_(value)
        optimizer = resumed.optimizer()
        optimizer.load_state_dict(optimizer_state)
        resumed.train(optimizer, HALF)
        assert resumed.losses == trained.losses[HALF:]
        assert adapter_digest(resumed.base, "taught") == adapter_digest(trained.base, "taught")
    finally:
        drop_adapter(resumed.base, "taught")


def test_a_recomputed_layer_has_the_same_gradient(trained: Trained) -> None:
    plain, recomputed = (
        gradients(trained.base, trained.role, trained.examples, checkpointing=c) for c in (False, True)
    )
    assert recomputed[0] == pytest.approx(plain[0], rel=1e-6)
    torch.testing.assert_close(recomputed[1], plain[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("other", ["same", "lora"])
def test_two_at_once_are_each_as_if_alone(trained: Trained, other: str) -> None:
    base, examples = trained.base, trained.examples
    second = awake(base, "other", trained.method.config if other == "same" else OTHER)
    try:
        # Switching is an argument; nothing is left behind.
        alone = {name: trained.now(name) for name in ("taught", "other", None)}
        assert torch.equal(trained.now("taught"), alone["taught"])
        assert not torch.allclose(alone["other"], alone["taught"], atol=1e-3)
        names = ("taught", None, "other")
        lengths = [len(example.ids) for example in examples]
        together = torch.split(trained.now(*names), lengths)
        for i, name in enumerate(names):
            expected = torch.split(alone[name], lengths)[i]
            torch.testing.assert_close(together[i], expected, rtol=1e-4, atol=1e-4)
        # What each learns is its own rows' business; the second learns nothing of the first one's.
        expected_gradients = gradients(base, trained.role, examples[:1])[1]
        for role in (trained.role, second):
            for parameter in role.parameters.values():
                parameter.grad = None
        loss, count = forward(base, packed(examples[:2], "taught", None), "ce_sum")
        alone_loss, alone_count = forward(base, packed(examples[:1], "taught"), "ce_sum")
        (loss / alone_count).backward()
        assert float(count) > float(alone_count) and float(loss.detach()) > float(alone_loss.detach())
        got = [parameter.grad for parameter in trained.role.parameters.values()]
        torch.testing.assert_close(got, expected_gradients, rtol=1e-3, atol=1e-5)
        assert all(parameter.grad is None for parameter in second.parameters.values())
    finally:
        drop_adapter(base, "other")
    # It was taken off, and the first one is as before.
    assert torch.equal(trained.now("taught"), alone["taught"])
    assert torch.equal(trained.now(None), trained.before)


def test_it_writes_what_its_states_say(trained: Trained) -> None:
    base, example = trained.base, trained.examples[0]
    ids = example.ids[:4] if example.source_ids is None else example.source_ids
    found = {}
    for adapter in ("taught", None):
        sampling = Sampling(max_new_tokens=5, temperature=0.0)
        (rollout,) = LocalGenerator(base).generate([Prompt(ids=ids, row_id=0)], sampling, adapter)
        found[adapter] = rollout.ids.tolist()
        assert found[adapter] == greedy(base, adapter, ids, len(found[adapter]))
    # A soft prompt moves a tiny random model too little for another likeliest word.
    assert found["taught"] != found[None] or trained.method.learned > 0.9


def greedy(base: Any, adapter: str | None, ids: Any, num_tokens: int) -> list[int]:
    """The likeliest tokens one after the other, the whole path computed anew for each."""
    sources = {"source_ids": ids} if base.is_encoder_decoder else {}
    path = [*base.decoder_prefix] if base.is_encoder_decoder else [*ids]
    out: list[int] = []
    for _ in range(num_tokens):
        line = np.array([*path, *out])
        row = Example(ids=line, loss_weight=np.zeros(len(line), np.float32), row_id=0, where=Where("t"), **sources)
        out.append(int(logits_of(states(base, [row], adapter)[-1:], base.head).argmax()))
    return out


def test_merged_it_answers_as_unmerged_or_is_refused(trained: Trained, tmp_path: Path) -> None:
    base, method = trained.base, trained.method
    save_role(base, trained.role, tmp_path)
    if method.merge is not None:
        with pytest.raises(ModelError, match=method.merge):
            check_mergeable(base, "taught", tmp_path)
        return
    check_mergeable(base, "taught", tmp_path)
    write_merged(base, "taught", tmp_path / "merged", torch.float32)
    merged = build_base(resolve_model(str(tmp_path / "merged")), base.device, torch.float32)
    alone = states(merged, trained.examples, None)
    torch.testing.assert_close(alone, trained.now("taught"), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(alone, trained.before, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("refused", combinations(refused=True))
def test_it_is_refused_with_a_reason(refused: Combination, tmp_path_factory: pytest.TempPathFactory) -> None:
    method, family, precision = refused
    base = build(family, precision, tmp_path_factory.mktemp)
    awake(base, "other", OTHER)
    with pytest.raises(TunesmithError, match=method.refused[family]):
        add_adapter(base, "taught", AdapterConfig(**method.config), seed=1)
    assert set(base.methods) == {"other"} and not base.own
