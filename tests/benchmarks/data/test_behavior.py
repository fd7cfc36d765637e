import numpy as np
import pytest
import torch

from omrlbench.data.behavior import KINDS, BehaviorPolicy, rollout
from omrlbench.data.checkpoints import checkpoints_path, choose_levels, levels_by_task, levels_of_all, load_checkpoints
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
    with pytest.raises(BenchError, match="needs 6 checkpoints, there are 4"):
        choose_levels(spec, {step: returns[step] for step in (0, 100, 200, 500)})


def test_mixed_takes_no_checkpoint_twice_where_learning_leaps():
    spec = get_meta_env("cheetah_fwd_back")
    dense = {0: -10, 1000: 14, 2000: 428, 3000: 704, 4000: 861, 5000: 948, 8000: 1062, 26000: 1322}
    levels = choose_levels(spec, {step: {"dense": value} for step, value in dense.items()})
    assert levels["mixed"] == [0, 2000, 3000, 4000, 8000, 26000]  # 2000 is nearest to 256 and to 523


def test_agents_of_two_tasks_that_learn_at_different_speeds_take_their_own_steps():
    spec = get_meta_env("cheetah_fwd_back")
    fast = {0: 0.0, 100: 40.0, 200: 60.0, 300: 80.0, 400: 100.0, 500: 120.0, 600: 160.0, 700: 200.0}
    slow = {0: 0.0, 100: 0.0, 200: 10.0, 300: 20.0, 400: 40.0, 500: 60.0, 600: 80.0, 700: 100.0}
    returns = {step: {"dense": [fast[step], slow[step]]} for step in fast}
    levels = levels_by_task(spec, returns)
    assert levels["random"] == [[0, 0]] and levels["expert"] == [[700, 700]] and levels["medium"] == [[400, 400]]
    assert levels["mixed"] == [[0, 0], [100, 300], [300, 400], [500, 500], [600, 600], [700, 700]]
    assert levels_of_all(spec, returns)["mixed"] == [0, 200, 300, 500, 600, 700]


def test_policies_at_steps_of_their_own_are_those_of_these_steps():
    shipped = load_checkpoints(get_meta_env("cheetah_fwd_back"), "per_task")
    own = shipped.levels["cheetah_fwd_back"]["mixed"][2]
    assert own[0] != own[1]
    both = shipped.policy(own).actor.state_dict()
    for task, step in enumerate(own):
        for name, weights in shipped.policy(step).actor.state_dict().items():
            assert torch.equal(both[name][task], weights[task])


SHIPPED = [(spec.name, kind) for spec in META_ENVS.values() for kind in KINDS if checkpoints_path(spec, kind).exists()]


@pytest.mark.parametrize(("env", "kind"), SHIPPED)
def test_shipped_checkpoints_serve_every_level_and_get_better(env, kind):
    spec = get_meta_env(env)
    shipped = load_checkpoints(spec, kind)
    levels = shipped.levels[env]
    assert len(levels["mixed"]) == 6 and not np.any(levels["random"])
    assert levels["mixed"][:1] == levels["random"] and levels["mixed"][-1:] == levels["expert"]
    scores = [mean_return(spec, shipped.policy(*levels[level])) for level in ("random", "medium", "expert")]
    assert scores == sorted(scores)
