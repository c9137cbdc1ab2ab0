"""``tunesmith adapter list | show | diff | combine`` on tiny adapters, against NumPy and PEFT itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, load_adapter, save_role
from tunesmith.models.heads import add_head

Make = Callable[..., Path]


@pytest.fixture
def make(load: Callable[..., Any], tmp_path: Path) -> Make:
    """make(name, kind, seed, **adapter settings) -> a folder with an adapter far from its start."""

    def folder(name: str, kind: str = "llama", seed: int = 0, **settings: Any) -> Path:
        base = load(kind, "float32")
        role = add_adapter(base, "default", AdapterConfig(**(settings or {"r": 4})), seed=seed)
        for i, parameter in enumerate(role.parameters.values()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * seed + i))
            parameter.data += drawn * 0.2
        extra = {"adapter_digest": adapter_digest(base, "default"), "data_digest": f"data-{seed}"}
        save_role(base, role, tmp_path / name, extra)
        return tmp_path / name

    return folder


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["adapter", *(str(argument) for argument in arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def called_json(*arguments: object) -> Any:
    return json.loads(call(*arguments, "--json"))


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["adapter", *(str(argument) for argument in arguments)])
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


def deltas(folder: Path) -> dict[str, NDArray[np.float64]]:
    """map -> s B A, read from the two files by themselves."""
    settings, tensors = (
        json.loads((folder / "adapter_config.json").read_text()),
        load_file(folder / "adapter_model.safetensors"),
    )
    scale = settings["lora_alpha"] / (settings["r"] ** 0.5 if settings["use_rslora"] else settings["r"])
    out = {}
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[key.replace("lora_A", "lora_B")]
            out[name] = scale * (b.double() @ a.double()).numpy()
    return out


def test_list_names_every_adapter_and_what_is_wrong_with_it(make: Make, tmp_path: Path) -> None:
    good = make("good")
    make("deep/vectors", method="ia3")
    foreign, cut, bare, odd = (make(name) for name in ("foreign", "cut", "bare", "odd"))
    (foreign / "tunesmith_provenance.json").unlink()
    (cut / "adapter_model.safetensors").write_bytes((cut / "adapter_model.safetensors").read_bytes()[:200])
    (bare / "adapter_model.safetensors").unlink()
    (odd / "adapter_config.json").write_text("{")
    settings = json.loads((good / "adapter_config.json").read_text())
    (make("alien") / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "VERA"}))
    make("good/checkpoint-3")
    found = {Path(one["path"]).name: one for one in called_json("list", tmp_path)}
    assert set(found) == {"good", "vectors", "foreign", "cut", "bare", "odd", "alien"}
    assert found["good"]["problems"] == [] == found["vectors"]["problems"]
    assert (found["good"]["method"], found["good"]["size"], found["vectors"]["method"]) == ("lora", "r 4", "ia3")
    tensors = load_file(good / "adapter_model.safetensors")
    assert found["good"]["num_parameters"] == sum(t.numel() for t in tensors.values())
    assert found["good"]["num_bytes"] == sum(f.stat().st_size for f in good.iterdir() if f.is_file())
    assert found["good"]["data_digest"] == "data-0" and len(found["good"]["digest"]) == 64
    for name, words in {
        "foreign": "provenance.json is missing", "cut": "is damaged", "bare": "safetensors is missing",
        "odd": "cannot be read", "alien": "VERA is not supported",
    }.items():  # fmt: skip
        assert any(words in problem for problem in found[name]["problems"]), found[name]
    text = call("list", tmp_path)
    assert "problem: adapter type VERA" in text and "7 adapters, 5 with a problem" in text
    assert len(called_json("list", tmp_path, "--checkpoints")) == 8
    (tmp_path / "empty").mkdir()
    assert "no adapter_config.json here or below" in refused("list", tmp_path / "empty")


def test_show_gives_each_maps_update_relative_to_its_weight(make: Make, tmp_path: Path, model_folder: Any) -> None:
    folder = make("one", seed=3, r=3, use_rslora=True)
    shown = called_json("show", folder)
    weights = AutoModelForCausalLM.from_pretrained(model_folder("llama")).state_dict()
    expected = deltas(folder)
    assert {norm["map"] for norm in shown["norms"]} == set(expected) and len(expected) == 14
    for norm in shown["norms"]:
        update, weight = np.linalg.norm(expected[norm["map"]]), float(weights[f"{norm['map']}.weight"].norm())
        assert norm["relative"] == pytest.approx(update / weight, rel=1e-4)
    assert shown["folder"]["settings"]["use_rslora"] is True and 0 < shown["trainable_share"] < 1
    assert "no norms of updates" in call("show", make("narrow", method="bottleneck"))
    assert "relative" in call("show", folder)


def test_diff_measures_angle_and_distance(make: Make, tmp_path: Path) -> None:
    one, same, other = make("one"), make("same"), make("other", seed=1, r=2)
    assert "digests are equal" in call("diff", one, same)
    opposite = make("opposite")
    tensors = load_file(opposite / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file({k: -t if "lora_B" in k else t for k, t in tensors.items()}, opposite / "adapter_model.safetensors")
    found = called_json("diff", one, opposite)
    assert all(m["cosine"] == pytest.approx(-1) and m["distance"] == pytest.approx(2) for m in found["maps"])
    assert found["settings"] == {} and found["digests"][0] != found["digests"][1]
    found, a, b = called_json("diff", one, other), deltas(one), deltas(other)
    assert found["settings"] == {"r": [4, 2]} and len(found["maps"]) == 14
    for m in found["maps"]:
        x, y = a[m["map"]], b[m["map"]]
        norms = np.linalg.norm(x), np.linalg.norm(y)
        assert m["cosine"] == pytest.approx((x * y).sum() / norms[0] / norms[1], abs=1e-4)
        assert m["distance"] == pytest.approx(2 * np.linalg.norm(y - x) / sum(norms), rel=1e-4)
    assert "updates are not compared" in call("diff", one, make("elsewhere", kind="qwen3"))


def test_combined_updates_are_what_the_way_says(make: Make, tmp_path: Path) -> None:
    one, other = make("one", r=4, use_rslora=True), make("other", seed=1, r=2)
    a, b = deltas(one), deltas(other)
    whole = {key: 0.7 * a[key] - 0.2 * b[key] for key in a}
    cat = called_json("combine", one, other, "--output", tmp_path / "cat", "--how", "cat", "--weights", "0.7,-0.2")
    assert cat["rank"] == 6 and cat["distance"] < 1e-5
    for key, value in deltas(tmp_path / "cat").items():
        np.testing.assert_allclose(value, whole[key], atol=1e-6)
    svd = called_json("combine", one, other, "--output", tmp_path / "svd", "--weights", "0.7,-0.2", "--rank", "3")
    missed, total = 0.0, 0.0
    for key, value in deltas(tmp_path / "svd").items():
        u, s, v = np.linalg.svd(whole[key], full_matrices=False)
        np.testing.assert_allclose(value, (u[:, :3] * s[:3]) @ v[:3], atol=1e-5)
        missed, total = missed + (s[3:] ** 2).sum(), total + (s**2).sum()
    assert svd["distance"] == pytest.approx((missed / total) ** 0.5, rel=1e-3) and svd["distance"] > 0.01
    written = json.loads((tmp_path / "cat" / "tunesmith_provenance.json").read_text())
    assert [(p["folder"], p["weight"], p["data_digest"]) for p in written["combined_from"]] == [
        ("one", 0.7, "data-0"), ("other", -0.2, "data-1"),
    ]  # fmt: skip
    assert "made of one, other" in call("list", tmp_path)


def test_ties_and_dare_are_pefts(make: Make, tmp_path: Path, model_folder: Any) -> None:
    one, other = make("one"), make("other", seed=1)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder("llama")), one, "one")
    plain.load_adapter(other, "other")
    for how in ("ties", "dare_linear"):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            plain.add_weighted_adapter(["one", "other"], [0.5, 0.5], how, how, density=0.6)
        output = tmp_path / how
        call("combine", one, other, "--output", output, "--how", how, "--density", "0.6", "--seed", "5")
        plain.save_pretrained(tmp_path / "theirs", selected_adapters=[how])
        theirs, ours = deltas(tmp_path / "theirs" / how), deltas(output)
        assert all(np.allclose(theirs[key], ours[key], atol=1e-6) for key in theirs)
    call(
        "combine", one, other, "--output", tmp_path / "again", "--how", "dare_linear", "--density", "0.6", "--seed", "6"
    )
    again = deltas(tmp_path / "again")
    assert not all(np.allclose(again[key], value) for key, value in deltas(tmp_path / "dare_linear").items())


def test_a_combined_folder_can_be_loaded_whatever_its_rank(
    make: Make, load: Callable[..., Any], tmp_path: Path
) -> None:
    """PEFT writes down one rank, and leaves fewer rows where a map has not so many or a parent had fewer there."""
    one, other = (make(name, seed=i, r=4, rank_pattern={"q_proj": 2}) for i, name in enumerate(("one", "other")))
    wide = called_json("combine", one, other, "--output", tmp_path / "wide", "--rank", "40")
    assert wide["rank"] == 40 and wide["distance"] < 1e-5
    call("combine", one, other, "--output", tmp_path / "narrow", "--how", "linear")
    base = load("llama", "float32")
    for name in ("wide", "narrow"):
        load_adapter(base, tmp_path / name, name)
        assert (
            adapter_digest(base, name)
            == json.loads((tmp_path / name / "tunesmith_provenance.json").read_text())["adapter_digest"]
        )
    a, b = deltas(one), deltas(other)
    for key, value in deltas(tmp_path / "wide").items():
        # ``deltas`` divides alpha by the settings' rank; q_proj's is half of it.
        np.testing.assert_allclose(value, (a[key] + b[key]) / (1 if "q_proj" in key else 2), atol=1e-5)
    unlike = make("unlike", r=4, rank_pattern={"k_proj": 2})
    assert "has matrices of ranks 2, 4" in refused("combine", one, unlike, "--output", tmp_path / "x", "--how", "ties",
                                                   "--density", "0.5")  # fmt: skip


def test_what_cannot_be_combined_says_why_and_writes_nothing(
    make: Make, load: Callable[..., Any], tmp_path: Path
) -> None:
    one, other = make("one"), make("other", seed=1, r=2)
    output = ("--output", tmp_path / "out")
    assert "was trained with base" in refused("combine", one, make("elsewhere", kind="qwen3"), *output)
    assert "it is a ia3 adapter" in refused("combine", one, make("vectors", method="ia3"), *output)
    assert "magnitudes" in refused("combine", one, make("dora", r=4, use_dora=True), *output)
    gpt2 = make("bare", kind="gpt2"), make("biased", kind="gpt2", r=4, bias="lora_only")
    assert "biases of its own" in refused("combine", *gpt2, *output)
    base = load("llama", "float32")
    save_role(base, add_head(base, add_adapter(base, "default", AdapterConfig(r=4), 0), 0), tmp_path / "reward")
    assert "it has a head of its own" in refused("combine", one, tmp_path / "reward", *output)
    assert "needs a density" in refused("combine", one, other, *output, "--how", "ties")
    assert "has matrices of ranks 2, 4" in refused("combine", one, other, *output, "--how", "linear")
    assert "2 adapters and 3 weights" in refused("combine", one, other, *output, "--weights", "1,2,3")
    assert not (tmp_path / "out").exists()
    assert "exists" in refused("combine", one, other, "--output", one)
    (one / "tunesmith_provenance.json").write_text('{"cut')
    assert "tunesmith_provenance.json: cannot be read" in refused("combine", one, other, *output)
