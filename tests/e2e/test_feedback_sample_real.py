"""The real 135M model draws candidates and is killed in the middle: the store comes out as if it had not been."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.feedback.store import FeedbackStore
from tunesmith.recipes.feedback_open import Opened, open_local
from tunesmith.recipes.feedback_sample import Sampled, Sampler, draws_file
from tunesmith.recipes.feedback_slots import SampleConfig

PROMPTS = (
    "My order arrived broken. I'm very upset!\nWhere is my parcel? I have waited for three weeks.\n"
    "Your app charged me twice and nobody answers.\n"
)


def sample(config: SampleConfig, opened: Opened) -> tuple[Sampled, str]:
    with FeedbackStore.open(config.store, create=True) as store:
        return Sampler(config, opened.prompts, opened.writers, store).run(), store.digest()


@pytest.mark.slow
def test_a_sampling_that_is_killed_goes_on_to_the_same_store(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS)
    killed, whole = tmp_path / "killed.db", tmp_path / "whole.db"
    words = ["sample", str(prompts), "--store", str(killed), "--max-new-tokens", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith.cli.main", "feedback", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not (draws_file(killed).exists() and draws_file(killed).stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait(60)
    there = draws_file(killed).read_bytes().count(b"\n")
    assert 0 < there < 12, "it was killed in the middle"

    config = SampleConfig(prompts=str(prompts), store=str(whole), max_new_tokens=16)
    opened = open_local(config, None, [])
    sampled, digest = sample(config, opened)
    assert sampled.kept == 12 and len(opened.prompts) == 3
    resumed, resumed_digest = sample(config.model_copy(update={"store": str(killed)}), opened)
    assert resumed_digest == digest
    assert resumed.found >= there and resumed.drawn == sampled.drawn - resumed.found
    with FeedbackStore.open(whole) as store:
        texts = [one.text for one in store.candidates()]
        assert len(set(texts)) == 12 and all(one.sampling["stop_reason"] for one in store.candidates())
