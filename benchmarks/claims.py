"""The comparative claims of the FOCAL paper as data, and the rule by which records judge them.

Li, Yang and Luo, ICLR 2021. A claim says that one side is better than the other over some meta-environments. It is
decided by an exact Mann-Whitney test over these, two-sided, at 5 % after Holm's rule over all claims: where methods are
equal, the probability that any verdict errs is at most 5 %. Pictures of embeddings decide nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from omrlbench.config import resolve
from omrlbench.record import RunRecord
from omrlbench.significance import SIGNIFICANCE, exact_p, holm, smallest_p
from omrlbench.stats import Estimate, probability_of_improvement, score_matrix, wins
from omrlbench.verification import Results

BUDGET = "cpu"
LEAST_SEEDS = 5  # on each side
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
INCONCLUSIVE, NOT_YET_RUN = "inconclusive", "not yet run"


def separation(record: RunRecord) -> float | None:
    """Effective separation rate of the training tasks' embeddings at the last point of the curve, 0 without a point.

    None where the record does not tell.
    """
    points = [point.get("embedding") for point in record.result["curve"][-1:]]
    if not points:
        return 0.0
    embedding = points[0] and points[0]["train"]
    return embedding["effective_separation_rate"] if embedding else None


MEASURES: dict[str, Callable[[RunRecord], float | None]] = {
    "score": lambda record: record.result["score"],
    "effective separation rate": separation,
}


class Side(NamedTuple):
    """A method; without `level` on each meta-environment's default data. `changes` are those of `--set`."""

    algo: str
    level: str | None = None
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        remarks = [*([f"{self.level} data"] if self.level else []), *self.changes]
        return self.algo + (f" ({', '.join(remarks)})" if remarks else "")


@dataclass(frozen=True)
class Claim:
    """`better` is larger than `worse` by `measure`, in these meta-environments taken together."""

    better: Side
    worse: Side
    envs: tuple[str, ...]
    where: str  # in the paper
    measure: str = "score"


WITH_REWARDS = ("sparse_point_robot", "cheetah_vel", "cheetah_fwd_back", "ant_fwd_back")  # that differ between tasks
WITH_DYNAMICS = ("point_robot_wind", "walker_params")
ALL = WITH_REWARDS + WITH_DYNAMICS
SHOWN_FOR_ALL = ALL[1:]  # the paper leaves Contextual BCQ and MBML out on the sparse point robot
ONE_OF_EACH = ("cheetah_vel", "walker_params")
VALUE_PENALTY = ("regularization=both",)  # Eq. 8 and 9 have the divergence in both losses
POLICY_ALONE = ("regularization=policy", "alpha=10")  # with the weight that policy regularisation has elsewhere
FOCAL, INVERSE, LINEAR, SQUARE = map(Side, ("focal", "focal_inverse", "focal_linear", "focal_square"))

CLAIMS = (
    Claim(FOCAL, Side("batch_pearl"), ALL, "5.1, Figures 3 and 6"),
    Claim(FOCAL, Side("contextual_bcq"), SHOWN_FOR_ALL, "5.1, Figures 3 and 6"),
    Claim(FOCAL, Side("mbml"), SHOWN_FOR_ALL, "5.1, Figures 3 and 6"),
    Claim(FOCAL, Side("batch_pearl_brac"), ONE_OF_EACH, "5.1, Figure 4b"),
    Claim(Side("batch_pearl_brac"), Side("batch_pearl"), ONE_OF_EACH, "5.1, Figure 4b"),
    Claim(FOCAL, Side("focal_probabilistic"), ONE_OF_EACH, "5.2.2, Figure 4b"),
    Claim(FOCAL, LINEAR, ("cheetah_vel",), "5.2.1, Figure 2b"),
    Claim(FOCAL, SQUARE, ("cheetah_vel",), "5.2.1, Figure 2b"),
    Claim(INVERSE, LINEAR, ("cheetah_vel",), "5.2.1, Figure 2b"),
    Claim(INVERSE, SQUARE, ("cheetah_vel",), "5.2.1, Figure 2b"),
    Claim(FOCAL, INVERSE, ("cheetah_vel",), "Appendix D.1, Figure 2b"),
    Claim(FOCAL, LINEAR, ("cheetah_vel",), "5.2.1, Table 1", "effective separation rate"),
    Claim(FOCAL, SQUARE, ("cheetah_vel",), "5.2.1, Table 1", "effective separation rate"),
    Claim(INVERSE, LINEAR, ("cheetah_vel",), "5.2.1, Table 1", "effective separation rate"),
    Claim(INVERSE, SQUARE, ("cheetah_vel",), "5.2.1, Table 1", "effective separation rate"),
    Claim(
        Side("focal", changes=VALUE_PENALTY),
        Side("focal_coupled", changes=VALUE_PENALTY),
        ("walker_params",),
        "5.2.3, Figure 5b",
    ),
    Claim(
        Side("focal_coupled", changes=POLICY_ALONE),
        Side("focal", changes=POLICY_ALONE),
        ("walker_params",),
        "Appendix E.2, Figure 9b",
    ),
    Claim(Side("focal", "mixed"), Side("focal", "expert"), ("ant_fwd_back", "walker_params"), "5.1, Table 2"),
)


