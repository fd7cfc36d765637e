import importlib
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

import omrlbench.envs
from omrlbench.envs.point_robot import PointRobotVectorEnv, rewards_at
from omrlbench.envs.registry import META_ENVS, MetaEnvSpec

SPECS = [spec for spec in META_ENVS.values() if not spec.locomotion]
SPARSE, DENSE, WIND = SPECS
every_spec = pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])


def episode_returns(spec: MetaEnvSpec, task_ids, policy) -> np.ndarray:
    envs = spec.make_vector(task_ids)
    observations, _ = envs.reset()
    returns = np.zeros(len(task_ids))
    for _ in range(spec.horizon):
        observations, rewards, *_ = envs.step(policy(observations))
        returns += rewards
    return returns


def least_distances(spec: MetaEnvSpec, add_up=np.add.accumulate) -> np.ndarray:
    """Distance of each task's goal to the box of positions reachable at times 1..H, shape (H, n_tasks).

    Per axis the box at time t is [t (w - 0.1), t (w + 0.1)], whatever the policy. `add_up` turns H equal
    steps into the positions they lead to.
    """
    parameters = spec.tasks.parameters
    goals, winds = ((1.0, 0.0), parameters) if spec is WIND else (parameters, np.zeros_like(parameters))
    lower, upper = (add_up(np.broadcast_to(s + winds, (spec.horizon, *winds.shape))) for s in (-0.1, 0.1))
    outside = np.maximum(0.0, np.maximum(lower - goals, goals - upper))
    return np.sqrt((outside**2).sum(axis=-1))


def sparse(distance: np.ndarray) -> np.ndarray:
    return np.where(distance <= 0.2, 1.0 - distance, 0.0)


@every_spec
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_check_env_says_nothing_but_that_the_plane_is_unbounded(spec, render_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*A Box observation space (min|max)imum value is -?infinity")
        check_env(gymnasium.make(spec.gym_id, render_mode=render_mode).unwrapped)


@every_spec
def test_vector_env_equals_sync_vector_env(spec):
    task_ids = [0, 7, 7, len(spec.tasks) - 1]
    ours = spec.make_vector(task_ids, autoreset=True)
    sync = SyncVectorEnv([lambda k=k: spec.make(k) for k in task_ids])
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, space) == getattr(sync, space)
    assert ours.num_envs == sync.num_envs
    assert ours.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]

    random = np.random.default_rng(0)
    resets = {0: {"seed": 3}, 60: {"options": {"task_id": np.int64(4)}}, 75: {"options": {}}}
    for step in range(4 * spec.horizon):
        if step in resets:
            assert_same(ours.reset(**resets[step]), sync.reset(**resets[step]))
        actions = random.uniform(-1.5, 1.5, ours.action_space.shape).astype(np.float32)
        assert_same(ours.step(actions), sync.step(actions))
    for envs in (ours, sync):
        envs.close()
        assert envs.closed


def assert_same(ours: tuple, sync: tuple) -> None:
    *our_arrays, our_infos = ours
    *sync_arrays, sync_infos = sync
    if our_infos and not sync_infos:  # no member took a step: ours say so by masks
        assert not any(our_infos.pop(key).any() for key in list(our_infos))
    assert our_infos.keys() == sync_infos.keys()
    our_arrays += [our_infos[key] for key in sync_infos]
    sync_arrays += list(sync_infos.values())
    for our_array, sync_array in zip(our_arrays, sync_arrays, strict=True):
        assert (type(our_array), our_array.dtype) == (type(sync_array), sync_array.dtype)
        np.testing.assert_array_equal(our_array, sync_array)


def test_vector_env_owns_its_outputs_and_its_generator():
    envs = SPARSE.make_vector([50, 51])
    first, _ = envs.reset(seed=3)
    assert envs.np_random_seed == 3
    kept = first.copy()
    _, rewards, _, _, infos = envs.step(np.ones((2, 2), np.float32))
    rewards += 1.0
    np.testing.assert_array_equal(infos["sparse_reward"], 0.0)
    np.testing.assert_array_equal(first, kept)


def test_vector_env_refuses_misuse_in_one_line():
    envs = DENSE.make_vector([0, 1, 2])
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((3, 2)))
    envs.reset()
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(3, 2\)"):
        envs.step(np.zeros(2))
    with pytest.raises(ValueError, match="one task or 3 tasks, got 2"):
        envs.reset(options={"task_id": [0, 1]})
    with pytest.raises(ValueError, match="from 0 to 109, got \\[\\]"):
        DENSE.make_vector([])


@every_spec
def test_episodes_are_truncated_at_the_horizon_and_never_terminated(spec):
    assert spec.horizon == (25 if spec is WIND else 20)
    env = spec.make(0)
    env.reset()
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(spec.horizon)]
    assert ends == [(False, False)] * (spec.horizon - 1) + [(False, True)]


