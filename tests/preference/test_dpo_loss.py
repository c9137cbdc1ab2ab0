"""The losses through the recipe's own code, against NumPy over plain transformers' log-probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dpo_models import config_of, pair_rows, plain_logprob, sigmoid, thumb_rows, write_rows

from tunesmith.recipes.dpo_prepare import Prepared, prepare
from tunesmith.training.distribute import one_process
from tunesmith.training.preference import Model, accumulate_preference, answer_logprobs, mean_preference

WORLD = one_process()


@pytest.fixture
def prepared_for(
    load: Callable[..., Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Prepared]:
    """prepared_for(rows, **keys) -> what the recipe has before its first step, on a tiny fp64 model."""

    def make(rows: list[dict[str, Any]], *, kernels: str = "auto", **keys: Any) -> Prepared:
        path = write_rows(tmp_path / "rows.jsonl", rows)
        config = config_of(path, tmp_path / "run", model_folder("llama"), data={"validation_share": 0.0}, **keys)
        return prepare(config, load("llama", kernels=kernels))

    return make


def awaken(prepared: Prepared, size: float = 0.1) -> Any:
    """Move the policy away from its reference; returns plain transformers' model of each: (policy, reference)."""
    reference = copy.deepcopy(prepared.base.model)
    for i, parameter in enumerate(prepared.role.parameters.values()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)).double() * size
    return prepared.base.model, reference


def policy_model(prepared: Prepared, **how: Any) -> Model:
    return Model(base=prepared.base, role=prepared.role, micro_batch_tokens=how.pop("micro_batch_tokens", 4096), **how)


def step(prepared: Prepared, **how: Any) -> tuple[dict[str, float], list[torch.Tensor]]:
    for parameter in prepared.role.parameters.values():
        parameter.grad = None
    side = prepared.train
    result = accumulate_preference(policy_model(prepared, **how), prepared.config, side.groups, side.references, WORLD)
    return result.metrics, [p.grad.clone() for p in prepared.role.parameters.values() if p.grad is not None]


def merged(prepared: Prepared) -> Any:
    """The policy as one plain transformers model without adapters: LoRA added to the weights by hand."""
    from peft.tuners.lora import LoraLayer

    model = copy.deepcopy(prepared.base.model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            inner = layer.get_base_layer()
            a, b = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
            inner.weight.data += layer.scaling["policy"] * (b @ a).to(inner.weight.dtype)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, inner)
    return model


