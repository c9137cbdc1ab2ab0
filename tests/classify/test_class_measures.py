"""What is said of held-out rows: figures worked out by hand, the baselines, and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad

from tunesmith.evals.classify import confusion, f1_intervals, measure_classes
from tunesmith.evals.classify_baselines import MAJORITY, N_GRAMS, baselines, fit_linear, loss_and_gradient
from tunesmith.randomness import generator
from tunesmith.reports.classify import write_classify_report
from tunesmith.stats import wilson_interval

TRUE, SAID = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])


def sure_of(said: Any, num_classes: int, sure: float = 0.7) -> Any:
    out = np.full((len(said), num_classes), (1 - sure) / (num_classes - 1))
    out[np.arange(len(said)), said] = sure
    return out


def test_precision_recall_and_f1_are_those_worked_out_by_hand() -> None:
    other = np.zeros(6, np.int64)
    facts = measure_classes(sure_of(SAID, 3), TRUE, ["a", "b", "c"], {"always a": other}, seed=0)
    assert facts["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]] == confusion(TRUE, SAID, 3).tolist()
    assert [c["rows"] for c in facts["classes"]] == [3, 2, 1] and [c["said"] for c in facts["classes"]] == [2, 2, 2]
    assert [c["precision"][0] for c in facts["classes"]] == pytest.approx([1, 1 / 2, 1 / 2])
    assert [c["recall"][0] for c in facts["classes"]] == pytest.approx([2 / 3, 1 / 2, 1])
    assert [c["f1"][0] for c in facts["classes"]] == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert facts["macro_f1"][0] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    wilson = wilson_interval(4, 6)
    assert facts["accuracy"] == [wilson.value, wilson.low, wilson.high]
    # Four rows are right with 0.7, two wrong ones give the true class 0.15.
    assert facts["log_loss"][0] == pytest.approx(-(4 * np.log(0.7) + 2 * np.log(0.15)) / 6)
    assert facts["ece"] == pytest.approx((4 * 0.3 + 2 * 0.7) / 6)
    # Only the model is right on rows 3 and 5, only the guess on row 2: three discordant rows prove nothing.
    against = facts["others"]["always a"]
    assert (against["rows_only_model"], against["rows_only_other"], against["p"]) == (2, 1, 1.0)
    assert against["difference"][0] == pytest.approx(1 / 6)
    assert against["macro_f1"][0] == pytest.approx((6 / 9) / 3)
    assert any("not shown to be better than always a" in warning for warning in facts["warnings"])


def test_a_class_without_rows_has_no_figures_and_does_not_lower_the_mean() -> None:
    facts = measure_classes(sure_of(SAID, 4), TRUE, ["a", "b", "c", "d"], {}, seed=0)
    assert facts["classes"][3] == {
        "label": "d", "rows": 0, "said": 0, "precision": None, "recall": None, "f1": None,
    }  # fmt: skip
    assert facts["macro_f1"][0] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


def test_the_interval_of_f1_is_that_of_rows_drawn_again() -> None:
    rng = generator(0, "f1_rows")
    truth = rng.integers(0, 3, 90)
    said = np.where(rng.random(90) < 0.7, truth, rng.integers(0, 3, 90))
    macro, each = f1_intervals(truth, said, 3, seed=1)
    drawn = []
    for _ in range(2000):
        pick = rng.integers(0, 90, 90)
        t, s = truth[pick], said[pick]
        drawn.append(np.mean([2 * ((t == k) & (s == k)).sum() / ((t == k).sum() + (s == k).sum()) for k in range(3)]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert abs(macro.low - low) < 0.02 and abs(macro.high - high) < 0.02 and macro.low < macro.value < macro.high
    assert all(f1 is not None and f1.low < f1.value < f1.high for f1 in each)


def test_the_linear_baseline_has_the_right_gradient_and_learns_what_words_tell() -> None:
    rng = generator(0, "linear")
    x, truth = rng.normal(size=(6, 4)), np.eye(3)[rng.integers(0, 3, 6)]
    start = rng.normal(size=15)
    error = check_grad(
        lambda p: loss_and_gradient(p, x, truth, 0.1)[0], lambda p: loss_and_gradient(p, x, truth, 0.1)[1], start
    )
    assert error < 1e-6
    # The control: a gradient without the penalty is another one.
    wrong = check_grad(
        lambda p: loss_and_gradient(p, x, truth, 0.1)[0], lambda p: loss_and_gradient(p, x, truth, 0.0)[1], start
    )
    assert wrong > 1e-2
    train = [f"{word} number {i}" for i in range(8) for word in ("refund", "card", "card", "pin")]
    classes = np.array([0, 1, 1, 2] * 8)
    assert fit_linear(train, classes, 3).classes(["a pin", "the refund", "card"]).tolist() == [2, 0, 1]
    found = baselines(train, classes, ["a pin", "the refund"], 3, seed=0)
    # A hundred classes have fewer features each, and are told apart all the same.
    words = [f"{a}{b}z" for a in "abcdefghij" for b in "klmnopqrst"]
    many = fit_linear(words, np.arange(100), 100)
    assert len(many.weights_FK) == 8192 and (many.classes([f"the {word}" for word in words]) == np.arange(100)).all()
    assert found[MAJORITY].tolist() == [1, 1] and found[N_GRAMS].tolist() == [2, 0]


@pytest.mark.parametrize("num_classes", [3, 40])
def test_the_page_escapes_labels_and_draws_a_matrix_that_can_be_read(num_classes: int, tmp_path: Path) -> None:
    labels = ["<b>$x$</b>", *(f"class {k}" for k in range(1, num_classes))]
    facts: dict[str, Any] = {
        "base": "tiny", "adapter": "lora", "best_step": 3, "seed": 0, "num_steps": 4, "measured_on": "validation",
        "held_out": measure_classes(sure_of(SAID, num_classes), TRUE, labels, {"always": TRUE * 0}, seed=0),
        "data": {
            "rows_read": 9, "rows_dropped": {"the label is empty": 1}, "rows_train": 2, "rows_validation": 6,
            "rows_test": 0, "seen_in_training": {"validation": 1}, "contradictions": 1, "rendered": {},
            "contradiction_places": ["f:3"], "digest": "0" * 64,
        },
    }  # fmt: skip
    write_classify_report(tmp_path, facts)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>$x" not in page and "&lt;b&gt;$x$&lt;/b&gt;" in page
    assert "a little optimistic" in page and "the label is empty" in page and "f:3" in page
    assert ("said to be (across)" in page) == (num_classes == 3)
    assert (tmp_path / "classify.png").read_bytes().startswith(b"\x89PNG")
    write_classify_report(tmp_path, {**facts, "held_out": None})
    assert "nothing can be said" in (tmp_path / "report.html").read_text(encoding="utf-8")
