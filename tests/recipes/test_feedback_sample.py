"""Sampling candidates: slots, near copies, redraws, more candidates later, and a run that is killed anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.config import build_config
from tunesmith.data.prompts import PromptRow, load_prompts
from tunesmith.errors import ConfigError, DataError, RunError
from tunesmith.feedback.judgements import prompt_id_of
from tunesmith.feedback.store import FeedbackStore
from tunesmith.randomness import generator
from tunesmith.recipes.feedback_open import open_local
from tunesmith.recipes.feedback_sample import Sampled, Sampler, draws_file
from tunesmith.recipes.feedback_sample_show import candidate_bar, estimate, last_lines
from tunesmith.recipes.feedback_slots import SampleConfig, settle
from tunesmith.rollout.sampling import Sampling
from tunesmith.rollout.writer import Asked, Written
from tunesmith.runs import hold_file

WORDS = ("sorry", "help", "refund", "send")


class Killed(BaseException):
    """As good as kill -9: nothing of ours catches it."""


class ToyWriter:
    """Answers of a few words, a function of the draw; few words, so that near copies come often."""

    def __init__(
        self, name: str = "toy", *, fail_after: int | None = None, error: type[BaseException] = Killed
    ) -> None:
        self.name, self.fail_after, self.error = name, fail_after, error
        self.asked: list[tuple[int, float]] = []

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": self.name, "model_digest": "0", "adapter_digest": self.name}

    def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        for index, one in enumerate(asked):
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise self.error
            self.asked.append((one.row_id, sampling.temperature))
            rng = generator(sampling.seed, "toy", one.row_id, str(sampling.temperature), self.name)
            text = " ".join(str(rng.choice(WORDS)) for _ in range(int(rng.integers(0, 4))))
            yield index, Written(text=text, stop_reason="length" if rng.random() < 0.2 else "end_of_turn")


def prompts(folder: Path, number: int = 5) -> Sequence[PromptRow]:
    path = folder / "prompts.txt"
    path.write_text("".join(f"prompt {i}\n" for i in range(number)))
    return load_prompts(path)


def config(folder: Path, **settings: Any) -> SampleConfig:
    return SampleConfig(prompts="p", store=str(folder / "f.db"), **{"prompts_at_once": 2, **settings})


def run(folder: Path, *writers: ToyWriter, rows: Sequence[PromptRow] | None = None, **settings: Any) -> Sampled:
    made = config(folder, **settings)
    with FeedbackStore.open(made.store, create=True) as store:
        return Sampler(made, rows or prompts(folder), writers, store).run()


def contents(folder: Path) -> tuple[str, list[tuple[str, str, Any]]]:
    with FeedbackStore.open(folder / "f.db") as store:
        kept = [(c.prompt_id, c.text, c.sampling) for c in store.candidates()]
        return store.digest(), sorted(kept, key=lambda one: (one[0], one[2]["settings"], one[2]["slot"]))


def test_slots_take_temperatures_and_writers_in_turn(tmp_path: Path) -> None:
    made = config(tmp_path, num_candidates=8)
    rungs = [made.rung(slot, 2) for slot in range(8)]
    assert [made.rung(slot, 1) for slot in range(8)] == [(0, t) for t in (0.3, 0.6, 0.9, 1.2)] * 2
    assert rungs[:4] == [(0, 0.3), (1, 0.6), (0, 0.9), (1, 1.2)]
    assert len(set(rungs)) == 8, "every combination before one comes again"
    for num_writers in (1, 3, 4, 5):
        assert len({made.rung(slot, num_writers) for slot in range(4 * num_writers)}) == 4 * num_writers


def test_candidates_say_what_wrote_them(tmp_path: Path) -> None:
    writers = ToyWriter("a"), ToyWriter("b")
    sampled = run(tmp_path, *writers, num_candidates=2, seed=7)
    with FeedbackStore.open(tmp_path / "f.db") as store:
        assert store.counts().prompts == 5
        for one in store.candidates():
            slot = one.sampling["slot"]
            assert (one.model, one.adapter_digest, one.seed) == ("ab"[slot], "ab"[slot], 7)
            assert one.sampling["temperature"] == (0.3, 0.6)[slot] and one.sampling["top_p"] == 0.95
        assert sampled.kept == store.counts().candidates


def test_near_copies_and_empty_answers_are_drawn_again_and_counted(tmp_path: Path) -> None:
    sampled = run(tmp_path, ToyWriter(), num_candidates=4, max_redraws=20)
    assert sampled.turned_down["near copy of another answer"] > 0 and sampled.turned_down["empty"] > 0
    assert sampled.kept + sum(sampled.turned_down.values()) == sampled.drawn
    assert sampled.settled == sampled.wanted == 20 == sampled.kept + sampled.empty_slots
    rows = [json.loads(line) for line in draws_file(tmp_path / "f.db").read_text().splitlines()]
    assert len(rows) == sampled.drawn
    _, kept = contents(tmp_path)
    assert all(text.strip() for _, text, _ in kept) and len({(p, t) for p, t, _ in kept}) == len(kept)


def test_redraws_have_a_bound(tmp_path: Path) -> None:
    class Parrot(ToyWriter):
        def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
            for index, one in enumerate(asked):
                self.asked.append((one.row_id, sampling.temperature))
                yield index, Written(text="the same again", stop_reason="end_of_turn")

    parrot = Parrot()
    sampled = run(tmp_path, parrot, num_candidates=3, max_redraws=2)
    assert (sampled.kept, sampled.empty_slots) == (5, 10)
    assert len(parrot.asked) == len(set(parrot.asked)) == 5 * (1 + 3 + 3)


@pytest.mark.parametrize("fail_after", [0, 1, 3, 7, 12, 20, 29])
def test_a_killed_run_goes_on_to_the_same_store_and_asks_nothing_twice(tmp_path: Path, fail_after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    writer = ToyWriter()
    run(whole, writer)
    assert len(writer.asked) > 29
    first, second = ToyWriter(fail_after=fail_after), ToyWriter()
    with pytest.raises(Killed):
        run(parts, first)
    again = run(parts, second)
    assert contents(parts) == contents(whole)
    assert sorted(first.asked + second.asked) == sorted(writer.asked)
    assert again.found == fail_after and again.drawn == len(writer.asked) - fail_after
    third = ToyWriter()
    assert run(parts, third).drawn == 0 and third.asked == [] and contents(parts) == contents(whole)


def test_a_lost_file_of_draws_costs_time_and_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, ToyWriter())
    before = contents(tmp_path)
    draws_file(tmp_path / "f.db").unlink()
    assert run(tmp_path, ToyWriter()).drawn > 0
    assert contents(tmp_path) == before


def test_control_a_writer_that_draws_from_a_stream_is_noticed(tmp_path: Path) -> None:
    """The same comparison fails for a writer whose answers depend on what it was asked before."""

    class Stream(ToyWriter):
        def write(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[int, Written]]:
            for index, one in super().write(asked, sampling):
                yield index, Written(text=f"{one.text} {len(self.asked) * 7919}", stop_reason="end_of_turn")

    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    run(tmp_path / "whole", Stream())
    with pytest.raises(Killed):
        run(tmp_path / "parts", Stream(fail_after=7))
    run(tmp_path / "parts", Stream())
    assert contents(tmp_path / "parts") != contents(tmp_path / "whole")


def test_more_candidates_later_are_what_they_would_have_been_at_once(tmp_path: Path) -> None:
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    run(tmp_path / "once", ToyWriter(), num_candidates=6)
    run(tmp_path / "twice", ToyWriter(), num_candidates=3)
    run(tmp_path / "twice", ToyWriter(), num_candidates=6)
    assert contents(tmp_path / "once")[0] == contents(tmp_path / "twice")[0]


def test_the_order_of_the_file_changes_no_answer(tmp_path: Path) -> None:
    rows = prompts(tmp_path)
    for name, order in (("a", rows[:]), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        run(tmp_path / name, ToyWriter(), rows=order)
    assert contents(tmp_path / "a")[0] == contents(tmp_path / "b")[0]


def test_another_seed_draws_anew_and_avoids_what_is_there(tmp_path: Path) -> None:
    run(tmp_path, ToyWriter(), num_candidates=2)
    before = contents(tmp_path)[1]
    run(tmp_path, ToyWriter(), num_candidates=2, seed=1, max_redraws=30)
    after = contents(tmp_path)[1]
    assert all(one in after for one in before) and len(after) > len(before)
    assert len({(p, t) for p, t, _ in after}) == len(after)


def test_a_second_sampling_of_a_store_is_refused_and_draws_nothing(tmp_path: Path) -> None:
    writer = ToyWriter()
    with hold_file(draws_file(tmp_path / "f.db")), pytest.raises(RunError, match="in use by another process"):
        run(tmp_path, writer)
    assert writer.asked == []
    # What the first one drew is seen by a second that was opened before.
    made = config(tmp_path)
    with FeedbackStore.open(made.store, create=True) as store:
        early = Sampler(made, prompts(tmp_path), [ToyWriter()], store)
        done = run(tmp_path, writer)
        assert done.drawn and early.run().drawn == 0


def test_ctrl_c_keeps_what_there_is_and_says_how_to_go_on(tmp_path: Path) -> None:
    made = config(tmp_path)
    with FeedbackStore.open(made.store, create=True) as store:
        writer = ToyWriter(fail_after=9, error=KeyboardInterrupt)
        sampler = Sampler(made, prompts(tmp_path), [writer], store)
        sampled = sampler.run()
        assert sampled.interrupted and sampled.drawn == 9 and store.counts().candidates == sampled.kept > 0
        assert last_lines(made, sampler, 1.0)[-1] == "Stopped; the same command goes on, and draws nothing twice."


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["", "a b c", "a b d", "x y z", "x y", "q"]), min_size=3, max_size=3), min_size=1
    ),
    st.data(),
)
def test_what_is_settled_never_changes(texts: list[list[str]], data: st.DataObject) -> None:
    """With some answers not drawn yet, what is kept is a beginning of what is kept in the end."""

    def row(slot: int, draw: int) -> dict[str, str]:
        return {"answer": texts[slot][draw], "stop_reason": "end_of_turn"}

    end = settle(len(texts), 2, 0.6, row)
    missing = {(s, d) for s in range(len(texts)) for d in range(3) if data.draw(st.booleans())}
    now = settle(len(texts), 2, 0.6, lambda s, d: None if (s, d) in missing else row(s, d))
    assert end.kept[: len(now.kept)] == now.kept and end.needs == ()
    assert set(now.needs) <= missing and bool(now.needs) == (now != end)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings_, cause in (
        ({"temperatures": [0.0]}, "above 0"),
        ({"num_candidates": 27}, "26"),
        ({"seeds": 1}, "seed"),
    ):
        with pytest.raises(ConfigError, match=cause):
            build_config(SampleConfig, {"prompts": "p", "store": "s", **settings_}, place="command line")


# On a tiny model ------------------------------------------------------------------------------------------------------


def local(folder: Path, model: Path, lines: list[str], **settings: Any) -> tuple[SampleConfig, Any]:
    path = folder / "lines.txt"
    path.write_text("\n".join(lines))
    told = {"max_new_tokens": 6, "max_redraws": 1, **settings}
    made = SampleConfig(prompts=str(path), store=str(folder / "f.db"), **told)
    return made, open_local(made, str(model), [])


def test_a_base_of_ours_answers_in_batches_that_change_nothing(tmp_path: Path, model_folder: Any) -> None:
    digests = []
    for at_once in (1, 3):
        folder = tmp_path / str(at_once)
        folder.mkdir()
        made, opened = local(folder, model_folder("llama"), ["one", "two words", "three"], prompts_at_once=at_once)
        with FeedbackStore.open(made.store, create=True) as store:
            sampler = Sampler(made, opened.prompts, opened.writers, store)
            assert "3 prompts x 4 candidates = 12 answers, 0 drawn before; 12 to draw" in estimate(sampler, probe=True)
            assert not len(sampler.draws), "the probe leaves no answer"
            with candidate_bar(12) as show:
                sampler.progress = show
                sampler.run()
            digests.append(store.digest())
            assert "0 to draw" in estimate(sampler, probe=True)
    assert digests[0] == digests[1]


def test_prompts_beyond_the_context_are_named_before_any_work(tmp_path: Path, model_folder: Any) -> None:
    lines = ["fine", "long " * 80, "fine too", "longer " * 90]
    with pytest.raises(DataError) as caught:
        local(tmp_path, model_folder("llama"), lines)
    text = str(caught.value)
    assert "lines.txt:2" in text and "lines.txt:4" in text and "tokens of 256" in text
    assert not (tmp_path / "f.db").exists()
    _, opened = local(tmp_path, model_folder("llama"), lines, on_bad_row="drop")
    assert [one.where.line for one in opened.prompts] == [1, 3]
    assert any(note.startswith("2 prompts left out: the prompt with its answer is longer") for note in opened.notes)


def test_draws_are_keyed_by_what_the_prompt_says(tmp_path: Path) -> None:
    rows = prompts(tmp_path, 2)
    assert prompt_id_of(rows[0].messages) != prompt_id_of(rows[1].messages)
    writer = ToyWriter()
    run(tmp_path, writer, rows=rows)
    assert len({row_id for row_id, _ in writer.asked}) == len(writer.asked)
