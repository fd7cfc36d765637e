"""What the scores of several seeds say: intervals, aggregates, profiles. docs/statistics.md has the rules.

Scores are (seeds, columns): one number per trained agent; columns are meta-environments, never the held-out tasks of
one agent. Intervals of aggregates are percentiles of rliable's stratified bootstrap. It draws from numpy's global
generator, which is seeded before and put back after. Raises BenchError at unfit scores.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from omrlbench.errors import BenchError

CONFIDENCE = 0.95
RESAMPLES = 2_000  # the ends of an interval of width 0.15 then vary by 0.004 with the seed of the bootstrap
METRICS = ("IQM", "median", "mean", "optimality gap")


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, without ends where one run tells nothing of the spread; `n` runs per side."""

    value: float
    low: float | None
    high: float | None
    n: tuple[int, ...]


@dataclass(frozen=True)
class ScoreMatrix:
    """The scores of one method, `values` (seeds, columns), NaN where there is no run."""

    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    values: np.ndarray

    @property
    def holes(self) -> list[tuple[int, str]]:
        """(seed, column) of every missing run."""
        return [(self.seeds[row], self.columns[column]) for row, column in np.argwhere(np.isnan(self.values))]

    @property
    def rows(self) -> np.ndarray:
        """Of the seeds that have a run in every column, (complete seeds, columns): what an aggregate may use."""
        return self.values[~np.isnan(self.values).any(1)]


def score_matrix(scores: Mapping[str, Mapping[int, float]], promised: Iterable[int] = ()) -> ScoreMatrix:
    """From column -> seed -> score; a row for every seed with a run, and for those `promised`."""
    seeds = tuple(sorted({*promised, *(seed for runs in scores.values() for seed in runs)}))
    values = np.full((len(seeds), len(scores)), np.nan)
    for column, runs in enumerate(scores.values()):
        if runs:
            values[[seeds.index(seed) for seed in runs], column] = checked(list(runs.values()), dimensions=1)
    return ScoreMatrix(seeds, tuple(scores), values)


def checked(scores: ArrayLike, dimensions: int = 2) -> np.ndarray:
    """`scores` as an array. Raises BenchError where they are ragged, none, or not all finite."""
    try:
        array = np.asarray(scores, float)
    except ValueError:
        raise BenchError("scores are ragged: leave out the rows that miss a column") from None
    if array.ndim != dimensions or array.size == 0:
        raise BenchError(f"scores need {dimensions} dimensions and at least one run, not the shape {array.shape}")
    if not np.isfinite(array).all():
        raise BenchError("scores hold NaN or infinity: give a diverged run its floor score, leave a missing one out")
    return array


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean of `values` (n,) with Student's t interval."""
    from scipy.stats import t

    values = checked(values, dimensions=1)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(mean, None, None, (1,))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, (n,))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """`mean_interval` of first - second over the seeds (keys) that both have, None where there are none."""
    seeds = sorted(first.keys() & second.keys())
    return mean_interval([first[seed] - second[seed] for seed in seeds]) if seeds else None


def aggregates(scores: ArrayLike) -> dict[str, Estimate]:
    """The `METRICS` of `scores` (n, columns). The median is that of column means, the optimality gap that to 1."""
    return dict(zip(METRICS, _bootstrap(_aggregates, scores), strict=True))


def _aggregates(scores: np.ndarray) -> np.ndarray:
    """The `METRICS` of scores (..., n, columns), (4, ...): as rliable.metrics, in a tenth of the time."""
    pooled, means = scores.reshape(*scores.shape[:-2], -1), np.sort(scores.mean(-2))
    size, columns = pooled.shape[-1], means.shape[-1]
    iqm = np.sort(pooled)[..., size // 4 : size - size // 4].mean(-1)
    median = means[..., (columns - 1) // 2 : columns // 2 + 1].mean(-1)
    return np.stack([iqm, median, means.mean(-1), 1 - np.minimum(pooled, 1).mean(-1)])


def performance_profile(scores: ArrayLike, thresholds: np.ndarray) -> list[Estimate]:
    """The share of the runs `scores` (n, columns) above each of `thresholds` (k,)."""
    return _bootstrap(lambda sample: (sample.reshape(-1, 1) > thresholds).mean(0), scores)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Estimate:
    """`wins` with its interval."""
    return _bootstrap(lambda a, b: np.array([wins(a, b)]), x, y)[0]


def wins(x: np.ndarray, y: np.ndarray) -> float:
    """P(X > Y) + P(X = Y) / 2 of runs `x` (n, columns) and `y` (m, columns), mean over columns."""
    return float(np.sign(x[:, None] - y).mean() + 1) / 2


def _bootstrap(function: Callable[..., np.ndarray], *samples: ArrayLike) -> list[Estimate]:
    """The numbers (k,) that `function` makes of the samples, with intervals."""
    from rliable.library import get_interval_estimates

    arrays = [checked(sample) for sample in samples]
    if len({array.shape[1] for array in arrays}) > 1:
        raise BenchError("methods are compared in the same columns only")
    n = tuple(map(len, arrays))
    if 1 in n:
        return [Estimate(float(value), None, None, n) for value in function(*arrays)]
    state = np.random.get_state()
    np.random.seed(0)
    try:
        points, ends = get_interval_estimates({"": arrays if arrays[1:] else arrays[0]}, function, reps=RESAMPLES)
    finally:
        np.random.set_state(state)
    return [Estimate(*map(float, numbers), n) for numbers in zip(points[""], *ends[""], strict=True)]


@cache
def simulated_coverage(
    n: int, means: tuple[float, ...], deviations: tuple[float, ...], simulations: int = 400, resamples: int = 400
) -> dict[str, float]:
    """How often the intervals of the `METRICS` hold the true value, for n seeds of normal scores.

    means, deviations (columns,): of the scores in each column.
    """
    generator = np.random.default_rng(0)
    true = _aggregates(generator.normal(means, deviations, (100_000, len(means))))
    held = np.zeros(len(METRICS))
    for _ in range(simulations):
        scores = generator.normal(means, deviations, (1, n, len(means)))
        drawn = np.take_along_axis(scores, generator.integers(n, size=(resamples, n, len(means))), 1)
        low, high = np.quantile(_aggregates(drawn), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), axis=-1)
        held += (low <= true) & (true <= high)
    return dict(zip(METRICS, (held / simulations).tolist(), strict=True))