@dataclass(frozen=True)
class Verdict:
    """`status` and why; `p` is adjusted, None where not tested; `improvement` is P(better > worse)."""

    status: str
    reason: str
    p: float | None
    improvement: Estimate | None = None


Sample = tuple[np.ndarray, np.ndarray]  # (n, columns) of the better side and (m, columns) of the worse


def judge_claims(results: Results, claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """The verdict on each of `claims`, adjusted for all of them."""
    samples = [(rows(claim.better, claim, results), rows(claim.worse, claim, results)) for claim in claims]
    verdicts = []
    for claim, verdict, (x, y) in zip(claims, judge(samples), samples, strict=True):
        if verdict.status == NOT_YET_RUN:
            missing = [str(side) for side, found in ((claim.better, x), (claim.worse, y)) if not len(found)]
            verdicts.append(replace(verdict, reason=f"no complete seed of {' and '.join(missing)}"))
        else:
            verdicts.append(replace(verdict, improvement=probability_of_improvement(x, y)))
    return verdicts


def rows(side: Side, claim: Claim, results: Results) -> np.ndarray:
    """The measure of the seeds of `side` that have run in every meta-environment of `claim`, (seeds, columns)."""
    return score_matrix({env: measured(side, env, claim.measure, results) for env in claim.envs}).rows


def measured(side: Side, env: str, measure: str, results: Results) -> dict[int, float]:
    """By seed, the measure of the runs of `side` in `env` that tell it."""
    runs = results.runs.get(cell_folder(side, env), {})
    values = {seed: MEASURES[measure](run) for seed, run in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def cell_folder(side: Side, env: str) -> Path:
    """Of the records, below the results folder."""
    config = resolve(env, side.algo, level=side.level, budget=BUDGET, overrides=side.changes)
    return config.record_path("").parent


def judge(samples: Sequence[Sample]) -> list[Verdict]:
    """The verdict on each claim whose runs are `samples`; claims without enough of them count with p = 1."""
    p_values = [exact_p(x, y) if enough(x, y) else 1.0 for x, y in samples]
    verdicts = []
    for place, ((x, y), p) in enumerate(zip(samples, holm(p_values), strict=True)):
        status = decide(x, y, p)
        reason = why_inconclusive(samples, p_values, place) if status == INCONCLUSIVE else ""
        verdicts.append(Verdict(status, reason, p if enough(x, y) else None))
    return verdicts


def enough(x: np.ndarray, y: np.ndarray) -> bool:
    return min(len(x), len(y)) >= LEAST_SEEDS


def decide(x: np.ndarray, y: np.ndarray, p: float) -> str:
    if not (len(x) and len(y)):
        return NOT_YET_RUN
    if p >= SIGNIFICANCE:
        return INCONCLUSIVE
    return REPRODUCED if wins(x, y) > 0.5 else NOT_REPRODUCED


def why_inconclusive(samples: Sequence[Sample], p_values: Sequence[float], place: int) -> str:
    x, y = samples[place]
    if not enough(x, y):
        return f"fewer than {LEAST_SEEDS} seeds on a side"
    clearest = holm([*p_values[:place], smallest_p(len(x), len(y), x.shape[1]), *p_values[place + 1 :]])[place]
    if clearest >= SIGNIFICANCE:
        return f"so few seeds decide nothing: the clearest difference would have p = {clearest:.2g}"
    return "no clear difference"
