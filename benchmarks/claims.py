"""Comparative claims of papers as data, and the rule by which records judge them.

A claim says that one side is better than the other over some meta-environments. It is decided by an exact Mann-Whitney
test over these, two-sided, at 5 % after Holm's rule over all claims of its paper: where methods are equal, the
probability that any verdict about a paper errs is at most 5 %. Pictures of embeddings decide nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from omrlbench.config import resolve
from omrlbench.record import RunRecord
from omrlbench.registry import kind
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


def self_collected_less_logged(record: RunRecord) -> float | None:
    """What the score of the final parameters gains by self-collected contexts, negative for a loss.

    None where the record does not tell, and of a diverged run, which has no final parameters.
    """
    collected, logged = (record.last_evaluation(protocol) for protocol in ("online", "offline"))
    return collected["score"] - logged["score"] if collected and logged else None


MEASURES: dict[str, Callable[[RunRecord], float | None]] = {
    "score": lambda record: record.result["score"],
    "effective separation rate": separation,
    "score with self-collected contexts": lambda record: record.final_score("online"),
    "score with self-collected contexts less that with logged ones": self_collected_less_logged,
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

    def __str__(self) -> str:
        mark = "" if kind(self.better.algo) == kind(self.worse.algo) else " §"
        return f"{self.better} > {self.worse}{mark}"


@dataclass(frozen=True)
class Paper:
    """Its claims that the suites test, which are a family for Holm's rule; `tested` says how they were chosen."""

    name: str
    authors: str
    title: str
    venue: str
    tested: str
    claims: tuple[Claim, ...]


WITH_REWARDS = ("sparse_point_robot", "cheetah_vel", "cheetah_fwd_back", "ant_fwd_back")  # that differ between tasks
WITH_DYNAMICS = ("point_robot_wind", "walker_params")
ALL = WITH_REWARDS + WITH_DYNAMICS
SHOWN_FOR_ALL = ALL[1:]  # the paper leaves Contextual BCQ and MBML out on the sparse point robot
ONE_OF_EACH = ("cheetah_vel", "walker_params")
VALUE_PENALTY = ("regularization=both",)  # Eq. 8 and 9 have the divergence in both losses
POLICY_ALONE = ("regularization=policy", "alpha=10")  # with the weight that policy regularisation has elsewhere
FOCAL, INVERSE, LINEAR, SQUARE = map(Side, ("focal", "focal_inverse", "focal_linear", "focal_square"))

