"""Methods on the same rows: each is trained and measured as it says, what is done is not done again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import NonFiniteLossError, RunError
from tunesmith.models.adapters import load_adapter
from tunesmith.models.load import ModelConfig, load_base
from tunesmith.recipes import compare_one
from tunesmith.recipes.compare_methods import CompareMethodsConfig, compared, run_compare_methods
from tunesmith.reports.compare_methods import describe

pytestmark = pytest.mark.usefixtures("undrawn")
ROOT = Path(__file__).parents[2]
WORDS = ("one", "two", "three", "four", "five", "six")


@pytest.fixture
def config(
    tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> CompareMethodsConfig:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model_folder("llama"), tmp_path / "base")
    for name, words in (("train", WORDS[:4]), ("valid", WORDS[4:5]), ("test", WORDS[3:])):
        rows = [{"prompt": f"say {word}", "completion": word * 2} for word in words]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sft.yaml").write_text(
        f"model_name_or_path: {tmp_path / 'base'}\ndevice: cpu\ndtype: float32\nmax_steps: 2\n"
        f"per_device_train_batch_size: 2\nadapter: {{r: 2}}\n"
        f"data: {{train: {tmp_path / 'train.jsonl'}, validation: {tmp_path / 'valid.jsonl'}}}\n"
    )
    return CompareMethodsConfig(
        sft=str(tmp_path / "sft.yaml"),
        test=str(tmp_path / "test.jsonl"),
        methods=["full", "lora", "qlora"],
        learning_rates={"full": [1e-3], "lora": [1e-5, 1e-2], "qlora": [1e-2]},
        output_dir=str(tmp_path / "out"),
    )


def here(path: Path) -> int:
    return compare_one.main(str(path))


def test_methods_are_trained_chosen_and_measured_and_nothing_is_done_twice(config: CompareMethodsConfig) -> None:
    said: list[str] = []
    result = run_compare_methods(config, said.append, here)
    rows = {row["method"]: row for row in result["methods"]}
    assert list(rows) == config.methods
    # What learns, by the model's own sizes: 2 layers of q 32, k and v 16, o 32, gate, up 48, down 48 -> 32.
    maps = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert rows["lora"]["trainable_parameters"] == rows["qlora"]["trainable_parameters"]
    assert rows["lora"]["trainable_parameters"] == 2 * 2 * sum(a + b for a, b in maps)
    assert rows["full"]["trainable_share"] == 1.0
    assert rows["full"]["file_bytes"] > 4 * rows["full"]["trainable_parameters"]
    assert 4 * rows["lora"]["trainable_parameters"] < rows["lora"]["file_bytes"] < rows["full"]["file_bytes"]
    assert rows["lora"]["tried"]["0.01"] < rows["lora"]["tried"]["1e-05"] and rows["lora"]["learning_rate"] == 1e-2
    # The measured loss is that of the file on the test rows, read by hand.
    folder = Path(config.output_dir) / "lora" / "lr-0.01" / "run"
    written = json.loads((folder.parent / "trained.job.json").read_text())
    base = load_base(
        ModelConfig(model_name_or_path=written["sft"]["model_name_or_path"], device="cpu", dtype="float32")
    )
    job = compare_one.Job(**json.loads((folder.parent / "measured.job.json").read_text()))
    assert job.test is not None
    losses = compare_one.row_losses(base, load_adapter(base, folder, "again").adapter, job.sft, job.test)
    bare = compare_one.row_losses(base, None, job.sft, job.test)
    total = sum(row[1] for row in losses) / sum(row[2] for row in losses)
    assert rows["lora"]["test_loss"][0] == pytest.approx(total, rel=1e-6)
    assert total != pytest.approx(sum(row[1] for row in bare) / sum(row[2] for row in bare), rel=1e-4)
    minus = rows["full"]["test_loss_minus"]
    assert minus["method"] == "lora" and "test_loss_minus" not in rows["lora"]
    assert minus["difference"][0] == pytest.approx(rows["full"]["test_loss"][0] - total, rel=1e-6)
    page = Path(result["report"]).read_text()
    assert "qlora" in page and "Learning rates tried" in page
    assert any(line.startswith("lora ") for line in describe(result, "recipe.yaml"))

    def refused(path: Path) -> int:
        raise AssertionError(f"{path} was run again")

    assert run_compare_methods(config, said.append, refused)["methods"] == result["methods"]
    # Other rows are another comparison, and a process that fails says so.
    Path(config.test).write_text(json.dumps({"prompt": "say nine", "completion": "nine"}) + "\n")
    with pytest.raises(RunError, match="status 3"):
        run_compare_methods(config, said.append, lambda path: 3)
    assert run_compare_methods(config, said.append, lambda path: compare_one.INTERRUPTED)["interrupted"]


def test_another_recipe_begins_anew_where_the_first_left_checkpoints(config: CompareMethodsConfig) -> None:
    config = config.model_copy(update={"methods": ["lora"], "learning_rates": {"lora": [1e-2]}})
    assert run_compare_methods(config, lambda _: None, here)["facts"]["steps"] == 2
    folder = Path(config.output_dir) / "lora" / "lr-0.01"
    assert list((folder / "run").glob("checkpoint-*"))
    recipe = Path(config.sft)
    recipe.write_text(recipe.read_text().replace("max_steps: 2", "max_steps: 3"))
    assert run_compare_methods(config, lambda _: None, here)["facts"]["steps"] == 3
    # One that was broken off goes on.
    (folder / "trained.done").unlink()
    run_compare_methods(config, lambda _: None, here)
    assert json.loads((folder / "trained.json").read_text())["tokens_per_second"] is None


def test_rows_of_a_folder_are_a_part_of_the_job(config: CompareMethodsConfig, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    shutil.copy(tmp_path / "train.jsonl", rows / "train.jsonl")
    config = config.model_copy(
        update={"methods": ["lora"], "learning_rates": {"lora": [1e-2]}, "overrides": [f"data.train={rows}"]}
    )
    run_compare_methods(config, lambda _: None, here)
    (rows / "train.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    with pytest.raises(RunError, match="status 3"):
        run_compare_methods(config, lambda _: None, lambda path: 3)


def test_a_rate_that_diverges_is_out_of_the_choice(
    config: CompareMethodsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"methods": ["lora"]})
    learn = compare_one.train

    def train(sft: Any) -> Any:
        if sft.learning_rate == 1e-2:
            raise NonFiniteLossError("row 1", "the loss is inf.", "Lower learning_rate.")
        return learn(sft)

    monkeypatch.setattr(compare_one, "train", train)
    result = run_compare_methods(config, lambda _: None, here)
    (row,) = result["methods"]
    assert row["learning_rate"] == 1e-5 and row["tried"]["0.01"] is None
    assert "diverged" in Path(result["report"]).read_text()
    config = config.model_copy(update={"learning_rates": {"lora": [1e-2]}, "output_dir": f"{config.output_dir}2"})
    with pytest.raises(RunError, match="diverged at every learning rate"):
        run_compare_methods(config, lambda _: None, here)
    with pytest.raises(ValueError, match="no learning rate is named for 'lora'"):
        CompareMethodsConfig(sft="a", test="b", learning_rates={"lora": []})


def test_differences_are_of_the_same_rows() -> None:
    def result(losses: list[float], right: list[bool]) -> dict[str, object]:
        return {"rows": [[i, loss, 2.0] for i, loss in enumerate(losses)], "right": right}

    losses = [1.0, 5.0, 2.0, 9.0, 3.0, 7.0]
    results = {
        "lora": result(losses, [True, False, True, True, False, True]),
        "ia3": result([loss + 0.2 for loss in losses], [True, False, False, True, False, False]),
    }
    lora, ia3 = compared(results, seed=0)
    value, low, high = ia3["test_loss_minus"]["difference"]
    # Every row is worse by as much: paired, that leaves no doubt, which unpaired intervals could not say.
    assert value == pytest.approx(0.1) and high - low < 1e-9
    assert lora["test_loss"][2] > ia3["test_loss"][1]
    assert ia3["task_minus"][0] == pytest.approx(-2 / 6)
    results["ia3"] = result(losses[:-1], [True] * 5)
    with pytest.raises(RunError, match="same rows"):
        compared(results, seed=0)


def test_the_page_and_the_shipped_recipe_say_what_is_there() -> None:
    from tunesmith.config import load_config
    from tunesmith.recipes.compare_methods import LEARNING_RATES
    from tunesmith.recipes.prepare import SFTConfig

    page = (ROOT / "docs" / "compare-methods.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert keys == set(CompareMethodsConfig.model_fields)
    for method, rates in LEARNING_RATES.items():
        assert f"{method} {', '.join(f'{rate:g}' for rate in rates)}" in page
    config, notes = load_config(CompareMethodsConfig, ROOT / "recipes" / "compare_methods.yaml")
    sft, _ = load_config(SFTConfig, ROOT / config.sft, config.overrides)
    assert not notes and sft.data.validation is not None and (ROOT / config.test).is_file()
