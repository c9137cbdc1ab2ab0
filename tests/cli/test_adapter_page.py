"""docs/adapter.md and docs/continual.md: their commands run, on tiny adapters, and their numbers are the code's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.config import load_config
from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role
from tunesmith.models.combine import HOWS
from tunesmith.recipes.adapter_merge import SAMPLE_PROMPTS, MergeConfig
from tunesmith.recipes.chat import Session, talk
from tunesmith.recipes.continual import ContinualConfig
from tunesmith.recipes.fast import FastConfig
from tunesmith.rollout.generate import Sampling

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("adapter", "continual")}


def commands(page: str) -> list[list[str]]:
    block = re.search(r"```sh\n(.*?)```", PAGES[page], re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].splitlines()]


@pytest.fixture
def runs(load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/tickets and runs/chat: two adapters of one tiny base, far from their start."""
    base = load("llama", "float32")
    for seed, name in enumerate(("tickets", "chat")):
        role = add_adapter(base, name, AdapterConfig(r=2), seed=seed)
        for i, parameter in enumerate(role.parameters.values()):
            parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9 * seed + i)) * 0.3
        save_role(base, role, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_the_adapter_pages_commands_run_in_their_order(runs: Path) -> None:
    out = {}
    for command in commands("adapter"):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output)
        out[" ".join(command[:2])] = done.output
    assert "2 adapters" in out["adapter list"] and "svd with weights 0.7, 0.3: rank 2" in out["adapter combine"]
    lines = CliRunner().invoke(app, commands("adapter")[4]).output.splitlines()
    assert [line.partition("]")[0] for line in lines if line.startswith("[runs/")] == ["[runs/tickets", "[runs/chat"]
    twice = CliRunner().invoke(app, ["generate", "--adapter", "runs/chat", "--adapter", "runs/chat", "x"])
    assert twice.exit_code == 2 and "named twice" in twice.output


def test_a_chat_lets_another_adapter_answer(runs: Path) -> None:
    session = Session.open_all("smollm2-135m-instruct", [Path("runs/tickets"), Path("runs/chat")])
    lines, said = iter(["hello", "/adapter", "/adapter runs/chat", "/reset", "hello", "/adapter other"]), list[str]()
    talk(session, None, Sampling(max_new_tokens=6), read=lambda: next(lines, None), write=said.append)
    text = "".join(said)
    assert "* runs/tickets\n  runs/chat\n" in text and "runs/chat answers from here on." in text
    assert "no adapter 'other'" in text
    sampling = Sampling(max_new_tokens=6)
    one, other = (session.using(name).answer_all(["hello"], None, sampling)[0] for name in session.adapters)
    assert one.text in text and other.text in text and one.ids.tolist() != other.ids.tolist()


def test_the_numbers_of_the_pages_are_those_of_the_code() -> None:
    text = " ".join(PAGES["adapter"].split())
    limits = MergeConfig(adapter="a", output="b")
    assert f"over {len(SAMPLE_PROMPTS)} shipped prompts" in text
    assert f"a mean KL of {limits.max_kl:g} nats a token, or with less than {100 * limits.min_agreement:.0f} %" in text
    named = set(re.findall(r"`([a-z_]+)`", PAGES["adapter"].split("| `--how`")[1].split("Each prints")[0]))
    assert {how for how in HOWS if not how.endswith("_svd")} <= named


def test_the_continual_pages_recipes_are_understood() -> None:
    for command, kind in zip(commands("continual"), (ContinualConfig, FastConfig), strict=True):
        config, notes = load_config(kind, ROOT / command[2])
        assert command[0] == "experiment" and notes == [] and config.output_dir == f"runs/{command[1]}"
    arms = re.findall(r"^\| `(\w+)` \|", PAGES["continual"], re.MULTILINE)
    assert arms == ContinualConfig.model_fields["arms"].default
