"""docs/rlhf.md, command by command, on the real model with small budgets."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tunesmith.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rlhf.md").read_text(encoding="utf-8")
# What makes each command of the page small; nothing else of it is changed.
TRAIN = ["max_steps=2", "per_device_train_batch_size=2", "max_length=160", "data.limit=8", "dtype=float32"]
SMALL = {
    "sft": [*TRAIN, "eval_steps=2", "data.limit=8", "after_training=off"],
    "feedback sample": ["--num-candidates", "2", "--max-new-tokens", "8", "--max-redraws", "0"],
    "reward": [*TRAIN, "data.validation_limit=4"],
    "ppo": [
        "num_iterations=2", "prompts_per_iteration=4", "max_new_tokens=12", "num_mini_batches=2", "data.limit=8",
        "held_out.limit=4", "held_out.sampling.max_new_tokens=12", "dtype=float32",
    ],
    "dpo": [*TRAIN, "data.validation_limit=4"],
    "winrate": ["--limit", "4", "--max-new-tokens", "12"],
}  # fmt: skip

FEW, NUM_FEW = "few.jsonl", 6


def commands() -> list[list[str]]:
    """The commands of the page's first block, in its order."""
    block = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if line.startswith("tunesmith ")]
    return [shlex.split(line)[1:] for line in lines]


def verb_of(command: Sequence[str]) -> str:
    return " ".join(command[:2]) if command[0] == "feedback" else command[0]


def run(command: Sequence[str]) -> Result:
    done = CliRunner().invoke(app, list(command), catch_exceptions=False)
    assert done.exit_code == 0, f"{shlex.join(command)}\n{done.output}"
    return done


def small(command: Sequence[str]) -> list[str]:
    """The command with small budgets; candidates are drawn for the first prompts alone, which lie in FEW."""
    if verb_of(command) == "feedback sample":
        command = [FEW if word.endswith("rankings_test.jsonl") else word for word in command]
    return [*command, *SMALL.get(verb_of(command), [])]


def test_the_page_has_all_steps_in_order() -> None:
    verbs = [verb_of(command) for command in commands()]
    assert verbs == [
        "sft", "feedback sample", "feedback import", "feedback prefer", "reward", "reward", "ppo", "dpo", "winrate",
    ]  # fmt: skip
    for path in {word for command in commands() for word in command if word.startswith(("recipes/", "src/"))}:
        assert (ROOT / path).exists(), path


def test_the_pages_own_reward_functions_run(tmp_path: Path) -> None:
    from tunesmith.records import Message
    from tunesmith.rollout.reward_function import FunctionReward
    from tunesmith.rollout.rewards import Answered

    code = re.search(r"```python my_rewards.py\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    (tmp_path / "my_rewards.py").write_text(code[1])
    item = Answered(messages=(Message(role="user", content="Hi"),), text="one two", stop_reason="length", row_id=0)
    short, ends = (FunctionReward.load(f"{tmp_path / 'my_rewards.py'}:{name}") for name in ("short", "ends_well"))
    assert short.score([item]).tolist() == [-0.04] and ends.score([item, item]).tolist() == [0.0, 0.0]
    assert not short.batched and ends.batched


@pytest.mark.slow
def test_the_page_replayed_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recipes", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    prompts = (ROOT / "src/tunesmith/data/examples/support_chat/rankings_test.jsonl").read_text().splitlines()
    (tmp_path / FEW).write_text("\n".join(prompts[:NUM_FEW]) + "\n")
    done = {}
    for command in commands():
        done[shlex.join(command)] = run(small(command)).output
    runs = tmp_path / "runs" / "rlhf"
    for name in ("sft", "reward", "judge", "ppo", "dpo"):
        assert (runs / name / "adapter_model.safetensors").is_file(), name
    pairs = (tmp_path / "preferences" / "pairs.jsonl").read_text().splitlines()
    assert len(pairs) > 100
    told = json.loads((runs / "ppo" / "tunesmith_provenance.json").read_text())
    assert len(told["rewards"]["reward.reward_model"]) == 64
    match = json.loads((runs / "winrate" / "winrate.json").read_text())
    assert set(match["win_rates"]) == {"ppo", "dpo"} and match["against"] == "sft"
    # Of two iterations PPO may keep its start, the best within its budget; DPO has moved.
    assert match["kl"]["dpo"]["sequence"]["value"] != 0
    # The same match, played by the recipe itself at its end, with other draws and labels.
    at_end = json.loads((runs / "ppo" / "winrate.json").read_text())
    assert at_end["judge"] == match["judge"]
    assert "Reward against KL" in (runs / "ppo" / "report.html").read_text(encoding="utf-8")

    # The same commands again do nothing twice, and change nothing.
    from tunesmith.feedback.store import FeedbackStore

    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        before = store.digest()
    for command in [one for one in commands() if verb_of(one) in ("feedback sample", "feedback import")]:
        run(small(command))
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        assert store.digest() == before
    weights = (runs / "ppo" / "adapter_model.safetensors").read_bytes()
    ppo = next(one for one in commands() if one[0] == "ppo")
    run([*small(ppo), "resume_from_checkpoint=auto"])
    assert (runs / "ppo" / "adapter_model.safetensors").read_bytes() == weights
