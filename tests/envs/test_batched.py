"""The batched MuJoCo environment equals its single environments, whoever steps them."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

import omrlbench.envs  # noqa: F401
from omrlbench.envs.registry import META_ENVS

SPECS = [spec for spec in META_ENVS.values() if spec.locomotion]
every_family = pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])


def some_tasks(spec, count):
    return [k % len(spec.tasks) for k in range(count)]


def actions(spec, members, steps=200):
    size = spec.family().action_space.shape[0]
    return np.random.default_rng(0).uniform(-1, 1, (steps, members, size)).astype(np.float32)


@every_family
@pytest.mark.filterwarnings("ignore")
def test_single_environment_passes_gymnasiums_check(spec):
    env = gymnasium.make(spec.gym_id, task_id=1)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.spec.max_episode_steps == 200


@every_family
def test_batched_equals_single_environments_step_by_step(spec):
    tasks = some_tasks(spec, 4)
    envs, singles = spec.make_vector(tasks), [spec.make(task) for task in tasks]
    observations, _ = envs.reset(seed=7)
    np.testing.assert_array_equal(observations, [env.reset(seed=7 + k)[0] for k, env in enumerate(singles)])
    running = np.ones(4, bool)
    for action in actions(spec, 4):
        observations, rewards, terminated, truncated, infos = envs.step(action)
        for k in np.flatnonzero(running):
            observation, reward, *ends, info = singles[k].step(action[k])
            np.testing.assert_allclose(observations[k], observation, rtol=0, atol=1e-10)
            assert rewards[k] == pytest.approx(reward, abs=1e-10)
            assert infos["x_velocity"][k] == pytest.approx(info["x_velocity"], abs=1e-10)
            assert [terminated[k], truncated[k]] == ends
        running &= ~(terminated | truncated)
    assert not running.any()


@every_family
def test_autoreset_equals_gymnasiums_vector_of_single_environments(spec):
    tasks = some_tasks(spec, 3)
    ours = spec.make_vector(tasks, autoreset=True)
    theirs = SyncVectorEnv([lambda task=task: spec.make(task) for task in tasks])
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for action in actions(spec, 3, 210):
        for found, expected in zip(ours.step(action)[:4], theirs.step(action)[:4], strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@every_family
def test_results_do_not_depend_on_threads(spec):
    def returns(threads):
        envs = spec.make_vector(some_tasks(spec, 5), threads=threads)
        envs.reset(seed=3)
        return np.stack([envs.step(action)[1] for action in actions(spec, 5, 30)])

    np.testing.assert_array_equal(returns(1), returns(2))
    np.testing.assert_array_equal(returns(1), returns(3))


def test_an_ended_member_waits_for_its_reset_and_no_other_is_touched():
    spec = META_ENVS["walker_params"]
    envs = spec.make_vector([0, 1, 2])
    envs.reset(seed=0)
    ended = np.zeros(3, bool)
    for action in actions(spec, 3):
        if ended.any():
            break
        observations, _, terminated, truncated, _ = envs.step(action)
        ended = terminated | truncated
    after, rewards, terminated, _, infos = envs.step(np.ones((3, 6)))
    np.testing.assert_array_equal(after[ended], observations[ended])
    assert not rewards[ended].any() and terminated[ended].all() and not infos["_dense_reward"][ended].any()
    started, _ = envs.reset(options={"reset_mask": ended})
    np.testing.assert_array_equal(started[~ended], after[~ended])
    assert (np.abs(started[ended, 0] - 1.25) < 0.01).all()  # upright again
    assert not envs.step(np.zeros((3, 6)))[2][ended].any()


def test_tasks_are_switched_by_an_option():
    spec = META_ENVS["cheetah_vel"]
    single, envs = spec.make(0), spec.make_vector([0, 1])
    single.reset(seed=0, options={"task_id": 5})
    envs.reset(seed=0, options={"task_id": [5, 6]})
    reward = single.step(np.zeros(6, np.float32))[1]
    rewards = envs.step(np.zeros((2, 6)))[1]
    assert rewards[0] == pytest.approx(reward, abs=1e-10) and rewards[1] != rewards[0]


def test_misuse_is_refused_in_one_line():
    envs = META_ENVS["cheetah_vel"].make_vector([0, 1, 2])
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((3, 6)))
    envs.reset(seed=[4, 5, 6])
    with pytest.raises(ValueError, match=r"shape \(6,\), expected \(3, 6\)"):
        envs.step(np.zeros(6))
    with pytest.raises(ValueError, match="one task or 3 tasks, got 2"):
        envs.reset(options={"task_id": [0, 1]})
    with pytest.raises(ValueError, match="one number or 3 numbers, got 2"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match=r"reset_mask is a bool array of shape \(3,\)"):
        envs.reset(options={"reset_mask": np.ones(2, bool)})
    with pytest.raises(ValueError, match="unknown reset option 'task'"):
        envs.reset(options={"task": 1})


def test_the_first_reset_starts_all_whatever_the_mask():
    envs, masked = (META_ENVS["walker_params"].make_vector([0, 1]) for _ in range(2))
    observations, _ = masked.reset(seed=0, options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(observations, envs.reset(seed=0)[0])