def unadapted(prepared: Prepared) -> Any:
    from peft.tuners.lora import LoraLayer

    model = copy.deepcopy(prepared.base.model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    return model


def gains(prepared: Prepared, which: Callable[[Any], Any]) -> np.ndarray:
    """log pi - log reference of one example a group, by plain transformers."""
    policy, reference = merged(prepared), unadapted(prepared)
    examples = [which(group) for group in prepared.train.groups]
    return np.array(
        [plain_logprob(policy, e.ids, e.loss_weight) - plain_logprob(reference, e.ids, e.loss_weight) for e in examples]
    )


@pytest.mark.parametrize(
    ("keys", "golden"),
    [
        ({"loss_type": "sigmoid", "beta": 0.3}, lambda h: -np.log(sigmoid(0.3 * h))),
        (
            {"loss_type": "sigmoid", "beta": 0.3, "label_smoothing": 0.2},
            lambda h: -0.8 * np.log(sigmoid(0.3 * h)) - 0.2 * np.log(sigmoid(-0.3 * h)),
        ),
        ({"loss_type": "ipo", "beta": 0.3}, lambda h: (h - 1 / 0.6) ** 2),
    ],
    ids=["dpo", "smoothed", "ipo"],
)
def test_loss_equals_numpy_over_plain_transformers(
    prepared_for: Callable[..., Prepared], keys: dict[str, Any], golden: Callable[[np.ndarray], np.ndarray]
) -> None:
    prepared = prepared_for(pair_rows(), **keys)
    awaken(prepared)
    pairs = [group.pairs[0] for group in prepared.train.groups]
    better = gains(prepared, lambda group: group.examples[group.pairs[0].better])
    worse = gains(prepared, lambda group: group.examples[group.pairs[0].worse])
    metrics, _ = step(prepared)
    # transformers' norms and rotary table work in fp32 even in an fp64 model.
    assert metrics["loss"] == pytest.approx(float(golden(better - worse).mean()), rel=1e-4)
    assert metrics["rewards/chosen"] == pytest.approx(float(0.3 * better.mean()), rel=1e-3)
    assert metrics["rewards/rejected"] == pytest.approx(float(0.3 * worse.mean()), rel=1e-3)
    assert metrics["rewards/margins"] == pytest.approx(float(0.3 * (better - worse).mean()), rel=1e-3)
    assert metrics["rewards/accuracies"] == float((better > worse).mean())
    assert len(pairs) == 12
    # Negative control: with the answers exchanged the loss is another one.
    assert metrics["loss"] != pytest.approx(float(golden(worse - better).mean()), rel=1e-2)


def test_kto_equals_numpy_over_plain_transformers(prepared_for: Callable[..., Prepared]) -> None:
    prepared = prepared_for(thumb_rows(), loss_type="kto", beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    awaken(prepared)
    gain = gains(prepared, lambda group: group.examples[0])
    drift = gains(prepared, lambda group: group.mismatched)
    good = np.array([group.desirable[0] for group in prepared.train.groups])
    assert 0 < good.sum() < len(good)
    point = max(0.0, float(drift.mean()))
    value = np.where(good, 1.5 * sigmoid(-0.3 * (gain - point)), 0.7 * sigmoid(-0.3 * (point - gain)))
    metrics, _ = step(prepared)
    assert metrics["loss"] == pytest.approx(float(value.mean()), rel=1e-4)
    assert metrics["kl"] == pytest.approx(point, rel=1e-3)
    assert metrics["rewards/chosen"] == pytest.approx(0.3 * float(gain[good].mean()), rel=1e-3)
    assert metrics["rewards/rejected"] == pytest.approx(0.3 * float(gain[~good].mean()), rel=1e-3)
    # Negative control: without the reference point it is another loss.
    assert point > 0 or drift.mean() < 0
    flipped = np.where(~good, 1.5 * sigmoid(-0.3 * (gain - point)), 0.7 * sigmoid(-0.3 * (point - gain)))
    assert metrics["loss"] != pytest.approx(float(flipped.mean()), rel=1e-3)


def test_mismatched_answers_are_other_prompts_answers(prepared_for: Callable[..., Prepared]) -> None:
    groups = prepared_for(thumb_rows(), loss_type="kto").train.groups
    answers = {}
    for i, group in enumerate(groups):
        own = group.examples[0]
        answers[i] = own.ids[own.loss_weight > 0].tolist()
        begin = int(np.flatnonzero(own.loss_weight)[0])
        assert group.mismatched.ids[:begin].tolist() == own.ids[:begin].tolist()
    for i, group in enumerate(groups):
        other = group.mismatched.ids[group.mismatched.loss_weight > 0].tolist()
        assert other != answers[i]
        assert other in answers.values()


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "kto"])
def test_shared_prompts_and_cut_micro_batches_change_nothing(
    prepared_for: Callable[..., Prepared], loss_type: str
) -> None:
    rows = thumb_rows() if loss_type == "kto" else pair_rows()
    prepared = prepared_for(rows, loss_type=loss_type)
    awaken(prepared)
    whole, gradients = step(prepared)
    cut, gradients_cut = step(prepared, micro_batch_tokens=64)
    assert whole == pytest.approx(cut, rel=1e-9)
    torch.testing.assert_close(gradients, gradients_cut, rtol=1e-8, atol=1e-12)
    # Every answer alone, its prompt computed again.
    model = policy_model(prepared)
    groups = [group.examples for group in prepared.train.groups]
    together = answer_logprobs(model, groups)
    alone = torch.cat([answer_logprobs(model, [[example]]) for group in groups for example in group])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    recomputed, gradients_recomputed = step(prepared, checkpointing=True)
    assert whole == pytest.approx(recomputed, rel=1e-9)
    torch.testing.assert_close(gradients, gradients_recomputed, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_before_the_first_step_policy_and_reference_are_one(
    prepared_for: Callable[..., Prepared], kernels: str
) -> None:
    prepared = prepared_for(pair_rows(), kernels=kernels)
    metrics, _ = step(prepared)
    if kernels == "reference":
        assert metrics["loss"] == math.log(2)
        assert metrics["rewards/margins"] == metrics["rewards/chosen"] == 0.0
    # On the fast path a product's rounding may depend on what else is in its pack.
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-12)
    assert metrics["rewards/margins"] == pytest.approx(0.0, abs=1e-12)


