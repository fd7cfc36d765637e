import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from omrlbench.data import checkpoints
from omrlbench.data.behavior import KINDS, rollout
from omrlbench.data.sac import BehaviorConfig, BehaviorTraining
from omrlbench.envs.registry import get_meta_env
from omrlbench.errors import BenchError, RunBusy

WIND, CHEETAH, WALKER = (get_meta_env(name) for name in ("point_robot_wind", "cheetah_vel", "walker_params"))
SMALL = BehaviorConfig(steps=60, random_steps=20, checkpoint_every=20, batch_size=8, actor_width=8, critic_width=8)


def actors(training):
    """By step, the actor's weights at every checkpoint of `training`, run to its end."""
    kept = {}
    training.run(lambda step: None, lambda now: kept.update({now.step: now.policy.actor[0].weight.clone()}))
    return kept


@pytest.mark.parametrize("kind", KINDS)
def test_sac_learns_to_reach_the_goal(kind):
    config = BehaviorConfig(
        steps=400, random_steps=50, checkpoint_every=200, batch_size=16, conditioned_batch_size=256, critic_width=32
    )
    returns = {}

    def on_checkpoint(training):
        episodes = rollout(WIND, training.policy, 2, np.random.default_rng(0))
        returns[training.step] = episodes["dense_reward"].sum(-1).mean()

    BehaviorTraining(WIND, kind, config).run(lambda step: None, on_checkpoint)
    assert list(returns) == [0, 200, 400]
    assert returns[400] > returns[0] + 5  # from about -30; the optimum is about -5


@pytest.mark.parametrize("spec, kind", [(WIND, "per_task"), (CHEETAH, "conditioned"), (WALKER, "conditioned")])
def test_training_repeats_bitwise_and_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(spec, kind):
    states = {}
    whole = BehaviorTraining(spec, kind, SMALL)
    whole.run(lambda step: None, lambda training: states.update({training.step: copy.deepcopy(training.state_dict())}))
    assert list(states) == [0, 20, 40, 60]
    resumed = BehaviorTraining(spec, kind, SMALL)
    resumed.load_state_dict(states[40])
    assert list(actors(resumed)) == [40, 60]
    for name, weight in states[60]["agent"]["actor"].items():
        assert torch.equal(weight, resumed.policy.actor.state_dict()[name])


def test_learning_rates_fall_to_zero_over_the_last_steps():
    rates = {}
    training = BehaviorTraining(WIND, "per_task", replace(SMALL, decay_steps=30, learning_rate=0.6))
    training.run(
        lambda step: rates.update({step: {g["lr"] for o in training.agent.optimizers for g in o.param_groups}}),
        lambda now: None,
    )
    assert rates[25] == rates[30] == {0.6}
    assert [*rates[45]] == pytest.approx([0.3]) and rates[60] == {0.0}


def test_members_of_a_task_fill_its_replay_and_early_ends_are_terminal():
    config = BehaviorConfig(**{**vars(SMALL), "members_per_task": 3, "random_steps": 60})
    training = BehaviorTraining(WALKER, "conditioned", config)
    training.run(lambda step: None, lambda now: None)
    observations, terminated = training.replay["observations"], training.replay["terminated"]
    assert observations.shape == (60, 180, 17)
    assert 60 * 3 < terminated.sum() < 60 * 180 / 3  # at random a walker falls within some ten steps
    following = training.replay["next_observations"][0, 0::3]
    goes_on = terminated[0, 0::3][:19] == 0  # until the first checkpoint starts all episodes anew
    assert torch.equal(following[:19][goes_on], observations[0, 0::3][1:20][goes_on])
    assert not torch.equal(following[:19][~goes_on], observations[0, 0::3][1:20][~goes_on])


@pytest.fixture
def shipping(tmp_path, monkeypatch):
    """Where a small training of the wind's behaviour policies would be shipped to."""
    monkeypatch.setitem(checkpoints.BEHAVIOR_CONFIGS, "point_robot_wind", SMALL)
    monkeypatch.setattr(checkpoints, "MIXED_CHECKPOINTS", 2)
    shipped = tmp_path / "shipped.safetensors"
    monkeypatch.setattr(checkpoints, "checkpoints_path", lambda spec, kind: shipped)
    return shipped


def test_an_interrupted_training_ships_the_same_policies(shipping, tmp_path):
    def interrupt(step, steps, returns):
        if step == 50:
            raise KeyboardInterrupt

    checkpoints.make_checkpoints(WIND, "per_task", tmp_path / "whole")
    whole = load_file(shipping)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.make_checkpoints(WIND, "per_task", tmp_path / "cut", interrupt)
    seen = []
    checkpoints.make_checkpoints(WIND, "per_task", tmp_path / "cut", lambda step, *_: seen.append(step))
    assert seen[0] == 41
    resumed = load_file(shipping)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not list((tmp_path / "cut").glob("*.pt"))
    about = checkpoints.load_checkpoints(WIND, "per_task")
    assert sorted(about.returns) == [0, 20, 40, 60]
    assert len(about.task_returns[60]["dense"]) == 60
    assert np.mean(about.task_returns[60]["dense"][:40]) == pytest.approx(about.returns[60]["dense"])


def test_two_trainings_do_not_share_their_state(shipping, tmp_path):
    def another(step, steps, returns):
        with pytest.raises(RunBusy, match="another process is working on this run: .*point_robot_wind-per_task.pt"):
            checkpoints.make_checkpoints(WIND, "per_task", tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.make_checkpoints(WIND, "per_task", tmp_path, another)


def test_a_training_with_other_settings_is_not_continued(shipping, tmp_path, monkeypatch):
    def interrupt(step, steps, returns):
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.make_checkpoints(WIND, "per_task", tmp_path, interrupt)
    monkeypatch.setitem(checkpoints.BEHAVIOR_CONFIGS, "point_robot_wind", replace(SMALL, critic_width=9))
    with pytest.raises(BenchError, match=r"point_robot_wind-per_task.pt is a training with other settings; remove it"):
        checkpoints.make_checkpoints(WIND, "per_task", tmp_path)
