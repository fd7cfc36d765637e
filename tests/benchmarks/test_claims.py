"""The rule that judges the papers' claims: what it decides, and how seldom it errs where methods are equal."""

from dataclasses import replace

import numpy as np
import pytest

from omrlbench import claims, training
from omrlbench.claims import MEASURES, PAPERS, Claim, Side, judge, judge_claims, separation
from omrlbench.config import resolve
from omrlbench.record import RunRecord
from omrlbench.suite import suite_cells
from omrlbench.verification import Results

ENV = "sparse_point_robot"


def statuses(*samples):
    return [verdict.status for verdict in judge(samples)]


def sample(first, second):
    return np.array(first, float)[:, None], np.array(second, float)[:, None]


LOW, HIGH = [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]


def test_direction_and_clearness_decide():
    assert statuses(sample(HIGH, LOW)) == ["reproduced"]
    assert statuses(sample(LOW, HIGH)) == ["not reproduced"]
    assert statuses(sample(LOW, LOW)) == ["inconclusive"]
    assert statuses(sample(HIGH, []), sample([], [])) == ["not yet run"] * 2


def test_no_verdict_on_fewer_than_five_seeds_however_clear():
    (verdict,) = judge([sample(HIGH[:4], LOW)])
    assert verdict.status == "inconclusive" and verdict.p is None and "fewer than 5" in verdict.reason
    assert statuses(sample(HIGH[:5], LOW[:5])) == ["reproduced"]


def test_many_claims_ask_for_more_and_the_reason_says_when_seeds_are_too_few():
    few, unclear = sample(HIGH[:5], LOW[:5]), sample([0, 3, 4, 7, 8, 11], [1, 2, 5, 6, 9, 10])
    first, second, *_ = judge([few, unclear, *[sample([], [])] * 16])
    assert first.status == "inconclusive" and "so few seeds decide nothing" in first.reason
    assert first.p == pytest.approx(18 * 2 / 252)
    assert (second.status, second.reason) == ("inconclusive", "no clear difference")
    assert statuses(sample(HIGH, LOW), *[sample([], [])] * 17)[0] == "reproduced"  # six seeds do


def test_each_paper_is_a_family_of_its_own():
    clear, none = sample(HIGH[:5], LOW[:5]), sample([], [])
    (alone,), (first, *_) = judge([clear]), judge([clear, *[none] * 9])
    assert (alone.status, alone.p) == ("reproduced", pytest.approx(2 / 252))
    assert (first.status, first.p) == ("inconclusive", pytest.approx(10 * 2 / 252))


DRAWS = {
    "normal": lambda g, shape: g.normal(size=shape),
    "tied": lambda g, shape: np.maximum(0, g.normal(size=shape)),  # half of them at one floor
    "skewed": lambda g, shape: g.exponential(size=shape) ** 2,
}


@pytest.mark.parametrize(
    "paper, draw",
    [(PAPERS[0], draw) for draw in DRAWS.values()] + [(paper, DRAWS["normal"]) for paper in PAPERS[1:]],
    ids=[*DRAWS, *(paper.name for paper in PAPERS[1:])],
)
def test_where_all_methods_are_equal_some_verdict_errs_in_at_most_5_percent(paper, draw):
    generator, simulations, errors = np.random.default_rng(11), 250, 0
    cells = {(side, env) for claim in paper.claims for side in (claim.better, claim.worse) for env in claim.envs}
    for _ in range(simulations):
        scores = {cell: draw(generator, 8) for cell in sorted(cells, key=str)}  # shared by claims, as in the records
        samples = [
            tuple(np.stack([scores[side, env] for env in claim.envs], 1) for side in (claim.better, claim.worse))
            for claim in paper.claims
        ]
        errors += any(status != "inconclusive" for status in statuses(*samples))
    assert errors / simulations <= 0.05 + 2 * (0.05 * 0.95 / simulations) ** 0.5


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_every_claim_can_be_decided_by_what_the_suites_run(paper):
    promised = {}
    for suite in ("core", "ablations", "single_task", "rac", "rac_expert", "online", "online_mixed", "online_control"):
        for _, config in suite_cells(suite):
            promised.setdefault(config.fingerprint, set()).add(config.seed)
    samples = []
    for claim in paper.claims:
        seeds = [
            set.intersection(
                *(
                    promised[resolve(env, side.algo, level=side.level, overrides=side.changes).fingerprint]
                    for env in claim.envs
                )
            )
            for side in (claim.better, claim.worse)
        ]
        shapes = [(len(found), len(claim.envs)) for found in seeds]
        samples.append((np.ones(shapes[0]), np.zeros(shapes[1])))
    assert statuses(*samples) == ["reproduced"] * len(paper.claims)


