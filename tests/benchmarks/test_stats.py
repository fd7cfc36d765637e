"""Statistics against slow plain forms, rliable's own metrics, and values worked out by hand."""

from itertools import combinations, product

import numpy as np
import pytest
from rliable import metrics
from scipy.stats import mannwhitneyu, rankdata

from omrlbench.errors import BenchError
from omrlbench.significance import exact_p, holm, smallest_p
from omrlbench.stats import (
    Estimate,
    aggregates,
    mean_interval,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    score_matrix,
    simulated_coverage,
)

GENERATOR = np.random.default_rng(7)
X, Y = GENERATOR.normal(0.6, 0.2, (5, 3)), GENERATOR.normal(0.4, 0.2, (4, 3))


def plain_iqm(rows):
    """The mean of the pooled scores without the lowest and the highest quarter."""
    pooled = sorted(score for row in rows for score in row)
    cut = int(0.25 * len(pooled))
    kept = pooled[cut : len(pooled) - cut]
    return sum(kept) / len(kept)


def plain_wins(first, second):
    """The share of pairs that `first` wins, mean over columns."""
    columns = [(list(a), list(b)) for a, b in zip(zip(*first, strict=True), zip(*second, strict=True), strict=True)]
    shares = [[1.0 if a > b else 0.5 if a == b else 0.0 for a in one for b in other] for one, other in columns]
    return sum(sum(share) / len(share) for share in shares) / len(shares)


def plain_interval(statistic, *samples, repetitions=1000):
    """Every column's seeds drawn again with replacement; the middle 95 % of the statistic."""
    generator, values = np.random.default_rng(3), []
    for _ in range(repetitions):
        again = [
            np.array([[rows[generator.integers(len(rows))][c] for c in range(rows.shape[1])] for _ in rows])
            for rows in samples
        ]
        values.append(statistic(*again))
    values.sort()
    return values[int(0.025 * repetitions)], values[int(0.975 * repetitions)]


def test_values_are_rliables():
    found = aggregates(X)
    assert found["IQM"].value == pytest.approx(plain_iqm(X), abs=1e-12)
    functions = {
        "IQM": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "mean": metrics.aggregate_mean,
        "optimality gap": metrics.aggregate_optimality_gap,
    }
    for scores in (X, X[:, :2], X[:2], 2 * X):
        for name, estimate in aggregates(scores).items():
            assert estimate.value == pytest.approx(float(functions[name](scores)), abs=1e-12), name
    assert probability_of_improvement(X, Y).value == pytest.approx(metrics.probability_of_improvement(X, Y), abs=1e-12)


def test_values_worked_out_by_hand():
    scores = np.array([[0.0, 1.0], [0.2, 1.4]])
    found = {name: estimate.value for name, estimate in aggregates(scores).items()}
    assert found == pytest.approx({"IQM": 0.6, "median": 0.65, "mean": 0.65, "optimality gap": 0.45})
    interval = mean_interval([1.0, 2.0, 3.0])  # t = 4.302653 at 2 degrees of freedom, standard error 1 / sqrt(3)
    assert (interval.value, interval.high) == pytest.approx((2.0, 2 + 4.302653 / 3**0.5), abs=1e-6)
    profile = performance_profile(np.array([[0.1, 0.5], [0.5, 0.9]]), np.array([0.0, 0.1, 0.5, 0.9]))
    assert [estimate.value for estimate in profile] == [1.0, 0.75, 0.25, 0.0]
    assert probability_of_improvement([[1.0], [2.0]], [[1.0], [0.0]]).value == 0.875


def test_intervals_are_those_of_a_slow_bootstrap():
    above = performance_profile(X, np.array([0.6]))[0]
    for estimate, (low, high), steps in (
        (aggregates(X)["IQM"], plain_interval(plain_iqm, X), 0),
        (probability_of_improvement(X, Y), plain_interval(plain_wins, X, Y), 0),
        (above, plain_interval(lambda rows: (rows > 0.6).mean(), X), 1 / X.size),  # a share moves in steps
    ):
        assert low < estimate.value < high
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.03 + steps)


def test_equal_input_gives_equal_numbers_and_leaves_the_global_generator_alone():
    before = np.random.get_state()
    first = aggregates(X), probability_of_improvement(X, Y), performance_profile(X, np.array([0.5]))
    after = np.random.get_state()
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    np.random.seed(99)
    assert first == (aggregates(X), probability_of_improvement(X, Y), performance_profile(X, np.array([0.5])))
    np.random.set_state(before)


