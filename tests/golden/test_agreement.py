"""Agreement coefficients against published examples and a second implementation; wrong formulas must fail both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import agreement_reference as reference
from tunesmith.feedback import agreement
from tunesmith.feedback.agreement import (
    Level,
    agreement_with_rest,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    without_minus_with,
)

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")
NAN = float("nan")


def value(found: agreement.Agreement) -> float:
    assert found.value is not None, found.reason
    return found.value


@pytest.mark.parametrize("level", LEVELS)
def test_krippendorffs_own_example(level: Level) -> None:
    published = reference.KRIPPENDORFF_ALPHA[level]
    assert round(reference.alpha(reference.KRIPPENDORFF, level), 3) == published
    found = krippendorff_alpha(reference.KRIPPENDORFF, level)
    assert round(value(found), 3) == published
    # Unit 12 has one judgement, and so no pair.
    assert found.num_items == 11


def test_fleiss_own_example() -> None:
    assert reference.FLEISS.sum(axis=0).tolist() == reference.FLEISS_TOTALS
    assert round(reference.fleiss(reference.FLEISS), 3) == reference.FLEISS_KAPPA
    assert round(value(fleiss_kappa(reference.FLEISS)), 3) == reference.FLEISS_KAPPA


def test_cohens_kappa_of_fifty_proposals() -> None:
    first, second = reference.cohen_judgements()
    assert round(reference.cohen(first, second), 3) == reference.COHEN_KAPPA
    assert round(value(cohen_kappa(first, second)), 3) == reference.COHEN_KAPPA


def test_the_goldens_notice_a_wrong_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: chance drawn with replacement, ranks without the halves, agreement without chance."""
    monkeypatch.setattr(
        agreement, "_expected", lambda t, d: (t[:, :, None] * t[:, None] * d).sum((1, 2)) / t.sum(1) ** 2
    )
    assert round(value(krippendorff_alpha(reference.KRIPPENDORFF, "nominal")), 3) != 0.743
    monkeypatch.undo()
    monkeypatch.setattr(
        agreement, "_distances", lambda t, c, level: (t.cumsum(1)[:, :, None] - t.cumsum(1)[:, None]) ** 2
    )
    assert round(value(krippendorff_alpha(reference.KRIPPENDORFF, "ordinal")), 3) != 0.815
    monkeypatch.undo()
    monkeypatch.setattr(agreement, "_beyond", lambda observed, expected: observed)
    assert round(value(fleiss_kappa(reference.FLEISS)), 3) != 0.430
    assert round(value(cohen_kappa(*reference.cohen_judgements())), 3) != 0.4


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda r: st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0, NAN]), min_size=r, max_size=r), min_size=2)
    )
)
def test_any_matrix_gives_what_the_reference_gives(rows: list[list[float]]) -> None:
    matrix = np.array(rows)
    paired = matrix[(~np.isnan(matrix)).sum(axis=1) >= 2]
    different = np.unique(paired[~np.isnan(paired)])
    for level in LEVELS:
        found = krippendorff_alpha(matrix, level)
        if len(different) < 2:
            assert found.value is None and found.reason
        else:
            assert value(found) == pytest.approx(reference.alpha(matrix, level), abs=1e-9)
    counts = (paired[:, :, None] == different).sum(axis=1) if len(paired) else np.zeros((0, 1))
    kappa = fleiss_kappa(counts)
    if len(different) < 2:
        assert kappa.value is None
    else:
        assert value(kappa) == pytest.approx(reference.fleiss(counts), abs=1e-9)


def test_two_annotators_who_always_agree_or_never_do() -> None:
    same = [1.0, 2.0, 3.0, 1.0, 2.0]
    assert value(cohen_kappa(same, same)) == 1.0
    assert value(krippendorff_alpha(np.column_stack([same, same]), "ordinal")) == 1.0
    opposite = krippendorff_alpha([[0, 1], [1, 0], [0, 1], [1, 0]], "nominal")
    assert value(opposite) < 0


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (krippendorff_alpha([[1, 1], [1, 1], [1, NAN]], "nominal"), "one and the same category"),
        (krippendorff_alpha([[1, NAN], [NAN, 2]], "ordinal"), "no item was judged by two"),
        (krippendorff_alpha([[1], [2]], "interval"), "no item was judged by two"),
        (cohen_kappa([1, 1], [1, 1]), "one and the same category"),
        (cohen_kappa([1, NAN], [NAN, 1]), "no item in common"),
        (fleiss_kappa([[3, 0], [3, 0]]), "one and the same category"),
        (fleiss_kappa([[1, 0], [0, 1]]), "no item was judged by two"),
    ],
)
def test_what_is_undefined_says_why(found: agreement.Agreement, says: str) -> None:
    assert found.value is None and found.low is None
    assert says in found.reason and says in str(found)
    assert found.as_dict()["value"] is None