def test_sparse_reward_by_hand():
    position = np.array([[0.0, 0.0], [0.88, 0.84], [0.85, 1.0], [1.0, 1.0], [1.0, 1.201]])
    rewards = rewards_at(position, np.array([1.0, 1.0]))
    np.testing.assert_allclose(rewards["sparse"], [0.0, 0.8, 0.85, 1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(rewards["dense"], [-np.sqrt(2), -0.2, -0.15, 0.0, -0.201], atol=1e-15)


def test_one_episode_by_hand():
    """Task 0 has goal (1, 0). Full steps to the right: eight outside, then 0.1 before, on and 0.1 past it."""
    env = SPARSE.make(0)
    env.reset()
    steps = [env.step(np.array([1.0, 0.0], np.float32)) for _ in range(11)]
    np.testing.assert_allclose([s[1] for s in steps], [0.0] * 8 + [0.9, 1.0, 0.9], atol=1e-12)
    np.testing.assert_allclose([s[4]["dense_reward"] for s in steps][-3:], [-0.1, 0.0, -0.1], atol=1e-12)


def test_actions_are_clipped():
    env = DENSE.make(0)
    env.reset()
    observation, *_ = env.step(np.array([3.0, -3.0], np.float32))
    np.testing.assert_allclose(observation, (0.1, -0.1), rtol=1e-6)


def test_wind_moves_a_robot_that_does_nothing():
    env = WIND.make(49)
    env.reset()
    observation, reward, _, _, info = env.step(np.zeros(2, np.float32))
    np.testing.assert_allclose(observation, (0.047287, -0.03746), atol=5e-7)
    assert reward == info["dense_reward"] == pytest.approx(-np.hypot(1 - 0.047287, 0.03746), abs=1e-6)


@pytest.mark.parametrize("task_id", [5, np.int64(5), np.uint8(5)])
def test_reset_switches_the_task(task_id):
    env = DENSE.make(0)
    _, info = env.reset(options={"task_id": task_id})
    assert info == {} and env.unwrapped.task_id == 5
    np.testing.assert_array_equal(env.unwrapped.goal, DENSE.tasks.parameters[5])
    env.reset()
    assert env.unwrapped.task_id == 5


def test_vector_reset_switches_each_member_to_its_own_task():
    envs = DENSE.make_vector([0, 0])
    envs.reset(options={"task_id": [3, 4]})
    np.testing.assert_array_equal(envs.goal, DENSE.tasks.parameters[[3, 4]])


@pytest.mark.parametrize("bad", [-1, 60, 1.0, True, "0", [0]])
def test_bad_task_ids_are_refused(bad):
    message = "^task ids of point_robot_wind are integers from 0 to 59, got [^\n]*$"
    env = WIND.make(7)
    for misuse in (lambda: WIND.make(bad), lambda: env.reset(options={"task_id": bad})):
        with pytest.raises(ValueError, match=message):
            misuse()
    assert env.unwrapped.task_id == 7
    for misuse in (lambda: WIND.make_vector([bad]), lambda: WIND.oracle_policy([bad])):
        with pytest.raises(ValueError, match=message):
            misuse()


def test_unknown_reset_options_are_refused():
    for env in (DENSE.make(0), DENSE.make_vector([0])):
        with pytest.raises(ValueError, match="unknown reset option 'task', there are 'task_id' and"):
            env.reset(options={"task": 1})


@every_spec
def test_oracle_attains_the_bound_of_the_reachable_box(spec):
    tasks = range(len(spec.tasks))
    distances = least_distances(spec)
    bound = (sparse(distances) if spec is SPARSE else -distances).sum(axis=0)
    np.testing.assert_allclose(episode_returns(spec, tasks, spec.oracle_policy(tasks)), bound, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "count", "mean", "least", "most"),
    [
        (SPARSE, 100, 13.359, 11.90, 14.84),
        (DENSE, 100, -3.847, -4.50, -3.04),
        (WIND, 50, -5.114, -9.45, -2.86),
    ],
)
def test_oracle_returns(spec, count, mean, least, most):
    tasks = range(count)
    returns = episode_returns(spec, tasks, spec.oracle_policy(tasks))
    assert returns.mean() == pytest.approx(mean, abs=6e-4)
    assert (returns.min(), returns.max()) == pytest.approx((least, most), abs=6e-3)


def test_exact_arithmetic_would_give_two_goals_one_more_step():
    """Goals (1, 0) and (-1, 0): eight steps of 0.1 end exactly 0.2 away, but a little more in float64."""

    def exact(steps):
        return steps[0] * np.arange(1, len(steps) + 1)[:, None, None]

    gain = (sparse(least_distances(SPARSE, exact)) - sparse(least_distances(SPARSE))).sum(axis=0)
    np.testing.assert_allclose(gain[[0, 99]], 0.8, atol=1e-12)
    np.testing.assert_allclose(np.delete(gain, [0, 99]), 0.0, atol=1e-12)
    assert sparse(least_distances(SPARSE, exact)).sum(axis=0)[:100].mean() == pytest.approx(13.375, abs=6e-4)


def test_controller_that_ignores_the_wind():
    returns = episode_returns(WIND, range(50), lambda position: np.clip(((1.0, 0.0) - position) / 0.1, -1, 1))
    assert returns.mean() == pytest.approx(-5.65, abs=6e-3)


@every_spec
def test_the_picture_follows_the_robot(spec):
    env = spec.make(49, render_mode="rgb_array")
    env.reset()
    frames = [env.render()]
    for _ in range(spec.horizon):
        env.step(np.array([1.0, -1.0], np.float32))
        frames.append(env.render())
    assert all(frame.shape == (400, 400, 3) and frame.dtype == np.uint8 for frame in frames)
    assert len({frame.tobytes() for frame in frames[:14]}) == 14
    robot = np.argwhere((frames[-1] == (34, 94, 168)).all(axis=-1))
    assert (robot > 395).all(axis=1).any() == (spec is WIND)  # blown out of the view, shown in its corner


def test_importing_twice_registers_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(omrlbench.envs)
    assert {spec.gym_id for spec in SPECS} <= set(gymnasium.registry)
    assert isinstance(DENSE.make_vector([0]), PointRobotVectorEnv)
