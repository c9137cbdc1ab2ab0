"""An encoder reads a soft prompt before every source: as stock PEFT does, however rows are batched, and in answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from text_to_text_models import load, rows, save_model

from tunesmith.errors import ConfigError
from tunesmith.models.adapters import AdapterConfig, add_adapter, load_adapter, save_role
from tunesmith.models.forward import forward
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.tokens.pack import pack

SOFT = AdapterConfig(method="prompt", num_virtual_tokens=4)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_losses_and_answers_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = save_model(kind, tmp_path / "model")
    base = load(folder, torch.float32)
    role = add_adapter(base, "virtual", SOFT, seed=0)
    examples = rows(base, (9, 5), (6, 7), (9, 4))
    logprobs, _ = forward(base, pack(examples, "virtual"), "target_logprobs")
    gradient = torch.autograd.grad(logprobs.sum(), list(role.parameters.values()), retain_graph=True)
    alone = torch.cat([forward(base, pack([e], "virtual"), "target_logprobs")[0] for e in examples])
    torch.testing.assert_close(logprobs, alone, rtol=1e-4, atol=1e-4)
    expected = torch.autograd.grad(alone.sum(), list(role.parameters.values()))
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)
    save_role(base, role, tmp_path / "adapter")
    stock = PeftModel.from_pretrained(load(folder, torch.float32).model, tmp_path / "adapter").eval()
    theirs = []
    for e in examples:
        assert e.source_ids is not None
        source, ids = torch.from_numpy(e.source_ids)[None], torch.from_numpy(e.ids)[None]
        with torch.no_grad():
            logits = stock(
                input_ids=source, attention_mask=torch.ones_like(source), decoder_input_ids=ids
            ).logits[0, :-1]  # fmt: skip
        theirs.append(torch.log_softmax(logits.float(), -1).gather(1, ids[0, 1:, None]).squeeze(1))
    torch.testing.assert_close(logprobs.detach(), torch.cat(theirs), rtol=1e-4, atol=2e-4)
    assert not torch.allclose(logprobs, forward(base, pack(examples), "target_logprobs")[0], atol=1e-2)
    # What an answer says of itself is what the whole pass says of it.
    asked = [Prompt(ids=e.source_ids, row_id=i) for i, e in enumerate(examples) if e.source_ids is not None]
    for rollout in LocalGenerator(base).generate(asked, Sampling(max_new_tokens=5), "virtual"):
        ids = np.r_[base.decoder_prefix, rollout.ids]
        weight = np.r_[np.zeros(len(base.decoder_prefix)), np.ones(len(rollout.ids))].astype(np.float32)
        row = replace(examples[0], ids=ids, loss_weight=weight, source_ids=rollout.prompt_ids)
        whole, _ = forward(base, pack([row], "virtual"), "target_logprobs")
        np.testing.assert_allclose(rollout.logprobs, whole.detach().numpy(), rtol=1e-3, atol=1e-4)


def test_rows_for_a_second_stack_are_kept_and_not_read(tmp_path: Path) -> None:
    base = load(save_model("t5", tmp_path / "model"), torch.float32)
    role = add_adapter(base, "virtual", SOFT, seed=0)
    packed = pack(rows(base, (9, 5)), "virtual")
    save_role(base, role, tmp_path / "adapter")
    settings_file, file = (tmp_path / "adapter" / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    settings = json.loads(settings_file.read_text())
    assert settings["num_transformer_submodules"] == 1
    # As PEFT writes it where it is not told: twice the rows, of which its forward takes the first half.
    settings_file.write_text(json.dumps({**settings, "num_transformer_submodules": 2}))
    held = load_file(file)["prompt_embeddings"]
    save_file({"prompt_embeddings": torch.cat([held, torch.full_like(held, 9.0)])}, file)
    load_adapter(base, tmp_path / "adapter", "read")
    ours, theirs = (
        forward(base, replace(packed, adapter_S=(name,)), "target_logprobs")[0] for name in ("virtual", "read")
    )
    assert torch.equal(ours, theirs)


def test_a_prefix_of_two_stacks_is_refused(tmp_path: Path) -> None:
    base = load(save_model("t5", tmp_path / "model"), torch.float32)
    with pytest.raises(ConfigError, match="each of its two stacks would need one"):
        add_adapter(base, "virtual", AdapterConfig(method="prefix"), seed=0)
    assert "virtual" not in base.own
