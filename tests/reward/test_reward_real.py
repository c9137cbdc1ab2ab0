"""The real 135M model under a scalar head: it learns from the page's pairs, and stock PEFT agrees with it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from tunesmith.config import load_config
from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model
from tunesmith.recipes.reward import train_reward
from tunesmith.recipes.reward_prepare import RewardConfig
from tunesmith.rollout.score import RewardModel

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_real_model_learns_and_stock_peft_gives_its_scores(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reward.md").read_text(encoding="utf-8")
    rows = re.findall(r"^```json pairs.jsonl\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "pairs.jsonl").write_text(rows, encoding="utf-8")
    settings = [f"data.train={tmp_path / 'pairs.jsonl'}", "data.validation_share=0.4", "dtype=float32"]
    settings += [f"output_dir={tmp_path / 'run'}", "num_train_epochs=6", "learning_rate=5e-4"]
    settings += ["per_device_train_batch_size=3", "warmup_ratio=0", "eval_steps=2"]
    config, _ = load_config(RewardConfig, ROOT / "recipes" / "reward.yaml", settings)
    trained = train_reward(config)
    assert trained.initial_eval_loss is not None and trained.final_eval_loss is not None
    assert trained.final_eval_loss < trained.initial_eval_loss
    tokenizer = trained.base.tokenizer
    prompt = np.array(
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)["input_ids"]
    )
    answers = [
        np.array([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
        for text in ("Go away.", "Hello! How can I help?")
    ]
    ours = RewardModel(base=trained.base, role=trained.role).score([prompt, prompt], answers)
    folder = resolve_model(EMBEDDED_MODEL).folder
    stock = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    # transformers reads the last token that is not padding, and this model pads with its end token: with a padding id
    # it would read the token before the end.
    stock.config.pad_token_id = None
    stock = PeftModel.from_pretrained(stock, tmp_path / "run").eval()
    with torch.no_grad():
        theirs = [float(stock(torch.from_numpy(np.concatenate([prompt, a]))[None]).logits[0, 0]) for a in answers]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, *map(abs, theirs)))
    assert ours[1] - ours[0] != 0