def test_one_run_has_no_interval_and_n_is_kept():
    assert mean_interval([0.3]) == Estimate(0.3, None, None, (1,))
    assert aggregates(X[:1])["IQM"].low is None and aggregates(X)["IQM"].n == (5,)
    assert probability_of_improvement(X, Y[:1]).high is None and probability_of_improvement(X, Y).n == (5, 4)


@pytest.mark.parametrize("function", [aggregates, lambda scores: exact_p(scores, scores)])
@pytest.mark.parametrize(
    "scores, message",
    [
        ([[0.1, np.nan], [0.2, 0.3]], "NaN or infinity"),
        ([[0.1, np.inf]], "NaN or infinity"),
        ([[0.1], [0.2, 0.3]], "ragged"),
        ([0.1, 0.2], "need 2 dimensions"),
        (np.empty((0, 3)), "at least one run"),
    ],
)
def test_unfit_scores_are_refused_in_one_line(function, scores, message):
    with pytest.raises(BenchError, match=message) as caught:
        function(scores)
    assert "\n" not in str(caught.value)
    with pytest.raises(BenchError, match="the same columns"):
        probability_of_improvement(X, Y[:, :2])


def test_holes_are_explicit_and_only_whole_rows_enter_an_aggregate():
    matrix = score_matrix({"a": {0: 0.1, 1: 0.2, 7: 0.9}, "b": {1: 0.4, 0: 0.3}}, promised=range(3))
    assert matrix.seeds == (0, 1, 2, 7)
    assert matrix.holes == [(2, "a"), (2, "b"), (7, "b")]
    assert matrix.rows.tolist() == [[0.1, 0.3], [0.2, 0.4]]
    assert score_matrix({"a": {}, "b": {0: 1.0}}).rows.shape == (0, 2)
    with pytest.raises(BenchError, match="NaN"):
        score_matrix({"a": {0: np.nan}})


def test_differences_are_paired_over_the_seeds_that_both_have():
    gap = paired_difference({0: 0.9, 1: 0.8, 2: 0.5}, {0: 0.5, 1: 0.3, 9: 0.0})
    assert gap.n == (2,) and gap.value == pytest.approx(0.45)
    assert paired_difference({0: 0.9}, {1: 0.5}) is None


def test_simulated_coverage_is_below_the_nominal_one_and_grows_with_seeds():
    few, more = simulated_coverage(3, (0.0,), (1.0,)), simulated_coverage(10, (0.0,) * 6, (1.0,) * 6)
    assert all(0.65 < few[metric] < 0.82 for metric in ("IQM", "median", "mean"))
    assert all(0.90 < share < 0.99 for share in more.values())


def test_simulated_coverage_of_the_iqm_is_lower_where_columns_differ():
    means, deviations = (0.93, 0.95, 0.97, 0.97, 0.38, 0.62, 0.69), (0.01, 0.01, 0.01, 0.01, 0.08, 0.05, 0.04)
    held = simulated_coverage(5, means, deviations)
    assert held["IQM"] < 0.80 < held["mean"] < 0.93


def plain_p(x, y):
    """All ways to share out the runs of each column between the two sides."""
    columns = [np.concatenate(pair) for pair in zip(np.transpose(x), np.transpose(y), strict=True)]
    ranks = [rankdata(column) for column in columns]
    observed = sum(r[: len(x)].sum() for r in ranks)
    sums = [[sum(chosen) for chosen in combinations(r, len(x))] for r in ranks]
    totals = np.array([sum(one) for one in product(*sums)])
    return np.mean(abs(totals - totals.mean()) >= abs(observed - totals.mean()) - 1e-9)


def test_p_values_are_those_of_all_permutations():
    tied_x, tied_y = np.array([[0.0, 0.5], [0.0, 0.7], [0.4, 0.5]]), np.array([[0.0, 0.1], [0.9, 0.5], [0.9, 0.2]])
    assert exact_p(tied_x, tied_y) == pytest.approx(plain_p(tied_x, tied_y), abs=1e-12)
    assert exact_p(X[:3], Y[:3]) == pytest.approx(plain_p(X[:3], Y[:3]), abs=1e-12)
    assert exact_p(X[:, :1], Y[:, :1]) == pytest.approx(
        mannwhitneyu(X[:, 0], Y[:, 0], method="exact").pvalue, abs=1e-12
    )
    assert exact_p(X, X) == pytest.approx(1.0)
    assert smallest_p(5, 5, 1) == pytest.approx(2 / 252) and smallest_p(3, 3, 2) == pytest.approx(2 / 400)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
