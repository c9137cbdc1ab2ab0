"""A resume goes on with what the run began with, or says why it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.load import DataConfig
from tunesmith.errors import CheckpointError
from tunesmith.models import load as loading
from tunesmith.models.adapters import AdapterConfig, adapter_digest
from tunesmith.recipes.prepare import SFTConfig
from tunesmith.recipes.sft import train

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def config(tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> SFTConfig:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model_folder("llama"), tmp_path / "base")
    rows = [{"prompt": f"say {word}", "completion": word * 2} for word in ("one", "two", "three", "four", "five")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SFTConfig(
        model_name_or_path=str(tmp_path / "base"),
        device="cpu",
        data=DataConfig(train=str(tmp_path / "rows.jsonl")),
        adapter=AdapterConfig(r=2),
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=2,
        max_steps=4,
        save_steps=2,
        after_training="off",
    )


def broken(config: SFTConfig) -> SFTConfig:
    """Run until the power goes; what to resume with."""
    steps: list[int] = []

    def die(_: object) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tweak_gradients=die)
    return config.model_copy(update={"resume_from_checkpoint": "auto"})


def probe(monkeypatch: pytest.MonkeyPatch, *, bf16_is_fast: bool) -> None:
    rate = {"torch.bfloat16": 9.0 if bf16_is_fast else 1.0, "torch.float32": 3.0}
    monkeypatch.setattr(loading, "gemm_gflops", lambda dtype, device: rate[str(dtype)])


def test_a_probe_that_says_otherwise_the_second_time_changes_nothing(
    config: SFTConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    probe(monkeypatch, bf16_is_fast=False)
    whole = train(config.model_copy(update={"output_dir": str(tmp_path / "whole")}))
    again = broken(config)
    probe(monkeypatch, bf16_is_fast=True)
    resumed = train(again)
    assert adapter_digest(resumed.base, "default") == adapter_digest(whole.base, "default")
    # Control: a new run does follow the probe.
    other = train(config.model_copy(update={"output_dir": str(tmp_path / "other")}))
    assert (str(resumed.base.dtype), str(other.base.dtype)) == ("torch.float32", "torch.bfloat16")


@pytest.mark.parametrize(
    "options",
    [
        {"init_lora_weights": "pissa", "lora_dropout": 0.1},
        {"init_lora_weights": "pissa_niter_2", "use_dora": True, "rank_pattern": {"q_proj": 3}},
    ],
)
def test_what_an_option_began_with_is_there_again_bit_for_bit(
    config: SFTConfig, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = config.model_copy(
        update={"adapter": AdapterConfig(r=2, **options), "dtype": "float32", "loraplus_lr_ratio": 8.0}
    )
    whole = train(config.model_copy(update={"output_dir": str(tmp_path / "whole")}))
    resumed = train(broken(config))
    assert resumed.num_steps == whole.num_steps
    assert adapter_digest(resumed.base, "default") == adapter_digest(whole.base, "default")
    # Control: the ratio is not lost on the way.
    evenly = config.model_copy(update={"output_dir": str(tmp_path / "evenly"), "loraplus_lr_ratio": 1.0})
    assert adapter_digest(train(evenly).base, "default") != adapter_digest(whole.base, "default")


@pytest.mark.parametrize("changed", ["tokenizer", "template"])
def test_another_tokenizer_or_template_in_the_base_is_another_run(config: SFTConfig, changed: str) -> None:
    again, folder = broken(config), Path(config.model_name_or_path)
    if changed == "tokenizer":
        tree = json.loads((folder / "tokenizer.json").read_text())
        tree["model"]["merges"].pop()
        (folder / "tokenizer.json").write_text(json.dumps(tree))
    else:
        template = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").write_text(template.replace("\n", " \n"))
    with pytest.raises(CheckpointError, match=f"{changed}_digest"):
        train(again)


def test_other_kernels_than_the_run_began_with_are_refused(config: SFTConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    again = broken(config)
    monkeypatch.setattr(loading, "_differs", lambda base, decoder: "a release that changed")
    with pytest.raises(CheckpointError, match="kernels fast"):
        train(again)
