"""Bradley-Terry and Davidson: a published fit, closed forms, a reference of another method, and what has no answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.feedback.strength import Games, connectivity, fit_strengths

# Games won by row against column in the American League, 1987 (Agresti, Categorical Data Analysis, 2002, table 10.10).
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
WINS = (
    (0, 7, 9, 7, 7, 9, 11),
    (6, 0, 7, 5, 11, 9, 9),
    (4, 6, 0, 7, 7, 8, 12),
    (6, 8, 6, 0, 6, 7, 10),
    (6, 2, 6, 7, 0, 7, 12),
    (4, 4, 5, 6, 6, 0, 6),
    (2, 4, 1, 3, 1, 7, 0),
)  # fmt: skip
# As R's BradleyTerry2 gives them, Baltimore being 0, with the standard error of Boston's.
PUBLISHED = {"Boston": 1.1077, "Cleveland": 0.6839, "Detroit": 1.4364, "Milwaukee": 1.5814, "New York": 1.2476}
BOSTON_ERROR, Z = 0.3339, 1.959963984540054


def league() -> list[Games]:
    return [Games(i, j, WINS[i][j], WINS[j][i]) for i in range(7) for j in range(i)]


def hunter(games: list[Games], num_items: int) -> list[float]:
    """Bradley-Terry by minorisation (Hunter 2004, Annals of Statistics 32:384): no derivative, mean-free logits."""
    strength = [1.0] * num_items
    for _ in range(5000):
        won, met = [0.0] * num_items, [0.0] * num_items
        for game in games:
            i, j, n = game.first, game.second, game.wins_first + game.wins_second
            won[i] += game.wins_first
            won[j] += game.wins_second
            met[i] += n / (strength[i] + strength[j])
            met[j] += n / (strength[i] + strength[j])
        strength = [won[i] / met[i] for i in range(num_items)]
        mean = math.exp(sum(math.log(s) for s in strength) / num_items)
        strength = [s / mean for s in strength]
    return [math.log(s) for s in strength]


def davidson_loss(logits: np.ndarray, log_tie: float, games: list[Games]) -> float:
    """Minus the log-likelihood written down from the paper's probabilities, with strengths, not logits."""
    pi, nu, total = np.exp(logits), math.exp(log_tie), 0.0
    for game in games:
        root = math.sqrt(pi[game.first] * pi[game.second])
        whole = pi[game.first] + pi[game.second] + nu * root
        parts = ((game.wins_first, pi[game.first]), (game.wins_second, pi[game.second]), (game.ties, nu * root))
        total -= sum(number * math.log(part / whole) for number, part in parts if number)
    return total


def test_the_published_league() -> None:
    fit = fit_strengths(7, league())
    zero = TEAMS.index("Baltimore")
    for name, value in PUBLISHED.items():
        assert fit.difference(TEAMS.index(name), zero).value == pytest.approx(value, abs=6e-5)
    boston = fit.difference(TEAMS.index("Boston"), zero)
    assert (boston.high - boston.value) / Z == pytest.approx(BOSTON_ERROR, abs=6e-5)
    assert sum(s.value for s in fit.strengths) == pytest.approx(0, abs=1e-12) and fit.tie is None
    # Read the other way round, the table is another league.
    turned = fit_strengths(7, [Games(g.second, g.first, g.wins_first, g.wins_second) for g in league()])
    assert turned.difference(TEAMS.index("Boston"), zero).value == pytest.approx(-PUBLISHED["Boston"], abs=6e-5)


def test_two_items_in_closed_form() -> None:
    fit = fit_strengths(2, [Games(0, 1, 30, 10)])
    gap = fit.difference(0, 1)
    # log odds, and the sum of the counts' reciprocals as its variance.
    assert gap.value == pytest.approx(math.log(3), abs=1e-9)
    assert (gap.high - gap.value) / Z == pytest.approx(math.sqrt(1 / 30 + 1 / 10), rel=1e-7)
    assert fit.probability(0, 1) == pytest.approx(0.75) and fit.probability(1, 0) == pytest.approx(0.25)
    tied = fit_strengths(2, [Games(0, 1, 30, 10, 5)])
    # Setting Davidson's derivatives to 0: the ratio of strengths is the ratio of wins, v = ties / sqrt(wins * losses).
    assert tied.difference(0, 1).value == pytest.approx(math.log(3), abs=1e-9)
    assert tied.tie is not None and tied.tie.value == pytest.approx(5 / math.sqrt(300), abs=1e-9)
    assert tied.log_likelihood == pytest.approx(
        30 * math.log(30 / 45) + 10 * math.log(10 / 45) + 5 * math.log(5 / 45), abs=1e-9
    )


GAMES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), *[st.integers(0, 6)] * 3).filter(lambda g: g[0] != g[1]),
    min_size=4,
    max_size=10,
)


@given(GAMES)
@settings(max_examples=60, deadline=None)
def test_other_methods_find_no_better_fit(drawn: list[tuple[int, int, int, int, int]]) -> None:
    games = [Games(*game) for game in drawn]
    if not connectivity(4, games).is_identified or sum(g.wins_first + g.wins_second for g in games) == 0:
        return
    fit = fit_strengths(4, games)
    logits = np.array([s.value for s in fit.strengths])
    log_tie = math.log(fit.tie.value) if fit.tie else -math.inf
    best = davidson_loss(logits, log_tie if fit.tie else -60.0, games)
    assert -fit.log_likelihood == pytest.approx(best, rel=1e-6, abs=1e-6)
    rng = np.random.default_rng(0)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(8):
            step = rng.normal(size=4) * size
            tie = log_tie + rng.normal() * size if fit.tie else -60.0
            assert davidson_loss(logits + step, tie, games) >= best - 1e-9 * max(1.0, best)


