"""A reward model at work: independent of its batch, loaded on its own base only, equal to stock PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from tests.conftest import build_model, build_tokenizer
from tests.models.test_adapter_combinations import awake
from tunesmith.cli.main import app
from tunesmith.errors import AdapterMismatchError, DataError, ModelError
from tunesmith.models import load as load_module
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.models.heads import add_head
from tunesmith.models.load import build_base
from tunesmith.models.resolve import resolve_model
from tunesmith.randomness import generator
from tunesmith.recipes.score import ScoreConfig, score_rows
from tunesmith.rollout.score import OFFSET_KEY, RewardModel, load_reward_model


def model(base: Any, **more: Any) -> RewardModel:
    role = add_head(base, awake(base, "reward", AdapterConfig(r=4), torch.float32), seed=3)
    return RewardModel(base=base, role=role, **more)


def drawn(num: int) -> tuple[list[Any], list[Any]]:
    """Prompts, some of them equal, and answers of many lengths."""
    draws = generator(0, "test_score", num)
    prompts = [draws.integers(3, 260, 4 + i % 5) for i in range(num)]
    prompts[1], prompts[3] = prompts[0], prompts[0]
    return prompts, [draws.integers(3, 260, int(draws.integers(1, 30))) for _ in range(num)]


@pytest.mark.parametrize(("kernels", "tolerance"), [("auto", 1e-5), ("reference", 0.0)])
def test_a_reward_does_not_depend_on_its_batch(load: Callable[..., Any], kernels: str, tolerance: float) -> None:
    base = load("llama", "float32", kernels)
    prompts, answers = drawn(12)
    reward = model(base)
    alone = np.array([reward.score([p], [a])[0] for p, a in zip(prompts, answers, strict=True)])
    for budget in (1, 60, 2048):
        together = RewardModel(base=base, role=reward.role, budget_tokens=budget).score(prompts, answers)
        np.testing.assert_allclose(together, alone, rtol=tolerance, atol=tolerance)
    backwards = reward.score(prompts[::-1], answers[::-1])[::-1]
    np.testing.assert_allclose(backwards, alone, rtol=tolerance, atol=tolerance)
    assert np.ptp(alone) > 0.1, "the control: these answers are not all alike"


def test_the_offset_is_taken_off_and_is_part_of_the_digest(load: Callable[..., Any]) -> None:
    base = load("llama", "float32")
    plain = model(base)
    prompts, answers = drawn(5)
    moved = RewardModel(base=base, role=plain.role, offset=1.5)
    np.testing.assert_allclose(plain.score(prompts, answers) - moved.score(prompts, answers), 1.5)
    assert plain.digest != moved.digest and plain.digest == RewardModel(base=base, role=plain.role).digest
    assert plain.role.head is not None
    before = plain.digest
    plain.role.head.score.weight.data[0, 0] += 1e-3
    assert plain.digest != before


def test_empty_answers_and_unequal_lists_are_refused(load: Callable[..., Any]) -> None:
    reward = model(load("llama", "float32"))
    prompts, answers = drawn(4)
    with pytest.raises(ValueError, match="answer 2: an empty answer"):
        reward.score(prompts, [*answers[:2], np.zeros(0, np.int64), answers[3]])
    with pytest.raises(ValueError, match="an empty prompt"):
        reward.score([np.zeros(0, np.int64)], answers[:1])
    with pytest.raises(ValueError, match="zip"):
        reward.score(prompts, answers[:3])


@pytest.fixture
def saved(load: Callable[..., Any], tmp_path: Path) -> tuple[RewardModel, Path]:
    reward = model(load("llama", "float32"), offset=0.25)
    save_role(reward.base, reward.role, tmp_path / "reward", {OFFSET_KEY: reward.offset})
    return reward, tmp_path / "reward"


def test_our_folder_in_stock_peft_gives_our_scores(
    saved: tuple[RewardModel, Path], model_folder: Callable[[str], Path]
) -> None:
    reward, folder = saved
    stock = AutoModelForSequenceClassification.from_pretrained(model_folder("llama"), num_labels=1, dtype=torch.float32)
    stock = PeftModel.from_pretrained(stock, folder).eval()
    prompts, answers = drawn(6)
    theirs = [
        float(stock(torch.from_numpy(np.concatenate([p, a]))[None]).logits[0, 0])
        for p, a in zip(prompts, answers, strict=True)
    ]
    np.testing.assert_allclose(reward.score(prompts, answers) + reward.offset, theirs, rtol=1e-5, atol=1e-5)


def test_it_loads_on_its_own_base_only_and_needs_a_head(
    saved: tuple[RewardModel, Path], load: Callable[..., Any], tmp_path: Path
) -> None:
    reward, folder = saved
    prompts, answers = drawn(4)
    again = load_reward_model(load("llama", "float32"), folder)
    np.testing.assert_array_equal(again.score(prompts, answers), reward.score(prompts, answers))
    assert again.digest == reward.digest and again.role.parameters == {}
    other = build_model("llama")
    other.model.embed_tokens.weight.data[0, 0] += 1
    other.save_pretrained(tmp_path / "other")
    build_tokenizer().save_pretrained(tmp_path / "other")
    base = build_base(resolve_model(str(tmp_path / "other")), torch.device("cpu"), torch.float32)
    with pytest.raises(AdapterMismatchError, match="was trained with base"):
        load_reward_model(base, folder)
    plain = load("llama", "float32")
    save_role(plain, add_adapter(plain, "sft", AdapterConfig(r=2), 0), tmp_path / "sft")
    with pytest.raises(ModelError, match="without a scalar head"):
        load_reward_model(plain, tmp_path / "sft")


ROWS: dict[str, list[dict[str, Any]]] = {
    "preference": [{"prompt": "hi", "chosen": "good", "rejected": "bad"}],
    "ranking": [{"prompt": "hi", "candidates": {"A": "good", "B": "bad"}, "ranking": "B > A"}],
    "edit": [{"prompt": "hi", "original": "bad", "edited": "good"}],
    "rating": [{"prompt": "hi", "completion": "good", "rating": 4}],
    "messages": [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "good"}]}],
    "prompt-completion": [{"prompt": "hi", "completion": "good", "note": 1}],
}


@pytest.mark.parametrize("shape", ROWS)
def test_rows_of_every_shape_get_the_same_reward_for_the_same_answer(
    saved: tuple[RewardModel, Path],
    model_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shape: str,
) -> None:
    reward, folder = saved
    # The verb picks bf16 on some processors.
    monkeypatch.setattr(load_module, "pick_dtype", lambda wanted, device: (reward.base.dtype, "as expected"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
    tokenizer = reward.base.tokenizer
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)["input_ids"]
    answer = [*tokenizer("good", add_special_tokens=False)["input_ids"], 2]
    expected = reward.score([np.array(prompt)], [np.array(answer)])[0]
    arguments = ["score", str(tmp_path / "rows.jsonl"), "--adapter", str(folder), "--model", str(model_folder("llama"))]
    arguments += ["--output", str(tmp_path / "out.jsonl"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    (row,) = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert row.items() >= ROWS[shape][0].items() and summary["shape"] == shape
    scores = row.get("scores") or {"": row["score"]}
    names = {"preference": "chosen", "ranking": "A", "edit": "corrected"}
    assert scores[names.get(shape, "")] == pytest.approx(expected, abs=1e-5)
    assert summary["answers"] == len(scores) and summary["reward_digest"] == reward.digest
    assert summary["pairs"] == (shape == "preference")
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "the file exists" in again.stderr


def test_rows_that_cannot_be_scored_stop_or_are_counted(
    saved: tuple[RewardModel, Path], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    reward, folder = saved
    rows = [
        {"prompt": "hi", "completion": "good"},
        {"prompt": "hi", "completion": ""},
        {"prompt": "hi", "completion": "x" * 300},
        {"prompt": "hi", "completion": "good", "score": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ScoreConfig(
        model_name_or_path=str(model_folder("llama")),
        rows=str(tmp_path / "rows.jsonl"),
        adapter=str(folder),
        output=str(tmp_path / "out.jsonl"),
    )
    with pytest.raises(DataError, match=r"2 of 4 rows are faulty"):
        score_rows(config, base=reward.base)
    with pytest.raises(DataError, match=r"rows.jsonl:3.*256 are allowed"):
        score_rows(config.model_copy(update={"on_bad_row": "drop"}), base=_fresh(reward))
    dropped = config.model_copy(update={"on_bad_row": "drop", "over_length": "drop"})
    scored = score_rows(dropped, base=_fresh(reward))
    assert scored.rows_scored == 1 and sum(scored.rows_dropped.values()) == 3
    cut = dropped.model_copy(update={"over_length": "truncate", "overwrite": True})
    scored = score_rows(cut, base=_fresh(reward))
    assert scored.rows_scored == 2 and scored.answers_cut == 1


def test_copies_of_a_row_are_no_evidence(saved: tuple[RewardModel, Path], tmp_path: Path) -> None:
    reward, folder = saved
    accuracy = []
    for copies in (1, 30):
        (tmp_path / "rows.jsonl").write_text((json.dumps(ROWS["preference"][0]) + "\n") * copies)
        config = ScoreConfig(
            rows=str(tmp_path / "rows.jsonl"), adapter=str(folder), output=str(tmp_path / f"{copies}.jsonl")
        )
        scored = score_rows(config, base=_fresh(reward))
        assert scored.pairs == copies
        accuracy.append(scored.accuracy)
    assert accuracy[0] == accuracy[1]


def _fresh(reward: RewardModel) -> Any:
    return build_base(reward.base.resolved, torch.device("cpu"), torch.float32)
