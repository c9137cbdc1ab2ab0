"""A plain function as a reward: it must just work, and say what is wrong where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import ConfigError, RewardError
from tunesmith.records import Message
from tunesmith.rollout.reward_function import FunctionReward
from tunesmith.rollout.rewards import Answered, WeightedSum, checked


def answered(text: str = "fine", prompt: str = "How are you?", row_id: int = 0, **more: Any) -> Answered:
    messages = (Message(role="system", content="Be kind."), Message(role="user", content=prompt))
    return Answered(**{"messages": messages, "text": text, "stop_reason": "end_of_turn", "row_id": row_id} | more)


ITEMS = [answered("a", "p", 3), answered("bbb", "qq", 4), answered("", "r", 9)]


def lengths(x: Any) -> list[int]:
    return [len(one) for one in x]


def typed(first: Sequence[str], second: list[str]) -> list[float]:
    assert not isinstance(first, str)
    return [10.0 * len(p) + len(a) for p, a in zip(first, second, strict=True)]


def named_by_trl(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(c)) for c in completions]


# Each way of writing the same reward: ten for a letter of the prompt, one for a letter of the answer.
WAYS: dict[str, Callable[..., Any]] = {
    "prompt and answer": lambda prompt, answer: 10 * len(prompt) + len(answer),
    "any two names": lambda x, y: 10.0 * len(x) + len(y),
    "the other order": lambda answer, prompt: 10 * len(prompt) + len(answer),
    "a default of its own": lambda prompt, answer, scale=10: scale * len(prompt) + len(answer),
    "lists by name": lambda prompts, completions: [
        10 * len(p) + len(c) for p, c in zip(prompts, completions, strict=True)
    ],
    "lists by annotation": typed,
    "an array": lambda prompts, answers: 10 * np.array(lengths(prompts)) + np.array(lengths(answers)),
    "whole conversation": lambda messages, answer: 10 * len(messages[-1]["content"]) + len(answer),
    "numpy number": lambda prompt, answer: np.float32(10 * len(prompt) + len(answer)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_it_works(way: str) -> None:
    assert FunctionReward(WAYS[way], "f").score(ITEMS).tolist() == [11.0, 23.0, 10.0]


def test_a_function_written_for_trl_runs_as_it_is() -> None:
    assert FunctionReward(named_by_trl, "f").score(ITEMS).tolist() == [1.0, 3.0, 0.0]


def test_lists_are_given_at_once_and_single_answers_one_by_one() -> None:
    calls: list[Any] = []

    def many(prompts: Any, answers: Any, row_ids: Any) -> Any:
        calls.append((prompts, answers, row_ids))
        return [1] * len(answers)

    def one(answer: Any, stop_reason: Any, ids: Any, *, row_id: Any) -> float:
        calls.append((answer, stop_reason, ids, row_id))
        return 0.0

    FunctionReward(many, "f").score(ITEMS)
    assert calls == [(["p", "qq", "r"], ["a", "bbb", ""], [3, 4, 9])]
    calls.clear()
    FunctionReward(one, "f").score([answered("x", row_id=5, ids=np.array([7, 2]), stop_reason="length")])
    assert calls == [("x", "length", [7, 2], 5)]
    assert FunctionReward(many, "f").score([]).shape == (0,)


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (lambda prompt, answer, tone: 1.0, "nothing is known to give its parameter 'tone'"),
        (lambda prompt: 1.0, "it takes no answer"),
        (lambda x: 1.0, "nothing is known to give its parameter 'x'"),
        (lambda: 1.0, "it takes no answer"),
    ],
)
def test_a_signature_nothing_fits_is_refused_before_it_is_called(function: Any, cause: str) -> None:
    with pytest.raises(RewardError, match=cause) as caught:
        FunctionReward(function, "mine")
    assert "f(prompt, answer) -> float" in caught.value.fix


def raises(prompt: str, answer: str) -> float:
    return 1.0 / len(answer)


@pytest.mark.parametrize(
    ("function", "place", "cause"),
    [
        (raises, "reward 'mine': prompt row 9", "raised ZeroDivisionError: float division by zero, in line"),
        (lambda prompts, answers: [1.0], "reward 'mine': prompt rows 3, 4, 9", "returned 1 numbers for 3 answers"),
        (lambda prompts, answers: 1.0, "reward 'mine': prompt rows 3, 4, 9", "returned a float for 3 answers"),
        (lambda prompt, answer: None, "reward 'mine': prompt row 3", "returned None, which is no number"),
        (lambda prompt, answer: "7", "reward 'mine': prompt row 3", "returned '7', which is no number"),
        (lambda prompts, answers: [1, None, 2], "reward 'mine': prompt row 4", "returned None, which is no number"),
    ],
)
def test_what_a_function_does_wrong_is_told_with_its_row(function: Any, place: str, cause: str) -> None:
    with pytest.raises(RewardError) as caught:
        FunctionReward(function, "mine").score(ITEMS)
    assert caught.value.place == place
    assert cause in caught.value.cause
    assert caught.value.fix


def test_the_cause_of_an_exception_is_kept() -> None:
    with pytest.raises(RewardError) as caught:
        FunctionReward(raises, "mine").score(ITEMS)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "test_reward_function.py" in caught.value.cause


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused_with_its_row(value: float) -> None:
    source = FunctionReward(lambda prompt, answer: value if answer == "bbb" else 0.0, "mine")
    with pytest.raises(RewardError, match=r"prompt row 4: the score is .* \(1 of 3 answers") as caught:
        WeightedSum([(source, 1.0)]).score(ITEMS)
    assert "'bbb'" in caught.value.cause


def test_scores_of_another_shape_are_refused() -> None:
    for shape in ((2,), (3, 1), ()):
        with pytest.raises(RewardError, match="for 3 answers"):
            checked("mine", ITEMS, np.zeros(shape))
    assert checked("mine", ITEMS, np.zeros(3)).shape == (3,)


def test_a_sum_weighs_its_sources_and_tells_each_ones_mean() -> None:
    long = FunctionReward(lambda prompt, answer: len(answer), "long")
    polite = FunctionReward(lambda prompt, answer: answer.count("a"), "polite")
    watched = FunctionReward(lambda prompt, answer: 100.0, "watched")
    whole = WeightedSum([(long, 2.0), (polite, -1.0), (watched, 0.0)])
    scores = whole.score_parts(ITEMS)
    assert scores.total.tolist() == [1.0, 6.0, 0.0] == whole.score(ITEMS).tolist()
    assert scores.means() == {"long": 4 / 3, "polite": 1 / 3, "watched": 100.0}
    assert whole.identity["long.weight"] == "2.0" and whole.identity["polite.function"] == "polite"
    with pytest.raises(ConfigError, match="two sources are called 'long'"):
        WeightedSum([(long, 1.0), (long, 0.5)])
    with pytest.raises(ConfigError, match="no source counts"):
        WeightedSum([(long, 0.0)])


FILE = (
    "import math\nSCALE = 2\n\ndef polite(prompt, answer):\n    return SCALE * answer.count('please')\n\nnumber = 3\n"
)


def test_a_function_is_loaded_from_a_file_and_its_code_is_part_of_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "math.py"  # Called like a module of Python's own, and no harm done.
    path.write_text(FILE)
    source = FunctionReward.load(f"{path}:polite")
    assert source.name == "polite"
    assert source.score([answered("please, please")]).tolist() == [4.0]
    before = source.identity
    path.write_text(FILE.replace("SCALE = 2", "SCALE = 3"))
    assert FunctionReward.load(f"{path}:polite").identity != before
    assert FunctionReward.load(f"{path}:polite", "p").identity == FunctionReward.load(f"{path}:polite").identity
    assert str(tmp_path) not in str(before)


def test_a_file_may_define_what_looks_its_module_up(tmp_path: Path) -> None:
    for folder, word in (("a", "please"), ("b", "sorry")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mood.py").write_text(
            "from __future__ import annotations\n"
            "import pickle\n"
            "from dataclasses import dataclass\n"
            "@dataclass\n"
            "class Rule:\n"
            "    word: str\n"
            f"def count(prompt, answer, rule=Rule('{word}')):\n"
            "    return answer.count(pickle.loads(pickle.dumps(rule)).word)\n"
        )
    sources = [FunctionReward.load(f"{tmp_path / folder / 'mood.py'}:count") for folder in "ab"]
    assert [source.score([answered("please, please, sorry")]).tolist() for source in sources] == [[2.0], [1.0]]


def test_a_function_is_loaded_from_a_module() -> None:
    assert FunctionReward.load("operator:ne").score([answered("a", "a"), answered("a", "b")]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "address", "place", "cause"),
    [
        (FILE, "r.py", "function 'r.py'", "is no address of a function"),
        (FILE, "nowhere.py:polite", "nowhere.py", "no such file"),
        (FILE, "r.py:rude", "r.py:rude", "holds no such function"),
        (FILE, "r.py:number", "r.py:number", "is not a function"),
        ("def f(:\n", "r.py:f", "r.py:1", "is not Python"),
        ("import not_there_at_all\n", "r.py:f", "r.py", "ModuleNotFoundError"),
        ("1 / 0\n", "r.py:f", "r.py", "ZeroDivisionError"),
        (FILE, "not_there_at_all:f", "module 'not_there_at_all'", "ModuleNotFoundError"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(
    text: str, address: str, place: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text(text)
    with pytest.raises(RewardError) as caught:
        FunctionReward.load(address)
    assert place in caught.value.place and cause in caught.value.cause
    if address == "r.py:rude":
        assert "polite" in caught.value.fix