def test_minorisation_agrees_and_a_changed_game_does_not() -> None:
    games = [Games(0, 1, 3, 1), Games(1, 2, 2, 4), Games(2, 3, 5, 2), Games(0, 3, 1, 1.5), Games(0, 2, 0.5, 2)]
    expected = hunter(games, 4)
    assert [s.value for s in fit_strengths(4, games).strengths] == pytest.approx(expected, abs=1e-7)
    other = [*games[:-1], Games(0, 2, 2, 0.5)]
    assert [s.value for s in fit_strengths(4, other).strengths] != pytest.approx(expected, abs=1e-2)


def test_the_covariance_is_the_inverse_of_the_curvature() -> None:
    games = [Games(0, 1, 8, 3, 2), Games(1, 2, 5, 6, 1), Games(0, 2, 4, 4, 3)]
    fit = fit_strengths(3, games)
    assert fit.tie is not None
    at = np.array([*(s.value for s in fit.strengths), math.log(fit.tie.value)])

    def loss(x: np.ndarray) -> float:
        return davidson_loss(x[:3], float(x[3]), games)

    h, unit = 1e-4, np.eye(4)
    curve = np.array(
        [
            [
                (loss(at + h * (a + b)) - loss(at + h * (a - b)) - loss(at - h * (a - b)) + loss(at - h * (a + b)))
                / (4 * h * h)
                for b in unit
            ]
            for a in unit
        ]
    )
    # Along (1, 1, 1, 0) nothing changes; the inverse on all other directions is the pseudo-inverse.
    expected = np.linalg.pinv(curve, rcond=1e-5)
    assert fit.covariance == pytest.approx(expected[:3, :3], abs=1e-5)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng, truth, hits = np.random.default_rng(5), 0.8, 0
    for _ in range(400):
        wins = rng.binomial(60, 1 / (1 + math.exp(-truth)))
        interval = fit_strengths(2, [Games(0, 1, wins, 60 - wins)]).difference(0, 1)
        hits += interval.low <= truth <= interval.high
    # 400 x 0.95 with four standard errors to either side.
    assert 362 <= hits <= 397


def test_what_is_not_identified_is_refused_unless_a_prior_holds_it() -> None:
    never_lost = [Games(0, 1, 3), Games(1, 2, 2, 1)]
    two_worlds = [Games(0, 1, 2, 1), Games(2, 3, 1, 1)]
    assert connectivity(3, never_lost).circular == ((0,), (1, 2)) and len(connectivity(3, never_lost).compared) == 1
    assert connectivity(4, two_worlds).compared == ((0, 1), (2, 3))
    # A tie is as good as a loss there.
    assert connectivity(2, [Games(0, 1, 3, 0, 1)]).is_identified
    for items, games in ((3, never_lost), (4, two_worlds)):
        with pytest.raises(ValueError, match="a prior gives them one"):
            fit_strengths(items, games)
        fit = fit_strengths(items, games, prior_sd=2.0)
        assert all(math.isfinite(s.low) and math.isfinite(s.high) for s in fit.strengths)
    held = fit_strengths(3, never_lost, prior_sd=2.0)
    looser = fit_strengths(3, never_lost, prior_sd=5.0)
    assert 0 < held.strengths[0].value < looser.strengths[0].value
    # With many games the prior has no say left.
    sure = [Games(0, 1, 3000, 1000)]
    assert fit_strengths(2, sure, prior_sd=2.0).difference(0, 1).value == pytest.approx(math.log(3), abs=1e-3)


@pytest.mark.parametrize(
    "game",
    [
        Games(0, 1, 0, 0, 4),
        Games(0, 1, -1, 2),
        Games(0, 1, float("nan"), 2),
        Games(0, 2, 1, 1),
        Games(1, 1, 2),
    ],
)
def test_games_that_cannot_be(game: Games) -> None:
    for games in ([game], []):
        with pytest.raises(ValueError, match=r"no game was decided|between two of items 0 to 1"):
            fit_strengths(2, games, prior_sd=1.0)


def test_lopsided_weights_converge() -> None:
    games = [(0, 1, 1e6, 1e-3), (1, 2, 1.0, 1.0), (0, 2, 1e-3, 1e-3)]

    def unexplained(logits: np.ndarray) -> np.ndarray:
        """Wins less expected wins of the first two items, the third being at 0: zero at the maximum."""
        full, out = np.append(logits, 0.0), np.zeros(3)
        for i, j, won, lost in games:
            expected = (won + lost) / (1 + np.exp(full[j] - full[i]))
            out[i] += won - expected
            out[j] -= won - expected
        return out[:2]

    import scipy.optimize

    at = scipy.optimize.root(unexplained, [20.7, 0.0], tol=1e-12).x
    fit = fit_strengths(3, [Games(*game) for game in games])
    assert fit.difference(0, 1).value == pytest.approx(at[0] - at[1], abs=1e-6)


def test_weights_far_apart_end_in_words_or_in_an_interval_with_a_width() -> None:
    for weights in ((1e-9, 1.0, 1e9), (1e-300, 1.0, 1e300), (1e-6, 1e6, 1.0), (1e-4, 1e4, 1.0)):
        ring = [Games(i, (i + 1) % 3, wins_first=weight) for i, weight in enumerate(weights)]
        try:
            fit = fit_strengths(3, ring)
        except ValueError as error:
            assert "too uneven" in str(error)
        else:
            assert all(one.low < one.value < one.high for one in fit.strengths)
