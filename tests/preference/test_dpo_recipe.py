"""The recipe on a tiny model: it learns, resumes, keeps the reference's scores, and names what it cannot take."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_models import config_of, pair_rows, thumb_rows, write_rows

from tunesmith.errors import AdapterMismatchError, ConfigError, DataError, NonFiniteLossError
from tunesmith.models.adapters import AdapterConfig, add_adapter, load_adapter, save_role
from tunesmith.models.roles import Role
from tunesmith.recipes.dpo import Aligned, describe_result, train
from tunesmith.recipes.dpo_prepare import prepare
from tunesmith.training import reference_scores as scoring
from tunesmith.training.preference import Model

Run = Callable[..., Aligned]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def run(model_folder: Callable[[str], Path], tmp_path: Path) -> Run:
    """run(rows, name, **keys) -> the finished run in a folder of that name."""

    def make(rows: list[dict[str, Any]], name: str = "run", *, tweak: Any = None, **keys: Any) -> Aligned:
        path = write_rows(tmp_path / "rows.jsonl", rows)
        config = config_of(path, tmp_path / name, model_folder("llama"), **keys)
        return train(config, tweak_gradients=tweak)

    return make


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in found]


def flip(role: Role) -> None:
    for parameter in role.parameters.values():
        assert parameter.grad is not None
        parameter.grad.neg_()


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "kto"])
def test_it_learns_and_a_flipped_gradient_does_not(run: Run, loss_type: str) -> None:
    rows = thumb_rows(24) if loss_type == "kto" else pair_rows(24)
    keys = {"loss_type": loss_type, "num_train_epochs": 4, "early_stopping_patience": 0}
    good, bad = run(rows, "good", **keys), run(rows, "bad", tweak=flip, **keys)
    assert good.initial_eval_loss is not None
    assert good.final_eval_loss is not None
    assert good.final_eval_loss < 0.9 * good.initial_eval_loss
    assert good.accuracy is not None
    assert good.accuracy.value > 0.8
    assert 0 <= good.accuracy.low < good.accuracy.value <= good.accuracy.high <= 1
    last = lines(bad.output_dir)[-1]
    assert last["eval_loss"] > good.initial_eval_loss
    first = lines(good.output_dir)[0]
    if loss_type == "sigmoid":
        assert first["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    names = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"}
    assert names <= set().union(*(line.keys() for line in lines(good.output_dir)))
    said = describe_result(good, config_of(Path("r"), good.output_dir, Path("m"), loss_type=loss_type), "recipe.yaml")
    assert said[0].startswith("validation loss")
    assert said[-1] == f"next:  tunesmith chat --adapter {good.output_dir}"
    assert json.dumps(good.as_dict())


@pytest.mark.parametrize("loss_type", ["sigmoid", "kto"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run: Run, loss_type: str) -> None:
    rows = thumb_rows(16) if loss_type == "kto" else pair_rows(16)
    keys = {
        "loss_type": loss_type, "num_train_epochs": 3, "save_steps": 1, "eval_steps": 2, "save_total_limit": 20,
        "micro_batch_tokens": 64, "adapter": {"r": 4, "lora_dropout": 0.1},
    }  # fmt: skip
    whole = run(rows, "whole", **keys)
    broken = run(rows, "broken", **keys)
    # As after a kill in the middle: the result and all later checkpoints are gone.
    for folder in broken.output_dir.glob("checkpoint-*"):
        if int(folder.name.partition("-")[2]) > 4:
            shutil.rmtree(folder)
    for name in ("adapter_model.safetensors", "adapter_config.json", "loss.png"):
        (broken.output_dir / name).unlink()
    resumed = run(rows, "broken", resume_from_checkpoint="auto", **keys)
    assert weights(resumed.output_dir) == weights(whole.output_dir)
    assert lines(resumed.output_dir) == lines(whole.output_dir)
    # Control: another seed ends elsewhere.
    assert weights(run(rows, "other", seed=1, **keys).output_dir) != weights(whole.output_dir)


def test_cached_scores_are_the_computed_ones_and_any_change_misses(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scoring, "GROUPS_A_FILE", 4)
    computed: list[int] = []
    plain = scoring._scored
    monkeypatch.setattr(scoring, "_scored", lambda m, part, w: computed.append(len(part)) or plain(m, part, w))

    def scored(rows: list[dict[str, Any]], name: str, **keys: Any) -> bytes:
        computed.clear()
        return weights(run(rows, name, cache_reference=True, max_steps=2, **keys).output_dir)

    whole = {"data": {"validation_share": 0.0}, "shuffle": False}
    fresh = scored(pair_rows(), "fresh", **whole)
    assert sum(computed) == 12
    assert scored(pair_rows(), "hit", **whole) == fresh
    assert computed == []
    # Settings of the loss do not touch the reference; rows, dtype and kernels do.
    scored(pair_rows(), "beta", beta=0.5, loss_type="ipo", **whole)
    assert computed == []
    scored(pair_rows(14), "grown", **whole)
    assert sum(computed) == 2
    changed = pair_rows()
    changed[5]["rejected"] += " at"
    scored(changed, "changed", **whole)
    assert sum(computed) == 4
    scored(pair_rows(), "kernels", kernels="reference", **whole)
    assert sum(computed) == 12
    # A damaged file is no file.
    for path in (tmp_path / "cache" / "reference_scores").rglob("*.safetensors"):
        blob = bytearray(path.read_bytes())
        blob[-80] ^= 1
        path.write_bytes(blob)
    assert scored(pair_rows(), "damaged", **whole) == fresh
    assert sum(computed) == 12
    assert scored(pair_rows(), "healed", **whole) == fresh
    assert computed == []


def test_the_key_of_the_scores_knows_the_models_config_and_not_its_folder(load: Callable[..., Any]) -> None:
    """Another rotary base over the same weights is another reference."""

    def key(**changed: Any) -> str:
        base = load("llama")
        for name, value in changed.items():
            setattr(base.model.config, name, value)
        role = add_adapter(base, "policy", AdapterConfig(r=2), seed=1)
        return scoring.reference_key(Model(base=base, role=role, micro_batch_tokens=64))

    assert key() == key(_name_or_path="elsewhere") != key(rms_norm_eps=1e-3)


def started_adapter(load: Callable[..., Any], folder: Path, kind: str = "llama") -> Path:
    base = load(kind, dtype="float32")
    role = add_adapter(base, "default", AdapterConfig(r=4), seed=3)
    for i, parameter in enumerate(role.parameters.values()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.1
    save_role(base, role, folder)
    return folder


def test_an_adapter_started_from_is_the_reference_and_scores_its_own(
    run: Run, load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    start = started_adapter(load, tmp_path / "sft")
    keys = {"adapter": {}, "adapter_name_or_path": str(start), "cache_reference": True}
    aligned = run(pair_rows(), "aligned", **keys)
    assert aligned.initial_eval_loss == pytest.approx(math.log(2), abs=1e-6)
    assert weights(aligned.output_dir) != weights(start)
    # The bare base is another reference: nothing of the cache is taken.
    key = {path.name for path in (tmp_path / "cache" / "reference_scores").iterdir()}
    run(pair_rows(), "bare", cache_reference=True)
    assert len({path.name for path in (tmp_path / "cache" / "reference_scores").iterdir()} - key) == 1
    # Plain PEFT's layout: it loads again, and onto its base only.
    base = load("llama", dtype="float32")
    load_adapter(base, aligned.output_dir, "again")
    provenance = json.loads((aligned.output_dir / "tunesmith_provenance.json").read_text())
    assert provenance["reference_digest"] != provenance["adapter_digest"]
    with pytest.raises(ConfigError, match="adapter_name_or_path"):
        run(pair_rows(), "both", **{**keys, "adapter": {"r": 8}})


def test_full_tuning_needs_no_second_copy_for_its_reference(run: Run) -> None:
    aligned = run(pair_rows(), adapter={"method": "full"}, learning_rate=1e-3)
    assert aligned.initial_eval_loss == pytest.approx(math.log(2), abs=1e-6)
    assert aligned.final_eval_loss is not None
    assert aligned.final_eval_loss < math.log(2)


def test_plain_peft_computes_what_the_run_measured(
    run: Run, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from dpo_models import plain_logprob
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    aligned = run(pair_rows(), num_train_epochs=2)
    prepared = prepare(config_of(tmp_path / "rows.jsonl", tmp_path / "x", model_folder("llama")))
    assert prepared.valid is not None
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    reference = [[plain_logprob(model, e.ids, e.loss_weight) for e in g.examples] for g in prepared.valid.groups]
    adapted = PeftModel.from_pretrained(model, aligned.output_dir)
    policy = [[plain_logprob(adapted, e.ids, e.loss_weight) for e in g.examples] for g in prepared.valid.groups]
    margins = [
        0.1 * ((p[g.pairs[0].better] - r[g.pairs[0].better]) - (p[g.pairs[0].worse] - r[g.pairs[0].worse]))
        for g, p, r in zip(prepared.valid.groups, policy, reference, strict=True)
    ]
    assert sum(margins) / len(margins) == pytest.approx(aligned.eval_metrics["eval_rewards/margins"], abs=1e-4)


def test_equal_answers_are_refused_or_counted(run: Run) -> None:
    rows = pair_rows()
    rows[3]["rejected"] = rows[3]["chosen"]
    with pytest.raises(DataError, match="the same"):
        run(rows)
    aligned = run(rows, data={"on_bad_row": "drop"})
    record = json.loads((aligned.output_dir / "run.json").read_text())
    assert list(record["data"]["rows_dropped"].values()) == [1]


def test_a_prompt_that_fills_the_length_is_named(run: Run) -> None:
    rows = pair_rows()
    rows[2]["prompt"] = "the " * 300
    with pytest.raises(DataError, match=r"rows\.jsonl:3"):
        run(rows)


def test_an_adapter_of_another_base_is_refused(run: Run, load: Callable[..., Any], tmp_path: Path) -> None:
    start = started_adapter(load, tmp_path / "other", "qwen3")
    with pytest.raises(AdapterMismatchError, match="base"):
        run(pair_rows(), adapter={}, adapter_name_or_path=str(start))


def test_a_loss_that_is_no_number_names_its_rows(run: Run) -> None:
    def poison(role: Role) -> None:
        for parameter in role.parameters.values():
            parameter.data.fill_(float("nan"))

    with pytest.raises(NonFiniteLossError, match=r"rows\.jsonl:\d+"):
        run(pair_rows(), tweak=poison, data={"validation_share": 0.0})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss_type": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ({"desirable_weight": 2.0}, "desirable_weight"),
        ({"beta": 0.0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"los_type": "ipo"}, "loss_type"),
    ],
)
def test_settings_that_mean_nothing_are_refused(run: Run, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(pair_rows(), **keys)


def test_rows_that_do_not_fit_the_loss_are_refused(run: Run) -> None:
    rated = [{"prompt": f"on {i}", "completion": "the", "rating": 1 + i % 5} for i in range(8)]
    with pytest.raises(ConfigError, match="kto"):
        run(rated, loss_type="kto")
    with pytest.raises(DataError, match="pair"):
        run(thumb_rows())
    with pytest.raises(DataError, match="two prompts"):
        run(thumb_rows(1), loss_type="kto", data={"validation_share": 0.0})


def test_pairs_train_kto_too(run: Run) -> None:
    aligned = run(pair_rows(), loss_type="kto")
    record = json.loads((aligned.output_dir / "run.json").read_text())
    assert record["rendered"]["answers_without_a_clear_verdict"] == 0
    assert aligned.num_steps == 3
