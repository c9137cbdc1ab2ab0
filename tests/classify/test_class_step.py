"""Loss, head and step of a classifier: goldens, identities, stock transformers with PEFT, each with a control."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from tests.models.test_adapter_combinations import awake
from tunesmith.errors import ModelError, NonFiniteLossError
from tunesmith.losses.classification import balanced_weights, cross_entropy
from tunesmith.models.adapters import METHODS, AdapterConfig, add_adapter, load_adapter, save_role
from tunesmith.models.classes import class_logits, text_logits
from tunesmith.models.heads import add_class_head, add_head
from tunesmith.models.rewards import answer_rewards
from tunesmith.models.roles import Role, ScalarHead
from tunesmith.randomness import generator
from tunesmith.records import Labelled, Where
from tunesmith.rollout.classify import load_classifier
from tunesmith.rollout.score import load_reward_model
from tunesmith.training.classify_step import ClassifiedText, ClassLoss, accumulate_class_gradients
from tunesmith.training.distribute import one_process

LENGTHS = (7, 3, 12, 5)
# A bottleneck of two units behind a ReLU may have no gradient at all.
SMALL: dict[str, dict[str, Any]] = {"lora": {"r": 4}, "bottleneck": {"reduction_factor": 2, "non_linearity": "gelu"}}


def texts() -> list[ClassifiedText]:
    out = []
    for i, length in enumerate(LENGTHS):
        # 2 is the end token, and the padding too, where a text is read.
        ids = np.append(generator(0, "class_texts", i).integers(3, 260, length), 2)
        row = Labelled(text=f"t{i}", label=str(i % 3), row_id=i, where=Where("rows", i))
        out.append(ClassifiedText(ids=ids, class_index=i % 3, row=row))
    return out


def class_role(base: Any, method: str = "lora", dtype: torch.dtype = torch.float64) -> Role:
    """A role whose every weight is away from zero."""
    config = AdapterConfig.model_validate({"method": method, **SMALL.get(method, {})})
    role = add_class_head(base, awake(base, "tagger", config, dtype), 3)
    assert role.head is not None
    role.head.score.weight.data = torch.randn(3, 32, generator=torch.Generator().manual_seed(5)).to(dtype)
    return role


def step(base: Any, role: Role, loss: ClassLoss, tokens: int = 10_000, **how: Any) -> tuple[float, list[torch.Tensor]]:
    for parameter in role.parameters.values():
        parameter.grad = None
    sums = accumulate_class_gradients(base, role, texts(), one_process(), loss, micro_batch_tokens=tokens, **how)
    return sums.loss / sums.weight, [p.grad.clone() for p in role.parameters.values() if p.grad is not None]


def close(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.allclose(x, y, rtol=1e-10, atol=1e-10) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_of_torch(smoothing: float) -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    classes, weight = torch.tensor([0, 3, 1, 1, 2]), torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0])
    total, count = cross_entropy(logits, classes, weight, label_smoothing=smoothing)
    each = torch.nn.functional.cross_entropy(logits, classes, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(total, (each * weight).sum(), rtol=1e-12, atol=0)
    assert float(count) == 6.5
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, classes, weight, label_smoothing=smoothing)[0], logits)
    # By hand: logits (ln 1, ln 3) give probabilities 1/4 and 3/4; smoothed by 0.1 the target is 0.95 and 0.05.
    two = cross_entropy(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]), label_smoothing=smoothing)[0]
    by_hand = {0.0: math.log(4 / 3), 0.1: 0.95 * math.log(4 / 3) + 0.05 * math.log(4)}
    assert float(two) == pytest.approx(by_hand[smoothing], rel=1e-6)
    with pytest.raises(ValueError, match="none of 4"):
        cross_entropy(logits, classes + 1)


def test_balanced_weights_make_classes_equal_and_keep_the_mean() -> None:
    counts = [6, 3, 1]
    weights = balanced_weights(counts)
    masses = [n * w for n, w in zip(counts, weights, strict=True)]
    assert masses == pytest.approx([10 / 3] * 3)
    assert weights == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    with pytest.raises(ValueError, match="without rows"):
        balanced_weights([3, 0])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_texts_are_those_run_alone_and_the_packing_never_changes_the_step(
    load: Callable[..., Any], kind: str
) -> None:
    base = load(kind)
    role, loss = class_role(base), ClassLoss(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1)
    ids = [text.ids for text in texts()]
    alone = torch.cat([class_logits(base, role, [one], [i]) for i, one in enumerate(ids)])
    torch.testing.assert_close(class_logits(base, role, ids, range(4)), alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(text_logits(base, role, ids, 8), alone.detach(), rtol=1e-10, atol=1e-10)
    value, gradients = step(base, role, loss)
    by_hand = [loss.sum(alone[i : i + 1], [text]) for i, text in enumerate(texts())]
    assert value == pytest.approx(float(torch.stack(by_hand).detach().sum()) / (1.0 + 2.0 + 0.5 + 1.0), rel=1e-10)
    for tokens in (8, 20):
        other, parts = step(base, role, loss, tokens)
        assert other == pytest.approx(value, rel=1e-10) and close(parts, gradients)
    assert close(step(base, role, loss, checkpointing=True)[1], gradients)
    assert not close(step(base, role, ClassLoss(class_weights=(1.0, 1.0, 1.0)))[1], gradients)


def test_at_the_start_every_class_is_equally_likely(load: Callable[..., Any]) -> None:
    base = load("llama")
    role = add_class_head(base, add_adapter(base, "tagger", AdapterConfig(r=4), seed=0), 3)
    value, _ = step(base, role, ClassLoss(class_weights=(1.0, 1.0, 1.0)))
    assert value == pytest.approx(math.log(3), rel=1e-12)
    assert role.parameters["score.weight"].shape == (3, 32)


@pytest.mark.parametrize(("kind", "method"), [("llama", "lora"), ("gpt2", "lora"), ("llama", "ia3")])
def test_stock_transformers_and_peft_read_our_file_and_give_our_logits(
    load: Callable[..., Any], model_folder: Callable[[str], Path], kind: str, method: str, tmp_path: Path
) -> None:
    base = load(kind)
    role = class_role(base, method, torch.float32)
    ids = [text.ids for text in texts()]
    ours = text_logits(base, role, ids, 10_000)
    save_role(base, role, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["task_type"], settings["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert load_file(tmp_path / "adapter_model.safetensors")["base_model.model.score.weight"].shape == (3, 32)
    stock = AutoModelForSequenceClassification.from_pretrained(model_folder(kind), num_labels=3, dtype=torch.float64)
    # It reads the last token that is no padding; the end token is this tokenizer's padding.
    stock.config.pad_token_id = None
    stock = PeftModel.from_pretrained(stock, tmp_path).double().eval()
    with torch.no_grad():
        theirs = torch.cat([stock(torch.from_numpy(one)[None]).logits for one in ids])
    # transformers' norms round to fp32 whatever the model's dtype is.
    torch.testing.assert_close(ours.double(), theirs, rtol=5e-5, atol=5e-5)
    # The control: the classes in another order are seen.
    assert not torch.allclose(ours.double().flip(1), theirs, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_any_method_learns_under_the_head_and_comes_back_with_it(
    load: Callable[..., Any], method: str, tmp_path: Path
) -> None:
    base = load("llama", dtype="float32")
    role = class_role(base, method, torch.float32)
    loss = ClassLoss(class_weights=(1.0, 1.0, 1.0))
    before, gradients = step(base, role, loss)
    assert all(gradient.abs().sum() > 0 for gradient in gradients) and len(gradients) == len(role.parameters)
    with torch.no_grad():
        for parameter, gradient in zip(role.parameters.values(), gradients, strict=True):
            parameter -= 1e-3 * gradient
    assert step(base, role, loss)[0] < before
    save_role(base, role, tmp_path)
    again = load_adapter(base, tmp_path, "again")
    ids = [text.ids for text in texts()]
    torch.testing.assert_close(text_logits(base, again, ids, 8), text_logits(base, role, ids, 8), rtol=0, atol=0)


def test_a_head_of_classes_comes_back_and_is_not_taken_for_a_reward(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama")
    role = class_role(base, dtype=torch.float32)
    ids = [text.ids for text in texts()]
    save_role(base, role, tmp_path / "classes", {"labels": ["a", "b", "c"]})
    model = load_classifier(base, tmp_path / "classes", "again")
    assert model.labels == ("a", "b", "c") and model.role.parameters == {}
    expected = text_logits(base, role, ids, 8).double().softmax(1).numpy()
    np.testing.assert_allclose(model.probabilities(ids), expected, rtol=1e-6)
    np.testing.assert_allclose(model.probabilities(ids).sum(1), 1, rtol=1e-12)
    learning = load_adapter(base, tmp_path / "classes", "third", trainable=True)
    class_logits(base, learning, ids, range(4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learning.parameters.values())
    # Neither kind is taken for the other.
    with pytest.raises(ModelError, match="without a scalar head"):
        load_reward_model(base, tmp_path / "classes", "reward")
    with pytest.raises(ValueError, match="no scalar head"):
        answer_rewards(base, role, [])
    save_role(base, role, tmp_path / "nameless")
    with pytest.raises(ModelError, match="names 0 classes"):
        load_classifier(base, tmp_path / "nameless", "nameless")
    reward = add_head(base, add_adapter(base, "pleasing", AdapterConfig(r=2), seed=0), 1)
    assert isinstance(reward.head, ScalarHead)
    save_role(base, reward, tmp_path / "reward")
    with pytest.raises(ModelError, match="without a head of classes"):
        load_classifier(base, tmp_path / "reward", "judge")


def test_a_loss_that_is_no_number_names_its_rows(load: Callable[..., Any]) -> None:
    base = load("llama")
    role = class_role(base)
    assert role.head is not None
    role.head.score.weight.data[0, 0] = math.nan
    with pytest.raises(NonFiniteLossError, match="rows:2"):
        step(base, role, ClassLoss(class_weights=(1.0, 1.0, 1.0)))
