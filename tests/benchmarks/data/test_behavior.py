import numpy as np
import pytest
import torch

from omrlbench.data.behavior import KINDS, BehaviorPolicy, rollout
from omrlbench.data.checkpoints import checkpoints_path, choose_levels, load_checkpoints
from omrlbench.envs.registry import META_ENVS, get_meta_env
from omrlbench.errors import BenchError

WIND = get_meta_env("point_robot_wind")


def mean_return(spec, policy):
    return float(rollout(spec, policy, 2, np.random.default_rng(0))["dense_reward"].sum(-1).mean())


def test_agents_of_different_tasks_are_independent():
    policy = BehaviorPolicy("per_task", WIND.tasks, 2, 2, 8)
    observations, noise = np.zeros((60, 1, 2), np.float32), np.zeros((60, 1, 2), np.float32)
    before = policy.act(observations, noise)
    policy.actor[0].bias.data[7] += 10.0
    changed = np.abs(policy.act(observations, noise) - before).sum((1, 2)) > 0
    assert changed.nonzero()[0].tolist() == [7]


def test_the_conditioned_agent_is_told_the_task_and_the_other_is_not():
    observations, noise = np.zeros((60, 1, 2), np.float32), np.zeros((60, 1, 2), np.float32)
    conditioned = BehaviorPolicy("conditioned", WIND.tasks, 2, 2, 8)
    actions = conditioned.act(observations, noise)[:, 0]
    assert conditioned.members == 1 and len(np.unique(actions, axis=0)) == 60
    inputs = conditioned.inputs(torch.zeros(60, 1, 2))
    train = inputs[0, list(WIND.tasks.splits["train"]), 2:]
    torch.testing.assert_close(train.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    assert BehaviorPolicy("per_task", WIND.tasks, 2, 2, 8).in_features == 2


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="choose one of per_task, conditioned"):
        BehaviorPolicy("shared", WIND.tasks, 2, 2, 8)


def test_levels_are_chosen_by_return():
    spec = get_meta_env("sparse_point_robot")
    dense = {0: -20.0, 100: -17.0, 200: -14.0, 300: -11.0, 400: -8.0, 500: -5.0}
    sparse = {0: 0.0, 100: 0.0, 200: 1.0, 300: 3.0, 400: 6.5, 500: 13.0}
    returns = {step: {"dense": dense[step], "sparse": sparse[step]} for step in dense}
    levels = choose_levels(spec, returns)
    assert levels == {"random": [0], "medium": [400], "expert": [500], "mixed": [0, 100, 200, 300, 400, 500]}
    with pytest.raises(BenchError, match="6 distinct checkpoints"):
        choose_levels(spec, {step: returns[step] for step in (0, 100, 200, 500)})


SHIPPED = [(spec.name, kind) for spec in META_ENVS.values() for kind in KINDS if checkpoints_path(spec, kind).exists()]


@pytest.mark.parametrize(("env", "kind"), SHIPPED)
def test_shipped_checkpoints_serve_every_level_and_get_better(env, kind):
    spec = get_meta_env(env)
    shipped = load_checkpoints(spec, kind)
    levels = shipped.levels[env]
    assert len(levels["mixed"]) == 6 and levels["mixed"][0] == levels["random"][0] == 0
    assert levels["expert"] == levels["mixed"][-1:]
    scores = [mean_return(spec, shipped.policy(*levels[level])) for level in ("random", "medium", "expert")]
    assert scores == sorted(scores)
