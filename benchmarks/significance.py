"""Whether two methods differ: exact p values of few runs, and Holm's rule for many comparisons."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from omrlbench.stats import checked

SIGNIFICANCE = 0.05  # a p below it counts


def exact_p(x: ArrayLike, y: ArrayLike) -> float:
    """Two-sided p of runs `x` (n, columns) and `y` (m, columns) being alike.

    The Mann-Whitney test of each column, their rank sums added up; the null distribution is exact, ties included: all
    ways to share out the runs of each column between the two sides.
    """
    from scipy.stats import rankdata

    x, y = checked(x), checked(y)
    ranks = (2 * rankdata(np.concatenate([x, y]), axis=0)).astype(int)  # doubled, so that ties have whole numbers
    null = _null_distribution(tuple(tuple(sorted(column)) for column in ranks.T.tolist()), len(x))
    centre = ranks.shape[1] * len(x) * (len(x) + len(y) + 1)
    extreme = abs(np.arange(len(null)) - centre) >= abs(ranks[: len(x)].sum() - centre)
    return float(min(1.0, null[extreme].sum()))


@cache
def _null_distribution(columns: tuple[tuple[int, ...], ...], n: int) -> np.ndarray:
    """Probability of every sum of ranks of the n runs of one side, over all columns."""
    total = np.ones(1)
    for ranks in columns:
        ways = np.zeros((n + 1, sum(ranks) + 1))  # to choose so many runs with this sum
        ways[0, 0] = 1
        for rank in ranks:
            ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
        total = np.convolve(total, ways[n] / ways[n].sum())
    return total


def smallest_p(n: int, m: int, columns: int) -> float:
    """The p of the clearest difference that n and m runs in each of so many columns can show."""
    return exact_p(np.ones((n, columns)), np.zeros((m, columns)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, adjusted by Holm's step-down rule for there being several."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()