def test_one_item_has_a_value_and_no_interval() -> None:
    found = krippendorff_alpha([[1, 2]], "nominal")
    assert value(found) == 0.0 and found.low is None and "no interval" in str(found)


def test_intervals_shrink_with_items_and_cover_the_truth() -> None:
    """Two annotators who are right with probability 0.9 on fair binary items: alpha tends to (0.82 - 0.5) / 0.5."""
    truth, covered, widths = 0.64, 0, {}
    for trial in range(60):
        rng = np.random.default_rng(trial)
        gold = rng.integers(2, size=(200, 1))
        said = np.where(rng.random((200, 2)) < 0.9, gold, 1 - gold).astype(float)
        found = krippendorff_alpha(said, "nominal", seed=trial)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
        widths[200] = found.high - found.low
        fewer = krippendorff_alpha(said[:50], "nominal", seed=trial)
        assert fewer.low is not None and fewer.high is not None and fewer.high - fewer.low > widths[200]
    # Binomial(60, 0.95) is below 51 once in 1 800 times.
    assert covered >= 51


def test_resamples_without_a_coefficient_are_told() -> None:
    rows = [[1.0, 1.0]] * 9 + [[2.0, 2.0]]
    found = krippendorff_alpha(rows, "nominal")
    # A resample misses the one other item with probability 0.9 ** 10.
    assert found.undefined_resamples == pytest.approx(0.9**10, abs=0.04)


def test_who_disagrees_with_everyone_is_told_from_who_does_not() -> None:
    rng = np.random.default_rng(3)
    gold = rng.integers(1, 6, size=(80, 1)).astype(float)
    said = np.clip(gold + rng.integers(-1, 2, size=(80, 4)), 1, 5)
    said[:, 3] = rng.integers(1, 6, size=80)
    rest = [value(agreement_with_rest(said, i, "ordinal")) for i in range(4)]
    assert min(rest[:3]) > 0.3 > rest[3]
    gaps = [without_minus_with(said, i, "ordinal") for i in range(4)]
    assert gaps[3].low is not None and gaps[3].low > 0.3
    assert all(gap.low is not None and gap.low < 0 for gap in gaps[:3])
    # With two annotators nobody can say which of them is wrong.
    assert without_minus_with(said[:, :2], 0, "ordinal").value is None


def test_agreement_with_the_rest_is_alpha_for_two() -> None:
    said = np.array([[1, 1], [2, 3], [3, 3], [1, 2], [5, 5]], float)
    for level in LEVELS:
        expected = reference.alpha(said, level)
        assert value(agreement_with_rest(said, 0, level)) == pytest.approx(expected)
        assert value(agreement_with_rest(said, 1, level)) == pytest.approx(expected)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        fleiss_kappa([[0.5, 1.5]])
    with pytest.raises(ValueError, match="matrix"):
        krippendorff_alpha(np.zeros(3), "nominal")


def test_items_of_one_prompt_are_drawn_together() -> None:
    """Twenty prompts, each with five items that all annotators judge alike: five times the items, not the knowledge."""
    rng = np.random.default_rng(0)
    said = rng.integers(2, size=(20, 2)).astype(float)
    once = krippendorff_alpha(said, "nominal")
    alone = krippendorff_alpha(np.repeat(said, 5, axis=0), "nominal")
    together = krippendorff_alpha(np.repeat(said, 5, axis=0), "nominal", clusters_N=np.repeat(np.arange(20), 5))
    widths = [found.high - found.low for found in (once, alone, together)]  # type: ignore[operator]
    assert widths[1] < 0.6 * widths[0]
    assert widths[2] == pytest.approx(widths[0], rel=0.1)
