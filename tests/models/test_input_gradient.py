"""The gradient at the embeddings is that of the one-hot relaxation, on the fast path and on transformers' modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.models.forward import forward
from tunesmith.models.input_gradient import embedding_rows, input_gradients
from tunesmith.records import Example, Where
from tunesmith.tokens.pack import Packed, pack

PROMPT, OPENING = [5, 17, 99, 40, 41], [120, 7, 33]


def _row(ids: list[int], num_loss: int) -> Example:
    weight = np.zeros(len(ids), np.float32)
    weight[-num_loss:] = 1
    return Example(ids=np.array(ids, np.int64), loss_weight=weight, row_id=0, where=Where("test"))


def _packed() -> Packed:
    """Two rows, so that the second's gradient must be found behind the first's."""
    return pack([_row([9, 8, 7, 6], 1), _row(PROMPT + OPENING, 3)])


def _loss_of_relaxed(base: Any, place: int, token: int, weight: float) -> float:
    """The second row's loss where the input at a place is its one-hot vector plus weight times another token's."""
    module = base.model.get_input_embeddings()

    def relaxed(_module: Any, inputs: tuple[torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
        onehot = torch.nn.functional.one_hot(inputs[0], module.num_embeddings).to(embedded.dtype)
        onehot.view(-1, module.num_embeddings)[place, token] += weight
        return onehot @ module.weight

    handle = module.register_forward_hook(relaxed)
    try:
        with torch.no_grad():
            return float(forward(base, pack([_row(PROMPT + OPENING, 3)]), "ce_sum")[0])
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_is_the_slope_of_the_one_hot_relaxation(load: Callable[..., Any], kind: str) -> None:
    base = load(kind)
    logprobs, grads_TD = input_gradients(base, _packed())
    with torch.no_grad():
        theirs = torch.log_softmax(base.model(torch.tensor([PROMPT + OPENING])).logits[0], dim=-1)
    # transformers' own norms round to single precision.
    assert logprobs[1:].tolist() == pytest.approx([float(theirs[4 + i, OPENING[i]]) for i in range(3)], rel=1e-6)
    tokens = [3, 60, 200]
    onehot_LR = grads_TD[4:] @ embedding_rows(base, torch.tensor(tokens)).T
    step = 1e-5
    for place in (0, 2, 4, 6):
        for column, token in enumerate(tokens):
            ahead, behind = (_loss_of_relaxed(base, place, token, sign * step) for sign in (1, -1))
            assert float(onehot_LR[place, column]) == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=1e-8)
    # The last token predicts nothing, and the others do not all pull alike.
    assert float(onehot_LR[7].abs().max()) == 0
    assert float(onehot_LR[:5].std()) > 1e-3


def test_nothing_of_it_stays(load: Callable[..., Any]) -> None:
    base = load()
    input_gradients(base, _packed())
    module = base.model.get_input_embeddings()
    assert not module._forward_hooks
    assert all(parameter.grad is None for parameter in base.model.parameters())
    with torch.no_grad(), pytest.raises(ValueError, match="roots"):
        input_gradients(base, pack([_row([9, 8], 1), _row([7], 1)], parents=[-1, 0]))
    assert not module._forward_hooks


def test_an_adapter_changes_it(load: Callable[..., Any]) -> None:
    from tunesmith.models.adapter_config import AdapterConfig
    from tunesmith.models.adapters import add_adapter

    base = load()
    plain = input_gradients(base, _packed())[1]
    role = add_adapter(base, "target", AdapterConfig(r=2), seed=0)
    for name, parameter in role.parameters.items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    rows = [_row([9, 8, 7, 6], 1), _row(PROMPT + OPENING, 3)]
    tuned = input_gradients(base, pack(rows, "target"))[1]
    assert float((tuned - plain).abs().max()) > 1e-3
    assert torch.equal(input_gradients(base, _packed())[1], plain)
    assert all(parameter.grad is None for parameter in role.parameters.values())