def test_separation_is_that_of_the_last_point_and_missing_where_a_record_does_not_tell():
    def record(*points):
        return RunRecord({}, {}, {"curve": list(points)}, {})

    rates = [{"embedding": {"train": {"effective_separation_rate": rate}}} for rate in (0.2, 0.7)]
    assert separation(record(*rates)) == 0.7
    assert separation(record()) == 0.0  # diverged before the first point
    assert separation(record({"embedding": {"train": None}})) is None and separation(record({})) is None


def test_scores_with_self_collected_contexts_are_those_of_the_final_parameters():
    def record(status, *evaluations):
        scored = [{"protocol": protocol, "score": score} for protocol, score in evaluations]
        return RunRecord({}, {}, {"status": status, "score": -0.5, "evaluations": scored}, {})

    self_collected = MEASURES["score with self-collected contexts"]
    gained = MEASURES["score with self-collected contexts less that with logged ones"]
    both = record("finished", ("offline", 0.5), ("offline", 0.75), ("online", 0.25))
    assert (self_collected(both), gained(both)) == (0.25, -0.5)
    both = record("finished", ("online", 0.5), ("online", 0.75), ("offline", 0.25))
    assert (self_collected(both), gained(both)) == (0.75, 0.5)
    unmeasured, diverged = record("finished", ("offline", 0.5)), record("diverged")
    assert (self_collected(unmeasured), gained(unmeasured)) == (None, None)
    assert (self_collected(diverged), gained(diverged)) == (-0.5, None)


def test_claims_about_methods_of_different_kinds_are_marked():
    marked = {str(claim): "§" in str(claim) for paper in PAPERS for claim in paper.claims}
    crossing = ["single_task_combo (expert data) > focal (expert data) §", "merpo > focal §", "pearl > batch_pearl §"]
    crossing.append("smac (mixed data) > smac_offline (mixed data) §")
    alike = ["merpo > single_task_combo", "rac > rac_no_meta", "focal > batch_pearl", "focal > mbml"]
    assert all(marked[name] for name in crossing) and not any(marked[name] for name in alike)


def test_claims_are_judged_from_records(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(claims, "BUDGET", "smoke")
    runs = {}
    for algo in ("do_nothing", "random_policy"):
        config = resolve(ENV, algo, budget="smoke")
        record = training.run(config, results_dir=tmp_path, data_dir=data_dir)
        scored = [replace(record, result=record.result | {"score": k + 10 * (algo == "do_nothing")}) for k in range(5)]
        runs[config.record_path("").parent] = dict(enumerate(scored))
    claim = Claim(Side("do_nothing"), Side("random_policy"), (ENV,), "nowhere")
    elsewhere = replace(claim, envs=(ENV, "point_robot"))
    first, second = judge_claims(Results(runs), [claim, elsewhere])
    assert first.status == "reproduced" and first.improvement.value == 1.0 and first.improvement.n == (5, 5)
    assert first.p == pytest.approx(2 * 2 / 252)
    assert second.status == "not yet run" and second.improvement is None
    assert second.reason == "no complete seed of do_nothing and random_policy"