OF_FOCAL = (
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

OF_SUITES = ("sparse_point_robot", "cheetah_vel", "walker_params")  # rac, rac_expert, single_task and online
MERPO, COMBO, RAC = map(Side, ("merpo", "single_task_combo", "rac"))
UNKNOWN = "experiments, section unknown"

OF_MERPO = (
    Claim(Side("single_task_td3_bc", "expert"), Side("focal", "expert"), OF_SUITES, "Abstract"),
    Claim(Side("single_task_combo", "expert"), Side("focal", "expert"), OF_SUITES, UNKNOWN),
    Claim(MERPO, COMBO, OF_SUITES, UNKNOWN),
    Claim(MERPO, FOCAL, OF_SUITES, "Abstract"),
    Claim(MERPO, Side("mbml"), OF_SUITES, "Abstract"),
    Claim(MERPO, Side("batch_pearl"), OF_SUITES, "Abstract"),
    Claim(MERPO, Side("contextual_bcq"), OF_SUITES, "Abstract"),
    Claim(RAC, COMBO, OF_SUITES, UNKNOWN),
    Claim(Side("rac_random"), COMBO, OF_SUITES, UNKNOWN),
    Claim(RAC, Side("rac_no_meta"), OF_SUITES, "best alpha 0.4, section unknown"),
)

GAP = "score with self-collected contexts less that with logged ones"
SMAC, SMAC_OFFLINE = Side("smac", "mixed"), Side("smac_offline", "mixed")
AS_MANY_UPDATES = Side("smac_offline", "mixed", ("steps=10000",))  # as both phases of `smac` have
OF_SMAC = (
    Claim(SMAC, SMAC_OFFLINE, ONE_OF_EACH, "Abstract", "score with self-collected contexts"),
    Claim(SMAC, SMAC_OFFLINE, ("cheetah_vel",), "Abstract", GAP),
    Claim(SMAC, AS_MANY_UPDATES, ONE_OF_EACH, "not claimed there", "score with self-collected contexts"),
)

AS_MANY_AS_PEARL = Side("batch_pearl", changes=("steps=30000", "eval_interval=1500"))
OF_PEARL = (
    Claim(Side("pearl"), Side("batch_pearl"), OF_SUITES, "not claimed there", "score with self-collected contexts"),
    Claim(Side("pearl"), AS_MANY_AS_PEARL, ("cheetah_vel",), "not claimed there", "score with self-collected contexts"),
)

PAPERS = (
    Paper(
        "FOCAL",
        "Li, Yang and Luo",
        "FOCAL: Efficient Fully-Offline Meta-Reinforcement Learning via Distance Metric Learning and Behavior "
        "Regularization",
        "ICLR 2021",
        "Every claim is tested in the meta-environments where the paper makes it, at the level of data that the paper "
        "chose unless another is named. Those of Figure 2 and Table 1 are tested with 20 latent dimensions and policy "
        "regularisation, where the paper has 5 and the value penalty. Of coupled gradients Appendix E.2 says that they "
        "may be better, here that they are. Values depend on the meta-environment and not on the level: those of "
        "ant_fwd_back and walker_params were chosen on mixed data, which helps the claim about levels.",
        OF_FOCAL,
    ),
    Paper(
        "MerPO",
        "Lin, Wan, Xu, Liang and Zhang",
        "Model-Based Offline Meta-Reinforcement Learning with Regularization",
        "ICLR 2022",
        "Of its meta-environments the suites with these methods have walker_params alone, so the claims are tested "
        "in all that these suites have, those about good data with data of experts; on walker_params these runs came "
        "after the others, and the claims were extended to it before any was looked at, with values that were chosen "
        "on mixed data. The abstract claims that of single-task methods without naming one: here that is the best of "
        "them on validation tasks of cheetah_vel, by 0.003 in one seed. RAC was compared on D4RL there. Only the "
        "abstract and summaries by others were at hand, so other places in the paper are unknown. At this budget "
        "COMBO is short of updates on cheetah_vel, so that to be better than it there means little; its weight of "
        "the conservative term is 5 where that of RAC and MerPO is 0.5, each by its own trials, and RAC with a "
        "learned meta-policy starts from it too. With a meta-policy and without, the likelihood of logged actions "
        "has the same weight with experts' data, and 0.4 against 1 on walker_params, each by its own trials.",
        OF_MERPO,
    ),
    Paper(
        "SMAC",
        "Pong, Nair, Smith, Huang and Levine",
        "Offline Meta-Reinforcement Learning with Online Self-Supervision",
        "ICML 2022",
        "Tested in the meta-environments that it has too, on data of many policies as its own are: interaction "
        "without rewards makes the policy better with contexts that it collects itself, and closes the gap to logged "
        "ones. The second claim is tested where there is a gap to close: walker_params asks for no adaptation, "
        "contexts serve nearly alike there. A gap also closes where logged contexts serve worse than before, so the "
        "second claim is to be read with the first; that it leaves out walker_params was decided after some of the "
        "runs there were seen. The third is ours and asks whether more updates on logs alone would do: the second "
        "phase has as many again. That SMAC matches online meta-reinforcement learning is not judged: no test of a "
        "difference shows equality.",
        OF_SMAC,
    ),
    Paper(
        "PEARL",
        "Rakelly, Zhou, Quillen, Finn and Levine",
        "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables",
        "ICML 2019",
        "It claims to be better than on-policy methods, which the suite does not have. What can be judged is not "
        "claimed there: that learning from interaction is worth more than learning from logs without regularisation. "
        "PEARL has the updates that its collection asks for, five or six times as many as Batch PEARL; the second "
        "claim gives that as many, in one meta-environment.",
        OF_PEARL,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """`status` and why; `p` is adjusted, None where not tested.

    `improvement` is P(better > worse) in all meta-environments together, `in_each` by itself, in their order.
    """

    status: str
    reason: str
    p: float | None
    improvement: Estimate | None = None
    in_each: tuple[float, ...] = ()


Sample = tuple[np.ndarray, np.ndarray]  # (n, columns) of the better side and (m, columns) of the worse


def judge_claims(results: Results, claims: Sequence[Claim]) -> list[Verdict]:
    """The verdict on each of `claims`, those of one paper, adjusted for all of them."""
    samples = [(rows(claim.better, claim, results), rows(claim.worse, claim, results)) for claim in claims]
    verdicts = []
    for claim, verdict, (x, y) in zip(claims, judge(samples), samples, strict=True):
        if verdict.status == NOT_YET_RUN:
            missing = [str(side) for side, found in ((claim.better, x), (claim.worse, y)) if not len(found)]
            verdicts.append(replace(verdict, reason=f"no complete seed of {' and '.join(missing)}"))
        else:
            in_each = tuple(wins(x[:, [k]], y[:, [k]]) for k in range(len(claim.envs)))
            verdicts.append(replace(verdict, improvement=probability_of_improvement(x, y), in_each=in_each))
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
