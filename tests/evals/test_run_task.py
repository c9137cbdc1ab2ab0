"""Running a task: right prompts, answers kept and used again, damage noticed, comparisons over the same items only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.evals.run import TaskResult, compare, run_task
from tunesmith.evals.scorers import exact_text
from tunesmith.evals.subject import Subject, local_subject
from tunesmith.evals.task import Generate, Item, Reply, Request, Task, bare_prompt, few_shot, subset
from tunesmith.records import Message, Rollout, Verdict
from tunesmith.rollout.generate import LocalGenerator, Prompt, Sampling
from tunesmith.rollout.local_writer import LocalWriter
from tunesmith.stats import newcombe_paired_difference

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GREEDY = Sampling(max_new_tokens=8)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {t: i for i, t in enumerate(["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


class Scripted:
    """A generator that answers by a function of the prompt's text and remembers what it was asked."""

    def __init__(self, tokenizer: Any, answer: Callable[[str], str], digest: str = "d0") -> None:
        self.tokenizer, self.answer, self.digest = tokenizer, answer, digest
        self.asked: list[str] = []
        self.row_ids: list[int] = []
        self.dies_after: int | None = None

    def sync(self, adapter: str | None) -> str:
        return self.digest if adapter else "base"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, adapter: str | None = None) -> list[Rollout]:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        texts = [str(self.tokenizer.decode(prompt.ids)) for prompt in prompts]
        self.asked += texts
        self.row_ids += [prompt.row_id for prompt in prompts]
        return [
            Rollout(
                prompt_ids=prompt.ids,
                ids=np.zeros(1, np.int64),
                logprobs=np.zeros(1, np.float32),
                text=self.answer(text),
                stop_reason="length" if "q3?" in text else "end_of_turn",
                adapter_digest=self.sync(adapter),
                row_id=prompt.row_id,
            )
            for prompt, text in zip(prompts, texts, strict=True)
        ]


def items(count: int, split: str = "test") -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"{split}-{i}",
            messages=(Message(role="system", content="Say."), Message(role="user", content=f"{split} q{i}?")),
            target=f"a{i}",
        )
        for i in range(count)
    )


def make_task(count: int = 4, **changes: Any) -> Task:
    task = Task(
        name="t", version=1, items=items(count), solver=bare_prompt, scorer=exact_text, metrics=("exact", "contained")
    )
    return replace(task, **changes)


def right(text: str) -> str:
    return f"a{text.split('q')[-1].split('?')[0]}"


def subject_of(generator: Any, tokenizer: Any, label: str, model_digest: str, adapter: str | None) -> Subject:
    digests = {"model_digest": model_digest}
    writer = LocalWriter(generator, tokenizer, name="m", digests=digests, adapter=adapter, portion=3)
    return Subject(label=label, writer=writer, likelihood=None)


def run(task: Task, generator: Any, tokenizer: Any, path: Path, label: str = "one", **settings: Any) -> TaskResult:
    chosen: dict[str, Any] = {"model_digest": "m0", "adapter": None, "sampling": GREEDY, **settings}
    subject = subject_of(generator, tokenizer, label, chosen["model_digest"], chosen["adapter"])
    return run_task(task, subject, chosen["sampling"], path)


def test_every_item_is_asked_as_it_is_and_scored(tokenizer: Any, tmp_path: Path) -> None:
    generator = Scripted(tokenizer, lambda text: right(text) if "q1?" not in text else "no")
    result = run(make_task(), generator, tokenizer, tmp_path / "r.jsonl")
    assert generator.asked[0] == (
        "<|im_start|>system\nSay.<|im_end|>\n<|im_start|>user\ntest q0?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [answer.text for answer in result.answers] == ["a0", "no", "a2", "a3"]
    assert result.outcomes("exact") == [True, False, True, True]
    assert result.interval("exact").value == 0.75
    assert set(result.intervals()) == {"exact", "contained"}
    assert result.num_cut == 1
    # Of several draws each is counted.
    one, other = (answer.reply for answer in result.answers[2:])
    drawn = replace(result.answers[0], reply=one.with_draws([other, one, other]))
    assert replace(result, answers=(drawn,)).num_cut == 2
    row = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[1])
    assert (row["item"], row["answer"], row["label"]) == ("test-1", "no", "one")
    subject = {"model": "m", "model_digest": "m0", "adapter_digest": "base"}
    assert (row["subject"], row["sampling"]["max_new_tokens"]) == (subject, 8)