def test_beta_scales_the_rewards_and_not_the_log_probabilities(prepared_for: Callable[..., Prepared]) -> None:
    found = {}
    for beta in (0.1, 0.4):
        prepared = prepared_for(pair_rows(), beta=beta)
        awaken(prepared)
        found[beta], _ = step(prepared)
    assert found[0.4]["rewards/margins"] == pytest.approx(4 * found[0.1]["rewards/margins"], rel=1e-9)
    assert found[0.4]["logps/chosen"] == pytest.approx(found[0.1]["logps/chosen"], rel=1e-12)
    assert found[0.4]["loss"] != pytest.approx(found[0.1]["loss"], rel=1e-3)


def test_evaluation_equals_the_step_and_counts_its_pairs(prepared_for: Callable[..., Prepared]) -> None:
    prepared = prepared_for(pair_rows())
    awaken(prepared)
    metrics, _ = step(prepared)
    side = prepared.train
    found = mean_preference(policy_model(prepared), prepared.config, side.groups, side.references, WORLD)
    assert found.pop("num_judged") == 12
    assert found.pop("num_right") == round(12 * metrics["rewards/accuracies"])
    assert found == pytest.approx(metrics, rel=1e-12)


def test_weights_of_pairs_count(prepared_for: Callable[..., Prepared]) -> None:
    rows = pair_rows(2)
    prepared = prepared_for([{**rows[0], "weight": 3.0}, {**rows[1], "weight": 1.0}])
    awaken(prepared)
    both, _ = step(prepared)
    groups, references = prepared.train.groups, prepared.train.references
    alone = [
        accumulate_preference(policy_model(prepared), prepared.config, [g], [r], WORLD).metrics["loss"]
        for g, r in zip(groups, references, strict=True)
    ]
    assert both["loss"] == pytest.approx((3 * alone[0] + alone[1]) / 4, rel=1e-9)
    assert both["loss"] != pytest.approx(sum(alone) / 2, rel=1e-6)


def test_rankings_make_all_pairs_from_one_tree(prepared_for: Callable[..., Prepared]) -> None:
    row = {"prompt": "the order", "candidates": {"A": "on", "B": "the one", "C": "then"}, "ranking": "B > C > A"}
    prepared = prepared_for([row])
    awaken(prepared)
    (group,) = prepared.train.groups
    assert len(group.examples) == 3
    assert len(group.pairs) == 3
    scores = {e.ids.tobytes(): plain_logprob(merged(prepared), e.ids, e.loss_weight) for e in group.examples}
    base = {e.ids.tobytes(): plain_logprob(unadapted(prepared), e.ids, e.loss_weight) for e in group.examples}
    gain = [scores[e.ids.tobytes()] - base[e.ids.tobytes()] for e in group.examples]
    expected = np.mean([-np.log(sigmoid(np.float64(0.1 * (gain[p.better] - gain[p.worse])))) for p in group.pairs])
    assert step(prepared)[0]["loss"] == pytest.approx(float(expected), rel=1e-4)
