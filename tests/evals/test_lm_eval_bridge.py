"""The harness's tasks on our model class: its own class on the same weights says the same, item by item."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval")

from tunesmith.errors import DataError
from tunesmith.evals.compare_many import compare_many
from tunesmith.evals.lm_eval import HarnessResult, item_values, lm_eval_suite
from tunesmith.evals.lm_eval_model import cut_at_stop, harness_model, harness_parts, sampling_of
from tunesmith.evals.run import compare
from tunesmith.evals.subject import Subject, endpoint_subject, local_subject
from tunesmith.rollout.endpoint import EndpointConfig
from tunesmith.rollout.results import ResultsFile

ROWS = [
    {
        "question": f"What is the {word}?",
        "choices": [word, "another one", "no", f"the {word} on there"],
        "answer": i % 4,
    }
    for i, word in enumerate(("other", "theatre", "onion", "er", "thing", "ether", "tone"))
]
LONG = "the other one was there, and then another. " * 12
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{long}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["d"], "max_gen_toks": 40},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[[str], str]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({**row, "long": LONG if i == 3 else ""}) + "\n" for i, row in enumerate(ROWS)))

    def write(name: str) -> str:
        path = tmp_path / f"{name}.yaml"
        kwargs = {"data_files": {"test": str(rows)}, "cache_dir": str(tmp_path / "cache")}
        own = {"task": f"own_{name}", "dataset_path": "json", "dataset_kwargs": kwargs, "test_split": "test"}
        path.write_text(json.dumps({**own, **TASKS[name], "metadata": {"version": 2.0}}))
        return str(path)

    return write


def subject_of(base: Any) -> Subject:
    from tunesmith.rollout.generate import LocalGenerator

    return local_subject(base, LocalGenerator(base), None, "tiny")


@pytest.fixture
def subject(load: Callable[..., Any]) -> Subject:
    return subject_of(load("llama", "float32"))


def by_their_class(subject: Subject, path: str, *, chat_template: bool = False) -> list[dict[str, Any]]:
    """The harness's samples with its own HFLM on the same weights."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    base: Any = subject.likelihood.base  # type: ignore[union-attr]
    model = HFLM(
        pretrained=base.model, tokenizer=base.tokenizer, device="cpu", batch_size=3, max_length=base.context_tokens - 1
    )
    loaded = TaskManager(include_defaults=False).load([path])
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    (samples,) = evaluate(lm=model, task_dict=loaded, bootstrap_iters=0, apply_chat_template=chat_template)[
        "samples"
    ].values()
    return sorted(samples, key=lambda sample: sample["doc_id"])


def said(result: HarnessResult) -> list[Any]:
    return [answer.verdict.details["responses"] for answer in result.result.answers]


@pytest.mark.parametrize("chat_template", [False, True])
def test_choices_agree_with_the_harness_own_class(
    subject: Subject, task_file: Callable[[str], str], tmp_path: Path, chat_template: bool
) -> None:
    path = task_file("choices")
    (ours,) = lm_eval_suite(path, subject, tmp_path / "results.jsonl", chat_template=chat_template)
    theirs = by_their_class(subject, path, chat_template=chat_template)
    assert ours.result.answers[0].item.messages[0].content.startswith("<|im_start|>") == chat_template
    numbers = np.array([[logprob for logprob, _ in item] for item in said(ours)])
    expected = np.array([[response[0][0] for response in sample["resps"]] for sample in theirs])
    assert numbers.shape == (7, 4) and np.abs(numbers - expected).max() < 1e-4
    assert np.ptp(expected) > 1, "the control: the numbers differ far more among themselves"
    assert [[greedy for _, greedy in item] for item in said(ours)] == [[r[0][1] for r in s["resps"]] for s in theirs]
    for metric in ("acc", "acc_norm"):
        assert ours.result.values(metric) == [sample[metric] for sample in theirs]
        assert ours.result.interval(metric).value == pytest.approx(ours.reported[metric])
    task = ours.result.task
    assert (task.name, task.version, task.metrics, ours.num_cut) == ("lm-eval:own_choices", 2, ("acc", "acc_norm"), 0)


def test_whole_texts_agree_beyond_the_context_too(
    load: Callable[..., Any], task_file: Callable[[str], str], tmp_path: Path
) -> None:
    # In fp32 the other class adds 500 tokens up in fp32, whose last bit of 2,000 nats is 2e-4.
    path, subject = task_file("rolling"), subject_of(load("llama", "float64"))
    (ours,) = lm_eval_suite(path, subject, tmp_path / "results.jsonl")
    theirs = by_their_class(subject, path)
    expected = [sample["resps"][0][0] for sample in theirs]
    assert np.abs(np.array(said(ours))[:, 0] - expected).max() < 1e-4
    assert len(LONG) > 500, "one text has several windows of 255 tokens"
    assert ours.result.interval("bits_per_byte").value == pytest.approx(ours.reported["bits_per_byte"], rel=1e-6)
    assert ours.result.task.losses == {"bits_per_byte"}
    assert ours.left_out == ("word_perplexity",) and ours.result.task.metrics == ("bits_per_byte",)
    # Every item has a value of its own, which comparisons and the page show.
    (made,) = compare_many([(ours.result, ours.result)], {ours.result.task.name: "bits_per_byte"})
    assert made.p == 1.0 and len(ours.result.values("bits_per_byte")) == len(ours.result.answers)