def test_few_shots_are_earlier_turns_behind_the_items_own_system_message(tokenizer: Any, tmp_path: Path) -> None:
    generator = Scripted(tokenizer, right)
    task = make_task(2, solver=few_shot(items(9, "train"), 2, seed=0))
    result = run(task, generator, tokenizer, tmp_path / "r.jsonl")
    for answer in result.answers:
        assert [message.role for message in answer.messages] == ["system", *["user", "assistant"] * 2, "user"]
        shown = [message.content for message in answer.messages]
        for question, reply in ((1, 2), (3, 4)):
            assert shown[question].startswith("train q")
            assert shown[reply] == right(shown[question])
        assert shown[-1] == answer.item.messages[-1].content
    first, second = result.answers
    assert first.messages[:-1] == second.messages[:-1], "the same shots for every item"
    other = run(make_task(2, solver=few_shot(items(9, "train"), 2, seed=1)), generator, tokenizer, tmp_path / "s.jsonl")
    assert other.answers[0].messages != first.messages, "the seed chooses them"


def test_shots_that_cannot_be_given_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are 3"):
        few_shot(items(3), 4, seed=0)
    leaking = make_task(3, solver=few_shot(items(3), 1, seed=0))
    with pytest.raises(ValueError, match="among the shots"):
        run(leaking, Scripted(tokenizer, right), tokenizer, tmp_path / "r.jsonl")


