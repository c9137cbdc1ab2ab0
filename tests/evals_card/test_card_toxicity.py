"""The classifier: its gradient, its file, what it learns; and how its errors are counted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from card_subjects import run, subject, trained_classifier
from conftest import shared_data

from tunesmith.errors import DataError
from tunesmith.evals.card.toxicity import corrected_rates, open_instrument, toxicity_measures, toxicity_task
from tunesmith.evals.card.toxicity_classifier import (
    Classifier,
    features,
    fit,
    load_classifier,
    loss_and_gradient,
    save_classifier,
    with_best_threshold,
)
from tunesmith.evals.suite import SuiteConfig

BAD = ["you stupid fool", "what a stupid idiot", "idiots, all of you", "foolish stupid people", "shut up idiot"]
GOOD = ["a lovely day", "the train was late", "bread and butter", "she reads a book", "we met at noon"]


@pytest.fixture(scope="module")
def small() -> Classifier:
    return fit(BAD + GOOD, [True] * 5 + [False] * 5)


def test_the_gradient_is_that_of_the_loss() -> None:
    x, y = features(BAD + GOOD), np.array([1.0] * 5 + [0.0] * 5)
    share = np.linspace(0.05, 0.15, 10)
    rng = np.random.default_rng(0)
    at = rng.normal(size=x.shape[1] + 1) * 0.3
    _, gradient = loss_and_gradient(at, x, y, share, 0.01)
    places = [*np.unique(x.indices)[:6], len(at) - 1]
    for place in places:
        step = np.zeros_like(at)
        step[place] = 1e-5
        up, down = (loss_and_gradient(at + s * step, x, y, share, 0.01)[0] for s in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9)


def test_it_learns_words_and_nothing_of_case_or_handles(small: Classifier) -> None:
    assert small.flags(["STUPID idiot!!!", "@someone stupid fool", "a book and a train"]).tolist() == [
        True,
        True,
        False,
    ]
    p = small.probabilities(["stupid fool", "RT @USER: stuuuuupid fool", "stupid &amp; fool"])
    assert (p > 0.5).all()
    assert abs(float(np.linalg.norm(features(["a b c"]).toarray())) - 1) < 1e-12
    assert features([""]).nnz == 0 and small.probabilities([""]).shape == (1,)
    with pytest.raises(ValueError, match="both classes"):
        fit(BAD, [True] * 5)


def test_equal_digests_say_the_same_and_a_changed_file_is_refused(small: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save_classifier(small, path)
    again = load_classifier(path)
    assert again.digest == small.digest == fit(BAD + GOOD, [True] * 5 + [False] * 5).digest
    assert (again.probabilities(BAD) == small.probabilities(BAD)).all()
    moved = Classifier(weights_F=small.weights_F, bias=small.bias, threshold=0.7)
    assert moved.digest != small.digest
    np.savez(tmp_path / "other.npz", weights=small.weights_F + 1, bias=small.bias, threshold=0.5, digest=small.digest)
    with pytest.raises(DataError, match="does not fit its digest"):
        load_classifier(tmp_path / "other.npz")
    (tmp_path / "torn.npz").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="not a classifier that was saved whole"):
        load_classifier(tmp_path / "torn.npz")


def test_the_threshold_is_where_both_kinds_fare_best() -> None:
    fixed = Classifier(weights_F=np.zeros(1 << 16), bias=0.0, threshold=0.5)
    assert with_best_threshold(fixed, BAD + GOOD, [True] * 5 + [False] * 5).threshold == 0.5
    trained = fit(BAD[:3] + GOOD[:3], [True] * 3 + [False] * 3)
    moved = with_best_threshold(trained, BAD + GOOD, [True] * 5 + [False] * 5)

    def youden(c: Classifier) -> float:
        return float(c.flags(BAD).mean() + (~c.flags(GOOD)).mean())

    assert youden(moved) >= youden(trained)
    others = [Classifier(weights_F=moved.weights_F, bias=moved.bias, threshold=t) for t in np.linspace(0, 1, 101)]
    assert youden(moved) == max(youden(c) for c in [moved, *others])


def test_on_real_tweets_and_hatecheck(tmp_path: Path) -> None:
    data = SuiteConfig(data_dir=str(shared_data("hate_offensive/tweets.jsonl").parents[1]))
    shared_data("hatecheck/cases.jsonl")
    path = Path(shutil.copy(trained_classifier(), tmp_path))
    instrument = open_instrument(data, path)
    assert instrument.tweets.sensitivity.low > 0.75 and instrument.tweets.specificity.low > 0.75
    # HateCheck is not passed, and it is told so: its templates count, not its cases.
    assert instrument.hatecheck.num_offensive + instrument.hatecheck.num_other < 300
    assert sum(count for count, _ in instrument.by_function.values()) == 1000
    assert instrument.classifier.digest == load_classifier(path).digest == instrument.as_dict()["digest"]
    # Trained on words, it calls hateful cases offensive no oftener than others: the card must not correct by them.
    assert instrument.hatecheck.corrected(3, 10) is None
    task = toxicity_task(data, 12, 0, instrument.classifier)
    rude = run(task, subject("rude", lambda m, w: -1.0, lambda m: "you stupid bitch"), tmp_path)
    kind = run(task, subject("kind", lambda m, w: -1.0, lambda m: "we met at the station at noon"), tmp_path)
    silent = run(task, subject("silent", lambda m, w: -1.0), tmp_path)
    assert [m.values_NK.mean() for r in (rude, kind) for m in toxicity_measures(r)] == [1.0, 0.0]
    assert toxicity_measures(silent)[0].note == "12 empty"
    found = corrected_rates(rude, instrument)["held-out tweets"]
    assert found is not None and found.value == 1.0 and found.low > 0.7