def test_answers_agree_and_stop_where_the_task_says(
    load: Callable[..., Any], task_file: Callable[[str], str], tmp_path: Path
) -> None:
    path, subject = task_file("writing"), subject_of(load("qwen3", "float32"))
    (ours,) = lm_eval_suite(path, subject, tmp_path / "results.jsonl")
    theirs = by_their_class(subject, path)
    texts = [answer.text for answer in ours.result.answers]
    assert texts == [sample["resps"][0][0] for sample in theirs]
    assert len(set(texts)) > 1 and not any("d" in text for text in texts)
    lengths = [len(text) for text in texts]
    assert min(lengths) < 32 <= max(lengths), "some stop at once, others are gone on with"


def test_a_second_run_asks_nothing_and_another_model_differs(
    subject: Subject, load: Callable[..., Any], task_file: Callable[[str], str], tmp_path: Path, monkeypatch: Any
) -> None:
    path, results = task_file("choices"), tmp_path / "results.jsonl"
    progress: list[tuple[int, int]] = []
    (first,) = lm_eval_suite(path, subject, results, limit=3, on_progress=lambda *now: progress.append(now))
    assert progress == [(12, 12)]
    monkeypatch.setattr(type(subject.likelihood), "score_examples", None)
    (second,) = lm_eval_suite(path, subject, results, limit=3)
    monkeypatch.undo()
    assert said(first) == said(second) and len(second.result.answers) == 3
    assert compare(first.result, second.result, "acc").difference.value == 0
    (third,) = lm_eval_suite(path, subject_of(load("gpt2", "float32")), results, limit=3)
    assert said(third) != said(first)


def test_a_context_too_long_loses_its_beginning_and_is_counted(subject: Subject, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    parts = harness_parts(subject, ResultsFile(tmp_path / "results.jsonl"))
    model = harness_model(parts)

    def score(context: str, words: str = " there") -> float:
        asked = Instance(request_type="loglikelihood", doc={}, arguments=(context, words), idx=0)
        return float(model.loglikelihood([asked], disable_tqdm=True)[0][0])

    whole = score("x" * 1000 + LONG)
    assert parts.num_cut == 1
    assert whole == pytest.approx(score("y" * 500 + LONG), abs=1e-5), "what was cut has no say"
    assert score(LONG[:100]) != pytest.approx(whole, abs=1e-3)
    with pytest.raises(DataError, match=r"request:1: a continuation of .* tokens, the model reads 256"):
        score("a", LONG)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"until": [], "max_gen_toks": 4, "num_beams": 2}, "num_beams"),
        ({"until": [], "max_gen_toks": 4, "repetition_penalty": 1.2}, "repetition_penalty"),
    ],
)
def test_generation_settings_we_do_not_know_are_refused(given: dict[str, Any], cause: str) -> None:
    with pytest.raises(DataError, match=cause):
        sampling_of(given, 0)


def test_generation_settings_become_ours() -> None:
    greedy, stops = sampling_of(
        {"until": ["\n"], "max_gen_toks": 4, "do_sample": False, "temperature": 0.0, "top_p": 0.5}, 3
    )
    assert (greedy.temperature, greedy.top_p, greedy.max_new_tokens, stops) == (0.0, 1.0, 4, ["\n"])
    drawn, _ = sampling_of(
        {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 0.7, "top_k": 5, "num_beams": 1}, 3
    )
    assert (drawn.temperature, drawn.top_k, drawn.seed) == (0.7, 5, 3)
    assert cut_at_stop("one two three", ["three", "two", ""]) == "one "
    assert cut_at_stop("one", ["two"]) == "one"
    assert item_values("bits_per_byte", (-np.log(2) * 8, 4)) == pytest.approx(
        {"bits": 8, "bytes": 4, "bits_per_byte": 2}
    )
    assert (item_values("f1", ("a", "b")), item_values("perplexity", -2.0)) == ({}, {"logprob": -2.0})


def test_what_cannot_be_run_says_why(subject: Subject, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(DataError, match="subject m: it is not on this machine"):
        config = EndpointConfig(url="http://127.0.0.1:1/v1", model="m")
        lm_eval_suite("x", endpoint_subject(config), tmp_path / "results.jsonl")
    import lm_eval.tasks

    real = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda include_defaults: real(include_defaults=False))
    with pytest.raises(DataError, match="lm-eval:helaswag: no such task and no such file"):
        lm_eval_suite("helaswag", subject, tmp_path / "results.jsonl")