def test_a_rerun_asks_nothing_again(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    first = run(make_task(), Scripted(tokenizer, right), tokenizer, path)
    silent = Scripted(tokenizer, lambda text: "never asked")
    again = run(make_task(), silent, tokenizer, path, label="two")
    assert silent.asked == []
    assert [a.text for a in again.answers] == [a.text for a in first.answers]
    assert again.num_cut == first.num_cut == 1
    more = Scripted(tokenizer, right)
    run(make_task(6), more, tokenizer, path)
    assert [text.split("\n")[3] for text in more.asked] == ["test q4?<|im_end|>", "test q5?<|im_end|>"]
    assert len(path.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"model_digest": "m1"},
        {"adapter": "default"},
        {"sampling": Sampling(max_new_tokens=9)},
        {"sampling": Sampling(max_new_tokens=8, temperature=0.5)},
        {"sampling": Sampling(max_new_tokens=8, seed=1)},
        {"task": make_task(version=2)},
        {"task": make_task(solver=few_shot(items(2, "train"), 1, 0))},
    ],
)
def test_other_settings_take_nothing_over(tokenizer: Any, tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "r.jsonl"
    run(make_task(), Scripted(tokenizer, right), tokenizer, path)
    generator = Scripted(tokenizer, right)
    run(changed.pop("task", make_task()), generator, tokenizer, path, **changed)
    assert len(generator.asked) == 4


def test_new_weights_under_the_same_name_take_nothing_over(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(make_task(), Scripted(tokenizer, right), tokenizer, path, adapter="default")
    trained = Scripted(tokenizer, lambda text: "new", digest="d1")
    result = run(make_task(), trained, tokenizer, path, adapter="default")
    assert {a.text for a in result.answers} == {"new"}


def test_a_killed_run_goes_on_where_it_stopped(tokenizer: Any, tmp_path: Path) -> None:
    path, generator = tmp_path / "r.jsonl", Scripted(tokenizer, right)
    generator.dies_after = 6
    with pytest.raises(KeyboardInterrupt):
        run(make_task(8), generator, tokenizer, path)
    assert len(path.read_text().splitlines()) == 6
    generator.dies_after = None
    result = run(make_task(8), generator, tokenizer, path)
    assert len(generator.asked) == 8
    assert all(result.outcomes("exact"))


def test_the_item_of_a_torn_last_line_is_answered_again(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(make_task(), Scripted(tokenizer, right), tokenizer, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    generator = Scripted(tokenizer, right)
    with pytest.warns(UserWarning, match=r"r\.jsonl:4: the last line was cut off"):
        result = run(make_task(), generator, tokenizer, path)
    assert len(generator.asked) == 1
    assert all(result.outcomes("exact"))
    assert path.read_bytes() == whole


def test_what_a_model_says_comes_back_letter_by_letter(tokenizer: Any, tmp_path: Path) -> None:
    strange = 'quote " \u2028 \x85 \r\n 🚚 \x00 \ud800'
    path = tmp_path / "r.jsonl"
    run(make_task(1), Scripted(tokenizer, lambda text: strange), tokenizer, path)
    again = run(make_task(1), Scripted(tokenizer, lambda text: "never"), tokenizer, path)
    assert again.answers[0].text == strange
    assert path.read_bytes().count(b"\n") == 1


def test_answers_are_scored_anew_so_that_a_mended_scorer_reaches_old_files(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(make_task(), Scripted(tokenizer, right), tokenizer, path)

    def harsh(item: Item, reply: Reply) -> Verdict:
        return Verdict(values={"exact": 0.0, "contained": 0.0})

    silent = Scripted(tokenizer, right)
    assert not any(run(make_task(scorer=harsh), silent, tokenizer, path).outcomes("exact"))
    assert silent.asked == []


def test_draws_are_keyed_by_the_item_and_not_by_its_place(tokenizer: Any, tmp_path: Path) -> None:
    whole, part = Scripted(tokenizer, right), Scripted(tokenizer, right)
    run(make_task(6), whole, tokenizer, tmp_path / "a.jsonl")
    run(make_task(items=items(6)[3:]), part, tokenizer, tmp_path / "b.jsonl")
    assert part.row_ids == whole.row_ids[3:]
    assert len(set(whole.row_ids)) == 6


def test_a_solver_may_ask_twice_and_both_answers_are_kept(tokenizer: Any, tmp_path: Path) -> None:
    def check_again(asked: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        drafts = bare_prompt(asked, generate)
        later = [
            Request(
                item=draft.request.item,
                messages=(
                    *draft.request.messages,
                    Message(role="assistant", content=draft.text),
                    Message(role="user", content="Are you sure?"),
                ),
            )
            for draft in drafts
        ]
        return generate(later)

    generator = Scripted(tokenizer, lambda text: right(text) if "sure" in text else "draft")
    path = tmp_path / "r.jsonl"
    result = run(make_task(2, solver=check_again), generator, tokenizer, path)
    assert [a.text for a in result.answers] == ["a0", "a1"]
    assert result.answers[0].messages[-1].content == "Are you sure?"
    assert len(path.read_text().splitlines()) == 4
    run(make_task(2, solver=check_again), generator, tokenizer, path)
    assert len(generator.asked) == 4


def test_broken_contracts_are_told(tokenizer: Any, tmp_path: Path) -> None:
    def forgets(asked: Sequence[Item], generate: Generate) -> Sequence[Reply]:
        return bare_prompt(asked, generate)[:-1]

    def silent(item: Item, reply: Reply) -> Verdict:
        return Verdict(values={"exact": 1.0})

    with pytest.raises(ValueError, match="one reply an item"):
        run(make_task(solver=forgets), Scripted(tokenizer, right), tokenizer, tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="a finite value"):
        run(make_task(scorer=silent), Scripted(tokenizer, right), tokenizer, tmp_path / "b.jsonl")
    with pytest.raises(ValueError, match="no items"):
        make_task(0)
    with pytest.raises(ValueError, match="several items called test-0"):
        make_task(items=items(1) * 2)


def test_subsets_are_seeded_and_nested() -> None:
    all_items = items(20)
    five, nine = subset(all_items, 5, seed=0), subset(all_items, 9, seed=0)
    assert nine[:5] == five and len({item.id for item in nine}) == 9
    assert subset(all_items, 5, seed=1) != five
    assert {item.id for item in subset(all_items, None, seed=0)} == {item.id for item in all_items}
    for size in (0, 21):
        with pytest.raises(ValueError, match="cannot be taken from 20"):
            subset(all_items, size, seed=0)


def graded(result_values: list[float], tokenizer: Any, tmp_path: Path, label: str) -> TaskResult:
    by_id = dict(zip([item.id for item in items(len(result_values))], result_values, strict=True))

    def scorer(item: Item, reply: Reply) -> Verdict:
        return Verdict(values={"exact": by_id[item.id], "contained": 1.0})

    path = tmp_path / f"{label}.jsonl"
    return run(make_task(len(result_values), scorer=scorer), Scripted(tokenizer, right), tokenizer, path, label=label)


def test_a_comparison_is_paired_and_signed(tokenizer: Any, tmp_path: Path) -> None:
    before = graded([0, 0, 0, 0, 0, 0, 0, 1], tokenizer, tmp_path, "before")
    after = graded([1, 1, 1, 1, 1, 1, 0, 0], tokenizer, tmp_path, "after")
    seen = compare(before, after, "exact")
    assert (seen.test.only_first, seen.test.only_second) == (1, 6)
    assert seen.test.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert seen.difference == newcombe_paired_difference(before.outcomes("exact"), after.outcomes("exact"))
    assert seen.difference.value == pytest.approx(5 / 8)
    turned = compare(after, before, "exact")
    assert turned.difference.value == pytest.approx(-5 / 8)
    level = compare(before, after, "contained")
    assert (level.test.p, level.difference.value) == (1.0, 0.0)
    assert level.difference.low < 0 < level.difference.high, "eight agreeing items are no proof of no difference"


def test_graded_values_get_a_bootstrap_and_a_sign_test(tokenizer: Any, tmp_path: Path) -> None:
    before = graded([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], tokenizer, tmp_path, "before")
    after = graded([0.2, 0.3, 0.5, 0.5, 0.6, 0.9], tokenizer, tmp_path, "after")
    seen = compare(before, after, "exact")
    assert seen.test.p == pytest.approx(2 / 2**6)
    assert 0 < seen.difference.low < seen.difference.value < seen.difference.high < 0.4
    assert math.isclose(before.interval("exact").value, 0.35)
    assert before.interval("exact").low < 0.35 < before.interval("exact").high
    assert before.outcomes("exact") == [False] * 6


def test_results_over_different_items_are_not_compared(tokenizer: Any, tmp_path: Path) -> None:
    one = run(make_task(4), Scripted(tokenizer, right), tokenizer, tmp_path / "a.jsonl")
    others = [
        make_task(3),
        make_task(items=items(4, "other")),
        make_task(items=tuple(reversed(items(4)))),
        make_task(items=(*items(3), replace(items(4)[3], target="changed"))),
        make_task(version=2),
        make_task(name="u"),
    ]
    for number, task in enumerate(others):
        two = run(task, Scripted(tokenizer, right), tokenizer, tmp_path / f"{number}.jsonl", label="two")
        with pytest.raises(ValueError, match="'one' and 'two' answered different items"):
            compare(one, two, "exact")
    assert compare(one, run(make_task(4), Scripted(tokenizer, right), tokenizer, tmp_path / "c.jsonl"), "exact")


def test_a_real_generator_is_resumed_and_names_the_item_that_does_not_fit(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    base = load("llama")
    generator, path = LocalGenerator(base), tmp_path / "r.jsonl"
    subject = local_subject(base, generator, None, "one")
    first = run_task(make_task(3), subject, GREEDY, path)
    used = generator.tokens.generated
    assert used > 0
    seen = []
    again = run_task(make_task(3), subject, GREEDY, path, on_progress=lambda *told: seen.append(told))
    assert (generator.tokens.generated, seen) == (used, [(3, 3)])
    assert [a.text for a in again.answers] == [a.text for a in first.answers]
    long = Item(id="long", messages=(Message(role="user", content="word " * 200),), target="x")
    with pytest.raises(DataError, match="item long: needs"):
        run_task(make_task(items=(*items(1), long)), subject, GREEDY, path)
