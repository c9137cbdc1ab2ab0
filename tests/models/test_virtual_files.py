"""Files of virtual tokens are PEFT's both ways; a run resumes with its projection, which its result has no more."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from virtual_worlds import SETTINGS, awake, config, rows

from tunesmith.data.load import DataConfig
from tunesmith.errors import AdapterMismatchError, ModelError
from tunesmith.kernels.head_loss import logits_of
from tunesmith.models.adapters import adapter_digest, load_adapter, save_role
from tunesmith.models.forward import hidden_states
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import train
from tunesmith.tokens.pack import pack_prompts

ROOT = Path(__file__).parents[2]
KINDS = ["llama", "qwen3", "gpt2"]


def our_logits(base: Any, ids: Any, name: str | None) -> torch.Tensor:
    return logits_of(hidden_states(base, pack_prompts([ids], [0], name)), base.head).detach()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_stock_peft_reads_our_file(load: Callable[..., Any], kind: str, setting: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base, ids = load(kind, "float32"), rows(13)[0].ids
    role = awake(base, "virtual", config(setting))
    save_role(base, role, tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert list(held) == ["prompt_embeddings"]
    c = base.model.config
    width = c.hidden_size
    if setting != "prompt":
        heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
        width = c.num_hidden_layers * 2 * heads * (getattr(c, "head_dim", None) or width // c.num_attention_heads)
    assert held["prompt_embeddings"].shape == (4, width)
    stock = PeftModel.from_pretrained(load(kind, "float32").model, tmp_path).eval()
    with torch.no_grad():
        theirs = stock(input_ids=torch.from_numpy(ids)[None], attention_mask=torch.ones(1, len(ids))).logits[0][
            -len(ids) :
        ]
    ours = our_logits(base, ids, "virtual")
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, our_logits(base, ids, None), atol=1e-2)
    # And we read it ourselves: the same answers, nothing of an MLP, and it learns on.
    again = load(kind, "float32")
    read = load_adapter(again, tmp_path, "read", trainable=True)
    torch.testing.assert_close(our_logits(again, ids, "read"), ours, rtol=1e-6, atol=1e-6)
    assert len(read.parameters) == 1
    assert adapter_digest(again, "read") == adapter_digest(base, "virtual")


@pytest.mark.parametrize(("setting", "projection"), [("prompt", False), ("prefix", False), ("prefix", True)])
@pytest.mark.parametrize("kind", KINDS)
def test_we_read_the_file_of_stock_peft(
    load: Callable[..., Any], kind: str, setting: str, projection: bool, tmp_path: Path
) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    torch.manual_seed(0)
    base, ids = load(kind, "float32"), rows(13)[0].ids
    plain: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    if setting == "prompt":
        peft_config: Any = PromptTuningConfig(**plain)
    else:
        peft_config = PrefixTuningConfig(**plain, prefix_projection=projection, encoder_hidden_size=7)
    stock = get_peft_model(load(kind, "float32").model, peft_config).eval()
    stock.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = stock(input_ids=torch.from_numpy(ids)[None], attention_mask=torch.ones(1, len(ids))).logits[0][
            -len(ids) :
        ]
    load_adapter(base, tmp_path, "read")
    torch.testing.assert_close(our_logits(base, ids, "read"), theirs.float(), rtol=1e-4, atol=1e-4)


def test_files_that_do_not_fit_are_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    base = load("llama", "float32")
    save_role(base, awake(base, "virtual", config("flat")), tmp_path)
    (tmp_path / "tunesmith_provenance.json").unlink()
    with pytest.raises(ModelError, match="is for 2 layers with 2 key heads of width 8, the model has 2 with 4"):
        load_adapter(load("gpt2", "float32"), tmp_path, "read")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "num_virtual_tokens": 5}))
    with pytest.raises(AdapterMismatchError, match="1 of another shape"):
        load_adapter(base, tmp_path, "read")
    assert "read" not in base.own


@pytest.fixture
def recipe(tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> SFTConfig:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    lines = [{"prompt": f"say {word}", "completion": word * 2} for word in ("one", "two", "three", "four", "five")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return SFTConfig(
        model_name_or_path=str(model_folder("llama")),
        device="cpu",
        dtype="float32",
        data=DataConfig(train=str(tmp_path / "rows.jsonl")),
        adapter=config("prefix"),
        learning_rate=0.02,
        output_dir=str(tmp_path / "whole"),
        per_device_train_batch_size=2,
        max_steps=6,
        save_steps=2,
        after_training="off",
    )


@pytest.mark.usefixtures("undrawn")
def test_a_resumed_run_keeps_its_projection_and_a_finished_one_drops_it(recipe: SFTConfig, tmp_path: Path) -> None:
    whole = train(recipe)
    assert whole.final_eval_loss is not None and whole.final_eval_loss < (whole.initial_eval_loss or 0)
    steps: list[int] = []

    def die(_: object) -> None:
        steps.append(1)
        if len(steps) == 4:
            raise RuntimeError("power cut")

    cut = recipe.model_copy(update={"output_dir": str(tmp_path / "cut")})
    with pytest.raises(RuntimeError, match="power cut"):
        train(cut, tweak_gradients=die)
    checkpoint = max((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: path.name)
    kept = load_file(checkpoint / "parameters.safetensors")
    assert "prefix.rows" in kept and "prefix.transform.2.weight" in kept and "prefix.start" not in kept
    again = train(cut.model_copy(update={"resume_from_checkpoint": "auto"}))
    ours, theirs = (load_file(one.output_dir / "adapter_model.safetensors") for one in (again, whole))
    assert list(ours) == ["prompt_embeddings"]
    assert torch.equal(ours["prompt_embeddings"], theirs["prompt_embeddings"])
    assert again.final_eval_loss == whole.final_eval_loss
    # What a checkpoint holds for users is a whole prefix too.
    assert load_file(checkpoint / "adapter_model.safetensors")["prompt_embeddings"].shape == (4, 64)


def test_the_example_of_the_page_runs(recipe: SFTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from tunesmith.cli.main import app

    page = (ROOT / "docs" / "prefix.md").read_text(encoding="utf-8")
    blocks = page.split("```")
    written = next(b for b in blocks if b.startswith("yaml prefix.yaml\n")).partition("\n")[2]
    (tmp_path / "prefix.yaml").write_text(written)
    told = [line[2:] for b in blocks if b.startswith("console\n") for line in b.splitlines() if line.startswith("$ ")]
    shutil.copy(tmp_path / "rows.jsonl", tmp_path / "support.jsonl")
    monkeypatch.chdir(tmp_path)
    tiny = [f"model_name_or_path={recipe.model_name_or_path}", "dtype=float32", "max_steps=2", "after_training=off"]
    assert [line.split()[1] for line in told] == ["sft", "generate"]
    for line in told:
        words = shlex.split(line)[1:]
        done = CliRunner().invoke(app, [*words, *(tiny if words[0] == "sft" else ["--max-new-tokens", "8"])])
        assert done.exit_code == 0, done.output
        assert "nats a token" in done.stdout or words[0] == "generate"
    assert list(load_file(tmp_path / "runs" / "prefix" / "adapter_model.safetensors")) == ["prompt_embeddings"]
