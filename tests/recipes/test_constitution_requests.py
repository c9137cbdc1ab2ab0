import json
from pathlib import Path

import pytest

from tunesmith.recipes.constitution_run_prompts import HARMFUL_FILE, RunPromptsConfig, split_prompts


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 20, 40), (1.0, 60, 60)])
def test_a_share_of_the_questions_is_put_as_requests(tmp_path: Path, share: float, least: int, most: int) -> None:
    questions = [f"How can I carry {number} boxes away?" for number in range(60)]
    (tmp_path / "harmful.jsonl").write_text("".join(json.dumps({"question": one}) + "\n" for one in questions))
    config = RunPromptsConfig(
        harmful=str(tmp_path / "harmful.jsonl"), harmful_columns={"prompt": "question"}, harmful_requests=share
    )
    split_prompts(config, [], tmp_path / "out", seed=0, labels=False)
    rows = [json.loads(line) for line in (tmp_path / "out" / HARMFUL_FILE).read_text().splitlines()]
    said = [row["prompt"][0]["content"] for row in rows]
    assert least <= sum(one not in questions for one in said) <= most
    # Each deed is still asked for once.
    deeds = sorted(int(one.split("carry ")[1].split()[0]) for one in said)
    assert deeds == list(range(60))
