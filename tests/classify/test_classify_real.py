"""The real 135M model under a head of classes: stock transformers and PEFT give the logits of our saved folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from tests.models.test_adapter_combinations import awake
from tunesmith.config import build_config
from tunesmith.models.adapters import AdapterConfig, save_role
from tunesmith.models.classes import text_logits
from tunesmith.models.heads import add_class_head
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.models.resolve import EMBEDDED_MODEL, resolve_model
from tunesmith.records import Where
from tunesmith.tokens.labelled import TextRenderConfig, render_texts


@pytest.mark.slow
def test_stock_peft_gives_the_logits_of_the_real_model(tmp_path: Path) -> None:
    base = load_base(build_config(ModelConfig, {"dtype": "float32", "device": "cpu"}, place="test"))
    config = AdapterConfig(r=2, lora_alpha=2, target_modules=["q_proj", "down_proj"])
    role = add_class_head(base, awake(base, "classify", config, torch.float32), 3)
    assert role.head is not None
    torch.nn.init.normal_(role.head.score.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    said = ["Where is my parcel?", "I was charged twice."]
    rendered, _ = render_texts(said, [Where("t")] * 2, base.tokenizer, TextRenderConfig(), max_tokens=32)
    ids = [text.ids for text in rendered if text is not None]
    assert [one[-1] for one in ids] == [base.tokenizer.eos_token_id] * 2
    ours = text_logits(base, role, ids, 512)
    save_role(base, role, tmp_path)
    folder = resolve_model(EMBEDDED_MODEL).folder
    stock = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, dtype=torch.float32)
    # transformers reads the last token that is no padding, and this model pads with its end token.
    stock.config.pad_token_id = None
    stock = PeftModel.from_pretrained(stock, tmp_path).eval()
    with torch.no_grad():
        theirs = torch.cat([stock(torch.from_numpy(one)[None]).logits for one in ids])
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)
    # The control: without the adapter the logits are others by far more.
    with torch.no_grad(), stock.disable_adapter():
        bare = stock(torch.from_numpy(ids[0])[None]).logits
    assert float((bare - theirs[:1]).abs().max()) > 0.05
